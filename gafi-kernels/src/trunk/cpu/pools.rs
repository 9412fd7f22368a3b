//! Ops on 2x2 windows on the CPU: pools, upsampling and their gradients.

use super::channels::{Channels, block, channel_blocks};
use super::element::Element;
use super::pointwise::each_image;
use super::view::Images;
use crate::geometry::Maps;
use crate::memory::Pooled;
use crate::simd::{Kernel, Lane, Level, dispatch};

/// Calls `each(small, [large; 4])` for each whole 2x2 window: the index of the first value of its pixel in the small image,
/// and of its four pixels in the large one.
#[inline(always)]
fn windows((h, w, c): (usize, usize, usize), mut each: impl FnMut(usize, [usize; 4])) {
    for r in 0..h / 2 {
        for s in 0..w / 2 {
            let at = (2 * r * w + 2 * s) * c;
            each((r * (w / 2) + s) * c, [at, at + c, at + w * c, at + (w + 1) * c]);
        }
    }
}

/// The `N` values from index `at` on, mutably.
#[inline(always)]
fn block_mut<const N: usize, T>(values: &mut [T], at: usize) -> Option<&mut [T; N]> {
    values.get_mut(at..at + N)?.first_chunk_mut()
}

/// `factor` times the sums of 2x2 windows of an image.
struct Gather<'a, E> {
    large: &'a [E],
    size: (usize, usize, usize),
    factor: f32,
    small: &'a mut [E],
}

impl<E: Element> Kernel for Gather<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let Gather { large, size, factor, small } = self;
        windows(size, |to, from| channel_blocks(size.2, &mut GatherWindow { large, from, factor, small, to }));
    }
}

/// One window of [`Gather`].
struct GatherWindow<'a, E> {
    large: &'a [E],
    from: [usize; 4],
    factor: f32,
    small: &'a mut [E],
    to: usize,
}

impl<E: Element> Channels for GatherWindow<'_, E> {
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

/// `factor` times each pixel of a small image, written to the four pixels of its window; 0 outside whole windows.
struct Spread<'a, E> {
    small: &'a [E],
    /// (h, w, c) of the large image.
    size: (usize, usize, usize),
    factor: f32,
    large: &'a mut [E],
}

impl<E: Element> Kernel for Spread<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let Spread { small, size: (h, w, c), factor, large } = self;
        if h % 2 == 1 || w % 2 == 1 {
            large.fill(E::default());
        }
        windows((h, w, c), |from, to| channel_blocks(c, &mut SpreadWindow { small, from, factor, large, to }));
    }
}

/// One window of [`Spread`].
struct SpreadWindow<'a, E> {
    small: &'a [E],
    from: usize,
    factor: f32,
    large: &'a mut [E],
    to: [usize; 4],
}

impl<E: Element> Channels for SpreadWindow<'_, E> {
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

/// Whether `v` replaces the maximum `best`. A NaN replaces every number.
#[inline(always)]
fn exceeds(v: f32, best: f32) -> bool {
    (v > best) | (v.is_nan() & !best.is_nan())
}

/// Maxima of 2x2 windows of an image.
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

/// The gradient of [`MaxPool`], which goes to the first maximum of each window.
struct MaxPoolBackward<'a, E> {
    large: &'a [E],
    size: (usize, usize, usize),
    dy: &'a [E],
    dx: &'a mut [E],
}

impl<E: Element> Kernel for MaxPoolBackward<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let MaxPoolBackward { large, size: (h, w, c), dy, dx } = self;
        if h % 2 == 1 || w % 2 == 1 {
            dx.fill(E::default());
        }
        windows((h, w, c), |from, to| channel_blocks(c, &mut MaxBackwardWindow { large, dy, from, dx, to }));
    }
}

/// One window of [`MaxPoolBackward`].
struct MaxBackwardWindow<'a, E> {
    large: &'a [E],
    dy: &'a [E],
    from: usize,
    dx: &'a mut [E],
    to: [usize; 4],
}

impl<E: Element> Channels for MaxBackwardWindow<'_, E> {
    #[inline(always)]
    fn block<const N: usize>(&mut self, at: usize) {
        let [Some(a), Some(b), Some(c), Some(d)] = self.to.map(|to| block::<N, E>(self.large, to + at)) else {
            return;
        };
        let Some(dy) = block::<N, E>(self.dy, self.from + at) else { return };
        let mut results = [[E::default(); N]; 4];
        // Without branches and indices, so that the loop is vectorised.
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
    each_image(level, maps, x, (h / 2) * (w / 2) * c, &|_, large, small| {
        dispatch(level, MaxPool { large, size: (h, w, c), small });
    })
}

/// The gradient of [`max_pool`], from that of its result.
pub(super) fn max_pool_gradient<E: Element>(level: Level, maps: Maps, x: Images<'_, E>, dy: &[E]) -> Pooled<E> {
    let Maps { h, w, c, .. } = maps;
    let small = (h / 2) * (w / 2) * c;
    each_image(level, maps, x, h * w * c, &|n, large, dx| {
        dispatch(level, MaxPoolBackward { large, size: (h, w, c), dy: &dy[n * small..][..small], dx });
    })
}

/// `factor` times the sums of 2x2 windows: average pooling with 1/4, the gradient of upsampling with 1.
pub(super) fn gather2x2<E: Element>(level: Level, maps: Maps, x: Images<'_, E>, factor: f32) -> Pooled<E> {
    let Maps { h, w, c, .. } = maps;
    each_image(level, maps, x, (h / 2) * (w / 2) * c, &|_, large, small| {
        dispatch(level, Gather { large, size: (h, w, c), factor, small });
    })
}

/// `factor` times each pixel, on the four pixels of its window in images of shape `large`: upsampling with 1, the gradient of
/// average pooling with 1/4.
pub(super) fn spread2x2<E: Element>(level: Level, large: Maps, x: Images<'_, E>, factor: f32) -> Pooled<E> {
    let Maps { h, w, c, .. } = large;
    each_image(level, large.with(h / 2, w / 2, c), x, h * w * c, &|_, small, large| {
        dispatch(level, Spread { small, size: (h, w, c), factor, large });
    })
}
