//! Pooling and nearest upsampling by 2. Averaging and upsampling are each other's gradients, but for a factor.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::host::{floats, gradient, lock, made, pieces};
use super::simd::{Kernel, Lane, Level, dispatch};

/// One of the ops between (N, C, 2H, 2W) and (N, C, H, W).
#[derive(Clone, Copy, Debug)]
pub(super) enum Pool {
    /// Means of 2x2.
    Average,
    /// Maxima of 2x2.
    Max,
    /// Each value four times.
    Upsample,
}

/// small = factor * sum of 2x2 of large; `large` has rows of `width`, maybe one more than twice those of small.
struct Shrink<'a> {
    large: &'a [f32],
    width: usize,
    small: &'a mut [f32],
    factor: f32,
}

impl Kernel for Shrink<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let half = self.width / 2;
        for (r, to) in self.small.chunks_exact_mut(half).enumerate() {
            let (upper, lower) = self.large[2 * r * self.width..].split_at(self.width);
            let (upper, lower) = (upper.as_chunks::<2>().0, lower[..self.width].as_chunks::<2>().0);
            for ((t, u), l) in to.iter_mut().zip(upper).zip(lower) {
                *t = ((u[0] + u[1]) + (l[0] + l[1])) * self.factor;
            }
        }
    }
}

/// large = factor * small, each value four times; a last odd row or column of large stays as it is.
struct Grow<'a> {
    small: &'a [f32],
    width: usize,
    large: &'a mut [f32],
    factor: f32,
}

impl Kernel for Grow<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let half = self.width / 2;
        for (from, to) in self.small.chunks_exact(half).zip(self.large.chunks_exact_mut(2 * self.width)) {
            let (upper, lower) = to.split_at_mut(self.width);
            for ((f, u), l) in from.iter().zip(upper.as_chunks_mut::<2>().0).zip(lower.as_chunks_mut::<2>().0) {
                let v = f * self.factor;
                *u = [v, v];
                *l = [v, v];
            }
        }
    }
}

/// The index in its 2x2 window, in reading order, of the first maximum; a NaN counts as one.
#[inline(always)]
fn first_max(window: [f32; 4]) -> usize {
    let mut best = 0;
    for i in 1..4 {
        if window[i] > window[best] || (window[i].is_nan() && !window[best].is_nan()) {
            best = i;
        }
    }
    best
}

/// The windows of `r`-th row of results: their four values.
fn windows(large: &[f32], width: usize, r: usize) -> impl Iterator<Item = [f32; 4]> {
    let (upper, lower) = large[2 * r * width..].split_at(width);
    upper.as_chunks::<2>().0.iter().zip(lower.as_chunks::<2>().0).map(|(u, l)| [u[0], u[1], l[0], l[1]])
}

/// The scaled 2x2 sums of all planes of `large` (h x w).
fn shrink(large: &[f32], h: usize, w: usize, factor: f32) -> Vec<f32> {
    let (small_len, level) = ((h / 2) * (w / 2), Level::best());
    let mut out = vec![0.0; large.len() / (h * w).max(1) * small_len];
    pieces(&mut out, small_len, |i, small| {
        dispatch(level, Shrink { large: &large[i * h * w..][..h * w], width: w, small, factor });
    });
    out
}

/// The scaled planes of `small`, grown to h x w.
fn grow(small: &[f32], h: usize, w: usize, factor: f32) -> Vec<f32> {
    let (small_len, level) = ((h / 2) * (w / 2), Level::best());
    let mut out = vec![0.0; small.len() / small_len.max(1) * h * w];
    pieces(&mut out, h * w, |i, large| {
        dispatch(level, Grow { small: &small[i * small_len..][..small_len], width: w, large, factor });
    });
    out
}

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        match self {
            Pool::Average => "avg_pool2x2",
            Pool::Max => "max_pool2x2",
            Pool::Upsample => "upsample2x",
        }
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        let x = floats(self.name(), x, layout)?;
        let small = (n, c, h / 2, w / 2);
        match self {
            Pool::Upsample => made(grow(x, 2 * h, 2 * w, 1.0), (n, c, 2 * h, 2 * w)),
            Pool::Average => made(shrink(x, h, w, 0.25), small),
            Pool::Max => {
                let small_len = (h / 2) * (w / 2);
                let mut y = vec![0.0; n * c * small_len];
                pieces(&mut y, small_len, |i, y| {
                    for (r, y) in y.chunks_exact_mut(w / 2).enumerate() {
                        for (y, window) in y.iter_mut().zip(windows(&x[i * h * w..][..h * w], w, r)) {
                            *y = window[first_max(window)];
                        }
                    }
                });
                made(y, small)
            }
        }
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (n, c, h, w) = x.dims4()?;
        let grad = grad.contiguous()?;
        lock!(self.name(), xs = x, dy = grad);
        let small_len = (h / 2) * (w / 2);
        let dx = match self {
            Pool::Upsample => shrink(dy, 2 * h, 2 * w, 1.0),
            // Planes of one row or column have no window and no gradient.
            _ if small_len == 0 => vec![0.0; n * c * h * w],
            Pool::Average => grow(dy, h, w, 0.25),
            Pool::Max => {
                let mut dx = vec![0.0; n * c * h * w];
                pieces(&mut dx, h * w, |i, dx| {
                    let (x, dy) = (&xs[i * h * w..][..h * w], &dy[i * small_len..][..small_len]);
                    for (r, dy) in dy.chunks_exact(w / 2).enumerate() {
                        for (col, (dy, window)) in dy.iter().zip(windows(x, w, r)).enumerate() {
                            let best = first_max(window);
                            dx[(2 * r + best / 2) * w + 2 * col + best % 2] = *dy;
                        }
                    }
                });
                dx
            }
        };
        gradient(dx, x).map(Some)
    }
}
