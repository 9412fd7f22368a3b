//! Batch norm: statistics of a batch, and the fused normalise-scale-shift-relu with its backward pass.
//!
//! Forward is one pass over memory, backward two: the sums of dy and of dy * xhat of each plane, then the gradient, which is
//! affine in dy and x with coefficients of the plane. The relu's mask is computed again from x, by the same expression as in
//! the forward pass, rather than read.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::host::{CHUNK, floats, gradient, lock, made, pieces};
use super::reduce::planes_of;
use super::simd::{Kernel, Lane, Level, dispatch};

/// Mean and variance of each channel over a batch, on the host (so that running averages need no device).
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Biased variance of each channel (divided by `count`).
    pub var: Vec<f32>,
    /// Values per channel: N * H * W.
    pub count: usize,
}

/// What a plane is multiplied with and moved by.
#[derive(Clone, Copy)]
struct Affine {
    mean: f32,
    scale: f32,
    shift: f32,
}

impl Affine {
    #[inline(always)]
    fn apply(self, x: f32) -> f32 {
        (x - self.mean) * self.scale + self.shift
    }
}

/// Batch norm with given moments.
pub(super) struct BatchNorm {
    mean: Vec<f32>,
    /// 1 / sqrt(var + eps).
    inv: Vec<f32>,
    /// The moments are x's own.
    training: bool,
    relu: bool,
    level: Level,
}

impl BatchNorm {
    pub(super) fn apply(
        x: &Tensor,
        gain: &Tensor,
        bias: &Tensor,
        moments: &Moments,
        training: bool,
        eps: f64,
        relu: bool,
    ) -> Result<Tensor> {
        let (n, c, plane) = planes_of("batch_norm", x)?;
        check(x, gain, bias, moments)?;
        if training && moments.count != n * plane {
            bail!("batch_norm: moments of {} values in training on {:?}", moments.count, x.dims())
        }
        debug_assert_eq!(moments.mean.len(), c);
        let inv = moments.var.iter().map(|&v| (1.0 / (f64::from(v) + eps).sqrt()) as f32).collect();
        let op = BatchNorm { mean: moments.mean.clone(), inv, training, relu, level: Level::best() };
        x.contiguous()?.apply_op3(&gain.contiguous()?, &bias.contiguous()?, op)
    }

    /// The affine map of plane `i` (image major); `gain` and `bias` are (C) or (N, C), so indexed modulo their length.
    fn affine(&self, i: usize, gain: &[f32], bias: &[f32]) -> Affine {
        let c = i % self.mean.len();
        Affine { mean: self.mean[c], scale: gain[i % gain.len()] * self.inv[c], shift: bias[i % bias.len()] }
    }
}

/// Whether the shapes fit together.
pub(super) fn check(x: &Tensor, gain: &Tensor, bias: &Tensor, moments: &Moments) -> Result<()> {
    let (n, c, _) = planes_of("batch_norm", x)?;
    let fits = |t: &Tensor| t.dims() == [c] || t.dims() == [n, c];
    if !fits(gain) || gain.dims() != bias.dims() {
        bail!("batch_norm: gain {:?} and bias {:?} don't fit x {:?}", gain.dims(), bias.dims(), x.dims())
    }
    if moments.mean.len() != c || moments.var.len() != c {
        bail!("batch_norm: {} means and {} variances for {c} channels", moments.mean.len(), moments.var.len())
    }
    Ok(())
}

/// y = relu?(affine(x)) for one plane.
struct Forward<'a>(&'a [f32], &'a mut [f32], Affine, bool);

impl Kernel for Forward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let Forward(x, y, affine, relu) = self;
        let each = y.iter_mut().zip(x);
        if relu {
            // Not `max`, which would turn a NaN into 0.
            each.for_each(|(y, &x)| {
                let v = affine.apply(x);
                *y = if v < 0.0 { 0.0 } else { v };
            });
        } else {
            each.for_each(|(y, &x)| *y = affine.apply(x));
        }
    }
}

/// Sums of dy and dy * (x - mean) over one plane, where the relu let through.
struct Sums<'a>(&'a [f32], &'a [f32], Affine, bool);

impl Kernel for Sums<'_> {
    type Out = (f64, f64);
    #[inline(always)]
    fn run<L: Lane>(self, _: L) -> (f64, f64) {
        let Sums(x, dy, affine, relu) = self;
        let (mut total, mut total_x) = (0.0f64, 0.0f64);
        let term = |x: f32, dy: f32| {
            let dy = if relu && affine.apply(x) <= 0.0 { 0.0 } else { dy };
            (dy, dy * (x - affine.mean))
        };
        // f32 within a block, f64 across.
        for (x, dy) in x.chunks(512).zip(dy.chunks(512)) {
            let ((x16, x_rest), (dy16, dy_rest)) = (x.as_chunks::<16>(), dy.as_chunks::<16>());
            let (mut s, mut q) = ([0.0f32; 16], [0.0f32; 16]);
            for (x, dy) in x16.iter().zip(dy16) {
                for i in 0..16 {
                    let (a, b) = term(x[i], dy[i]);
                    s[i] += a;
                    q[i] += b;
                }
            }
            total += s.iter().map(|&v| f64::from(v)).sum::<f64>();
            total_x += q.iter().map(|&v| f64::from(v)).sum::<f64>();
            for (&x, &dy) in x_rest.iter().zip(dy_rest) {
                let (a, b) = term(x, dy);
                total += f64::from(a);
                total_x += f64::from(b);
            }
        }
        (total, total_x)
    }
}

/// dx = scale * dy - constant - slope * (x - mean) for one plane, dy being 0 where the relu didn't let through.
struct Backward<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    affine: Affine,
    relu: bool,
    constant: f32,
    slope: f32,
}

impl Kernel for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let Backward { x, dy, dx, affine, relu, constant, slope } = self;
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            let dy = if relu && affine.apply(x) <= 0.0 { 0.0 } else { dy };
            *dx = affine.scale * dy - constant - slope * (x - affine.mean);
        }
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        gain: &CpuStorage,
        lg: &Layout,
        bias: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, _, h, w) = lx.shape().dims4()?;
        let (x, gain, bias) =
            (floats("batch_norm", x, lx)?, floats("batch_norm", gain, lg)?, floats("batch_norm", bias, lb)?);
        let plane = h * w;
        let mut y = vec![0.0; x.len()];
        pieces(&mut y, plane, |i, y| {
            dispatch(self.level, Forward(&x[i * plane..][..plane], y, self.affine(i, gain, bias), self.relu));
        });
        made(y, lx.shape().clone())
    }

    fn bwd(
        &self,
        x: &Tensor,
        gain: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (n, c, plane) = planes_of("batch_norm", x)?;
        let grad = grad.contiguous()?;
        lock!("batch_norm", xs = x, gains = gain, biases = bias, dy = grad);
        let of = |i: usize| (&xs[i * plane..][..plane], &dy[i * plane..][..plane], self.affine(i, gains, biases));

        // For each plane: sums of dy and of dy * xhat.
        let least = (CHUNK / plane.max(1)).max(1);
        let sums: Vec<(f64, f64)> = (0..n * c)
            .into_par_iter()
            .with_min_len(least)
            .map(|i| {
                let (x, dy, affine) = of(i);
                let (s, q) = dispatch(self.level, Sums(x, dy, affine, self.relu));
                (s, q * f64::from(self.inv[i % c]))
            })
            .collect();
        // (C): summed over the batch; (N, C): as they are.
        let like = |t: &Tensor, pick: fn(&(f64, f64)) -> f64| {
            let per = t.elem_count();
            let mut out = vec![0.0f64; per];
            sums.iter().enumerate().for_each(|(i, s)| out[i % per] += pick(s));
            gradient(out.into_iter().map(|v| v as f32).collect(), t)
        };
        let dgain = gain.track_op().then(|| like(gain, |s| s.1)).transpose()?;
        let dbias = bias.track_op().then(|| like(bias, |s| s.0)).transpose()?;
        if !x.track_op() {
            return Ok((None, dgain, dbias));
        }

        // Means over the channel of g = gain * dy and of g * xhat: what flows through mean and variance.
        let mut through = vec![(0.0f64, 0.0f64); c];
        if self.training {
            for (i, s) in sums.iter().enumerate() {
                let share = f64::from(gains[i % gains.len()]) / (n * plane) as f64;
                through[i % c].0 += share * s.0;
                through[i % c].1 += share * s.1;
            }
        }
        let mut dx = vec![0.0; xs.len()];
        pieces(&mut dx, plane, |i, dx| {
            let ((x, dy, affine), inv, (g, gx)) = (of(i), f64::from(self.inv[i % c]), through[i % c]);
            let (constant, slope) = ((inv * g) as f32, (inv * inv * gx) as f32);
            dispatch(self.level, Backward { x, dy, dx, affine, relu: self.relu, constant, slope });
        });
        Ok((Some(gradient(dx, x)?), dgain, dbias))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These kernels are plain arithmetic, so all levels must agree in every bit.
    #[test]
    fn all_levels_agree() {
        let x: Vec<f32> = (0..1237u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 9) as f32 / 4e6 - 1.0).collect();
        let dy: Vec<f32> = x.iter().rev().map(|v| v * 0.7 - 0.1).collect();
        let affine = Affine { mean: 0.2, scale: 1.3, shift: -0.1 };
        let at = |level: Level, relu: bool| {
            let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            dispatch(level, Forward(&x, &mut y, affine, relu));
            let sums = dispatch(level, Sums(&x, &dy, affine, relu));
            let (x, dy) = (&x[..], &dy[..]);
            dispatch(level, Backward { x, dy, dx: &mut dx, affine, relu, constant: 0.3, slope: 0.7 });
            (y, dx, sums)
        };
        for relu in [false, true] {
            let want = at(Level::Portable, relu);
            assert!(want.0.iter().any(|&y| y > 0.0) && want.0.iter().any(|&y| y < 0.0) != relu);
            assert_eq!(at(Level::Avx2, relu), want);
            assert_eq!(at(Level::Avx512, relu), want);
        }
    }
}
