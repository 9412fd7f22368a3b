//! ResNet for small images (He et al. 2015, arXiv 1512.03385, section 4.2): a 3x3 stem, three stages of n blocks of two
//! convolutions with w, 2w and 4w channels, a global mean, and a linear layer. The second and third stage halve the
//! image. The depth is 6n + 2.
//!
//! Shortcuts are the paper's option A (subsampled, channels padded with zeros). GaFi's students have depth 20 and width
//! 64.

use candle_core::Tensor;
use gafi_core::{ImageSpec, check_count};
use gafi_kernels::Precision;
use gafi_kernels::trunk::{self, Batch, Output, Settings, Tape, Value};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::layers::{BatchNorm2d, Conv2d, ConvShape, Linear, Mode, check_image};
use crate::params::{Init, Scope};

/// Added to the variance in batch norms; the released program's value.
const EPS: f64 = 1e-5;

/// Hyper-parameters of a [`ResNet`], in manifests `{"name": "resnet", "depth": 20, "width": 64}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ResNetConfig {
    /// Depth 6n + 2 with n blocks per stage, 8 to 1202. Published: 20, 32, 44, 56.
    #[cfg_attr(feature = "schema", schemars(range(min = 8, max = 1202)))]
    pub depth: usize,
    /// Channels of the first stage, 1 to 4096. The others have 2 and 4 times as many.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 4096)))]
    pub width: usize,
}

impl Default for ResNetConfig {
    /// The paper's student: depth 20 and width 64.
    fn default() -> Self {
        Self { depth: 20, width: 64 }
    }
}

impl ResNetConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`gafi_core::Error::Config`] with the key, prefixed by `prefix` and a dot.
    pub fn check(&self, prefix: &str) -> gafi_core::Result<()> {
        if self.depth < 8 || self.depth > 1202 || !(self.depth - 2).is_multiple_of(6) {
            let expected = "6n + 2, from 8 to 1202 (usual: 20, 32, 44, 56)";
            return Err(gafi_core::Error::config(format!("{prefix}.depth"), self.depth, expected));
        }
        check_count(&format!("{prefix}.width"), self.width, 4096)
    }
}

/// A residual network. Clones are cheap and share the parameters.
#[derive(Debug, Clone)]
pub struct ResNet {
    stem: Conv2d,
    stem_norm: BatchNorm2d,
    blocks: Vec<Block>,
    /// The last layer, from 4 * width features to the classes.
    pub head: Linear,
    /// Number format of the convolutions; f32 by default.
    pub precision: Precision,
}

impl ResNet {
    /// Smallest height and width of an image, in pixels.
    pub const MIN_SIZE: usize = 8;

    /// Creates the parameters in `scope`: `stem`, `stage1.0.conv1`, ..., `head`.
    ///
    /// # Errors
    /// When an image is smaller than [`ResNet::MIN_SIZE`] or the architecture is out of range.
    pub fn new(scope: &mut Scope<'_>, architecture: &ResNetConfig, image: &ImageSpec, classes: usize) -> Result<Self> {
        architecture.check("architecture")?;
        check_image(image, Self::MIN_SIZE)?;
        let ResNetConfig { depth, width } = *architecture;
        let stem = conv(scope.sub("stem.conv"), image.channels, width, 1)?;
        let stem_norm = BatchNorm2d::new(scope.sub("stem.norm"), width, EPS)?;
        let mut blocks = Vec::new();
        let mut input = width;
        for stage in 0..3 {
            let output = width << stage;
            for block in 0..(depth - 2) / 6 {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let scope = scope.sub(format!("stage{}.{block}", stage + 1));
                blocks.push(Block::new(scope, input, output, stride)?);
                input = output;
            }
        }
        let head = Linear::new(scope.sub("head"), input, classes, true, Init::HeNormal)?;
        Ok(Self { stem, stem_norm, blocks, head, precision: Precision::F32 })
    }

    /// Maps images x (N, C, H, W) in [-1, 1] to features (N, 4 * width), the input of the last layer.
    pub fn features(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let batch = if mode == Mode::Train { Batch::FusedMoments } else { Batch::Pieces };
        let sums = trunk::run(x, Settings { precision: self.precision, batch }, |tape, x| {
            let h = self.stem.forward(tape.before_norm(), x, mode)?;
            let mut h = self.stem_norm.forward(tape, h, mode, true)?;
            for block in &self.blocks {
                h = block.forward(tape, h, mode)?;
            }
            Ok(Output::Sums(h))
        })?;
        let (_, _, height, width) = x.dims4()?;
        let positions = height.div_ceil(2).div_ceil(2) * width.div_ceil(2).div_ceil(2);
        Ok((sums / positions as f64)?)
    }

    /// The means over positions (N, C) after each stage, of which the last are the features, and the features, of a frozen network.
    pub(crate) fn stages(&self, x: &Tensor) -> Result<(Vec<Tensor>, Tensor)> {
        let settings = Settings { precision: self.precision, batch: Batch::Pieces };
        let mut means = Vec::new();
        let mut maps = x.clone();
        for (number, blocks) in self.blocks.chunks(self.blocks.len() / 3).enumerate() {
            maps = trunk::run(&maps, settings, |tape, x| {
                let mut h = x;
                if number == 0 {
                    h = self.stem.forward(tape, h, Mode::Eval)?;
                    h = self.stem_norm.forward(tape, h, Mode::Eval, true)?;
                }
                for block in blocks {
                    h = block.forward(tape, h, Mode::Eval)?;
                }
                Ok(Output::Maps(h))
            })?;
            means.push(maps.mean((2, 3))?);
        }
        let features = means[means.len() - 1].clone();
        Ok((means, features))
    }

    /// Maps images x (N, C, H, W) in [-1, 1] to logits (N, classes).
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.head.forward(&self.features(x, mode)?, mode)
    }
}

fn conv(scope: Scope<'_>, input: usize, output: usize, stride: usize) -> Result<Conv2d> {
    // No bias: the batch norm that follows would cancel it.
    Conv2d::new(scope, ConvShape { stride, bias: false, ..ConvShape::same(input, output, 3) }, Init::HeNormal)
}

/// A block: relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)).
#[derive(Debug, Clone)]
struct Block {
    conv1: Conv2d,
    norm1: BatchNorm2d,
    conv2: Conv2d,
    norm2: BatchNorm2d,
    halves: bool,
}

impl Block {
    fn new(mut scope: Scope<'_>, input: usize, output: usize, stride: usize) -> Result<Self> {
        Ok(Self {
            conv1: conv(scope.sub("conv1"), input, output, stride)?,
            norm1: BatchNorm2d::new(scope.sub("norm1"), output, EPS)?,
            conv2: conv(scope.sub("conv2"), output, output, 1)?,
            norm2: BatchNorm2d::new(scope.sub("norm2"), output, EPS)?,
            halves: stride == 2,
        })
    }

    fn forward(&self, tape: &mut Tape, x: Value, mode: Mode) -> candle_core::Result<Value> {
        let h = self.conv1.forward(tape.before_norm(), x, mode)?;
        let h = self.norm1.forward(tape, h, mode, true)?;
        let h = self.conv2.forward(tape.before_norm(), h, mode)?;
        let h = self.norm2.forward(tape, h, mode, false)?;
        let shortcut = if self.halves { tape.subsample_pad(x, tape.dims(h).1)? } else { x };
        tape.add_relu(h, shortcut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::ClassifierArchitecture;
    use crate::params::Params;
    use candle_core::{DType, Device};
    use gafi_core::Stream;

    fn build(architecture: ResNetConfig, image: ImageSpec) -> Result<(Params, ResNet)> {
        let mut params = Params::new(&Device::Cpu, Stream::new(1));
        let net = ResNet::new(&mut params.root(), &architecture, &image, 10)?;
        Ok((params, net))
    }

    #[test]
    fn parameter_counts_are_the_published_ones() {
        // He et al., table 6, for width 16, in millions.
        for (depth, millions) in [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)] {
            let architecture = ResNetConfig { depth, width: 16 };
            let (params, _) = build(architecture, ImageSpec::new(3, 32, 32)).unwrap();
            let found = params.count() as f64 / 1e6;
            assert!((found - millions).abs() < 0.0051, "ResNet-{depth}: {found} million");
        }
    }

    #[test]
    fn any_channels_and_sizes_from_8_pixels_work() {
        let architecture = ResNetConfig { depth: 8, width: 3 };
        for image in [ImageSpec::new(1, 8, 8), ImageSpec::new(4, 9, 13), ImageSpec::new(3, 28, 17)] {
            let (_, net) = build(architecture, image).unwrap();
            let x = Tensor::zeros((2, image.channels, image.height, image.width), DType::F32, &Device::Cpu).unwrap();
            for mode in [Mode::Train, Mode::Eval] {
                assert_eq!(net.forward(&x, mode).unwrap().dims(), [2, 10], "{image}");
            }
        }
        assert!(build(architecture, ImageSpec::new(1, 7, 8)).is_err());
    }

    #[test]
    fn invalid_depths_and_unknown_keys_are_errors() {
        for (depth, width) in [(21, 16), (2, 16), (20, 0), (0, 1)] {
            let error = ResNetConfig { depth, width }.check("a").unwrap_err();
            assert!(error.is_usage(), "{error}");
        }
        let parse = |text: &str| serde_json::from_str::<ClassifierArchitecture>(text);
        let default = ClassifierArchitecture::default();
        assert_eq!(parse(r#"{"name":"resnet","depth":20,"width":64}"#).unwrap(), default);
        assert_eq!(serde_json::to_string(&default).unwrap(), r#"{"name":"resnet","depth":20,"width":64}"#);
        assert!(parse(r#"{"name":"resnet","depht":20}"#).unwrap_err().to_string().contains("depht"));
        assert!(parse(r#"{"name":"vgg"}"#).is_err());
    }
}
