//! Ops on 2x2 windows on the CPU: pools, upsampling and their gradients.

use super::channels::{Channels, block, channel_blocks};
use super::element::Element;
use super::pointwise::each_image;
use super::view::Images;
use crate::geometry::Maps;
use crate::memory::Pooled;
use crate::simd::{Kernel, Lane, Level, dispatch};

/// An op on 2x2 windows.
trait Window {
    /// Processes `N` channels of a window: from index `small` of the small image on, and from the four indices `large` of the
    /// large one on. Implementations must mark it `#[inline(always)]`; see [`Channels::block`].
    fn block<const N: usize>(&mut self, small: usize, large: [usize; 4]);
}

/// An op on all whole windows of an image, whose (h, w, c) is given.
struct Windows<W>((usize, usize, usize), W);

impl<W: Window> Kernel for Windows<W> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let Windows((h, w, c), mut op) = self;
        for r in 0..h / 2 {
            for s in 0..w / 2 {
                let at = (2 * r * w + 2 * s) * c;
                let large = [at, at + c, at + w * c, at + (w + 1) * c];
                channel_blocks(c, &mut At { op: &mut op, small: (r * (w / 2) + s) * c, large });
            }
        }
    }
}

/// An op at one window: the index of the first value of its pixel in the small image, and of its four pixels in the large one.
struct At<'a, W> {
    op: &'a mut W,
    small: usize,
    large: [usize; 4],
}

impl<W: Window> Channels for At<'_, W> {
    #[inline(always)]
    fn block<const N: usize>(&mut self, at: usize) {
        let [a, b, c, d] = self.large;
        self.op.block::<N>(self.small + at, [a + at, b + at, c + at, d + at]);
    }
}

/// Clears an image that whole windows don't cover.
fn clear_odd<E: Element>(h: usize, w: usize, large: &mut [E]) {
    if h % 2 == 1 || w % 2 == 1 {
        large.fill(E::default());
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
    factor: f32,
    small: &'a mut [E],
}

impl<E: Element> Window for Gather<'_, E> {
    #[inline(always)]
    fn block<const N: usize>(&mut self, small: usize, large: [usize; 4]) {
        let [Some(a), Some(b), Some(c), Some(d)] = large.map(|at| block::<N, E>(self.large, at)) else { return };
        let Some(to) = block_mut::<N, E>(self.small, small) else { return };
        for i in 0..N {
            to[i] = E::put(self.factor * ((a[i].get() + b[i].get()) + (c[i].get() + d[i].get())));
        }
    }
}

/// `factor` times each pixel of a small image, written to the four pixels of its window.
struct Spread<'a, E> {
    small: &'a [E],
    factor: f32,
    large: &'a mut [E],
}

impl<E: Element> Window for Spread<'_, E> {
    #[inline(always)]
    fn block<const N: usize>(&mut self, small: usize, large: [usize; 4]) {
        let Some(from) = block::<N, E>(self.small, small) else { return };
        let values: [E; N] = std::array::from_fn(|i| E::put(self.factor * from[i].get()));
        for at in large {
            if let Some(to) = block_mut::<N, E>(self.large, at) {
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
    small: &'a mut [E],
}

impl<E: Element> Window for MaxPool<'_, E> {
    #[inline(always)]
    fn block<const N: usize>(&mut self, small: usize, large: [usize; 4]) {
        let [Some(first), Some(b), Some(c), Some(d)] = large.map(|at| block::<N, E>(self.large, at)) else { return };
        let Some(to) = block_mut::<N, E>(self.small, small) else { return };
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
    dy: &'a [E],
    dx: &'a mut [E],
}

impl<E: Element> Window for MaxPoolBackward<'_, E> {
    #[inline(always)]
    fn block<const N: usize>(&mut self, small: usize, large: [usize; 4]) {
        let [Some(a), Some(b), Some(c), Some(d)] = large.map(|at| block::<N, E>(self.large, at)) else { return };
        let Some(dy) = block::<N, E>(self.dy, small) else { return };
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
        for (result, at) in results.into_iter().zip(large) {
            if let Some(to) = block_mut::<N, E>(self.dx, at) {
                *to = result;
            }
        }
    }
}

/// Maxima of 2x2 windows.
pub(super) fn max_pool<E: Element>(level: Level, maps: Maps, x: Images<'_, E>) -> Pooled<E> {
    let Maps { h, w, c, .. } = maps;
    each_image(level, maps, x, (h / 2) * (w / 2) * c, &|_, large, small| {
        dispatch(level, Windows((h, w, c), MaxPool { large, small }));
    })
}

/// The gradient of [`max_pool`], from that of its result.
pub(super) fn max_pool_gradient<E: Element>(level: Level, maps: Maps, x: Images<'_, E>, dy: &[E]) -> Pooled<E> {
    let Maps { h, w, c, .. } = maps;
    let small = (h / 2) * (w / 2) * c;
    each_image(level, maps, x, h * w * c, &|n, large, dx| {
        clear_odd(h, w, dx);
        dispatch(level, Windows((h, w, c), MaxPoolBackward { large, dy: &dy[n * small..][..small], dx }));
    })
}

/// `factor` times the sums of 2x2 windows: average pooling with 1/4, the gradient of upsampling with 1.
pub(super) fn gather2x2<E: Element>(level: Level, maps: Maps, x: Images<'_, E>, factor: f32) -> Pooled<E> {
    let Maps { h, w, c, .. } = maps;
    each_image(level, maps, x, (h / 2) * (w / 2) * c, &|_, large, small| {
        dispatch(level, Windows((h, w, c), Gather { large, factor, small }));
    })
}

/// `factor` times each pixel, on the four pixels of its window in images of shape `large`: upsampling with 1, the gradient of
/// average pooling with 1/4.
pub(super) fn spread2x2<E: Element>(level: Level, large: Maps, x: Images<'_, E>, factor: f32) -> Pooled<E> {
    let Maps { h, w, c, .. } = large;
    each_image(level, large.with(h / 2, w / 2, c), x, h * w * c, &|_, small, large| {
        clear_odd(h, w, large);
        dispatch(level, Windows((h, w, c), Spread { small, factor, large }));
    })
}
