//! Access to a CPU tensor's floats.

use candle_core::{CpuStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};

/// Whether the kernels of this module can take this tensor; compositions of candle's operations take all others.
pub(super) fn on_cpu(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// Whether the kernels of `crate::cuda` can take this tensor.
#[cfg(feature = "cuda")]
pub(super) fn on_gpu(tensor: &Tensor) -> bool {
    tensor.device().is_cuda() && tensor.dtype() == DType::F32
}

/// The floats of a contiguous CPU tensor, as a `CustomOp` gets it.
pub(super) fn floats<'a>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<f32>()?[from..to]),
        None => bail!("{op}: needs contiguous tensors, got {layout:?}"),
    }
}

/// The floats of a contiguous CPU tensor whose storage is locked.
pub(crate) fn locked<'a>(op: &str, storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => floats(op, storage, layout),
        _ => bail!("{op}: needs tensors on the CPU"),
    }
}

/// What `cpu_fwd` returns.
pub(super) fn made(values: Vec<f32>, shape: impl Into<Shape>) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(values), shape.into()))
}

/// A gradient in the shape of `like`.
pub(super) fn gradient(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

/// Gives the floats of contiguous tensors names in the current scope: `lock!("op", x = tensor, ...)`.
macro_rules! lock {
    ($op:expr, $($name:ident = $tensor:expr),+ $(,)?) => {
        $(
            let guard = $tensor.storage_and_layout();
            let $name = $crate::ops::host::locked($op, &guard.0, guard.1)?;
        )+
    };
}
pub(super) use lock;
