//! What a network is computed in, from the word in a configuration.

use candle_core::Device;
use gafi_kernels::{Bf16Support, Precision, bf16_support};
use serde::{Deserialize, Serialize};

/// The number type of feature maps and of the factors of convolutions. Weights, statistics, losses and sums are f32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Dtype {
    /// f32.
    #[default]
    F32,
    /// f32 whose products CUDA may round to TF32; f32 on a CPU.
    Tf32,
    /// bfloat16, where the CPU (AMX or AVX-512-BF16) or the GPU (Ampere and later) multiplies it; else f32, and a warning says so.
    Bf16,
    /// [`Dtype::Bf16`] where it is faster: on such a GPU and on CPUs with AMX. Else [`Dtype::F32`]. The result then depends on the
    /// machine.
    Auto,
}

impl Dtype {
    /// What that is on `device`.
    pub fn precision(self, device: &Device) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Tf32 => Precision::Tf32,
            Self::Auto if bf16_support(device) == Bf16Support::Fast => Precision::Bf16,
            Self::Auto => Precision::F32,
            Self::Bf16 if bf16_support(device) == Bf16Support::None => {
                tracing::warn!(
                    "{} cannot multiply bf16: computing in f32",
                    if device.is_cpu() { "this CPU (no AMX, no AVX-512-BF16)" } else { "this GPU (older than Ampere)" }
                );
                Precision::F32
            }
            Self::Bf16 => Precision::Bf16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_f32_is_the_default() {
        for (word, dtype) in [("f32", Dtype::F32), ("tf32", Dtype::Tf32), ("bf16", Dtype::Bf16), ("auto", Dtype::Auto)]
        {
            assert_eq!(serde_json::from_value::<Dtype>(word.into()).unwrap(), dtype);
            assert_eq!(serde_json::to_value(dtype).unwrap(), word);
        }
        assert!(serde_json::from_value::<Dtype>("f16".into()).is_err());
        assert_eq!(Dtype::default().precision(&Device::Cpu), Precision::F32);
        let best = if bf16_support(&Device::Cpu) == Bf16Support::Fast { Precision::Bf16 } else { Precision::F32 };
        assert_eq!(Dtype::Auto.precision(&Device::Cpu), best);
    }
}
