//! Trunks: the convolutional part of a network as *one* differentiable Candle op.
//!
//! Candle differentiates op by op: each result and each gradient is a tensor of its own, and every gradient is added to a
//! zeroed one. For small networks that costs more than the arithmetic. A trunk is recorded on a [`Tape`] instead: each op
//! applies the norms and activations of its inputs as it reads them, feature maps are stored channels-innermost in f32 or
//! bf16, and buffers are reused. Candle sees one op whose arguments are the input and all parameters.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use gafi_kernels::trunk::{self, Activation, Output, Settings};
//!
//! let x = Tensor::randn(0f32, 1.0, (2, 3, 8, 8), &Device::Cpu)?;
//! let w = Var::randn(0f32, 1.0, (4, 3, 3, 3), &Device::Cpu)?;
//! let features = trunk::run(&x, Settings::default(), |tape, x| {
//!     let h = tape.conv2d(x, &w, None, 1, 1)?;
//!     Ok(Output::Sums(tape.activation(h, Activation::RELU)?))
//! })?;
//! assert_eq!(features.dims(), [2, 4]);
//! let gradients = features.sum_all()?.backward()?;
//! assert_eq!(gradients.get(&w).map(Tensor::dims), Some(&[4, 3, 3, 3][..]));
//! # Ok::<(), candle_core::Error>(())
//! ```

mod backend;
pub(crate) mod cpu;
#[cfg(any(feature = "cuda", test))]
mod cuda;
mod tape;
mod trace;

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

pub use crate::activation::Activation;
use crate::precision::Precision;
use crate::precomputed::Precomputed;
use backend::Backend;
pub use backend::Moments;
pub use tape::{Output, Tape, Value};
pub use trace::{Convolution, convolutions};

/// How to run a trunk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// The number type of maps and convolutions.
    pub precision: Precision,
    /// How to process the batch.
    pub batch: Batch,
}

/// How a trunk processes the images of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Batch {
    /// All at once.
    #[default]
    Whole,
    /// All at once, for training with batch statistics: convolutions marked by [`Tape::before_norm`] compute the moments of
    /// their results along the way.
    FusedMoments,
    /// In pieces of a few images that stay in the cache, side by side, unless the gradient of x is required. For
    /// evaluation: each image's result must not depend on the others, no parameter may be tracked, and the recording
    /// closure must be free of side effects.
    Pieces,
}

/// Number of images in a piece.
const PIECE: usize = 8;

/// Runs the trunk that `build` records on x (N, C, H, W), f32. The result is f32. Gradients flow to x and to every tensor
/// that `build` passed to the tape, where they are tracked.
///
/// # Errors
/// Any error of `build`; an x of the wrong shape or type; a device other than a CPU or CUDA GPU; tracked parameters with
/// [`Batch::Pieces`].
pub fn run<F>(x: &Tensor, settings: Settings, build: F) -> Result<Tensor>
where
    F: Fn(&mut Tape, Value) -> Result<Output> + Sync,
{
    run_dyn(x, settings, &build)
}

/// [`run`], compiled once for all callers.
fn run_dyn(
    x: &Tensor,
    settings: Settings,
    build: &(dyn Fn(&mut Tape, Value) -> Result<Output> + Sync),
) -> Result<Tensor> {
    let (n, ..) = x.dims4()?;
    if x.dtype() != DType::F32 {
        bail!("trunk: expected f32, found {:?}", x.dtype())
    }
    let x = x.contiguous()?;
    let in_pieces = settings.batch == Batch::Pieces && !x.track_op() && x.device().is_cpu() && n > PIECE;
    let backend = backend_for(&x, settings.precision, in_pieces)?;
    let record = |x: &Tensor, first: usize| -> Result<(Tape, Output)> {
        let mut tape = Tape::new(Arc::clone(&backend), first, n, settings.batch == Batch::FusedMoments);
        let input = tape.input(x)?;
        let output = build(&mut tape, input)?;
        Ok((tape, output))
    };
    if in_pieces {
        let starts: Vec<usize> = (0..n).step_by(PIECE).collect();
        let pieces = starts.into_par_iter().map(|start| {
            let (tape, output) = record(&x.narrow(0, start, PIECE.min(n - start))?, start)?;
            if tape.params().iter().any(Tensor::track_op) {
                bail!("trunk: Batch::Pieces has no gradients of parameters; detach them or use another Batch")
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
    trace::note(&tape);
    if !x.track_op() && !tape.params().iter().any(Tensor::track_op) {
        return Ok(result);
    }
    let gradients = Slots::default();
    let mut token = Tensor::zeros(1, DType::F32, x.device())?;
    for (slot, param) in tape.params().iter().enumerate().filter(|(_, param)| param.track_op()) {
        token = token.apply_op2(param, ParamLink { slot, gradients: Arc::clone(&gradients) })?;
    }
    x.apply_op2(&token, TrunkOp { tape, output, result: Precomputed::new("trunk", result.detach()), gradients })
}

/// The moments of the channels of x (N, C, H, W), f32, accumulated in f64.
pub(crate) fn moments(x: &Tensor) -> Result<Moments> {
    let mut tape = Tape::new(backend_for(x, Precision::F32, false)?, 0, x.dim(0)?, false);
    let x = tape.input(&x.detach())?;
    tape.moments(x)
}

/// Runs `work` on a thread of the pool if x is on the CPU. Run from outside the pool, each of its hundreds of parallel loops
/// would wait for the pool to wake up.
fn on_pool<R: Send>(x: &Tensor, work: impl FnOnce() -> R + Send) -> R {
    if x.device().is_cpu() { rayon::scope(|_| work()) } else { work() }
}

/// The backend for the device of x.
fn backend_for(x: &Tensor, precision: Precision, in_pieces: bool) -> Result<Arc<dyn Backend>> {
    if x.device().is_cpu() {
        return Ok(cpu::backend(precision, in_pieces));
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return cuda::backend(x.device(), precision);
    }
    let built = if cfg!(feature = "cuda") { "a CPU or CUDA device" } else { "a CPU (this build has no CUDA)" };
    bail!("trunk: expected {built}, found {:?}", x.device())
}

/// Gradients of parameters, from a trunk's backward pass to that of their [`ParamLink`]s.
type Slots = Arc<Mutex<Vec<Option<Tensor>>>>;

/// Links a parameter to a trunk. Candle's ops have three arguments at most, and one tensor of all parameters would have to
/// be concatenated forward and split backward. Instead the trunk depends on a chain of these links, whose values are
/// one-element tokens, and each link passes its parameter the gradient that the trunk has left in its slot.
struct ParamLink {
    slot: usize,
    gradients: Slots,
}

impl CustomOp2 for ParamLink {
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

/// A finished trunk as a Candle op.
struct TrunkOp {
    tape: Tape,
    output: Output,
    /// The result of the forward pass.
    result: Precomputed,
    gradients: Slots,
}

impl CustomOp2 for TrunkOp {
    fn name(&self) -> &'static str {
        self.result.op()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.result.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.result.cuda()
    }

    fn bwd(&self, x: &Tensor, token: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dx, gradients) = on_pool(x, || self.tape.backward(self.output, &grad))?;
        *self.gradients.lock().unwrap_or_else(PoisonError::into_inner) = gradients;
        Ok((if x.track_op() { dx } else { None }, token.track_op().then(|| token.zeros_like()).transpose()?))
    }
}
