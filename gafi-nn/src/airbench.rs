//! The fast CIFAR-10 network of Keller Jordan's airbench94 (arXiv 2404.00498): a whitening layer, three blocks of two 3x3
//! convolutions with max pooling in between, and a linear layer without bias whose outputs are scaled down.
//!
//! Its parts are theirs, written from the paper's description: whitening filters from patches of the training images and
//! their negatives, frozen; identity convolutions at the start; batch norms without gain that follow their batches
//! quickly; GELU. Here it takes images of any size from 16 pixels on.

use candle_core::{Tensor, Var};
use gafi_core::{ImageSpec, Rows};
use gafi_kernels::Precision;
use gafi_kernels::trunk::{self, Activation, Batch, Output, Settings, Tape, Value};
use nalgebra::{DMatrix, SymmetricEigen};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::layers::{Conv2d, ConvShape, Linear, Mode, RunningStats, check_image};
use crate::params::{Init, Scope};
use crate::pixels::scale;

/// Added to the variance in batch norms.
const EPS: f64 = 1e-12;
/// Weight of a batch's statistics in the running ones.
const MOMENTUM: f64 = 0.4;
/// Added to the eigenvalues of the patches' covariance.
const WHITEN_EPS: f64 = 5e-4;
/// Training images whose patches are whitened.
const WHITEN_IMAGES: usize = 5000;
/// Height and width of the whitening kernel.
const PATCH: usize = 2;
/// Factor of the last layer's outputs.
pub(crate) const LOGIT_SCALE: f64 = 1.0 / 9.0;

/// Hyper-parameters of an [`Airbench`], in manifests `{"name": "airbench", "width": 64}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AirbenchConfig {
    /// Channels of the first block, 8 to 1024. The others have 4 times as many. Published: 64.
    #[cfg_attr(feature = "schema", schemars(range(min = 8, max = 1024)))]
    pub width: usize,
}

impl Default for AirbenchConfig {
    fn default() -> Self {
        Self { width: 64 }
    }
}

impl AirbenchConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`gafi_core::Error::Config`] with the key, prefixed by `prefix` and a dot.
    pub fn check(&self, prefix: &str) -> gafi_core::Result<()> {
        if (8..=1024).contains(&self.width) {
            return Ok(());
        }
        Err(gafi_core::Error::config(format!("{prefix}.width"), self.width, "8 to 1024"))
    }
}

/// The network. Clones are cheap and share the parameters.
#[derive(Debug, Clone)]
pub struct Airbench {
    whiten: Whiten,
    blocks: Vec<Block>,
    /// The last layer, from 4 * width features to the classes. Its outputs are multiplied by 1/9.
    pub head: Linear,
    /// Number format of the convolutions; f32 by default.
    pub precision: Precision,
}

impl Airbench {
    /// Smallest height and width of an image, in pixels.
    pub const MIN_SIZE: usize = 16;

    /// Creates the parameters in `scope`: `whiten`, `block1.conv1`, ..., `head`. The whitening filters are 0 until
    /// [`Airbench::whiten`] or a checkpoint sets them.
    ///
    /// # Errors
    /// When an image is smaller than [`Airbench::MIN_SIZE`] or the architecture is out of range.
    pub fn new(scope: &mut Scope<'_>, config: &AirbenchConfig, image: &ImageSpec, classes: usize) -> Result<Self> {
        config.check("architecture")?;
        check_image(image, Self::MIN_SIZE)?;
        let mut scope_of_whiten = scope.sub("whiten");
        let filters = 2 * PATCH * PATCH * image.channels;
        let whiten = Whiten {
            weight: scope_of_whiten.buffer("weight", (filters, image.channels, PATCH, PATCH), Init::Zeros)?,
            bias: scope_of_whiten.param("bias", filters, Init::Zeros)?,
        };
        let mut input = filters;
        let mut blocks = Vec::new();
        for (number, factor) in [1, 4, 4].into_iter().enumerate() {
            let output = factor * config.width;
            blocks.push(Block::new(scope.sub(format!("block{}", number + 1)), input, output)?);
            input = output;
        }
        let head = Linear::new(scope.sub("head"), input, classes, false, Init::FanIn)?;
        Ok(Self { whiten, blocks, head, precision: Precision::F32 })
    }

    /// Sets the whitening filters from the first 5,000 of `rows` of `data`: the eigenvectors of the covariance of their
    /// 2x2 patches, each divided by the square root of its eigenvalue, and their negatives.
    ///
    /// # Errors
    /// When the images cannot be read.
    pub fn whiten(&self, data: &dyn Rows, rows: &[usize]) -> Result<()> {
        let image = data.info().image;
        let rows = &rows[..rows.len().min(WHITEN_IMAGES)];
        let mut pixels = vec![0; rows.len() * image.bytes()];
        data.read(rows, &mut pixels)?;
        let (values, offsets) = whitening(&pixels, &image);
        let Whiten { weight, bias } = &self.whiten;
        weight.set(&Tensor::from_vec(values, weight.shape(), weight.device())?)?;
        Ok(bias.set(&Tensor::from_vec(offsets, bias.shape(), bias.device())?)?)
    }

    /// Whether `name` is the parameter that is trained only for the first epochs, three of them in airbench94.
    pub(crate) fn is_whitening_bias(name: &str) -> bool {
        name == "whiten.bias"
    }

    /// Maps images x (N, C, H, W) in [-1, 1] to features (N, 4 * width), the input of the last layer: maxima over positions.
    pub fn features(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let batch = if mode == Mode::Train { Batch::FusedMoments } else { Batch::Pieces };
        let maps = trunk::run(x, Settings { precision: self.precision, batch }, |tape, x| {
            let mut h = self.whiten.forward(tape, x, mode)?;
            for block in &self.blocks {
                h = block.forward(tape, h, mode)?;
            }
            Ok(Output::Maps(h))
        })?;
        Ok(maps.flatten_from(2)?.max(2)?)
    }

    /// The means over positions (N, C) after each block, and the features, of a frozen network.
    pub(crate) fn stages(&self, x: &Tensor) -> Result<(Vec<Tensor>, Tensor)> {
        let settings = Settings { precision: self.precision, batch: Batch::Pieces };
        let mut means = Vec::new();
        let mut maps = x.clone();
        for (number, block) in self.blocks.iter().enumerate() {
            maps = trunk::run(&maps, settings, |tape, x| {
                let x = if number == 0 { self.whiten.forward(tape, x, Mode::Eval)? } else { x };
                Ok(Output::Maps(block.forward(tape, x, Mode::Eval)?))
            })?;
            means.push(maps.mean((2, 3))?);
        }
        Ok((means, maps.flatten_from(2)?.max(2)?))
    }
}

/// The first layer.
#[derive(Debug, Clone)]
struct Whiten {
    /// (8 C, C, 2, 2), not trained.
    weight: Var,
    /// (8 C)
    bias: Var,
}

impl Whiten {
    /// Convolution and GELU.
    fn forward(&self, tape: &mut Tape, x: Value, mode: Mode) -> candle_core::Result<Value> {
        let bias = mode.weight(&self.bias);
        let h = tape.conv2d(x, &self.weight.as_detached_tensor(), Some(&bias), 1, 0)?;
        tape.activation(h, Activation::Gelu)
    }
}

/// Filters (8 C, C, 2, 2) and biases (8 C) that whiten the 2x2 patches of images (N, C, H, W), scaled to [-1, 1]. The
/// published program first normalises each channel to mean 0 and variance 1, which is part of the filters here.
fn whitening(pixels: &[u8], image: &ImageSpec) -> (Vec<f32>, Vec<f32>) {
    let ImageSpec { channels, height, width } = *image;
    let plane = height * width;
    let mut mean = vec![0.0; channels];
    let mut std = vec![0.0; channels];
    for one in pixels.chunks_exact(image.bytes()) {
        for (channel, values) in one.chunks_exact(plane).enumerate() {
            for value in values {
                let value = f64::from(scale(*value));
                mean[channel] += value;
                std[channel] += value * value;
            }
        }
    }
    let count = (pixels.len() / channels.max(1)).max(1) as f64;
    // From sums of values and of squares to mean and standard deviation.
    for (mean, std) in mean.iter_mut().zip(&mut std) {
        *mean /= count;
        // A constant channel stays 0.
        *std = (*std / count - *mean * *mean).max(1e-12).sqrt();
    }
    let length = channels * PATCH * PATCH;
    let mut patch = vec![0.0; length];
    let mut sum = vec![0.0; length];
    let mut products = vec![0.0; length * length];
    let mut patches = 0.0;
    for one in pixels.chunks_exact(image.bytes()) {
        for y in 0..height - 1 {
            for x in 0..width - 1 {
                for (at, value) in patch.iter_mut().enumerate() {
                    let (channel, row, column) = (at / 4, at / 2 % 2, at % 2);
                    let pixel = one[channel * plane + (y + row) * width + x + column];
                    *value = (f64::from(scale(pixel)) - mean[channel]) / std[channel];
                }
                for (i, a) in patch.iter().enumerate() {
                    sum[i] += a;
                    for (product, b) in products[i * length..=i * length + i].iter_mut().zip(&patch) {
                        *product += a * b;
                    }
                }
                patches += 1.0;
            }
        }
    }
    let covariance = DMatrix::from_fn(length, length, |i, j| {
        let (i, j) = if i < j { (j, i) } else { (i, j) };
        (products[i * length + j] - sum[i] * sum[j] / patches) / (patches - 1.0f64).max(1.0)
    });
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(covariance);
    let mut order: Vec<usize> = (0..length).collect();
    order.sort_by(|a, b| eigenvalues[*b].total_cmp(&eigenvalues[*a]));
    let mut filters = Vec::with_capacity(2 * length * length);
    let mut offsets = Vec::with_capacity(2 * length);
    for sign in [1.0, -1.0] {
        for &which in &order {
            let vector = eigenvectors.column(which);
            // A vector and its negative are both eigenvectors: the largest entry is made positive.
            let largest = vector.iter().copied().fold(0.0f64, |best, v| if v.abs() > best.abs() { v } else { best });
            let factor = sign * largest.signum() / (eigenvalues[which].max(0.0) + WHITEN_EPS).sqrt();
            let mut offset = 0.0;
            for (at, entry) in vector.iter().enumerate() {
                let weight = factor * entry / std[at / 4];
                offset -= weight * mean[at / 4];
                filters.push(weight as f32);
            }
            offsets.push(offset as f32);
        }
    }
    (filters, offsets)
}

/// Convolution, 2x2 maxima, norm, GELU, convolution, norm, GELU.
#[derive(Debug, Clone)]
struct Block {
    conv1: Conv2d,
    norm1: Norm,
    conv2: Conv2d,
    norm2: Norm,
}

impl Block {
    fn new(mut scope: Scope<'_>, input: usize, output: usize) -> Result<Self> {
        let conv = |scope: Scope<'_>, input| {
            Conv2d::new(scope, ConvShape { bias: false, ..ConvShape::same(input, output, 3) }, Init::Identity)
        };
        Ok(Self {
            conv1: conv(scope.sub("conv1"), input)?,
            norm1: Norm::new(scope.sub("norm1"), output)?,
            conv2: conv(scope.sub("conv2"), output)?,
            norm2: Norm::new(scope.sub("norm2"), output)?,
        })
    }

    fn forward(&self, tape: &mut Tape, x: Value, mode: Mode) -> candle_core::Result<Value> {
        let h = self.conv1.forward(tape, x, mode)?;
        let h = tape.max_pool2x2(h)?;
        let h = self.norm1.forward(tape, h, mode)?;
        let h = self.conv2.forward(tape.before_norm(), h, mode)?;
        self.norm2.forward(tape, h, mode)
    }
}

/// A batch norm without gain, followed by GELU.
#[derive(Debug, Clone)]
struct Norm {
    bias: Var,
    stats: RunningStats,
    /// The gain: ones, not trained.
    ones: Tensor,
}

impl Norm {
    fn new(mut scope: Scope<'_>, channels: usize) -> Result<Self> {
        let bias = scope.param("bias", channels, Init::Zeros)?;
        let ones = bias.as_detached_tensor().ones_like()?;
        Ok(Self { bias, ones, stats: RunningStats::new(scope, channels)? })
    }

    fn forward(&self, tape: &mut Tape, x: Value, mode: Mode) -> candle_core::Result<Value> {
        let train = mode == Mode::Train;
        let moments = self.stats.moments(tape, x, train.then_some(MOMENTUM))?;
        let bias = mode.weight(&self.bias);
        tape.batch_norm(x, &self.ones, &bias, &moments, train, EPS, Some(Activation::Gelu))
    }
}
