//! The hyperbolic tangent, and the exponential that softmax takes too.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::host::{floats, gradient, lock, made};
use super::simd::{Kernel, Lane, Level, dispatch};

/// exp(x) - 1 with the relative error of f32 everywhere, in plain arithmetic that the compiler can vectorise: x = n ln 2 + r with
/// |r| <= ln(2) / 2, the series of e^r - 1 to the seventh power (the eighth is below 6e-9), then 2^n (e^r - 1) + (2^n - 1).
/// For x in -87..=88; NaN stays NaN.
#[inline(always)]
fn exp_m1(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut series = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0] {
        series = series * r + c;
    }
    let power = f32::from_bits(((shifted.to_bits() as i32).wrapping_add(127) << 23) as u32);
    power * (series * r) + (power - 1.0)
}

/// exp(x) for x <= 0; below -87 it is 0.
#[inline(always)]
pub(crate) fn exp_not_positive(x: f32) -> f32 {
    let e = exp_m1(if x < -87.0 { -87.0 } else { x }) + 1.0;
    if x < -87.0 { 0.0 } else { e }
}

/// tanh by exp(2x) - 1, which keeps small values exact.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    // Beyond 10, tanh is 1 in f32. Comparisons rather than `clamp` or `min`: they keep NaN and vectorise.
    let x = if x > 10.0 { 10.0 } else { x };
    let x = if x < -10.0 { -10.0 } else { x };
    let e = exp_m1(2.0 * x);
    e / (e + 2.0)
}

/// out = f(a, b), element by element.
struct Map2<'a, F>(&'a [f32], &'a [f32], &'a mut [f32], F);

impl<F: Fn(f32, f32) -> f32> Kernel for Map2<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let Map2(a, b, out, f) = self;
        for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *o = f(a, b);
        }
    }
}

/// f of all elements of a and b, of equal length.
fn map2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Copy + Sync + Send) -> Vec<f32> {
    // 64 KiB a job, which stay in L2.
    const CHUNK: usize = 16 * 1024;
    let level = Level::best();
    let mut out = vec![0.0; a.len()];
    let each = out.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK));
    each.for_each(|((out, a), b)| dispatch(level, Map2(a, b, out, f)));
    out
}

/// Hyperbolic tangent.
pub(super) struct Tanh;

impl CustomOp1 for Tanh {
    fn name(&self) -> &'static str {
        "tanh"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(self.name(), x, layout)?;
        made(map2(x, x, |v, _| tanh(v)), layout.shape().clone())
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        lock!(self.name(), ys = y, dy = grad);
        gradient(map2(ys, dy, |y, g| g * (1.0 - y * y)), x).map(Some)
    }
}
