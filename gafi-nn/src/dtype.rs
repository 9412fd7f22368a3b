//! The number format of a network's computation.

use candle_core::Device;
use gafi_kernels::{Bf16Support, Precision, bf16_support};
use serde::{Deserialize, Serialize};

/// Number format of feature maps and of the factors in convolutions. Weights, statistics, losses and sums are always
/// f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Dtype {
    /// 32-bit floating point.
    #[default]
    F32,
    /// f32, with factors rounded to TF32 on CUDA GPUs.
    Tf32,
    /// bfloat16, on CPUs with AMX or AVX-512-BF16 and on GPUs from Ampere on. Elsewhere f32, with a warning.
    Bf16,
    /// bf16 where it should be faster: on GPUs from Ampere on and on CPUs with AMX. Elsewhere f32. The result depends on the
    /// machine.
    Auto,
}

impl Dtype {
    /// The format used on `device`. The log says what [`Dtype::Auto`] chose, and that f32 does not use a GPU's tensor cores.
    pub fn precision(self, device: &Device) -> Precision {
        match self {
            Self::F32 => {
                if device.is_cuda() && bf16_support(device) == Bf16Support::Fast {
                    tracing::info!(
                        "f32 on this GPU: cuDNN's deterministic f32 convolutions do not use its tensor cores; tf32 and bf16 do"
                    );
                }
                Precision::F32
            }
            Self::Tf32 => Precision::Tf32,
            Self::Auto => {
                let chosen = if bf16_support(device) == Bf16Support::Fast { Precision::Bf16 } else { Precision::F32 };
                tracing::info!("dtype auto: {} on this device", if chosen == Precision::Bf16 { "bf16" } else { "f32" });
                chosen
            }
            Self::Bf16 if bf16_support(device) == Bf16Support::None => {
                tracing::warn!(
                    "bf16 is not supported by {}: computing in f32",
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
    fn names_round_trip_and_f32_is_the_default() {
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
