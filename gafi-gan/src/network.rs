//! Every architecture behind one name, so that training and sampling are written once.

use candle_core::{Result, Tensor};
use gafi_core::{Error, ImageSpec};
use gafi_kernels::trunk::Precision;
use gafi_nn::Scope;

use crate::biggan::PlainBigGanGenerator;
use crate::config::Architecture;
use crate::discriminator::BigGanDiscriminator;
use crate::generator::BigGanGenerator;
use crate::pass::{Form, Pass};
use crate::small::{SmallDiscriminator, SmallGenerator};

/// A class-conditional generator.
#[derive(Debug)]
pub enum GeneratorNet {
    /// BigGAN-Deep's.
    BigGan(Box<BigGanGenerator>),
    /// BigGAN's.
    PlainBigGan(Box<PlainBigGanGenerator>),
    /// The small GAN's.
    Small(SmallGenerator),
}

impl GeneratorNet {
    /// Parameters in `scope`. `architecture` must have passed its check for `image`.
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

    /// Computes in `precision` from now on; f32 before.
    pub fn set_precision(&mut self, precision: Precision) {
        match self {
            Self::BigGan(net) => net.precision = precision,
            Self::PlainBigGan(net) => net.precision = precision,
            Self::Small(net) => net.precision = precision,
        }
    }

    /// z (N, latent), labels (N) u32 to images (N, C, H, W) in [-1, 1].
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
pub enum DiscriminatorNet {
    /// BigGAN-Deep's.
    BigGan(Box<BigGanDiscriminator>),
    /// The small GAN's.
    Small(SmallDiscriminator),
}

impl DiscriminatorNet {
    /// Parameters in `scope`. `architecture` must have passed its check for `image`.
    ///
    /// # Errors
    /// For an architecture that can't be trained: it has no discriminator.
    pub fn new(
        scope: Scope<'_>,
        architecture: &Architecture,
        image: &ImageSpec,
        classes: usize,
    ) -> gafi_nn::Result<Self> {
        let form = Form::Training;
        Ok(match architecture {
            Architecture::BigGanDeep(config) => {
                Self::BigGan(Box::new(BigGanDiscriminator::new(scope, config, image, classes, form)?))
            }
            Architecture::PlainBigGan(_) => {
                return Err(Error::config("architecture.name", "biggan", "one with a discriminator").into());
            }
            Architecture::Small(config) => Self::Small(SmallDiscriminator::new(scope, config, image, classes, form)?),
        })
    }

    /// Computes in `precision` from now on; f32 before.
    pub fn set_precision(&mut self, precision: Precision) {
        match self {
            Self::BigGan(net) => net.precision = precision,
            Self::Small(net) => net.precision = precision,
        }
    }

    /// x (N, C, H, W) in [-1, 1], labels (N) u32 to logits (N).
    pub fn forward(&self, x: &Tensor, labels: &Tensor, pass: Pass) -> Result<Tensor> {
        match self {
            Self::BigGan(net) => net.forward(x, labels, pass),
            Self::Small(net) => net.forward(x, labels, pass),
        }
    }
}
