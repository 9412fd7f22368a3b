//! Loops over channels in blocks that fit into registers.

use super::element::Element;
use crate::simd::{Kernel, Lane, Level, dispatch};

/// Work that is done for a block of channels at a time.
pub(super) trait Channels {
    /// Processes channels `at..at + N`. Implementations must mark it `#[inline(always)]`, so that its body is compiled inside
    /// the function that enables the level's target features.
    fn block<const N: usize>(&mut self, at: usize);
}

/// Processes all channels in blocks of 16, which fit into registers, then of 8, then one by one.
#[inline(always)]
pub(super) fn channel_blocks(channels: usize, work: &mut impl Channels) {
    let mut at = 0;
    while at + 16 <= channels {
        work.block::<16>(at);
        at += 16;
    }
    if at + 8 <= channels {
        work.block::<8>(at);
        at += 8;
    }
    while at < channels {
        work.block::<1>(at);
        at += 1;
    }
}

/// The `N` values from index `at` on.
#[inline(always)]
pub(super) fn block<const N: usize, T>(values: &[T], at: usize) -> Option<&[T; N]> {
    values.get(at..at + N)?.first_chunk()
}

/// Adds up each channel's values and squares, in f64.
struct Sums<'a, E>(&'a [E], &'a mut [f64]);

impl<E: Element> Channels for Sums<'_, E> {
    #[inline(always)]
    fn block<const N: usize>(&mut self, at: usize) {
        let c = self.1.len() / 2;
        let mut s = [0.0f64; N];
        let mut q = [0.0f64; N];
        for pixel in self.0.chunks_exact(c) {
            let Some(v) = block::<N, E>(pixel, at) else { return };
            for i in 0..N {
                let v = f64::from(v[i].get());
                s[i] += v;
                q[i] += v * v;
            }
        }
        for i in 0..N {
            self.1[at + i] += s[i];
            self.1[c + at + i] += q[i];
        }
    }
}

impl<E: Element> Kernel for Sums<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(mut self, _: L) {
        channel_blocks(self.1.len() / 2, &mut self);
    }
}

/// Adds the sums and the sums of squares of an image's channels to `out` (2, C).
pub(super) fn add_sums<E: Element>(level: Level, image: &[E], out: &mut [f64]) {
    dispatch(level, Sums(image, out));
}
