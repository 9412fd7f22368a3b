//! Spectral normalisation on the GPU, without copying any value to the host.

use candle_core::{DType, Result, Tensor, bail};

use super::ops::precomputed;
use super::{Arg, Engine, Grid};

/// Minimum number of values of a dot product that a block adds up.
const VALUES: usize = 8192;
/// Maximum number of blocks of a dot product.
const BLOCKS: usize = 256;

/// N = W / sigma of the matrix W = `weight` (rows, all other dimensions), and the refined vector u' (rows), with
/// `v = unit(W^T u)`, `u' = unit(W v)`, sigma = u'^T W v, where `unit(x) = x / (|x| + eps)`.
///
/// Differentiable in W, through v, too. With G the gradient of N, dL/dW = (G - sum(G * N) (u' v^T + u q^T)) / sigma, where
/// `q = (W^T u' - sigma v) / |W^T u|`.
///
/// # Errors
/// Shapes that do not fit together; tensors that are not f32 on a GPU.
pub fn spectral_norm(weight: &Tensor, u: &Tensor, eps: f32) -> Result<(Tensor, Tensor)> {
    let weight = weight.contiguous()?;
    let (rows, cols) = check_shapes(&weight, u)?;
    let engine = Engine::of(weight.device())?;
    let [r, c, count] = [Arg::U(rows as u32), Arg::U(cols as u32), Arg::U((rows * cols) as u32)];
    let vector = |n: usize| engine.empty(&[n], DType::F32);
    let [left, v, product, new] = [vector(cols)?, vector(cols)?, vector(rows)?, vector(rows)?];
    let sigma = engine.empty(&[1], DType::F64)?;
    let divided = engine.empty(weight.dims(), DType::F32)?;
    let over_columns = Grid::columns(cols, 1);
    engine.launch("transposed_times", over_columns, &[Arg::T(&left), Arg::T(&weight), Arg::T(u), r, c])?;
    engine.launch("normalise", Grid::rows(1), &[Arg::T(&v), Arg::T(&left), c, Arg::F(eps)])?;
    engine.launch("matrix_times", Grid::rows(rows), &[Arg::T(&product), Arg::T(&weight), Arg::T(&v), c])?;
    engine.launch("normalise", Grid::rows(1), &[Arg::T(&new), Arg::T(&product), r, Arg::F(eps)])?;
    engine.launch("dot", Grid::rows(1), &[Arg::T(&sigma), Arg::T(&new), Arg::T(&product), r])?;
    engine.launch("divide", Grid::each(rows * cols), &[Arg::T(&divided), Arg::T(&weight), Arg::T(&sigma), count])?;
    if !weight.track_op() {
        return Ok((divided, new));
    }
    let norm = engine.empty(&[1], DType::F64)?;
    let [back, rest] = [vector(cols)?, vector(cols)?];
    engine.launch("dot", Grid::rows(1), &[Arg::T(&norm), Arg::T(&v), Arg::T(&left), c])?;
    engine.launch("transposed_times", over_columns, &[Arg::T(&back), Arg::T(&weight), Arg::T(&new), r, c])?;
    let args = [Arg::T(&rest), Arg::T(&back), Arg::T(&v), Arg::T(&sigma), Arg::T(&norm), c];
    engine.launch("spectral_rest", Grid::each(cols), &args)?;
    // A copy, as the caller may refine u before the backward pass.
    let (old, refined) = (u.copy()?, new.clone());
    let divided = precomputed("spectral-norm", &weight, divided, move |_, divided, grad| {
        let dw = engine.empty(divided.dims(), DType::F32)?;
        let grad = grad.contiguous()?;
        let blocks = (rows * cols).div_ceil(VALUES).min(BLOCKS);
        let partial = engine.empty(&[blocks], DType::F64)?;
        engine.launch("dot", Grid::rows(blocks), &[Arg::T(&partial), Arg::T(&grad), Arg::T(divided), count])?;
        let [blocks, cols] = [Arg::U(blocks as u32), Arg::U(cols as u32)];
        let vectors = [Arg::T(&new), Arg::T(&v), Arg::T(&old), Arg::T(&rest)];
        let args: Vec<Arg<'_>> = [Arg::T(&dw), Arg::T(&grad), Arg::T(&partial)]
            .into_iter()
            .chain(vectors)
            .chain([Arg::T(&sigma), blocks, cols, count])
            .collect();
        engine.launch("divide_gradient", Grid::each(grad.elem_count()), &args)?;
        Ok(dw)
    })?;
    Ok((divided, refined))
}

fn check_shapes(weight: &Tensor, u: &Tensor) -> Result<(usize, usize)> {
    let rows = u.elem_count();
    let cols = weight.elem_count() / rows.max(1);
    if weight.elem_count() != rows * cols || [weight, u].iter().any(|t| t.dtype() != DType::F32) {
        bail!("spectral norm: expected f32 (rows, cols) and (rows), found {weight:?} and {u:?}")
    }
    Ok((rows, cols))
}
