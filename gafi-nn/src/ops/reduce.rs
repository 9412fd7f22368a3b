//! Sums over the positions of a plane and over the batch: moments of channels, bias gradients, global sums.
//!
//! Each plane is summed by itself (in 16 interleaved partial sums, f64 across blocks), then the planes of a channel one after
//! the other: the same order whatever the threads and the registers are.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::host::{floats, gradient, lock, made, pieces};
use super::norm::Moments;
use super::simd::{Kernel, Lane, Level, dispatch};

/// N, C and H * W of a tensor with four dimensions.
pub(super) fn planes_of(op: &str, x: &Tensor) -> Result<(usize, usize, usize)> {
    match *x.dims() {
        [n, c, h, w] => Ok((n, c, h * w)),
        _ => bail!("{op}: x must be (N, C, H, W), got {:?}", x.dims()),
    }
}

/// Floats that are summed in f32 before f64 takes over.
const BLOCK: usize = 512;

/// The sum of a slice; about 1e-7 relative to the sum of magnitudes.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f64 {
    let mut total = 0.0;
    for block in x.chunks(BLOCK) {
        let (sixteens, rest) = block.as_chunks::<16>();
        let mut acc = [0.0f32; 16];
        for v in sixteens {
            for i in 0..16 {
                acc[i] += v[i];
            }
        }
        total += acc.iter().map(|&a| f64::from(a)).sum::<f64>() + rest.iter().map(|&a| f64::from(a)).sum::<f64>();
    }
    total
}

/// Sum and sum of squares of a slice, in f64 throughout: the variance is their difference.
#[inline(always)]
fn sum_and_squares(x: &[f32]) -> (f64, f64) {
    let (sixteens, rest) = x.as_chunks::<16>();
    let (mut s, mut q) = ([0.0f64; 16], [0.0f64; 16]);
    for v in sixteens {
        for i in 0..16 {
            let v = f64::from(v[i]);
            s[i] += v;
            q[i] += v * v;
        }
    }
    let (mut sum, mut squares) = (s.iter().sum::<f64>(), q.iter().sum::<f64>());
    for &v in rest {
        let v = f64::from(v);
        sum += v;
        squares += v * v;
    }
    (sum, squares)
}

/// Some planes' sums, or sums and squares, side by side.
struct PlaneSums<'a, F>(&'a [f32], usize, F);

impl<F: FnMut(usize, &[f32])> Kernel for PlaneSums<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(mut self, _: L) {
        for (i, plane) in self.0.chunks_exact(self.1).enumerate() {
            (self.2)(i, plane);
        }
    }
}

/// Calls `each(&mut out[i * width..], plane i)` for all planes of x, at the best level, on all threads.
fn for_planes<T: Send + Default + Clone>(x: &[f32], plane: usize, each: impl Fn(&[f32]) -> T + Sync + Send) -> Vec<T> {
    use rayon::prelude::*;
    if plane == 0 {
        return Vec::new();
    }
    let mut out = vec![T::default(); x.len() / plane];
    let at_once = (super::host::CHUNK / plane).max(1);
    out.par_chunks_mut(at_once).zip(x.par_chunks(at_once * plane)).for_each(|(out, x)| {
        dispatch(Level::best(), PlaneSums(x, plane, |i: usize, p: &[f32]| out[i] = each(p)));
    });
    out
}

/// Mean and biased variance of each channel.
pub(super) fn channel_moments(x: &Tensor) -> Result<Moments> {
    let (n, c, plane) = planes_of("channel_moments", x)?;
    let x = x.contiguous()?;
    lock!("channel_moments", xs = x);
    let sums = for_planes(xs, plane, sum_and_squares);
    let count = n * plane;
    let (mut mean, mut var) = (Vec::with_capacity(c), Vec::with_capacity(c));
    for channel in 0..c {
        let (s, q) = (0..n).map(|i| sums[i * c + channel]).fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
        let m = s / count as f64;
        mean.push(m as f32);
        // `max` would turn a NaN into 0 and hide it.
        let v = q / count as f64 - m * m;
        var.push(if v < 0.0 { 0.0 } else { v as f32 });
    }
    Ok(Moments { mean, var, count })
}

/// The gradient of a bias (C) from that of the result (N, C, H, W).
pub(super) fn channel_sums(op: &str, grad: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (n, c, plane) = planes_of(op, grad)?;
    let grad = grad.contiguous()?;
    lock!(op, dy = grad);
    let sums = for_planes(dy, plane, sum);
    gradient((0..c).map(|ch| (0..n).map(|i| sums[i * c + ch]).sum::<f64>() as f32).collect(), bias)
}

/// Sums over positions.
pub(super) struct GlobalSum;

impl CustomOp1 for GlobalSum {
    fn name(&self) -> &'static str {
        "global_sum"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        if h * w == 0 {
            return made(vec![0.0; n * c], (n, c));
        }
        made(for_planes(floats(self.name(), x, layout)?, h * w, |p| sum(p) as f32), (n, c))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, plane) = planes_of(self.name(), x)?;
        let grad = grad.contiguous()?;
        lock!(self.name(), dy = grad);
        let mut dx = vec![0.0; x.elem_count()];
        pieces(&mut dx, plane, |i, p| p.fill(dy[i]));
        gradient(dx, x).map(Some)
    }
}
