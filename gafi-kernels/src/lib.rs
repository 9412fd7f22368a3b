//! Fast convolutional blocks for Candle, on CPUs and NVIDIA GPUs.
//!
//! - [`trunk`]: a block of a network as one differentiable Candle op
//! - [`ops`]: the same kernels op by op, and losses

#[cfg(any(feature = "cuda", test))]
pub mod cuda;
pub mod ops;
pub mod trunk;
