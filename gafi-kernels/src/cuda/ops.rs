//! Differentiable ops: cross-entropy, tanh, and an adapter that turns a computed result into the result of a Candle op.

use std::sync::{Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Storage, Tensor, bail};

use super::{Arg, Engine, Grid};

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
    x.apply_op1(Precomputed { name, result: Mutex::new(Some(result)), backward })
}

struct Precomputed<F> {
    name: &'static str,
    /// Until Candle takes it.
    result: Mutex<Option<Tensor>>,
    backward: F,
}

impl<F> Precomputed<F> {
    fn take(&self) -> Result<Tensor> {
        let taken = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.ok_or_else(|| candle_core::Error::Msg(format!("{}: Candle took the result twice", self.name)))
    }
}

impl<F: Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>> CustomOp1 for Precomputed<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let result = self.take()?;
        let (storage, _) = result.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.clone(), result.shape().clone())),
            _ => bail!("{}: the result is on another device", self.name),
        }
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        let result = self.take()?;
        let (storage, layout) = result.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, result.shape().clone())),
            _ => bail!("{}: the result is on another device", self.name),
        }
    }

    fn bwd(&self, x: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(x, result, grad).map(Some)
    }
}
