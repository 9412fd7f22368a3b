//! Additions, pools, upsampling, shortcuts and sums on the CPU: image by image, in f32, through buffers that stay in the cache.

use std::cell::RefCell;

use rayon::prelude::*;

use super::super::backend::Maps;
use super::super::memory::Pooled;
use super::conv::Images;
use super::maps::{ChannelSums, Element, block, channel_blocks, read, write};
use crate::ops::simd::{Kernel, Lane, Level, Scratch, dispatch};

thread_local! {
    static SCRATCH: RefCell<[Scratch; 2]> = RefCell::default();
}

/// Result images of `to` values each, made by `work(image number, values read, result)` of images of `from` values.
fn each_image<E: Element>(
    level: Level,
    maps: Maps,
    x: Images<'_, E>,
    to: usize,
    work: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) -> Pooled<E> {
    let from = maps.image();
    let mut out = Pooled::<E>::new(maps.n * to);
    out.par_chunks_mut(to.max(1)).enumerate().for_each(|(i, out)| {
        SCRATCH.with_borrow_mut(|[first, second]| {
            let values = &x.values[i * from..][..from];
            let floats = match E::floats(values) {
                Some(floats) if x.pre.is_none() => floats,
                _ => {
                    let buffer = first.take(from);
                    read(level, values, x.pre.image(i, maps.c), buffer);
                    &*buffer
                }
            };
            match E::floats_mut(out) {
                Some(out) => work(i, floats, out),
                None => {
                    let result = second.take(to);
                    work(i, floats, result);
                    write(level, result, out);
                }
            }
        });
    });
    out
}

/// a + b, cut off below 0 if asked.
struct Add<'a>(&'a [f32], &'a mut [f32], bool);

impl Kernel for Add<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let Add(a, sum, relu) = self;
        if relu {
            // Not `max`, which would turn a NaN into 0.
            sum.iter_mut().zip(a).for_each(|(s, a)| {
                let v = *s + a;
                *s = if v < 0.0 { 0.0 } else { v };
            });
        } else {
            sum.iter_mut().zip(a).for_each(|(s, a)| *s += a);
        }
    }
}

/// a + b of maps of one shape, cut off below 0 if `relu`.
pub(super) fn add<E: Element>(level: Level, maps: Maps, a: Images<'_, E>, b: Images<'_, E>, relu: bool) -> Pooled<E> {
    let image = maps.image();
    each_image(level, maps, a, image, |i, a, out| {
        read(level, &b.values[i * image..][..image], b.pre.image(i, maps.c), out);
        dispatch(level, Add(a, out, relu));
    })
}

/// sum += more.
pub(super) fn accumulate<E: Element>(level: Level, maps: Maps, sum: &mut [E], more: &[E]) {
    struct Accumulate<'a, E>(&'a mut [E], &'a [E]);
    impl<E: Element> Kernel for Accumulate<'_, E> {
        type Out = ();
        #[inline(always)]
        fn run<L: Lane>(self, _: L) {
            self.0.iter_mut().zip(self.1).for_each(|(s, m)| *s = E::put(s.get() + m.get()));
        }
    }
    let image = maps.image().max(1);
    sum.par_chunks_mut(image).zip(more.par_chunks(image)).for_each(|(s, m)| dispatch(level, Accumulate(s, m)));
}

/// The four pixels of each whole 2x2 window: calls `each(small pixel, [their first values])`, both counted in values.
#[inline(always)]
fn windows(h: usize, w: usize, c: usize, mut each: impl FnMut(usize, [usize; 4])) {
    for r in 0..h / 2 {
        for s in 0..w / 2 {
            let at = (2 * r * w + 2 * s) * c;
            each((r * (w / 2) + s) * c, [at, at + c, at + w * c, at + (w + 1) * c]);
        }
    }
}

/// factor times the sums of 2x2 windows of an image.
struct Shrink<'a> {
    large: &'a [f32],
    size: (usize, usize, usize),
    factor: f32,
    small: &'a mut [f32],
}

impl Kernel for Shrink<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let Shrink { large, size: (h, w, c), factor, small } = self;
        windows(h, w, c, |to, at| {
            let [a, b, d, e] = at.map(|at| &large[at..][..c]);
            for (i, to) in small[to..][..c].iter_mut().enumerate() {
                *to = factor * ((a[i] + b[i]) + (d[i] + e[i]));
            }
        });
    }
}

/// factor times each pixel of a small image at the four of its window; 0 where there is no whole one.
struct Grow<'a> {
    small: &'a [f32],
    /// Of the large image.
    size: (usize, usize, usize),
    factor: f32,
    large: &'a mut [f32],
}

impl Kernel for Grow<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let Grow { small, size: (h, w, c), factor, large } = self;
        if h % 2 == 1 || w % 2 == 1 {
            large.fill(0.0);
        }
        windows(h, w, c, |from, at| {
            let from = &small[from..][..c];
            for at in at {
                large[at..][..c].iter_mut().zip(from).for_each(|(to, from)| *to = factor * from);
            }
        });
    }
}

/// factor times the sums of 2x2 windows: average pooling with 1/4, the gradient of upsampling with 1.
pub(super) fn shrink<E: Element>(level: Level, maps: Maps, x: Images<'_, E>, factor: f32) -> Pooled<E> {
    let Maps { h, w, c, .. } = maps;
    each_image(level, maps, x, (h / 2) * (w / 2) * c, |_, large, small| {
        dispatch(level, Shrink { large, size: (h, w, c), factor, small });
    })
}

/// The other way, to images of `large`: upsampling with 1, the gradient of average pooling with 1/4.
pub(super) fn grow<E: Element>(level: Level, large: Maps, x: Images<'_, E>, factor: f32) -> Pooled<E> {
    let Maps { h, w, c, .. } = large;
    each_image(level, large.with(h / 2, w / 2, c), x, h * w * c, |_, small, large| {
        dispatch(level, Grow { small, size: (h, w, c), factor, large });
    })
}

/// Whether a maximum moves on to `v`: a NaN is one.
#[inline(always)]
fn exceeds(v: f32, best: f32) -> bool {
    v > best || (v.is_nan() && !best.is_nan())
}

/// Maxima of 2x2 windows.
struct MaxPool<'a> {
    large: &'a [f32],
    size: (usize, usize, usize),
    small: &'a mut [f32],
}

impl Kernel for MaxPool<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let MaxPool { large, size: (h, w, c), small } = self;
        windows(h, w, c, |to, at| {
            let [a, b, d, e] = at.map(|at| &large[at..][..c]);
            for (i, to) in small[to..][..c].iter_mut().enumerate() {
                let mut best = a[i];
                for v in [b[i], d[i], e[i]] {
                    best = if exceeds(v, best) { v } else { best };
                }
                *to = best;
            }
        });
    }
}

/// The gradient of [`MaxPool`]: to the first maximum of each window.
struct MaxPoolBack<'a, E> {
    large: &'a [f32],
    size: (usize, usize, usize),
    dy: &'a [E],
    dx: &'a mut [f32],
}

impl<E: Element> Kernel for MaxPoolBack<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let MaxPoolBack { large, size: (h, w, c), dy, dx } = self;
        if h % 2 == 1 || w % 2 == 1 {
            dx.fill(0.0);
        }
        let dx = std::cell::Cell::from_mut(dx).as_slice_of_cells();
        windows(h, w, c, |from, at| {
            let [a, b, d, e] = at.map(|at| &large[at..][..c]);
            let [da, db, dd, de] = at.map(|at| &dx[at..][..c]);
            for (i, dy) in dy[from..][..c].iter().enumerate() {
                let dy = dy.get();
                let first = exceeds(b[i], a[i]);
                let top = if first { b[i] } else { a[i] };
                let second = exceeds(d[i], top);
                let left = if second { d[i] } else { top };
                let third = exceeds(e[i], left);
                da[i].set(if first || second || third { 0.0 } else { dy });
                db[i].set(if first && !second && !third { dy } else { 0.0 });
                dd[i].set(if second && !third { dy } else { 0.0 });
                de[i].set(if third { dy } else { 0.0 });
            }
        });
    }
}

/// Maxima of 2x2 windows.
pub(super) fn max_pool<E: Element>(level: Level, maps: Maps, x: Images<'_, E>) -> Pooled<E> {
    let Maps { h, w, c, .. } = maps;
    each_image(level, maps, x, (h / 2) * (w / 2) * c, |_, large, small| {
        dispatch(level, MaxPool { large, size: (h, w, c), small });
    })
}

/// The gradient of [`max_pool`] from that of its result.
pub(super) fn max_pool_gradient<E: Element>(level: Level, maps: Maps, x: Images<'_, E>, dy: &[E]) -> Pooled<E> {
    let Maps { h, w, c, .. } = maps;
    let small = (h / 2) * (w / 2) * c;
    each_image(level, maps, x, h * w * c, |n, large, dx| {
        dispatch(level, MaxPoolBack { large, size: (h, w, c), dy: &dy[n * small..][..small], dx });
    })
}

/// Every second pixel of every second row of images of `maps`, with zero channels on both sides.
pub(super) fn subsample_pad<E: Element>(level: Level, maps: Maps, x: Images<'_, E>, channels: usize) -> Pooled<E> {
    let Maps { h, w, c, .. } = maps;
    let (rows, cols, before) = (h.div_ceil(2), w.div_ceil(2), (channels - c) / 2);
    each_image(level, maps, x, rows * cols * channels, |_, large, small| {
        small.fill(0.0);
        for (to, pixel) in small.chunks_exact_mut(channels).enumerate() {
            let from = (2 * (to / cols) * w + 2 * (to % cols)) * c;
            pixel[before..before + c].copy_from_slice(&large[from..][..c]);
        }
    })
}

/// The gradient of [`subsample_pad`] from that of its result.
pub(super) fn subsample_pad_gradient<E: Element>(
    level: Level,
    maps: Maps,
    channels: usize,
    dy: Images<'_, E>,
) -> Pooled<E> {
    let Maps { h, w, c, .. } = maps;
    let (rows, cols, before) = (h.div_ceil(2), w.div_ceil(2), (channels - c) / 2);
    each_image(level, maps.with(rows, cols, channels), dy, h * w * c, |_, small, large| {
        large.fill(0.0);
        for (from, pixel) in small.chunks_exact(channels).enumerate() {
            let to = (2 * (from / cols) * w + 2 * (from % cols)) * c;
            large[to..][..c].copy_from_slice(&pixel[before..before + c]);
        }
    })
}

/// Sums over the positions of an image, f64 across blocks of pixels.
struct PositionSums<'a>(&'a [f32], &'a mut [f32]);

impl ChannelSums for PositionSums<'_> {
    #[inline(always)]
    fn add<const N: usize>(&mut self, at: usize) {
        const PIXELS: usize = 32;
        let c = self.1.len();
        let mut total = [0.0f64; N];
        for pixels in self.0.chunks(PIXELS * c) {
            let mut s = [0.0f32; N];
            for pixel in pixels.chunks_exact(c) {
                let Some(v) = block::<N, f32>(pixel, at) else { return };
                (0..N).for_each(|i| s[i] += v[i]);
            }
            (0..N).for_each(|i| total[i] += f64::from(s[i]));
        }
        (0..N).for_each(|i| self.1[at + i] = total[i] as f32);
    }
}

impl Kernel for PositionSums<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(mut self, _: L) {
        channel_blocks(self.1.len(), &mut self);
    }
}

/// Sums over the positions of each image, (N, C).
pub(super) fn position_sums<E: Element>(level: Level, maps: Maps, x: Images<'_, E>) -> Vec<f32> {
    let (c, image) = (maps.c, maps.image());
    let mut sums = vec![0.0f32; maps.n * c];
    sums.par_chunks_mut(c.max(1)).enumerate().for_each(|(i, sums)| {
        let values = &x.values[i * image..][..image];
        if let (Some(floats), true) = (E::floats(values), x.pre.is_none()) {
            return dispatch(level, PositionSums(floats, sums));
        }
        SCRATCH.with_borrow_mut(|[first, _]| {
            let buffer = first.take(image);
            read(level, values, x.pre.image(i, c), buffer);
            dispatch(level, PositionSums(buffer, sums));
        });
    });
    sums
}

/// `grad` (N, C) at each position.
pub(super) fn spread<E: Element>(maps: Maps, grad: &[f32]) -> Pooled<E> {
    let mut dx = Pooled::<E>::new(maps.count());
    let each = dx.par_chunks_mut(maps.image().max(1)).zip(grad.par_chunks(maps.c.max(1)));
    each.for_each(|(dx, grad)| {
        for pixel in dx.chunks_exact_mut(maps.c) {
            pixel.iter_mut().zip(grad).for_each(|(to, g)| *to = E::put(*g));
        }
    });
    dx
}

/// Maps from a tensor's (N, C, H, W).
pub(super) fn channels_last<E: Element>(maps: Maps, x: &[f32]) -> Pooled<E> {
    let Maps { h, w, c, .. } = maps;
    let mut out = Pooled::<E>::new(maps.count());
    out.par_chunks_mut(maps.image().max(1)).zip(x.par_chunks(maps.image().max(1))).for_each(|(to, from)| {
        for (ch, plane) in from.chunks_exact(h * w).enumerate() {
            to[ch..].iter_mut().step_by(c).zip(plane).for_each(|(to, from)| *to = E::put(*from));
        }
    });
    out
}

/// A tensor's (N, C, H, W) from maps.
pub(super) fn channels_first<E: Element>(level: Level, maps: Maps, x: Images<'_, E>) -> Vec<f32> {
    let Maps { h, w, c, .. } = maps;
    let image = maps.image();
    let mut out = vec![0.0f32; maps.count()];
    out.par_chunks_mut(image.max(1)).enumerate().for_each(|(i, to)| {
        SCRATCH.with_borrow_mut(|[first, _]| {
            let buffer = first.take(image);
            read(level, &x.values[i * image..][..image], x.pre.image(i, c), buffer);
            for (ch, plane) in to.chunks_exact_mut(h * w).enumerate() {
                plane.iter_mut().zip(buffer[ch..].iter().step_by(c)).for_each(|(to, from)| *to = *from);
            }
        });
    });
    out
}
