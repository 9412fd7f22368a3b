//! What the kernels can use on this machine.

use candle_core::Device;

use crate::precision::Bf16Support;
use crate::trunk::cpu;

/// How `device` multiplies bf16.
pub fn bf16_support(device: &Device) -> Bf16Support {
    match device {
        Device::Cpu => cpu::bf16_support(),
        #[cfg(feature = "cuda")]
        Device::Cuda(gpu) if crate::cuda::multiplies_bf16(gpu) => Bf16Support::Fast,
        _ => Bf16Support::None,
    }
}
