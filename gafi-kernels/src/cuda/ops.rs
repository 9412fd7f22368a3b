//! Differentiable ops: cross-entropy, tanh, and an adapter that turns a computed result into the result of a Candle op.

use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};

use super::{Arg, Engine, Grid};
use crate::precomputed::Precomputed;

/// Mean over the batch of -log softmax(logits)\[label\]: logits (N, C), f32. There must be one valid label for each row.
pub(crate) fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let logits = logits.contiguous()?;
    let (n, classes) = logits.dims2()?;
    let engine = Engine::of(logits.device())?;
    let labels = Tensor::from_slice(labels, n, logits.device())?;
    let losses = engine.empty(&[n], DType::F32)?;
    let loss = engine.empty(&[], DType::F32)?;
    let args = [Arg::T(&losses), Arg::T(&logits), Arg::T(&labels), Arg::U(classes as u32)];
    engine.launch("cross_entropy", Grid::rows(n), &args)?;
    engine.launch("mean", Grid::rows(1), &[Arg::T(&loss), Arg::T(&losses), Arg::U(n as u32)])?;
    precomputed("cross_entropy", &logits, loss, move |logits, _, grad| {
        let dx = engine.empty(&[n, classes], DType::F32)?;
        let grad = grad.contiguous()?;
        let args = [Arg::T(&dx), Arg::T(logits), Arg::T(&labels), Arg::T(&grad), Arg::U(classes as u32)];
        engine.launch("cross_entropy_gradient", Grid::rows(n), &args)?;
        Ok(dx)
    })
}

/// Hyperbolic tangent of f32.
pub(crate) fn tanh(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let engine = Engine::of(x.device())?;
    let y = engine.empty(x.dims(), DType::F32)?;
    let count = x.elem_count();
    engine.launch("tanh_of", Grid::each(count), &[Arg::T(&y), Arg::T(&x), Arg::U(count as u32)])?;
    precomputed("tanh", &x, y, move |_, y, grad| {
        let dx = engine.empty(y.dims(), DType::F32)?;
        let grad = grad.contiguous()?;
        let args = [Arg::T(&dx), Arg::T(y), Arg::T(&grad), Arg::U(count as u32)];
        engine.launch("tanh_gradient", Grid::each(count), &args)?;
        Ok(dx)
    })
}

/// Turns `result`, computed from the contiguous `x`, into the result of a Candle op whose gradient is
/// `backward(x, result, grad)`.
pub(super) fn precomputed<F>(name: &'static str, x: &Tensor, result: Tensor, backward: F) -> Result<Tensor>
where
    F: Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
{
    if !x.track_op() {
        return Ok(result);
    }
    x.apply_op1(Op { result: Precomputed::new(name, result), backward })
}

struct Op<F> {
    result: Precomputed,
    backward: F,
}

impl<F: Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>> CustomOp1 for Op<F> {
    fn name(&self) -> &'static str {
        self.result.op()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.result.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.result.cuda()
    }

    fn bwd(&self, x: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(x, result, grad).map(Some)
    }
}
