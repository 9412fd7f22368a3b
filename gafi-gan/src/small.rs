//! A small projection GAN for CPUs. On 32x32 grey images it is good enough to show the effect of GaFi's techniques on a
//! classifier.

use candle_core::{Result, Tensor, Var};
use gafi_core::ImageSpec;
use gafi_kernels::Precision;
use gafi_kernels::ops;
use gafi_kernels::trunk::{self, Activation, Output};
use gafi_nn::{Init, Scope};

use crate::architecture::SmallConfig;
use crate::blocks::{ClassNorm, Projection, SnConv};
use crate::pass::Pass;

/// Negative slope of the discriminator's leaky relus.
const SLOPE: f32 = 0.2;

/// The small GAN's generator: a linear layer maps concat(z, class embedding) to 4x4; each stage upsamples to the
/// nearest neighbour and applies a 3x3 convolution, a batch norm conditioned on the class and relu; a 3x3 convolution
/// and tanh follow.
#[derive(Debug)]
pub struct SmallGenerator {
    embedding: Var,
    weight: Var,
    bias: Var,
    stages: Vec<(Var, ClassNorm)>,
    out: (Var, Var),
    width: usize,
    pub(crate) precision: Precision,
}

impl SmallGenerator {
    /// Creates the parameters in `scope`. `config` must be valid for `image`.
    pub fn new(mut scope: Scope<'_>, config: &SmallConfig, image: &ImageSpec, classes: usize) -> gafi_nn::Result<Self> {
        let width = config.g.first().copied().unwrap_or(1);
        let cond = config.z + config.shared;
        let embedding = scope.sub("embedding").param("weight", (classes, config.shared), Init::Normal { std: 1.0 })?;
        let mut linear = scope.sub("linear");
        let weight = linear.param("weight", (width * 16, cond), Init::FanIn)?;
        let bias = linear.param("bias", width * 16, Init::Zeros)?;
        let mut stages = Vec::new();
        let mut input = width;
        for (s, &output) in config.g.iter().enumerate() {
            let mut stage = scope.sub(format_args!("stage{s}"));
            // No bias: the batch norm that follows would cancel it.
            let conv = stage.sub("conv").param("weight", (output, input, 3, 3), Init::FanIn)?;
            stages.push((conv, ClassNorm::new(stage.sub("norm"), output, classes)?));
            input = output;
        }
        let mut out = scope.sub("out");
        let conv = out.param("weight", (image.channels, input, 3, 3), Init::FanIn)?;
        let out = (conv, out.param("bias", image.channels, Init::Zeros)?);
        Ok(Self { embedding, weight, bias, stages, out, width, precision: Precision::F32 })
    }

    /// Maps latents z (N, latent) and labels (N), u32, to images (N, C, H, W) in [-1, 1].
    pub fn forward(&self, z: &Tensor, labels: &Tensor, pass: Pass) -> Result<Tensor> {
        let class = pass.var(&self.embedding).index_select(labels, 0)?;
        let c = Tensor::cat(&[z, &class], 1)?;
        let h = ops::linear(&c, &pass.var(&self.weight), Some(&pass.var(&self.bias)))?;
        let h = h.reshape(((), self.width, 4, 4))?;
        let image = trunk::run(&h, pass.settings(true, self.precision), |tape, mut h| {
            let labels = tape.rows(labels)?;
            for (conv, norm) in &self.stages {
                h = tape.before_norm().upsample2x_conv2d(h, &pass.var(conv), None, 1)?;
                h = norm.forward(tape, h, &labels, pass)?;
            }
            let (weight, bias) = &self.out;
            Ok(Output::Maps(tape.conv2d(h, &pass.var(weight), Some(&pass.var(bias)), 1, 1)?))
        })?;
        ops::tanh(&image)
    }
}

/// The small GAN's discriminator: spectrally normalised 4x4 convolutions of stride 2 with leaky relus, down to 4x4,
/// then a projection head on the flattened features.
#[derive(Debug)]
pub struct SmallDiscriminator {
    stages: Vec<SnConv>,
    head: Projection,
    pub(crate) precision: Precision,
}

impl SmallDiscriminator {
    /// Creates the parameters in `scope`. `config` must be valid for `image`.
    pub fn new(mut scope: Scope<'_>, config: &SmallConfig, image: &ImageSpec, classes: usize) -> gafi_nn::Result<Self> {
        let mut stages = Vec::new();
        let mut input = image.channels;
        for (s, &output) in config.d.iter().enumerate() {
            let mut stage = scope.sub(format_args!("stage{s}"));
            stages.push(SnConv::halving(stage.sub("conv"), input, output)?);
            input = output;
        }
        let head = Projection::new(&mut scope, input * 16, classes, Init::FanIn, config.spectral_head)?;
        Ok(Self { stages, head, precision: Precision::F32 })
    }

    /// Maps images x (N, C, H, W) in [-1, 1] and labels (N), u32, to logits (N).
    pub fn forward(&self, x: &Tensor, labels: &Tensor, pass: Pass) -> Result<Tensor> {
        let h = trunk::run(x, pass.settings(false, self.precision), |tape, mut h| {
            for stage in &self.stages {
                let x = stage.forward(tape, h, pass)?;
                h = tape.activation(x, Activation::Leaky(SLOPE))?;
            }
            Ok(Output::Maps(h))
        })?;
        self.head.forward(&h.flatten_from(1)?, labels, pass)
    }
}
