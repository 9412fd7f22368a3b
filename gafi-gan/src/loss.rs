//! Losses of the generator and the discriminator.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// The losses of discriminator (D) and generator (G), as means over a batch of logits (N).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// D: max(0, 1 - real) + max(0, 1 + fake); G: -fake (Lim and Ye 2017, arXiv 1705.02894).
    #[default]
    Hinge,
    /// D: softplus(-real) + softplus(fake); G: softplus(-fake) (Goodfellow et al. 2014, arXiv 1406.2661).
    NonSaturating,
}

impl Loss {
    /// The discriminator's loss, a scalar, from logits (N) of real and of generated images.
    pub fn discriminator(self, real: &Tensor, fake: &Tensor) -> Result<Tensor> {
        match self {
            Self::Hinge => (1.0 - real)?.relu()?.mean_all()? + (1.0 + fake)?.relu()?.mean_all()?,
            Self::NonSaturating => softplus(&real.neg()?)?.mean_all()? + softplus(fake)?.mean_all()?,
        }
    }

    /// The generator's loss, a scalar, from logits (N) of generated images.
    pub fn generator(self, fake: &Tensor) -> Result<Tensor> {
        match self {
            Self::Hinge => fake.mean_all()?.neg(),
            Self::NonSaturating => softplus(&fake.neg()?)?.mean_all(),
        }
    }
}

/// log(1 + e^x), computed as relu(x) + log(1 + e^-|x|), which does not overflow.
fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn scalar(t: Tensor) -> f32 {
        t.to_scalar().unwrap()
    }

    #[test]
    fn hinge_is_zero_beyond_its_margin() {
        let t = |v: &[f32]| Tensor::new(v, &Device::Cpu).unwrap();
        assert_eq!(scalar(Loss::Hinge.discriminator(&t(&[1.5, 7.0]), &t(&[-1.0, -9.0])).unwrap()), 0.0);
        assert_eq!(scalar(Loss::Hinge.discriminator(&t(&[0.0, 1.0]), &t(&[0.0, -1.0])).unwrap()), 1.0);
        assert_eq!(scalar(Loss::Hinge.generator(&t(&[2.0, 4.0])).unwrap()), -3.0);
    }

    #[test]
    fn softplus_is_finite_for_large_logits() {
        let t = |v: f32| Tensor::new(&[v], &Device::Cpu).unwrap();
        assert!((scalar(Loss::NonSaturating.generator(&t(0.0)).unwrap()) - 2f32.ln()).abs() < 1e-6);
        assert_eq!(scalar(Loss::NonSaturating.generator(&t(-300.0)).unwrap()), 300.0);
        assert_eq!(scalar(Loss::NonSaturating.generator(&t(300.0)).unwrap()), 0.0);
    }
}
