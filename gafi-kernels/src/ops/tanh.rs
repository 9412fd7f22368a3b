//! The hyperbolic tangent on the CPU.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::host::{floats, gradient, lock, output};
use crate::math::tanh;
use crate::simd::{Level, vectorised};

/// f of all elements of a and b, of equal length.
fn map2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) -> Vec<f32> {
    // 64 KiB for each task, which stay in L2.
    const CHUNK: usize = 16 * 1024;
    let level = Level::best();
    let mut out = vec![0.0; a.len()];
    let each = out.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK));
    each.for_each(|((out, a), b)| {
        vectorised(
            level,
            #[inline(always)]
            || {
                for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                    *o = f(a, b);
                }
            },
        );
    });
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
        output(map2(x, x, |v, _| tanh(v)), layout.shape().clone())
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        lock!(self.name(), ys = y, dy = grad);
        gradient(map2(ys, dy, |y, g| g * (1.0 - y * y)), x).map(Some)
    }
}
