//! BigGAN's generator (Brock et al. 2019, arXiv 1809.11096, appendix B), in StudioGAN's block order. To be sampled from
//! with weights trained elsewhere: there is no discriminator beside it.

use candle_core::{Result, Tensor, Var};
use gafi_core::{Error, ImageSpec};
use gafi_kernels::trunk::{self, Output, Precision, Tape, Value};
use gafi_nn::{Init, Scope};
use serde::{Deserialize, Serialize};

use crate::blocks::{Attention, CondNorm, Norm, SnConv, SnLinear};
use crate::pass::{Form, Pass};

/// BigGAN's generator, as large as it was trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PlainBigGanConfig {
    /// Length of a latent, which is cut into as many equal parts as there are `widths`.
    pub z: usize,
    /// Length of the class embedding that all conditional batch norms share.
    pub shared: usize,
    /// Channels before the first stage and after each of them; a stage doubles the size, from 4x4.
    pub widths: Vec<usize>,
    /// Stages, counted from 1, with self-attention behind them.
    pub attention: Vec<usize>,
}

impl PlainBigGanConfig {
    /// Length of each part of the latent.
    fn part(&self) -> usize {
        self.z / self.widths.len().max(1)
    }

    pub(crate) fn check(&self, size: usize) -> gafi_core::Result<()> {
        let Self { z, shared, widths, attention } = self;
        let stages = widths.len().saturating_sub(1);
        if !(1..16).contains(&stages) || 4usize << stages != size || widths.contains(&0) {
            let expected = format!("positive widths, one more than {size} is doublings of 4");
            return Err(Error::config("architecture.widths", format!("{widths:?}"), expected));
        }
        if *z == 0 || !z.is_multiple_of(widths.len()) {
            return Err(Error::config("architecture.z", z, format!("a multiple of {}", widths.len())));
        }
        // The keys of an attention have an eighth of its channels.
        let place = |s: &usize| (1..=stages).contains(s) && widths[*s] >= 8;
        if !attention.iter().all(place) || attention.windows(2).any(|pair| pair[0] >= pair[1]) {
            let expected = format!("stages from 1 to {stages} in order, of 8 channels at least");
            return Err(Error::config("architecture.attention", format!("{attention:?}"), expected));
        }
        if *shared == 0 {
            return Err(Error::config("architecture.shared", shared, "at least 1"));
        }
        Ok(())
    }
}

/// Latents and classes to images: the latent is cut into equal parts, the first goes through a linear map to 4x4, and each
/// stage, which doubles the size, has c = concat(its own part, class embedding) for its batch norms.
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
    /// Parameters in `scope`. `config` must have passed its check for `image`.
    pub fn new(
        mut scope: Scope<'_>,
        config: &PlainBigGanConfig,
        image: &ImageSpec,
        classes: usize,
        form: Form,
    ) -> gafi_nn::Result<Self> {
        let (width, last) = (config.widths[0], config.widths[config.widths.len() - 1]);
        let part = config.part();
        let embedding = scope.sub("embedding").param("weight", (classes, config.shared), Init::Orthogonal)?;
        let linear = SnLinear::new(scope.sub("linear"), part, width * 16, true, Init::Orthogonal, form)?;
        let mut stages = Vec::new();
        for (s, pair) in config.widths.windows(2).enumerate() {
            let mut stage = scope.sub(format_args!("stage{s}"));
            let block = PlainGenBlock::new(stage.sub("block"), pair[0], pair[1], part + config.shared, form)?;
            let attention = if config.attention.contains(&(s + 1)) {
                Some(Attention::new(stage.sub("attention"), pair[1], form)?)
            } else {
                None
            };
            stages.push((block, attention));
        }
        let norm = Norm::new(scope.sub("norm"), last)?;
        let out = SnConv::same(scope.sub("out"), last, image.channels, 3, form)?;
        Ok(Self { embedding, linear, stages, norm, out, width, part, precision: Precision::F32 })
    }

    /// z (N, latent), labels (N) u32 to images (N, C, H, W) in [-1, 1].
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

/// Two 3x3 convolutions behind conditional batch norms, the first of them doubling the size, and a 1x1 beside them.
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

    /// x (N, I, H, W), c (N, cond) to (N, O, 2H, 2W).
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
