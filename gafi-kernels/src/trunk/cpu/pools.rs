//! 2x2 windows on the CPU: pools, upsampling and their gradients.

use super::super::backend::Maps;
use super::super::memory::Pooled;
use super::conv::Images;
use super::maps::{Channels, Element, block, channel_blocks};
use super::pointwise::each_image;
use crate::ops::simd::{Kernel, Lane, Level, dispatch};

/// The four pixels of each whole 2x2 window: calls `each(small pixel, [their first values])`, both counted in values.
#[inline(always)]
fn windows((h, w, c): (usize, usize, usize), mut each: impl FnMut(usize, [usize; 4])) {
    for r in 0..h / 2 {
        for s in 0..w / 2 {
            let at = (2 * r * w + 2 * s) * c;
            each((r * (w / 2) + s) * c, [at, at + c, at + w * c, at + (w + 1) * c]);
        }
    }
}

/// The `N` values from `at` on, to be written.
#[inline(always)]
fn block_mut<const N: usize, T>(values: &mut [T], at: usize) -> Option<&mut [T; N]> {
    values.get_mut(at..at + N)?.first_chunk_mut()
}

/// factor times the sums of 2x2 windows of an image.
struct Shrink<'a, E> {
    large: &'a [E],
    size: (usize, usize, usize),
    factor: f32,
    small: &'a mut [E],
}

impl<E: Element> Kernel for Shrink<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let Shrink { large, size, factor, small } = self;
        windows(size, |to, from| channel_blocks(size.2, &mut Window { large, from, factor, small, to }));
    }
}

/// One window of [`Shrink`].
struct Window<'a, E> {
    large: &'a [E],
    from: [usize; 4],
    factor: f32,
    small: &'a mut [E],
    to: usize,
}

impl<E: Element> Channels for Window<'_, E> {
    #[inline(always)]
    fn block<const N: usize>(&mut self, at: usize) {
        let [Some(a), Some(b), Some(c), Some(d)] = self.from.map(|from| block::<N, E>(self.large, from + at)) else {
            return;
        };
        let Some(to) = block_mut::<N, E>(self.small, self.to + at) else { return };
        for i in 0..N {
            to[i] = E::put(self.factor * ((a[i].get() + b[i].get()) + (c[i].get() + d[i].get())));
        }
    }
}

/// factor times each pixel of a small image at the four of its window; 0 where there is no whole one.
struct Grow<'a, E> {
    small: &'a [E],
    /// Of the large image.
    size: (usize, usize, usize),
    factor: f32,
    large: &'a mut [E],
}

impl<E: Element> Kernel for Grow<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let Grow { small, size: (h, w, c), factor, large } = self;
        if h % 2 == 1 || w % 2 == 1 {
            large.fill(E::default());
        }
        windows((h, w, c), |from, to| channel_blocks(c, &mut GrowWindow { small, from, factor, large, to }));
    }
}

/// One window of [`Grow`].
struct GrowWindow<'a, E> {
    small: &'a [E],
    from: usize,
    factor: f32,
    large: &'a mut [E],
    to: [usize; 4],
}

impl<E: Element> Channels for GrowWindow<'_, E> {
    #[inline(always)]
    fn block<const N: usize>(&mut self, at: usize) {
        let Some(from) = block::<N, E>(self.small, self.from + at) else { return };
        let values: [E; N] = std::array::from_fn(|i| E::put(self.factor * from[i].get()));
        for to in self.to {
            if let Some(to) = block_mut::<N, E>(self.large, to + at) {
                *to = values;
            }
        }
    }
}

/// Whether a maximum moves on to `v`: a NaN is one.
#[inline(always)]
fn exceeds(v: f32, best: f32) -> bool {
    (v > best) | (v.is_nan() & !best.is_nan())
}

/// Maxima of 2x2 windows.
struct MaxPool<'a, E> {
    large: &'a [E],
    size: (usize, usize, usize),
    small: &'a mut [E],
}

impl<E: Element> Kernel for MaxPool<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let MaxPool { large, size, small } = self;
        windows(size, |to, from| channel_blocks(size.2, &mut MaxWindow { large, from, small, to }));
    }
}

/// One window of [`MaxPool`].
struct MaxWindow<'a, E> {
    large: &'a [E],
    from: [usize; 4],
    small: &'a mut [E],
    to: usize,
}

impl<E: Element> Channels for MaxWindow<'_, E> {
    #[inline(always)]
    fn block<const N: usize>(&mut self, at: usize) {
        let [Some(first), Some(b), Some(c), Some(d)] = self.from.map(|from| block::<N, E>(self.large, from + at))
        else {
            return;
        };
        let Some(to) = block_mut::<N, E>(self.small, self.to + at) else { return };
        for i in 0..N {
            let mut best = first[i].get();
            for v in [b[i], c[i], d[i]] {
                best = if exceeds(v.get(), best) { v.get() } else { best };
            }
            to[i] = E::put(best);
        }
    }
}

/// The gradient of [`MaxPool`]: to the first maximum of each window.
struct MaxPoolBack<'a, E> {
    large: &'a [E],
    size: (usize, usize, usize),
    dy: &'a [E],
    dx: &'a mut [E],
}

impl<E: Element> Kernel for MaxPoolBack<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let MaxPoolBack { large, size: (h, w, c), dy, dx } = self;
        if h % 2 == 1 || w % 2 == 1 {
            dx.fill(E::default());
        }
        windows((h, w, c), |from, to| channel_blocks(c, &mut MaxBackWindow { large, dy, from, dx, to }));
    }
}

/// One window of [`MaxPoolBack`].
struct MaxBackWindow<'a, E> {
    large: &'a [E],
    dy: &'a [E],
    from: usize,
    dx: &'a mut [E],
    to: [usize; 4],
}

impl<E: Element> Channels for MaxBackWindow<'_, E> {
    #[inline(always)]
    fn block<const N: usize>(&mut self, at: usize) {
        let [Some(a), Some(b), Some(c), Some(d)] = self.to.map(|to| block::<N, E>(self.large, to + at)) else {
            return;
        };
        let Some(dy) = block::<N, E>(self.dy, self.from + at) else { return };
        let mut results = [[E::default(); N]; 4];
        // Without branches and numbers of places, so that it is vectorised.
        for i in 0..N {
            let later = |best: f32, v: E| {
                let moves = exceeds(v.get(), best);
                (moves, if moves { v.get() } else { best })
            };
            let (second, best) = later(a[i].get(), b[i]);
            let (third, best) = later(best, c[i]);
            let (fourth, _) = later(best, d[i]);
            let taken = [!(second | third | fourth), second & !(third | fourth), third & !fourth, fourth];
            for (result, taken) in results.iter_mut().zip(taken) {
                result[i] = if taken { dy[i] } else { E::default() };
            }
        }
        for (result, to) in results.into_iter().zip(self.to) {
            if let Some(to) = block_mut::<N, E>(self.dx, to + at) {
                *to = result;
            }
        }
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
