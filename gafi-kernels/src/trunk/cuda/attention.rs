//! Attention: Candle's batched matrix products (cuBLAS) around a softmax of this crate.

use candle_core::{DType, Result, Tensor};

use super::{Cuda, tensor};
use crate::cuda::{Arg, Grid};
use crate::trunk::backend::{Data, Source};

impl Cuda {
    pub(super) fn attention(&self, query: Source<'_>, key: Source<'_>, value: Source<'_>) -> Result<Data> {
        let maps = query.maps.with(query.maps.h, query.maps.w, value.maps.c);
        let weights = self.weights(&self.rows(query)?, &self.rows(key)?)?;
        let out = product(&weights, &self.rows(value)?)?;
        out.reshape((maps.n, maps.h, maps.w, maps.c)).map(Data::Tensor)
    }

    pub(super) fn attention_gradients(
        &self,
        query: Source<'_>,
        key: Source<'_>,
        value: Source<'_>,
        dy: &Data,
    ) -> Result<[Data; 3]> {
        let [q, k, v] = [self.rows(query)?, self.rows(key)?, self.rows(value)?];
        let n = query.maps.n;
        let positions = query.maps.h * query.maps.w;
        let dy = tensor(dy)?.reshape((n, positions, value.maps.c))?;
        let weights = self.weights(&q, &k)?;
        let dv = product(&weights.transpose(1, 2)?, &dy)?;
        let along = product(&dy, &v.transpose(1, 2)?)?;
        let scores = self.engine.empty(weights.dims(), self.dtype())?;
        let keys = weights.dim(2)?;
        let (name, _) = self.variant("softmax_gradient", &[1]);
        let args = [Arg::T(&scores), Arg::T(&weights), Arg::T(&along), Arg::U(keys as u32)];
        self.engine.launch(&name, Grid::rows(n * positions), &args)?;
        let dq = product(&scores, &k)?;
        let dk = product(&scores.transpose(1, 2)?, &q)?;
        let shaped = |t: Tensor, x: Source<'_>| t.reshape((n, x.maps.h, x.maps.w, x.maps.c)).map(Data::Tensor);
        Ok([shaped(dq, query)?, shaped(dk, key)?, shaped(dv, value)?])
    }

    /// softmax(q k^T): (n, positions, keys).
    fn weights(&self, q: &Tensor, k: &Tensor) -> Result<Tensor> {
        let scores = product(q, &k.transpose(1, 2)?)?;
        let (n, positions, keys) = scores.dims3()?;
        let out = self.engine.empty(scores.dims(), self.dtype())?;
        let (name, _) = self.variant("softmax", &[1]);
        let args = [Arg::T(&out), Arg::T(&scores), Arg::U(keys as u32)];
        self.engine.launch(&name, Grid::rows(n * positions), &args)?;
        Ok(out)
    }

    /// Maps with their prologue applied, (n, positions, c).
    fn rows(&self, x: Source<'_>) -> Result<Tensor> {
        let maps = x.maps;
        self.materialize(x)?.reshape((maps.n, maps.h * maps.w, maps.c))
    }
}

/// The batched matrix product a b, accumulated in f32.
fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    // Only the emulation multiplies on a CPU, where Candle has no bf16 product.
    if a.device().is_cpu() && a.dtype() == DType::BF16 {
        return a.to_dtype(DType::F32)?.matmul(&b.to_dtype(DType::F32)?)?.to_dtype(DType::BF16);
    }
    a.matmul(b)
}
