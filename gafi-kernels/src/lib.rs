//! Fast convolutional blocks for [Candle](https://docs.rs/candle-core), on CPUs and NVIDIA GPUs.
//!
//! A convolutional block, trained next to plain Candle tensors:
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use gafi_kernels::ops;
//! use gafi_kernels::trunk::{self, Activation, Output, Settings};
//!
//! let images = Tensor::randn(0f32, 1.0, (4, 3, 16, 16), &Device::Cpu)?;
//! let filters = Var::randn(0f32, 0.2, (16, 3, 3, 3), &Device::Cpu)?;
//! let head = Var::randn(0f32, 0.1, (10, 16), &Device::Cpu)?;
//! for _ in 0..3 {
//!     let features = trunk::run(&images, Settings::default(), |tape, x| {
//!         let x = tape.conv2d(x, &filters, None, 1, 1)?;
//!         Ok(Output::Sums(tape.activation(x, Activation::Leaky(0.2))?))
//!     })?;
//!     let loss = ops::cross_entropy(&ops::linear(&features, &head, None)?, &[3, 1, 4, 1])?;
//!     let gradients = loss.backward()?;
//!     for weight in [&filters, &head] {
//!         let step = gradients.get(weight).unwrap().affine(0.01, 0.0)?;
//!         weight.set(&(weight.as_detached_tensor() - step)?)?;
//!     }
//! }
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! - [`trunk`]: the convolutional part of a network as one differentiable Candle op
//! - [`ops`]: the same kernels op by op, and losses
//! - [`Precision`]: f32, TF32 or bf16; [`bf16_support`] says whether a device gains from bf16, [`CpuKernels`] which
//!   instruction sets are used
//! - `cuda` (feature `cuda`): opening a GPU, and fused updates of optimisers, averages and spectral norms
//!
//! On the CPU the kernels use AVX2, AVX-512, AVX-512-BF16 or AMX, whichever the machine has, and portable code elsewhere.
//! They run on rayon's global thread pool, and results do not depend on its size. Errors are Candle's.
//! `examples/train.rs` compares a small network with the same network in plain Candle.

mod activation;
mod capabilities;
#[cfg(any(feature = "cuda", test))]
pub mod cuda;
mod drop_guard;
mod geometry;
mod host;
mod libraries;
mod math;
mod memory;
pub mod ops;
mod precision;
mod precomputed;
mod simd;
pub mod trunk;

pub use capabilities::bf16_support;
pub use drop_guard::DropGuard;
pub use host::to_host;
pub use libraries::{NvidiaLibrary, nvidia_libraries};
pub use precision::{Bf16Support, Precision};
pub use trunk::cpu::{Amx, CpuKernels};

// Compiles and runs the README's example as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
