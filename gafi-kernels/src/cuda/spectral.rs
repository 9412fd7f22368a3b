//! Spectral normalisation on the GPU: power iteration and division, without copying any value to the host.

use candle_core::{DType, Result, Tensor, bail};

use super::ops::precomputed;
use super::{Arg, Engine, Grid};

/// Minimum number of values of a dot product that a block adds up.
const VALUES: usize = 8192;
/// Maximum number of blocks of a dot product.
const BLOCKS: usize = 256;

/// One power iteration of the matrix W = `weight` (rows, all other dimensions), which updates `u` (rows) and `v` (columns) in
/// place: `u = normalise(W v)`, `v = normalise(W^T u)`. Norms are clamped to at least `eps`.
///
/// # Errors
/// Shapes that do not fit together; tensors that are not contiguous f32 on a GPU.
pub fn power_iteration(weight: &Tensor, u: &Tensor, v: &Tensor, eps: f32) -> Result<()> {
    let (rows, cols) = check_shapes(weight, u, v)?;
    let engine = Engine::of(weight.device())?;
    let left = engine.empty(&[rows], DType::F32)?;
    let right = engine.empty(&[cols], DType::F32)?;
    let [r, c] = [Arg::U(rows as u32), Arg::U(cols as u32)];
    engine.launch("matrix_times", Grid::rows(rows), &[Arg::T(&left), Arg::T(weight), Arg::T(v), c])?;
    engine.launch("normalise", Grid::rows(1), &[Arg::T(u), Arg::T(&left), r, Arg::F(eps)])?;
    let args = [Arg::T(&right), Arg::T(weight), Arg::T(u), r, c];
    engine.launch("transposed_times", Grid::columns(cols, 1), &args)?;
    engine.launch("normalise", Grid::rows(1), &[Arg::T(v), Arg::T(&right), c, Arg::F(eps)])
}

/// N = W / sigma with sigma = u^T W v, differentiable in W = `weight` with u and v constant. With G the gradient of N,
/// dL/dW = (G - sum(G * N) u v^T) / sigma.
///
/// # Errors
/// The same as for [`power_iteration`].
pub fn spectral_divide(weight: &Tensor, u: &Tensor, v: &Tensor) -> Result<Tensor> {
    let weight = weight.contiguous()?;
    let (rows, cols) = check_shapes(&weight, u, v)?;
    let engine = Engine::of(weight.device())?;
    let count = Arg::U((rows * cols) as u32);
    let product = engine.empty(&[rows], DType::F32)?;
    let sigma = engine.empty(&[1], DType::F64)?;
    let divided = engine.empty(weight.dims(), DType::F32)?;
    engine.launch(
        "matrix_times",
        Grid::rows(rows),
        &[Arg::T(&product), Arg::T(&weight), Arg::T(v), Arg::U(cols as u32)],
    )?;
    engine.launch("dot", Grid::rows(1), &[Arg::T(&sigma), Arg::T(u), Arg::T(&product), Arg::U(rows as u32)])?;
    engine.launch("divide", Grid::each(rows * cols), &[Arg::T(&divided), Arg::T(&weight), Arg::T(&sigma), count])?;
    // Copies, as the next iteration may come before the backward pass.
    let (u, v) = if weight.track_op() { (u.copy()?, v.copy()?) } else { (u.clone(), v.clone()) };
    precomputed("spectral-divide", &weight, divided, move |_, divided, grad| {
        let dw = engine.empty(divided.dims(), DType::F32)?;
        let grad = grad.contiguous()?;
        let blocks = (rows * cols).div_ceil(VALUES).min(BLOCKS);
        let partial = engine.empty(&[blocks], DType::F64)?;
        engine.launch("dot", Grid::rows(blocks), &[Arg::T(&partial), Arg::T(&grad), Arg::T(divided), count])?;
        let [blocks, cols] = [Arg::U(blocks as u32), Arg::U(cols as u32)];
        let given = [Arg::T(&dw), Arg::T(&grad), Arg::T(&partial), Arg::T(&u), Arg::T(&v), Arg::T(&sigma)];
        let args: Vec<Arg<'_>> = given.into_iter().chain([blocks, cols, count]).collect();
        engine.launch("divide_gradient", Grid::each(grad.elem_count()), &args)?;
        Ok(dw)
    })
}

fn check_shapes(weight: &Tensor, u: &Tensor, v: &Tensor) -> Result<(usize, usize)> {
    let rows = u.elem_count();
    let cols = v.elem_count();
    if weight.elem_count() != rows * cols || [weight, u, v].iter().any(|t| t.dtype() != DType::F32) {
        bail!("spectral norm: expected f32 (rows, cols), (rows) and (cols), got {weight:?}, {u:?} and {v:?}")
    }
    Ok((rows, cols))
}
