//! BigGAN-Deep's discriminator (Brock et al. 2019, arXiv 1809.11096), as in the released program.

use candle_core::{Result, Tensor};
use gafi_core::ImageSpec;
use gafi_kernels::Precision;
use gafi_kernels::trunk::{self, Activation, Output};
use gafi_nn::{Init, Scope};

use crate::architecture::BigGanConfig;
use crate::blocks::{Attention, DiscBlock, Projection, SnConv};
use crate::pass::{Form, Pass};

/// BigGAN-Deep's discriminator: a 3x3 stem, stages of `depth` blocks, relu, the sum over all positions, and a
/// projection head.
///
/// The first block of a stage halves the size, except in the last stage for 32x32 images. Self-attention follows the
/// first stage, at half of the image's size.
#[derive(Debug)]
pub struct BigGanDiscriminator {
    stem: SnConv,
    stages: Vec<Vec<DiscBlock>>,
    attention: Attention,
    head: Projection,
    pub(crate) precision: Precision,
}

impl BigGanDiscriminator {
    /// Creates the parameters in `scope`. `config` must be valid for `image`.
    pub fn new(
        mut scope: Scope<'_>,
        config: &BigGanConfig,
        image: &ImageSpec,
        classes: usize,
    ) -> gafi_nn::Result<Self> {
        let mut input = config.ch;
        let stem = SnConv::same(scope.sub("stem"), image.channels, input, 3, Form::Training)?;
        let widths = config.discriminator_widths(image.height);
        let attention = Attention::new(scope.sub("attention"), widths[0].0, Form::Training)?;
        let mut stages = Vec::new();
        for (s, (output, down)) in widths.into_iter().enumerate() {
            let mut stage = scope.sub(format_args!("stage{s}"));
            let blocks = (0..config.depth).map(|d| {
                let from = if d == 0 { input } else { output };
                DiscBlock::new(stage.sub(format_args!("block{d}")), from, output, down && d == 0)
            });
            stages.push(blocks.collect::<gafi_nn::Result<Vec<_>>>()?);
            input = output;
        }
        let head = Projection::new(&mut scope, input, classes, Init::Orthogonal, true)?;
        Ok(Self { stem, stages, attention, head, precision: Precision::F32 })
    }

    /// Maps images x (N, C, H, W) in [-1, 1] and labels (N), u32, to logits (N).
    pub fn forward(&self, x: &Tensor, labels: &Tensor, pass: Pass) -> Result<Tensor> {
        let features = trunk::run(x, pass.settings(false, self.precision), |tape, x| {
            let mut h = self.stem.forward(tape, x, pass)?;
            for (s, stage) in self.stages.iter().enumerate() {
                for block in stage {
                    h = block.forward(tape, h, pass)?;
                }
                if s == 0 {
                    h = self.attention.forward(tape, h, pass)?;
                }
            }
            Ok(Output::Sums(tape.activation(h, Activation::RELU)?))
        })?;
        self.head.forward(&features, labels, pass)
    }
}
