//! Batch norm on the CPU: moments, and the gradients. (Its forward pass is what others do as they read: `maps::Read`.)
//!
//! Each image's sums are taken by themselves and added image after image, in f64, so neither threads nor registers show.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::super::backend::{Affine, Maps, Moments};
use super::super::memory::Pooled;
use super::maps::{Channels, Element, HostPre, ImagePre, TILE, add_sums, at_a_time, block, channel_blocks, host, tile};
use crate::ops::simd::{Kernel, Lane, Level, dispatch};

/// Mean and variance from the images' sums and sums of squares, (N, 2, C).
pub(super) fn moments_of(sums: &[f64], maps: Maps) -> Result<Moments> {
    let (c, count) = (maps.c, maps.n * maps.h * maps.w);
    let mut total = vec![0.0f64; 2 * c];
    for image in sums.chunks_exact(2 * c) {
        total.iter_mut().zip(image).for_each(|(t, v)| *t += v);
    }
    let (mut mean, mut var) = (Vec::with_capacity(c), Vec::with_capacity(c));
    for (s, q) in total[..c].iter().zip(&total[c..]) {
        let m = s / count as f64;
        mean.push(m as f32);
        // `max` would turn a NaN into 0 and hide it.
        let v = q / count as f64 - m * m;
        var.push(if v < 0.0 { 0.0 } else { v as f32 });
    }
    let tensor = |values: Vec<f32>| Tensor::from_vec(values, c, &Device::Cpu);
    Ok(Moments { mean: tensor(mean)?, var: tensor(var)?, count })
}

/// Adds the sums that [`moments_of`] wants of some images.
pub(super) fn add_moments<E: Element>(level: Level, c: usize, images: &[E], sums: &mut [f64]) {
    let count = sums.len() / (2 * c);
    for (image, sums) in images.chunks_exact(images.len() / count).zip(sums.chunks_exact_mut(2 * c)) {
        add_sums(level, image, sums);
    }
}

/// Moments of maps.
pub(super) fn moments<E: Element>(level: Level, maps: Maps, x: &[E]) -> Result<Moments> {
    let mut sums = vec![0.0f64; maps.n * 2 * maps.c];
    let each = sums.par_chunks_mut(2 * maps.c).zip(x.par_chunks(maps.image())).with_max_len(at_a_time(maps.image()));
    each.for_each(|(sums, image)| add_sums(level, image, sums));
    moments_of(&sums, maps)
}

/// Sums over one image of g and of g * (x - mean), g being dy where the activation let through.
struct NormSums<'a, E> {
    x: &'a [E],
    dy: &'a [E],
    pre: ImagePre<'a>,
    mean: &'a [f32],
    sums: &'a mut [f64],
}

/// The gradient before an activation of `slope`, from that behind it, where the activation's input was `v`.
#[inline(always)]
fn back(v: f32, dy: f32, slope: f32) -> f32 {
    let below = if slope == 0.0 { 0.0 } else { slope * dy };
    if v > 0.0 { dy } else { below }
}

impl<E: Element> Channels for NormSums<'_, E> {
    #[inline(always)]
    fn block<const N: usize>(&mut self, at: usize) {
        let ImagePre::Affine { scale, offset, slope } = self.pre else { return };
        let c = self.mean.len();
        let (Some(scale), Some(offset), Some(mean)) =
            (block::<N, f32>(scale, at), block::<N, f32>(offset, at), block::<N, f32>(self.mean, at))
        else {
            return;
        };
        let term = |x: E, dy: E, scale: f32, offset: f32, mean: f32| {
            let (x, dy) = (x.get(), dy.get());
            let g = match slope {
                Some(slope) => back(x * scale + offset, dy, slope),
                None => dy,
            };
            (g, g * (x - mean))
        };
        // f32 within a few pixels, f64 across.
        const PIXELS: usize = 32;
        let (mut total, mut total_x) = ([0.0f64; N], [0.0f64; N]);
        for (x, dy) in self.x.chunks(PIXELS * c).zip(self.dy.chunks(PIXELS * c)) {
            let (mut s, mut q) = ([0.0f32; N], [0.0f32; N]);
            for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
                let (Some(x), Some(dy)) = (block::<N, E>(x, at), block::<N, E>(dy, at)) else { return };
                for i in 0..N {
                    let (g, gx) = term(x[i], dy[i], scale[i], offset[i], mean[i]);
                    s[i] += g;
                    q[i] += gx;
                }
            }
            for i in 0..N {
                total[i] += f64::from(s[i]);
                total_x[i] += f64::from(q[i]);
            }
        }
        for i in 0..N {
            self.sums[at + i] += total[i];
            self.sums[c + at + i] += total_x[i];
        }
    }
}

impl<E: Element> Kernel for NormSums<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(mut self, _: L) {
        channel_blocks(self.mean.len(), &mut self);
    }
}

/// scale * g - constant - along * (x - mean) for one image, in place of dy.
struct NormBack<'a, E> {
    x: &'a [E],
    dx: &'a mut [E],
    pre: ImagePre<'a>,
    mean: &'a [f32],
    constant: &'a [f32],
    along: &'a [f32],
}

impl<E: Element> Kernel for NormBack<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let NormBack { x, dx, pre, mean, constant, along } = self;
        let ImagePre::Affine { scale, offset, slope } = pre else { return };
        let c = mean.len();
        let mut rooms = [[0.0; TILE]; 5];
        let [r0, r1, r2, r3, r4] = &mut rooms;
        let (scale, offset) = (tile(&scale[..c], r0), tile(&offset[..c], r1));
        let (mean, constant, along) = (tile(mean, r2), tile(&constant[..c], r3), tile(&along[..c], r4));
        let c = mean.len();
        let (scale, offset, constant, along) = (&scale[..c], &offset[..c], &constant[..c], &along[..c]);
        for (x, dx) in x.chunks(c).zip(dx.chunks_mut(c)) {
            let n = dx.len().min(c);
            let x = &x[..n];
            for i in 0..n {
                let (x, dy) = (x[i].get(), dx[i].get());
                let g = match slope {
                    Some(slope) => back(x * scale[i] + offset[i], dy, slope),
                    None => dy,
                };
                dx[i] = E::put(scale[i] * g - constant[i] - along[i] * (x - mean[i]));
            }
        }
    }
}

/// A norm with its numbers at hand.
pub(super) struct HostNorm {
    /// Always `Affine`.
    pre: HostPre,
    mean: Vec<f32>,
    inv: Vec<f32>,
    training: bool,
}

impl HostNorm {
    pub(super) fn new(affine: &Affine, slope: Option<f32>) -> Result<Self> {
        let (mean, inv) = (host(&affine.mean)?, host(&affine.inv)?);
        Ok(Self { pre: HostPre::of(affine, slope)?, mean, inv, training: affine.training })
    }

    /// Adds to `sums` (image, 2, c) what [`gradients`] wants of some images, of which the first has number `first`.
    pub(super) fn add_sums<E: Element>(&self, level: Level, first: usize, x: &[E], dy: &[E], sums: &mut [f64]) {
        let c = self.mean.len();
        let image = dy.len() / (sums.len() / (2 * c));
        for (i, (dy, sums)) in dy.chunks_exact(image).zip(sums.chunks_exact_mut(2 * c)).enumerate() {
            let (x, pre) = (&x[(first + i) * image..][..image], self.pre.image(first + i, c));
            dispatch(level, NormSums { x, dy, pre, mean: &self.mean, sums });
        }
    }
}

/// Sums over each image, as [`HostNorm::add_sums`] makes them.
pub(super) fn sums<E: Element>(level: Level, maps: Maps, x: &[E], norm: &HostNorm, dy: &[E]) -> Vec<f64> {
    let image = maps.image();
    let mut sums = vec![0.0; maps.n * 2 * maps.c];
    let each = sums.par_chunks_mut(2 * maps.c).zip(dy.par_chunks(image.max(1))).enumerate();
    each.with_max_len(at_a_time(image)).for_each(|(i, (sums, dy))| norm.add_sums(level, i, x, dy, sums));
    sums
}

/// Where the gradient behind a norm is.
pub(super) enum Behind<'a, E: Element> {
    /// Nobody else wants it: it makes room for that before the norm.
    Own(Pooled<E>),
    Shared(&'a [E]),
}

/// Gradients of the maps, of the gain and of the shift; the latter two (C) or (N, C) as the norm's scale. From the [`sums`].
pub(super) fn gradients<E: Element>(
    level: Level,
    maps: Maps,
    x: &[E],
    norm: &HostNorm,
    sums: &[f64],
    dy: Behind<'_, E>,
) -> (Pooled<E>, Vec<f32>, Vec<f32>) {
    /// Values that are copied before they are worked on.
    const STRIPE: usize = 4 * 1024;
    let (n, c, image) = (maps.n, maps.c, maps.image());
    let HostNorm { pre, mean, inv, training } = norm;
    let scales = match pre {
        HostPre::Affine { scale, .. } => scale.len(),
        _ => 0,
    };
    let (mut dgain, mut dshift) = (vec![0.0f64; scales], vec![0.0f64; scales]);
    // Sums over the batch of scale * g and scale * g * (x - mean): what flows through mean and variance.
    let mut through = vec![(0.0f64, 0.0f64); c];
    for (i, sums) in sums.chunks_exact(2 * c).enumerate() {
        let ImagePre::Affine { scale, .. } = pre.image(i, c) else { continue };
        let at = if scales > c { i * c } else { 0 };
        for ch in 0..c {
            let (s, q) = (sums[ch], sums[c + ch]);
            dshift[at + ch] += s;
            dgain[at + ch] += q * f64::from(inv[ch]);
            through[ch].0 += f64::from(scale[ch]) * s;
            through[ch].1 += f64::from(scale[ch]) * q;
        }
    }
    let count = (n * maps.h * maps.w) as f64;
    let share = |v: f64| if *training { (v / count) as f32 } else { 0.0 };
    let constant: Vec<f32> = through.iter().map(|t| share(t.0)).collect();
    let along: Vec<f32> = through.iter().zip(inv).map(|(t, i)| share(t.1 * f64::from(*i) * f64::from(*i))).collect();
    let (mut dx, dy) = match dy {
        Behind::Own(dx) => (dx, None),
        Behind::Shared(dy) => (Pooled::new(maps.count()), Some(dy)),
    };
    let stripe = (STRIPE / c.max(1)).max(1) * c.max(1);
    dx.par_chunks_mut(image.max(1)).enumerate().with_max_len(at_a_time(image)).for_each(|(i, dx)| {
        let (from, pre) = (i * image, pre.image(i, c));
        for (k, dx) in dx.chunks_mut(stripe).enumerate() {
            let from = from + k * stripe;
            if let Some(dy) = dy {
                dx.copy_from_slice(&dy[from..][..dx.len()]);
            }
            let x = &x[from..][..dx.len()];
            dispatch(level, NormBack { x, dx, pre, mean, constant: &constant, along: &along });
        }
    });
    let single = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect();
    (dx, single(dgain), single(dshift))
}

/// back(x, dy), in place of dy.
struct LeakyBack<'a, E>(&'a [E], f32, &'a mut [E]);

impl<E: Element> Kernel for LeakyBack<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let LeakyBack(x, slope, dy) = self;
        let both = dy.iter_mut().zip(x);
        if slope == 0.0 {
            // No arithmetic, so no rounding.
            both.for_each(|(dy, x)| *dy = if x.is_positive() { *dy } else { E::default() });
        } else {
            both.for_each(|(dy, x)| *dy = E::put(back(x.get(), dy.get(), slope)));
        }
    }
}

/// What [`leaky_gradient`] gives for some values, in place of dy.
pub(super) fn leaky_back<E: Element>(level: Level, x: &[E], slope: f32, dy: &mut [E]) {
    dispatch(level, LeakyBack(x, slope, dy));
}

/// dy where x > 0, slope * dy elsewhere. `x` may be the activation's input or, for a relu, its result.
pub(super) fn leaky_gradient<E: Element>(level: Level, x: &[E], slope: f32, dy: &[E]) -> Pooled<E> {
    const CHUNK: usize = 8 * 1024;
    let mut dx = Pooled::<E>::new(x.len());
    let each = dx.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
    each.with_max_len(1).for_each(|((dx, x), dy)| {
        dx.copy_from_slice(dy);
        leaky_back(level, x, slope, dx);
    });
    dx
}

#[cfg(test)]
mod tests {
    use super::super::maps::leaky;
    use super::*;

    #[test]
    fn an_activation_and_its_gradient_agree() {
        for v in [-2.0f32, -0.5, 0.25, 3.0] {
            let numeric = (leaky(v + 0.125, 0.25) - leaky(v - 0.125, 0.25)) / 0.25;
            assert_eq!(back(v, 1.0, 0.25), numeric, "{v}");
        }
        assert_eq!((back(0.0, 1.0, 0.0), leaky(0.0, 0.2)), (0.0, 0.0));
    }
}
