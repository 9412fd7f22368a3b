//! Spectral normalisation on the GPU: power iteration and division without the host knowing any number.

use candle_core::{DType, Result, Tensor, bail};

use super::ops::known;
use super::{Arg, Engine, Grid};

/// Values of a dot product that a block adds up at least, and blocks that share one out at most.
const SHARE: usize = 8192;
const SHARES: usize = 256;

/// One power iteration of the matrix `weight` (rows, the rest), in place of `u` (rows) and `v` (the rest):
/// `u = normalise(W v)`, `v = normalise(W^T u)`, norms below `eps` counting as it.
///
/// # Errors
/// Shapes that don't fit together, tensors that are not contiguous f32 on a GPU.
pub fn power_iteration(weight: &Tensor, u: &Tensor, v: &Tensor, eps: f32) -> Result<()> {
    let (rows, cols) = fitting(weight, u, v)?;
    let engine = Engine::of(weight.device())?;
    let (left, right) = (engine.empty(&[rows], DType::F32)?, engine.empty(&[cols], DType::F32)?);
    let [r, c] = [Arg::U(rows as u32), Arg::U(cols as u32)];
    engine.launch("matrix_times", Grid::rows(rows), &[Arg::T(&left), Arg::T(weight), Arg::T(v), c])?;
    engine.launch("normalise", Grid::rows(1), &[Arg::T(u), Arg::T(&left), r, Arg::F(eps)])?;
    let args = [Arg::T(&right), Arg::T(weight), Arg::T(u), r, c];
    engine.launch("transposed_times", Grid::columns(cols, 1), &args)?;
    engine.launch("normalise", Grid::rows(1), &[Arg::T(v), Arg::T(&right), c, Arg::F(eps)])
}

/// weight / (u^T W v), differentiable in `weight` with u and v constant: with N the result and G its gradient,
/// dL/dW = (G - sum(G * N) u v^T) / sigma.
///
/// # Errors
/// As [`power_iteration`].
pub fn spectral_divide(weight: &Tensor, u: &Tensor, v: &Tensor) -> Result<Tensor> {
    let weight = weight.contiguous()?;
    let (rows, cols) = fitting(&weight, u, v)?;
    let engine = Engine::of(weight.device())?;
    let count = Arg::U((rows * cols) as u32);
    let (product, sigma) = (engine.empty(&[rows], DType::F32)?, engine.empty(&[1], DType::F64)?);
    let divided = engine.empty(weight.dims(), DType::F32)?;
    engine.launch(
        "matrix_times",
        Grid::rows(rows),
        &[Arg::T(&product), Arg::T(&weight), Arg::T(v), Arg::U(cols as u32)],
    )?;
    engine.launch("dot", Grid::rows(1), &[Arg::T(&sigma), Arg::T(u), Arg::T(&product), Arg::U(rows as u32)])?;
    engine.launch("divide", Grid::each(rows * cols), &[Arg::T(&divided), Arg::T(&weight), Arg::T(&sigma), count])?;
    // Copies: the next iteration may come before the gradient is wanted.
    let (u, v) = if weight.track_op() { (u.copy()?, v.copy()?) } else { (u.clone(), v.clone()) };
    known("spectral-divide", &weight, divided, move |_, divided, grad| {
        let (dw, grad) = (engine.empty(divided.dims(), DType::F32)?, grad.contiguous()?);
        let shares = (rows * cols).div_ceil(SHARE).min(SHARES);
        let partial = engine.empty(&[shares], DType::F64)?;
        engine.launch("dot", Grid::rows(shares), &[Arg::T(&partial), Arg::T(&grad), Arg::T(divided), count])?;
        let [shares, cols] = [Arg::U(shares as u32), Arg::U(cols as u32)];
        let given = [Arg::T(&dw), Arg::T(&grad), Arg::T(&partial), Arg::T(&u), Arg::T(&v), Arg::T(&sigma)];
        let args: Vec<Arg<'_>> = given.into_iter().chain([shares, cols, count]).collect();
        engine.launch("divide_gradient", Grid::each(grad.elem_count()), &args)?;
        Ok(dw)
    })
}

fn fitting(weight: &Tensor, u: &Tensor, v: &Tensor) -> Result<(usize, usize)> {
    let (rows, cols) = (u.elem_count(), v.elem_count());
    if weight.elem_count() != rows * cols || [weight, u, v].iter().any(|t| t.dtype() != DType::F32) {
        bail!("spectral norm: {weight:?} with vectors {u:?} and {v:?}")
    }
    Ok((rows, cols))
}
