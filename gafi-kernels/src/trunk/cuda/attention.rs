//! Parts of attention: Candle's batched matrix products (cuBLAS) and a softmax of this crate.

use candle_core::{DType, Result, Tensor};

use super::Cuda;
use crate::cuda::{Arg, Grid};
use crate::trunk::backend::Source;

impl Cuda {
    /// softmax(q k^T): (n, positions, keys).
    pub(super) fn weights(&self, q: &Tensor, k: &Tensor) -> Result<Tensor> {
        let scores = product(q, &k.transpose(1, 2)?)?;
        let (n, positions, keys) = scores.dims3()?;
        let out = self.engine.empty(scores.dims(), self.dtype())?;
        let (name, _) = self.variant("softmax", &[1]);
        let args = [Arg::T(&out), Arg::T(&scores), Arg::U(keys as u32)];
        self.engine.launch(&name, Grid::rows(n * positions), &args)?;
        Ok(out)
    }

    /// Maps with their prologue applied, (n, positions, c).
    pub(super) fn rows(&self, x: Source<'_>) -> Result<Tensor> {
        let maps = x.maps;
        self.materialize(x)?.reshape((maps.n, maps.h * maps.w, maps.c))
    }
}

/// The batched matrix product a b, accumulated in f32.
pub(super) fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    // Only the emulation multiplies on a CPU, where Candle has no bf16 product.
    if a.device().is_cpu() && a.dtype() == DType::BF16 {
        return a.to_dtype(DType::F32)?.matmul(&b.to_dtype(DType::F32)?)?.to_dtype(DType::BF16);
    }
    a.matmul(b)
}
