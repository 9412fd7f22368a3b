//! BigGAN-Deep's generator (Brock et al. 2019, arXiv 1809.11096), as in the released program.

use candle_core::{Result, Tensor, Var};
use gafi_core::ImageSpec;
use gafi_kernels::Precision;
use gafi_kernels::trunk::{self, Output};
use gafi_nn::{Init, Scope};

use crate::architecture::BigGanConfig;
use crate::blocks::{Attention, GenBlock, Norm, SnConv, SnLinear};
use crate::pass::{Form, Pass};

/// BigGAN-Deep's generator: a linear layer maps c = concat(z, class embedding) to 4x4; stages of `depth` blocks follow,
/// then batch norm, relu, a 3x3 convolution and tanh. The last block of a stage doubles the size.
///
/// Self-attention precedes the last stage, at half of the image's size: 16x16 for 32x32 images (published), 32x32 for
/// 64x64 and 64x64 for 128x128 (StudioGAN's configurations).
#[derive(Debug)]
pub struct BigGanGenerator {
    embedding: Var,
    linear: SnLinear,
    stages: Vec<Vec<GenBlock>>,
    attention: Attention,
    norm: Norm,
    out: SnConv,
    width: usize,
    pub(crate) precision: Precision,
}

impl BigGanGenerator {
    /// Creates the parameters in `scope`. `config` must be valid for `image`.
    pub fn new(
        mut scope: Scope<'_>,
        config: &BigGanConfig,
        image: &ImageSpec,
        classes: usize,
        form: Form,
    ) -> gafi_nn::Result<Self> {
        let widths = config.generator_widths(image.height);
        let width = widths[0];
        let last = widths[widths.len() - 1];
        let cond = config.z + config.shared;
        // Keras' default for embeddings, which the released program leaves as it is.
        let embedding = Init::Uniform { bound: 0.05 };
        let embedding = scope.sub("embedding").param("weight", (classes, config.shared), embedding)?;
        let linear = SnLinear::new(scope.sub("linear"), cond, width * 16, true, form)?;
        let mut stages = Vec::new();
        for (s, pair) in widths.windows(2).enumerate() {
            let mut stage = scope.sub(format_args!("stage{s}"));
            let blocks = (0..config.depth).map(|d| {
                // The last block of a stage changes channels and size.
                let up = d + 1 == config.depth;
                let output = if up { pair[1] } else { pair[0] };
                GenBlock::new(stage.sub(format_args!("block{d}")), pair[0], output, cond, up, form)
            });
            stages.push(blocks.collect::<gafi_nn::Result<Vec<_>>>()?);
        }
        let attention = Attention::new(scope.sub("attention"), widths[widths.len() - 2], form)?;
        let norm = Norm::new(scope.sub("norm"), last)?;
        let out = SnConv::same(scope.sub("out"), last, image.channels, 3, form)?;
        Ok(Self { embedding, linear, stages, attention, norm, out, width, precision: Precision::F32 })
    }

    /// Maps latents z (N, latent) and labels (N), u32, to images (N, C, H, W) in [-1, 1].
    pub fn forward(&self, z: &Tensor, labels: &Tensor, pass: Pass) -> Result<Tensor> {
        let class = pass.var(&self.embedding).index_select(labels, 0)?;
        let c = Tensor::cat(&[z, &class], 1)?;
        let h = self.linear.forward(&c, pass)?.reshape(((), self.width, 4, 4))?;
        let image = trunk::run(&h, pass.settings(true, self.precision), |tape, mut h| {
            let c = tape.rows(&c)?;
            for (s, stage) in self.stages.iter().enumerate() {
                for block in stage {
                    h = block.forward(tape, h, &c, pass)?;
                }
                if s + 2 == self.stages.len() {
                    h = self.attention.forward(tape, h, pass)?;
                }
            }
            let h = self.norm.forward(tape, h, pass)?;
            Ok(Output::Maps(self.out.forward(tape, h, pass)?))
        })?;
        gafi_kernels::ops::tanh(&image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use gafi_core::Stream;
    use gafi_nn::Params;

    #[test]
    fn the_class_embedding_starts_as_kerass() {
        // tf.keras.layers.Embedding draws from RandomUniform(-0.05, 0.05).
        let config = BigGanConfig { ch: 4, depth: 1, z: 4, shared: 128 };
        let mut params = Params::new(&Device::Cpu, Stream::new(2));
        BigGanGenerator::new(params.root(), &config, &ImageSpec::new(1, 32, 32), 10, Form::Training).unwrap();
        let values = params.state().unwrap()["embedding.weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let largest = values.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(largest > 0.0495 && largest <= 0.05, "{largest}");
        let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 0.003, "{mean}");
    }
}
