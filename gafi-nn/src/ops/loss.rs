//! Softmax, and cross-entropy fused with it.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::host::{CHUNK, floats, gradient, lock, made, pieces};
use super::pointwise::exp_not_positive;
use super::reduce::sum;
use super::simd::{Kernel, Lane, Level, dispatch};

/// The largest element, in 16 interleaved chains so that it vectorises; a NaN is passed over (`exp` will meet it).
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let (sixteens, rest) = x.as_chunks::<16>();
    let mut best = [f32::NEG_INFINITY; 16];
    for v in sixteens {
        for i in 0..16 {
            best[i] = if v[i] > best[i] { v[i] } else { best[i] };
        }
    }
    best.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m })
}

/// y = softmax(x), row by row.
struct SoftmaxRows<'a>(&'a [f32], &'a mut [f32], usize);

impl Kernel for SoftmaxRows<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let SoftmaxRows(x, y, width) = self;
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let max = largest(x);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = exp_not_positive(x - max);
            }
            let scale = (1.0 / sum(y)) as f32;
            y.iter_mut().for_each(|y| *y *= scale);
        }
    }
}

/// dx = y * (dy - sum(dy * y)), row by row.
struct SoftmaxGradientRows<'a>(&'a [f32], &'a [f32], &'a mut [f32], usize);

impl Kernel for SoftmaxGradientRows<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let SoftmaxGradientRows(y, dy, dx, width) = self;
        let rows = y.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for ((y, dy), dx) in rows {
            for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = y * dy;
            }
            let inner = sum(dx) as f32;
            for (dx, y) in dx.iter_mut().zip(y) {
                *dx -= y * inner;
            }
        }
    }
}

/// Softmax over the last dimension.
pub(super) struct SoftmaxLast;

/// Rows of `width` handed to a thread at a time, in floats.
fn whole_rows(width: usize) -> usize {
    (CHUNK / width).max(1) * width
}

impl CustomOp1 for SoftmaxLast {
    fn name(&self) -> &'static str {
        "softmax_last"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(self.name(), x, layout)?;
        let width = layout.dims().last().copied().unwrap_or(1).max(1);
        let (level, size) = (Level::best(), whole_rows(width));
        let mut y = vec![0.0; x.len()];
        pieces(&mut y, size, |i, y| dispatch(level, SoftmaxRows(&x[i * size..][..y.len()], y, width)));
        made(y, layout.shape().clone())
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        lock!(self.name(), ys = y, dy = grad);
        let width = x.dims().last().copied().unwrap_or(1).max(1);
        let (level, size) = (Level::best(), whole_rows(width));
        let mut dx = vec![0.0; ys.len()];
        pieces(&mut dx, size, |i, dx| {
            let (y, dy) = (&ys[i * size..][..dx.len()], &dy[i * size..][..dx.len()]);
            dispatch(level, SoftmaxGradientRows(y, dy, dx, width));
        });
        gradient(dx, x).map(Some)
    }
}

/// Mean over the batch of -log softmax(logits)\[label\]. Labels are valid, one for each row.
pub(super) struct CrossEntropy(pub(super) Vec<u32>);

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c) = layout.shape().dims2()?;
        let mut total = 0.0;
        for (row, &label) in floats(self.name(), logits, layout)?.chunks_exact(c).zip(&self.0) {
            let max = f64::from(largest(row));
            let log_sum = row.iter().map(|&v| (f64::from(v) - max).exp()).sum::<f64>().ln();
            total += log_sum - (f64::from(row[label as usize]) - max);
        }
        made(vec![(total / n as f64) as f32], ())
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (n, c) = logits.dims2()?;
        let scale = f64::from(grad.to_scalar::<f32>()?) / n as f64;
        lock!(self.name(), xs = logits);
        let mut dx = vec![0.0; xs.len()];
        for ((row, dx), &label) in xs.chunks_exact(c).zip(dx.chunks_exact_mut(c)).zip(&self.0) {
            let max = f64::from(largest(row));
            let sum = row.iter().map(|&v| (f64::from(v) - max).exp()).sum::<f64>();
            for (i, (dx, &v)) in dx.iter_mut().zip(row).enumerate() {
                let target = f64::from(u8::from(i == label as usize));
                *dx = (scale * ((f64::from(v) - max).exp() / sum - target)) as f32;
            }
        }
        gradient(dx, logits).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These kernels are plain arithmetic, so all levels must agree in every bit.
    #[test]
    fn all_levels_agree() {
        const WIDTH: usize = 37;
        let x: Vec<f32> = (0..WIDTH as u32 * 9).map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32 / 400.0).collect();
        let at = |level: Level| {
            let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            dispatch(level, SoftmaxRows(&x, &mut y, WIDTH));
            dispatch(level, SoftmaxGradientRows(&y, &x, &mut dx, WIDTH));
            (y, dx)
        };
        let want = at(Level::Portable);
        assert!(want.0.chunks(WIDTH).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-6));
        assert_eq!(at(Level::Avx2), want);
        assert_eq!(at(Level::Avx512), want);
    }
}
