//! Results of Candle ops that are computed before Candle asks for them.

use std::sync::{Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, Error, Result, Shape, Storage, Tensor, bail};

/// The result of a Candle op, until Candle takes it.
pub(crate) struct Precomputed {
    /// Names the op in errors.
    op: &'static str,
    result: Mutex<Option<Tensor>>,
}

impl Precomputed {
    /// The contiguous `result` of the op called `op`.
    pub(crate) fn new(op: &'static str, result: Tensor) -> Self {
        Self { op, result: Mutex::new(Some(result)) }
    }

    /// The name of the op.
    pub(crate) fn op(&self) -> &'static str {
        self.op
    }

    fn take(&self) -> Result<Tensor> {
        let taken = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.ok_or_else(|| Error::Msg(format!("{}: Candle took the result twice", self.op)))
    }

    /// The return value of `cpu_fwd`.
    pub(crate) fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        let result = self.take()?;
        let (storage, _) = result.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.clone(), result.shape().clone())),
            _ => bail!("{}: the result is on another device", self.op),
        }
    }

    /// The return value of `cuda_fwd`.
    pub(crate) fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        let result = self.take()?;
        let (storage, layout) = result.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, result.shape().clone())),
            _ => bail!("{}: the result is on another device", self.op),
        }
    }
}
