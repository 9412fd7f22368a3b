//! Candle's interfaces: a generator as a module and, with the feature `candle-nn`, its weights from a `VarBuilder`.

use candle_core::{Module, Result, Tensor};
use gafi_core::ClassId;

use crate::networks::{GeneratorNet, Pass};

/// A generator restricted to one class, because a Candle module takes a single input: maps latents (N, latent) to images
/// (N, C, H, W) in [-1, 1], in evaluation mode.
#[derive(Debug, Clone, Copy)]
pub struct OfClass<'a> {
    net: &'a GeneratorNet,
    class: ClassId,
}

impl GeneratorNet {
    /// This generator for `class`, which must be below the number of classes.
    pub fn of_class(&self, class: ClassId) -> OfClass<'_> {
        OfClass { net: self, class }
    }
}

impl Module for OfClass<'_> {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let labels = Tensor::full(self.class.0, xs.dim(0)?, xs.device())?;
        self.net.forward(xs, &labels, Pass::EVAL)
    }
}

#[cfg(feature = "candle-nn")]
impl GeneratorNet {
    /// A generator with the weights that `builder` has, such as those of a checkpoint of a generator artifact, ready for sampling.
    ///
    /// # Errors
    /// When the architecture is out of range for the images, or a tensor is missing or has another shape.
    pub fn load(
        architecture: &crate::Architecture,
        image: &gafi_core::ImageSpec,
        classes: usize,
        builder: &candle_nn::VarBuilder<'_>,
    ) -> gafi_nn::Result<Self> {
        architecture.check(image)?;
        // Every value is replaced, so the seed does not matter.
        let mut params = gafi_nn::Params::new(builder.device(), gafi_core::Stream::new(0));
        let net = Self::new(params.root(), architecture, image, classes, crate::networks::Form::Inference)?;
        params.load_from(builder)?;
        Ok(net)
    }
}
