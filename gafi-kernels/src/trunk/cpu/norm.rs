//! Batch norm on the CPU: moments and gradients. The forward pass is the prologue of the ops that read the norm
//! (`view::Read`).
//!
//! Sums are taken over each image, then added image by image in f64, so they depend neither on threads nor on registers.

use candle_core::{Device, Result, Tensor};

use super::channels::{Channels, add_sums, block, channel_blocks};
use super::element::Element;
use super::parallel::{Tasks, for_each_chunk};
use super::stored::Stored;
use super::view::{HostAffine, ImageAffine, TILE, host, tile};
use crate::activation::Activation;
use crate::geometry::Maps;
use crate::math::gelu_derivative;
use crate::memory::Pooled;
use crate::simd::{Kernel, Lane, Level, dispatch, vectorised};
use crate::trunk::backend::{Affine, Moments, NormGradients};

/// Mean and variance from each image's sums and sums of squares, (N, 2, C).
pub(super) fn moments_of(sums: &[f64], maps: Maps) -> Result<Moments> {
    let c = maps.c;
    let count = maps.n * maps.h * maps.w;
    let mut total = vec![0.0f64; 2 * c];
    for image in sums.chunks_exact(2 * c) {
        total.iter_mut().zip(image).for_each(|(t, v)| *t += v);
    }
    let mut mean = Vec::with_capacity(c);
    let mut var = Vec::with_capacity(c);
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

/// Adds to `sums` the sums that [`moments_of`] needs, for some images.
pub(super) fn add_moments<E: Element>(level: Level, c: usize, images: &[E], sums: &mut [f64]) {
    let count = sums.len() / (2 * c);
    for (image, sums) in images.chunks_exact(images.len() / count).zip(sums.chunks_exact_mut(2 * c)) {
        add_sums(level, image, sums);
    }
}

/// The moments of maps.
pub(super) fn moments<E: Element>(level: Level, maps: Maps, x: &[E]) -> Result<Moments> {
    let mut sums = vec![0.0f64; maps.n * 2 * maps.c];
    let image = maps.image();
    for_each_chunk(&mut sums, 2 * maps.c, Tasks::small(image), &|i, sums| {
        add_sums(level, &x[i * image..][..image], sums);
    });
    moments_of(&sums, maps)
}

/// Sums over one image of g and of g * (x - mean), where g is dy after the backward pass of the activation.
struct NormSums<'a, E> {
    x: &'a [E],
    dy: &'a [E],
    pre: ImageAffine<'a>,
    mean: &'a [f32],
    sums: &'a mut [f64],
}

/// The gradient of the leaky relu of `slope` at `v`, times dy.
#[inline(always)]
fn leaky_backward(v: f32, dy: f32, slope: f32) -> f32 {
    let below = if slope == 0.0 { 0.0 } else { slope * dy };
    if v > 0.0 { dy } else { below }
}

/// The gradient of GELU at `v`, times dy.
#[inline(always)]
fn gelu_backward(v: f32, dy: f32) -> f32 {
    gelu_derivative(v) * dy
}

impl<E: Element> Channels for NormSums<'_, E> {
    #[inline(always)]
    fn block<const N: usize>(&mut self, at: usize) {
        // Outside of the loops, so that each is vectorised.
        match self.pre.activation {
            None => self.add::<N>(at, |_, dy| dy),
            Some(Activation::Leaky(slope)) => self.add::<N>(at, |v, dy| leaky_backward(v, dy, slope)),
            Some(Activation::Gelu) => self.add::<N>(at, gelu_backward),
        }
    }
}

impl<E: Element> NormSums<'_, E> {
    /// Adds up `N` channels, where `behind(v, dy)` is the gradient before the activation, of which `v` is the argument.
    #[inline(always)]
    fn add<const N: usize>(&mut self, at: usize, behind: impl Fn(f32, f32) -> f32) {
        let ImageAffine { scale, offset, .. } = self.pre;
        let c = self.mean.len();
        let (Some(scale), Some(offset), Some(mean)) =
            (block::<N, f32>(scale, at), block::<N, f32>(offset, at), block::<N, f32>(self.mean, at))
        else {
            return;
        };
        let term = |x: E, dy: E, scale: f32, offset: f32, mean: f32| {
            let x = x.get();
            let dy = dy.get();
            let g = behind(x * scale + offset, dy);
            (g, g * (x - mean))
        };
        // f32 sums over a few pixels, f64 beyond.
        const PIXELS: usize = 32;
        let mut total = [0.0f64; N];
        let mut total_x = [0.0f64; N];
        for (x, dy) in self.x.chunks(PIXELS * c).zip(self.dy.chunks(PIXELS * c)) {
            let mut s = [0.0f32; N];
            let mut q = [0.0f32; N];
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

/// Replaces dy by scale * g - constant - along * (x - mean), for one image.
struct NormBackward<'a, E> {
    x: &'a [E],
    dx: &'a mut [E],
    pre: ImageAffine<'a>,
    mean: &'a [f32],
    constant: &'a [f32],
    along: &'a [f32],
}

impl<E: Element> Kernel for NormBackward<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        match self.pre.activation {
            None => self.replace(|_, dy| dy),
            Some(Activation::Leaky(slope)) => self.replace(|v, dy| leaky_backward(v, dy, slope)),
            Some(Activation::Gelu) => self.replace(gelu_backward),
        }
    }
}

impl<E: Element> NormBackward<'_, E> {
    /// `behind` as in [`NormSums::add`].
    #[inline(always)]
    fn replace(self, behind: impl Fn(f32, f32) -> f32) {
        let NormBackward { x, dx, pre: ImageAffine { scale, offset, .. }, mean, constant, along } = self;
        let c = mean.len();
        let mut rooms = [[0.0; TILE]; 5];
        let [r0, r1, r2, r3, r4] = &mut rooms;
        let scale = tile(&scale[..c], r0);
        let offset = tile(&offset[..c], r1);
        let mean = tile(mean, r2);
        let constant = tile(&constant[..c], r3);
        let along = tile(&along[..c], r4);
        // Equal lengths, so that the loop below needs no bounds checks.
        let c = mean.len();
        let (scale, offset, constant, along) = (&scale[..c], &offset[..c], &constant[..c], &along[..c]);
        for (x, dx) in x.chunks(c).zip(dx.chunks_mut(c)) {
            let n = dx.len().min(c);
            let x = &x[..n];
            for i in 0..n {
                let x = x[i].get();
                let dy = dx[i].get();
                let g = behind(x * scale[i] + offset[i], dy);
                dx[i] = E::put(scale[i] * g - constant[i] - along[i] * (x - mean[i]));
            }
        }
    }
}

/// A norm with its values in host memory.
pub(super) struct HostNorm {
    pre: HostAffine,
    /// The shape of scale and offset: (C) or (N, C).
    shape: Vec<usize>,
    mean: Vec<f32>,
    inv: Vec<f32>,
    training: bool,
}

impl HostNorm {
    pub(super) fn new(affine: &Affine, activation: Option<Activation>) -> Result<Self> {
        let mean = host(&affine.mean)?;
        let inv = host(&affine.inv)?;
        let shape = affine.scale.dims().to_vec();
        Ok(Self { pre: HostAffine::new(affine, activation)?, shape, mean, inv, training: affine.training })
    }

    /// Adds to `sums` (image, 2, c) the sums that [`gradients`] needs, for some images from index `first` on.
    pub(super) fn add_sums<E: Element>(&self, level: Level, first: usize, x: &[E], dy: &[E], sums: &mut [f64]) {
        let c = self.mean.len();
        let image = dy.len() / (sums.len() / (2 * c));
        for (i, (dy, sums)) in dy.chunks_exact(image).zip(sums.chunks_exact_mut(2 * c)).enumerate() {
            let x = &x[(first + i) * image..][..image];
            let pre = self.pre.image(first + i, c);
            dispatch(level, NormSums { x, dy, pre, mean: &self.mean, sums });
        }
    }
}

/// The sums of [`HostNorm::add_sums`] over each image.
pub(super) fn sums<E: Element>(level: Level, maps: Maps, x: &[E], norm: &HostNorm, dy: &[E]) -> Vec<f64> {
    let image = maps.image();
    let mut sums = vec![0.0; maps.n * 2 * maps.c];
    if image > 0 {
        for_each_chunk(&mut sums, 2 * maps.c, Tasks::small(image), &|i, sums| {
            norm.add_sums(level, i, x, &dy[i * image..][..image], sums);
        });
    }
    sums
}

/// The upstream gradient of a norm.
pub(super) enum Upstream<'a, E: Element> {
    /// Owned and not needed afterwards, so the gradient of the norm overwrites it.
    Owned(Pooled<E>),
    Shared(&'a [E]),
}

/// The gradients of the maps, the gain and the shift from the upstream gradient and its [`sums`].
pub(super) fn gradients<E: Stored>(
    level: Level,
    maps: Maps,
    x: &[E],
    norm: &HostNorm,
    sums: &[f64],
    dy: Upstream<'_, E>,
) -> Result<NormGradients> {
    /// Number of values that are copied and then processed while they are in the cache.
    const STRIPE: usize = 4 * 1024;
    let n = maps.n;
    let c = maps.c;
    let image = maps.image();
    let HostNorm { pre, shape, mean, inv, training } = norm;
    let scales = pre.scale.len();
    let mut dgain = vec![0.0f64; scales];
    let mut dshift = vec![0.0f64; scales];
    // Sums over the batch of scale * g and scale * g * (x - mean): the gradients through mean and variance.
    let mut through = vec![(0.0f64, 0.0f64); c];
    for (i, sums) in sums.chunks_exact(2 * c).enumerate() {
        let scale = pre.image(i, c).scale;
        let at = if scales > c { i * c } else { 0 };
        for ch in 0..c {
            let s = sums[ch];
            let q = sums[c + ch];
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
        Upstream::Owned(dx) => (dx, None),
        Upstream::Shared(dy) => (Pooled::new(maps.count()), Some(dy)),
    };
    let stripe = (STRIPE / c.max(1)).max(1) * c.max(1);
    for_each_chunk(&mut dx, image, Tasks::small(image), &|i, dx| {
        let from = i * image;
        let pre = pre.image(i, c);
        for (k, dx) in dx.chunks_mut(stripe).enumerate() {
            let from = from + k * stripe;
            if let Some(dy) = dy {
                dx.copy_from_slice(&dy[from..][..dx.len()]);
            }
            let x = &x[from..][..dx.len()];
            dispatch(level, NormBackward { x, dx, pre, mean, constant: &constant, along: &along });
        }
    });
    let tensor = |values: Vec<f64>| {
        let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
        Tensor::from_vec(values, &shape[..], &Device::Cpu)
    };
    Ok(NormGradients { dx: E::data(dx), dgain: tensor(dgain)?, dshift: tensor(dshift)? })
}

/// [`activation_gradient`] in place of dy, for some values.
pub(super) fn activation_backward_in_place<E: Element>(level: Level, x: &[E], activation: Activation, dy: &mut [E]) {
    let both = dy.iter_mut().zip(x);
    vectorised(
        level,
        #[inline(always)]
        || match activation {
            // No arithmetic, so no rounding.
            Activation::Leaky(0.0) => both.for_each(|(dy, x)| *dy = if x.is_positive() { *dy } else { E::default() }),
            Activation::Leaky(slope) => both.for_each(|(dy, x)| *dy = E::put(leaky_backward(x.get(), dy.get(), slope))),
            Activation::Gelu => both.for_each(|(dy, x)| *dy = E::put(gelu_backward(x.get(), dy.get()))),
        },
    );
}

/// The gradient of the activation at x, times dy. For a relu, `x` may also be its result.
pub(super) fn activation_gradient<E: Element>(level: Level, x: &[E], activation: Activation, dy: &[E]) -> Pooled<E> {
    const CHUNK: usize = 8 * 1024;
    let mut dx = Pooled::<E>::new(x.len());
    for_each_chunk(&mut dx, CHUNK, Tasks::SINGLE, &|i, dx| {
        let range = i * CHUNK..i * CHUNK + dx.len();
        dx.copy_from_slice(&dy[range.clone()]);
        activation_backward_in_place(level, &x[range], activation, dx);
    });
    dx
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trunk::cpu::view::leaky;

    #[test]
    fn leaky_backward_is_the_derivative_of_leaky() {
        for v in [-2.0f32, -0.5, 0.25, 3.0] {
            let numeric = (leaky(v + 0.125, 0.25) - leaky(v - 0.125, 0.25)) / 0.25;
            assert_eq!(leaky_backward(v, 1.0, 0.25), numeric, "{v}");
        }
        assert_eq!((leaky_backward(0.0, 1.0, 0.0), leaky(0.0, 0.2)), (0.0, 0.0));
    }
}
