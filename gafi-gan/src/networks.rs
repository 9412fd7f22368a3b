//! The generators and discriminators, each kind of network behind one type.

use candle_core::{Result, Tensor};
use gafi_core::{Error, ImageSpec};
use gafi_kernels::Precision;
use gafi_nn::Scope;

use crate::architecture::Architecture;
pub use crate::biggan::PlainBigGanGenerator;
pub use crate::discriminator::BigGanDiscriminator;
pub use crate::generator::BigGanGenerator;
pub use crate::pass::{Form, Pass};
pub use crate::small::{SmallDiscriminator, SmallGenerator};

/// A class-conditional generator.
#[derive(Debug)]
#[non_exhaustive]
pub enum GeneratorNet {
    /// BigGAN-Deep.
    BigGan(Box<BigGanGenerator>),
    /// BigGAN.
    PlainBigGan(Box<PlainBigGanGenerator>),
    /// The small projection GAN.
    Small(SmallGenerator),
}

impl GeneratorNet {
    /// Creates the parameters in `scope`. `architecture` must be valid for `image`.
    pub fn new(
        scope: Scope<'_>,
        architecture: &Architecture,
        image: &ImageSpec,
        classes: usize,
        form: Form,
    ) -> gafi_nn::Result<Self> {
        Ok(match architecture {
            Architecture::BigGanDeep(config) => {
                Self::BigGan(Box::new(BigGanGenerator::new(scope, config, image, classes, form)?))
            }
            Architecture::PlainBigGan(config) => {
                Self::PlainBigGan(Box::new(PlainBigGanGenerator::new(scope, config, image, classes, form)?))
            }
            Architecture::Small(config) => Self::Small(SmallGenerator::new(scope, config, image, classes)?),
        })
    }

    /// Sets the number format of the computation; the default is f32.
    pub fn set_precision(&mut self, precision: Precision) {
        match self {
            Self::BigGan(net) => net.precision = precision,
            Self::PlainBigGan(net) => net.precision = precision,
            Self::Small(net) => net.precision = precision,
        }
    }

    /// Maps latents z (N, latent) and labels (N), u32, to images (N, C, H, W) in [-1, 1].
    pub fn forward(&self, z: &Tensor, labels: &Tensor, pass: Pass) -> Result<Tensor> {
        match self {
            Self::BigGan(net) => net.forward(z, labels, pass),
            Self::PlainBigGan(net) => net.forward(z, labels, pass),
            Self::Small(net) => net.forward(z, labels, pass),
        }
    }
}

/// A class-conditional discriminator.
#[derive(Debug)]
#[non_exhaustive]
pub enum DiscriminatorNet {
    /// BigGAN-Deep.
    BigGan(Box<BigGanDiscriminator>),
    /// The small projection GAN.
    Small(SmallDiscriminator),
}

impl DiscriminatorNet {
    /// Creates the parameters in `scope`. `architecture` must be valid for `image`.
    ///
    /// # Errors
    /// When the architecture has no discriminator.
    pub fn new(
        scope: Scope<'_>,
        architecture: &Architecture,
        image: &ImageSpec,
        classes: usize,
    ) -> gafi_nn::Result<Self> {
        Ok(match architecture {
            Architecture::BigGanDeep(config) => {
                Self::BigGan(Box::new(BigGanDiscriminator::new(scope, config, image, classes)?))
            }
            Architecture::PlainBigGan(_) => {
                return Err(Error::config("architecture.name", "biggan", "an architecture with a discriminator").into());
            }
            Architecture::Small(config) => Self::Small(SmallDiscriminator::new(scope, config, image, classes)?),
        })
    }

    /// Sets the number format of the computation; the default is f32.
    pub fn set_precision(&mut self, precision: Precision) {
        match self {
            Self::BigGan(net) => net.precision = precision,
            Self::Small(net) => net.precision = precision,
        }
    }

    /// Maps images x (N, C, H, W) in [-1, 1] and labels (N), u32, to logits (N).
    pub fn forward(&self, x: &Tensor, labels: &Tensor, pass: Pass) -> Result<Tensor> {
        match self {
            Self::BigGan(net) => net.forward(x, labels, pass),
            Self::Small(net) => net.forward(x, labels, pass),
        }
    }
}
