//! Access to the values of tensors from the host.

use candle_core::{CpuStorage, DType, Device, Layout, Result, Shape, Storage, Tensor, bail};

/// The tensor on the CPU, complete when this returns.
///
/// Candle only enqueues the copy from a GPU. The driver waits for copies to ordinary memory today, but not on every system.
///
/// # Errors
/// Errors of the GPU.
pub fn to_host(tensor: &Tensor) -> Result<Tensor> {
    let copy = tensor.to_device(&Device::Cpu)?;
    if !tensor.device().is_cpu() {
        tensor.device().synchronize()?;
    }
    Ok(copy)
}

/// Whether the CPU kernels take this tensor; compositions of Candle ops take all others.
pub(crate) fn on_cpu(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// Whether the kernels of `crate::cuda` take this tensor.
#[cfg(feature = "cuda")]
pub(crate) fn on_gpu(tensor: &Tensor) -> bool {
    tensor.device().is_cuda() && tensor.dtype() == DType::F32
}

/// The values of a contiguous CPU tensor, from what a `CustomOp` receives.
pub(crate) fn floats<'a>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<f32>()?[from..to]),
        None => bail!("{op}: expected contiguous tensors, found strides {:?}", layout.stride()),
    }
}

/// The values of a contiguous CPU tensor whose storage is locked.
pub(crate) fn locked<'a>(op: &str, storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => floats(op, storage, layout),
        _ => bail!("{op}: expected tensors on the CPU"),
    }
}

/// The return value of `cpu_fwd`.
pub(crate) fn output(values: Vec<f32>, shape: impl Into<Shape>) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(values), shape.into()))
}

/// A gradient in the shape of `like`.
pub(crate) fn gradient(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

/// Binds the values of contiguous tensors to names in the current scope: `lock!("op", x = tensor, ...)`.
macro_rules! lock {
    ($op:expr, $($name:ident = $tensor:expr),+ $(,)?) => {
        $(
            let guard = $tensor.storage_and_layout();
            let $name = $crate::host::locked($op, &guard.0, guard.1)?;
        )+
    };
}
pub(crate) use lock;
