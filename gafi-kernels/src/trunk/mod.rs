//! Trunks: the convolutional part of a network as *one* differentiable candle operation.
//!
//! Candle differentiates op by op: each op's result and gradient is a tensor of its own, and every gradient is added to a
//! zeroed one. For small networks that costs more than the arithmetic. A trunk is recorded on a [`Tape`] of its own
//! instead, in which norms and activations are applied by whoever reads them, feature maps lie channels-innermost in f32 or
//! bf16, and buffers are reused; candle sees one op, with the input and all parameters as its arguments.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use gafi_kernels::trunk::{Output, Settings, run};
//!
//! let x = Tensor::randn(0f32, 1.0, (2, 3, 8, 8), &Device::Cpu)?;
//! let w = Var::randn(0f32, 1.0, (4, 3, 3, 3), &Device::Cpu)?;
//! let features = run(&x, Settings::default(), |tape, x| {
//!     let h = tape.conv2d(x, &w, None, 1, 1)?;
//!     Ok(Output::Sums(tape.leaky_relu(h, 0.0)?))
//! })?;
//! assert_eq!(features.dims(), [2, 4]);
//! assert_eq!(features.sum_all()?.backward()?.get(&w).map(|g| g.dims().to_vec()), Some(vec![4, 3, 3, 3]));
//! # Ok::<(), candle_core::Error>(())
//! ```

mod backend;
mod cpu;
#[cfg(any(feature = "cuda", test))]
mod cuda;
mod memory;
mod tape;

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, DType, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

use backend::Backend;
#[cfg(any(feature = "cuda", test))]
pub(crate) use backend::Geometry;
pub use backend::{Moments, Precision};
pub use tape::{Output, Tape, Value};

/// How a trunk is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// What maps are stored and convolved in.
    pub precision: Precision,
    /// What an image gives depends on its batch.
    pub batch: Batch,
}

/// How the images of a batch are worked on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Batch {
    /// All at once.
    #[default]
    Whole,
    /// All at once, and norms use the batch's statistics, which convolutions take along where [`Tape::before_norm`] says so.
    Normed,
    /// In pieces that stay in the cache, side by side, unless a gradient of x is wanted. For evaluation: each image's result
    /// must be its own, no parameter tracked, and what is recorded free of side effects.
    Pieces,
}

/// Images of a piece.
const PIECE: usize = 8;

/// Runs the trunk that `build` records, on x (N, C, H, W), f32. The result is f32 and has the gradients of x and of all
/// tensors that `build` handed to the tape, where they are tracked.
///
/// # Errors
/// Those of `build`; an x of another shape or type, a device that has no trunks, tracked parameters in [`Batch::Pieces`].
pub fn run<F>(x: &Tensor, settings: Settings, build: F) -> Result<Tensor>
where
    F: Fn(&mut Tape, Value) -> Result<Output> + Sync,
{
    let (n, ..) = x.dims4()?;
    if x.dtype() != DType::F32 {
        bail!("trunk: needs f32, got {:?}", x.dtype())
    }
    let x = x.contiguous()?;
    let in_pieces = settings.batch == Batch::Pieces && !x.track_op() && x.device().is_cpu() && n > PIECE;
    let backend = backend_for(&x, settings.precision, in_pieces)?;
    let record = |x: &Tensor, first: usize| -> Result<(Tape, Output)> {
        let mut tape = Tape::new(Arc::clone(&backend), first, n, settings.batch == Batch::Normed);
        let input = tape.input(x)?;
        let output = build(&mut tape, input)?;
        Ok((tape, output))
    };
    if in_pieces {
        let starts: Vec<usize> = (0..n).step_by(PIECE).collect();
        let pieces = starts.into_par_iter().map(|start| {
            let (tape, output) = record(&x.narrow(0, start, PIECE.min(n - start))?, start)?;
            if tape.params().iter().any(Tensor::track_op) {
                bail!("trunk: a batch in pieces has no gradient of its parameters")
            }
            tape.output(output)
        });
        return Tensor::cat(&pieces.collect::<Result<Vec<_>>>()?, 0);
    }
    let (tape, output, result) = on_pool(&x, || -> Result<_> {
        let (tape, output) = record(&x, 0)?;
        let result = tape.output(output)?;
        Ok((tape, output, result))
    })?;
    if !x.track_op() && !tape.params().iter().any(Tensor::track_op) {
        return Ok(result);
    }
    let gradients = Slots::default();
    let mut token = Tensor::zeros(1, DType::F32, x.device())?;
    for (slot, param) in tape.params().iter().enumerate().filter(|(_, param)| param.track_op()) {
        token = token.apply_op2(param, Link { slot, gradients: Arc::clone(&gradients) })?;
    }
    x.apply_op2(&token, Recorded { tape, output, result: Mutex::new(Some(result.detach())), gradients })
}

/// The moments of the channels of x (N, C, H, W), f32, accumulated in f64; a batch norm of x itself knows their gradient.
///
/// # Errors
/// An x of another shape or type or without values, a device that has no trunks.
pub fn moments(x: &Tensor) -> Result<Moments> {
    let mut tape = Tape::new(backend_for(x, Precision::F32, false)?, 0, x.dim(0)?, false);
    let x = tape.input(&x.detach())?;
    tape.moments(x)
}

/// Whether this CPU multiplies bf16: `None` if not, else whether that is faster than f32.
///
/// AMX is, by far. AVX-512-BF16 halves the multiplications of f32, as Winograd's transforms do, and saves memory, not time.
pub fn has_fast_bf16() -> Option<bool> {
    cpu::has_fast_bf16()
}

/// Which kernels the CPU runs, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Kernels {
    /// For f32: `avx512`, `avx2` or `portable`.
    pub f32: &'static str,
    /// For bf16: `amx`, `avx512-bf16`, or `portable` where the CPU multiplies none and networks are run in f32.
    pub bf16: &'static str,
    /// `permitted`, or why AMX is not used.
    pub amx: &'static str,
}

/// Which kernels this CPU runs.
pub fn kernels() -> Kernels {
    cpu::kernels()
}

/// Runs `work` on a thread of the pool when x is on the CPU: from outside, each of the hundreds of parallel loops inside would
/// wait for the pool to wake up, and the pool for the next.
fn on_pool<R: Send>(x: &Tensor, work: impl FnOnce() -> R + Send) -> R {
    if x.device().is_cpu() { rayon::scope(|_| work()) } else { work() }
}

/// The backend of x's device.
fn backend_for(x: &Tensor, precision: Precision, in_pieces: bool) -> Result<Arc<dyn Backend>> {
    if x.device().is_cpu() {
        return Ok(cpu::backend(precision, in_pieces));
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return cuda::backend(x.device(), precision);
    }
    bail!("trunk: no implementation for {:?}", x.device())
}

/// Gradients of a trunk's parameters, from the trunk's way back to that of their [`Link`]s.
type Slots = Arc<Mutex<Vec<Option<Tensor>>>>;

/// What ties a parameter to a trunk: candle's ops have three arguments at most, and one tensor of all parameters would have to
/// be copied together on the way there and apart on the way back. Instead the trunk depends on a chain of these, tensors of
/// one number that doesn't matter, and each of them hands its parameter the gradient that the trunk has left.
struct Link {
    slot: usize,
    gradients: Slots,
}

impl CustomOp2 for Link {
    fn name(&self) -> &'static str {
        "trunk-parameter"
    }

    fn cpu_fwd(&self, token: &CpuStorage, layout: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((token.clone(), layout.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        token: &CudaStorage,
        layout: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        Ok((token.try_clone(layout)?, layout.shape().clone()))
    }

    fn bwd(
        &self,
        token: &Tensor,
        param: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut gradients = self.gradients.lock().unwrap_or_else(PoisonError::into_inner);
        let gradient = match gradients.get_mut(self.slot).and_then(Option::take) {
            Some(gradient) => gradient,
            None => param.zeros_like()?,
        };
        Ok((token.track_op().then(|| grad.clone()), Some(gradient)))
    }
}

/// A trunk that has been run, as candle sees it.
struct Recorded {
    tape: Tape,
    output: Output,
    /// What the forward pass gave, until candle asks for it.
    result: Mutex<Option<Tensor>>,
    gradients: Slots,
}

impl Recorded {
    fn result(&self) -> Result<Tensor> {
        let taken = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.ok_or_else(|| candle_core::Error::Msg("trunk: candle asked twice for one result".into()))
    }
}

impl CustomOp2 for Recorded {
    fn name(&self) -> &'static str {
        "trunk"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let result = self.result()?;
        let (storage, _) = result.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.clone(), result.shape().clone())),
            _ => bail!("trunk: a result on another device"),
        }
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        let result = self.result()?;
        let (storage, layout) = result.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, result.shape().clone())),
            _ => bail!("trunk: a result on another device"),
        }
    }

    fn bwd(&self, x: &Tensor, token: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dx, gradients) = on_pool(x, || self.tape.backward(self.output, &grad))?;
        *self.gradients.lock().unwrap_or_else(PoisonError::into_inner) = gradients;
        Ok((if x.track_op() { dx } else { None }, token.track_op().then(|| token.zeros_like()).transpose()?))
    }
}
