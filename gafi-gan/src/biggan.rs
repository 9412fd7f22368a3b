//! BigGAN's generator (Brock et al. 2019, arXiv 1809.11096, appendix B), in StudioGAN's block order. It has no
//! discriminator here: its weights are imported.

use candle_core::{Result, Tensor, Var};
use gafi_core::{Error, ImageSpec};
use gafi_kernels::Precision;
use gafi_kernels::trunk::{self, Output, Tape, Value};
use gafi_nn::{Init, Scope};
use serde::{Deserialize, Serialize};

use crate::blocks::{Attention, CondNorm, Norm, SnConv, SnLinear};
use crate::pass::{Form, Pass};

/// Hyper-parameters of BigGAN's generator, inferred from imported weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PlainBigGanConfig {
    /// Values in a latent, a multiple of the number of `widths`. The latent is split into that many equal parts.
    pub z: usize,
    /// Values in the class embedding, which all conditional batch norms share; at least 1.
    pub shared: usize,
    /// Channels before the first stage and after each stage. A stage doubles the size, from 4x4.
    pub widths: Vec<usize>,
    /// Stages followed by self-attention, counted from 1, ascending.
    pub attention: Vec<usize>,
}

impl PlainBigGanConfig {
    /// Values in each part of the latent.
    fn part(&self) -> usize {
        self.z / self.widths.len().max(1)
    }

    pub(crate) fn check(&self, size: usize) -> gafi_core::Result<()> {
        let Self { z, shared, widths, attention } = self;
        let stages = widths.len().saturating_sub(1);
        if !(1..16).contains(&stages) || 4usize << stages != size || widths.contains(&0) {
            let expected = format!("positive widths, one more than the doublings from 4x4 to {size}x{size}");
            return Err(Error::config("architecture.widths", format!("{widths:?}"), expected));
        }
        if *z == 0 || !z.is_multiple_of(widths.len()) {
            return Err(Error::config("architecture.z", z, format!("a multiple of {}", widths.len())));
        }
        // Attention keys have an eighth of the channels.
        let place = |s: &usize| (1..=stages).contains(s) && widths[*s] >= 8;
        if !attention.iter().all(place) || attention.windows(2).any(|pair| pair[0] >= pair[1]) {
            let expected = format!("ascending stages from 1 to {stages} with at least 8 channels");
            return Err(Error::config("architecture.attention", format!("{attention:?}"), expected));
        }
        if *shared == 0 {
            return Err(Error::config("architecture.shared", shared, "at least 1"));
        }
        Ok(())
    }
}

/// BigGAN's generator. The latent is split into equal parts: a linear layer maps the first part to 4x4, and each stage,
/// which doubles the size, conditions its batch norms on c = concat(its part, class embedding).
#[derive(Debug)]
pub struct PlainBigGanGenerator {
    embedding: Var,
    linear: SnLinear,
    stages: Vec<(PlainGenBlock, Option<Attention>)>,
    norm: Norm,
    out: SnConv,
    width: usize,
    part: usize,
    pub(crate) precision: Precision,
}

impl PlainBigGanGenerator {
    /// Creates the parameters in `scope`. `config` must be valid for `image`.
    pub fn new(
        mut scope: Scope<'_>,
        config: &PlainBigGanConfig,
        image: &ImageSpec,
        classes: usize,
        form: Form,
    ) -> gafi_nn::Result<Self> {
        let width = config.widths[0];
        let last = config.widths[config.widths.len() - 1];
        let part = config.part();
        let embedding = scope.sub("embedding").param("weight", (classes, config.shared), Init::Orthogonal)?;
        let linear = SnLinear::new(scope.sub("linear"), part, width * 16, true, form)?;
        let mut stages = Vec::new();
        for (s, pair) in config.widths.windows(2).enumerate() {
            let mut stage = scope.sub(format_args!("stage{s}"));
            let block = PlainGenBlock::new(stage.sub("block"), pair[0], pair[1], part + config.shared, form)?;
            let attention = config.attention.contains(&(s + 1));
            let attention = attention.then(|| Attention::new(stage.sub("attention"), pair[1], form)).transpose()?;
            stages.push((block, attention));
        }
        let norm = Norm::new(scope.sub("norm"), last)?;
        let out = SnConv::same(scope.sub("out"), last, image.channels, 3, form)?;
        Ok(Self { embedding, linear, stages, norm, out, width, part, precision: Precision::F32 })
    }

    /// Maps latents z (N, latent) and labels (N), u32, to images (N, C, H, W) in [-1, 1].
    pub fn forward(&self, z: &Tensor, labels: &Tensor, pass: Pass) -> Result<Tensor> {
        let class = pass.var(&self.embedding).index_select(labels, 0)?;
        let part = |k: usize| z.narrow(1, k * self.part, self.part);
        let h = self.linear.forward(&part(0)?.contiguous()?, pass)?.reshape(((), self.width, 4, 4))?;
        let image = trunk::run(&h, pass.settings(true, self.precision), |tape, mut h| {
            for (s, (block, attention)) in self.stages.iter().enumerate() {
                let c = tape.rows(&Tensor::cat(&[&part(s + 1)?, &class], 1)?)?;
                h = block.forward(tape, h, &c, pass)?;
                if let Some(attention) = attention {
                    h = attention.forward(tape, h, pass)?;
                }
            }
            let h = self.norm.forward(tape, h, pass)?;
            Ok(Output::Maps(self.out.forward(tape, h, pass)?))
        })?;
        gafi_kernels::ops::tanh(&image)
    }
}

/// Two 3x3 convolutions, each after a conditional batch norm, with a 1x1 convolution as the skip. The first doubles the
/// size.
#[derive(Debug)]
struct PlainGenBlock {
    norms: [CondNorm; 2],
    convs: [SnConv; 2],
    skip: SnConv,
}

impl PlainGenBlock {
    fn new(mut scope: Scope<'_>, input: usize, output: usize, cond: usize, form: Form) -> gafi_nn::Result<Self> {
        let norms = [
            CondNorm::new(scope.sub("norm0"), input, cond, form)?,
            CondNorm::new(scope.sub("norm1"), output, cond, form)?,
        ];
        let convs = [
            SnConv::same(scope.sub("conv0"), input, output, 3, form)?,
            SnConv::same(scope.sub("conv1"), output, output, 3, form)?,
        ];
        Ok(Self { norms, convs, skip: SnConv::same(scope.sub("skip"), input, output, 1, form)? })
    }

    /// Maps x (N, I, H, W) under the condition c (N, cond) to (N, O, 2H, 2W).
    fn forward(&self, tape: &mut Tape, x: Value, c: &Tensor, pass: Pass) -> Result<Value> {
        let h = self.norms[0].forward(tape, x, c, pass)?;
        let h = self.convs[0].forward_upsampled(tape.before_norm(), h, pass)?;
        let h = self.norms[1].forward(tape, h, c, pass)?;
        let h = self.convs[1].forward(tape, h, pass)?;
        let skip = self.skip.forward(tape, x, pass)?;
        let skip = tape.upsample2x(skip)?;
        tape.add(h, skip)
    }
}
