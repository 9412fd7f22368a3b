//! The kernels for CPUs without bf16 instructions. Factors are widened to f32 block by block and multiplied in f32.

use super::{Outer, PANEL, Rows, Start, value};
use crate::simd::{Kernel, Lane, Level, dispatch};

/// Number of factors of a sum in a block; even.
const DEPTH: usize = 256;
/// Number of rows in a block; a multiple of all register blocks.
const ROWS: usize = 32;

/// Computes a [`super::Rows`] whose `check` has passed.
pub(super) fn rows(job: Rows<'_>) {
    dispatch(Level::best(), Widened(job));
}

/// A job whose factors are widened.
struct Widened<J>(J);

impl Kernel for Widened<Rows<'_>> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lane>(self, lane: L) {
        let Rows { a, rows, segments, len, b, n, start, c, .. } = self.0;
        let depth = segments.len() * len;
        for row in c.chunks_exact_mut(n).take(rows.len()) {
            match start {
                Start::Zero => row.fill(0.0),
                Start::Bias(bias) => row.copy_from_slice(&bias[..n]),
                Start::Sum => {}
            }
        }
        let mut left = vec![0.0; ROWS * DEPTH];
        let mut right = vec![0.0; DEPTH * PANEL];
        for (s, segment) in segments.iter().enumerate() {
            for from in (0..len).step_by(DEPTH) {
                let now = DEPTH.min(len - from);
                for (block, rows) in rows.chunks(ROWS).enumerate() {
                    for (to, row) in left.chunks_exact_mut(DEPTH).zip(rows) {
                        let a = &a[row + segment + from..][..now];
                        to.iter_mut().zip(a).for_each(|(t, v)| *t = value(*v));
                    }
                    for panel in 0..n / PANEL {
                        widen(&b[(panel * depth + s * len + from) * PANEL..][..now * PANEL], &mut right);
                        let c = &mut c[block * ROWS * n + panel * PANEL..];
                        let product = Product { left: &left, row: DEPTH, step: 1, right: &right, count: now, c, n };
                        product.add(lane, rows.len());
                    }
                }
            }
        }
    }
}

/// Widens pairs \[..\]\[16\]\[2\] to rows \[..\]\[2\]\[16\] of f32.
#[inline(always)]
fn widen(pairs: &[u16], to: &mut [f32]) {
    for (two, from) in to.as_chunks_mut::<32>().0.iter_mut().zip(pairs.as_chunks::<32>().0) {
        for j in 0..PANEL {
            two[j] = value(from[2 * j]);
            two[PANEL + j] = value(from[2 * j + 1]);
        }
    }
}

/// Computes a [`super::Outer`] whose `check` has passed.
pub(super) fn outer(job: Outer<'_>) {
    dispatch(Level::best(), Widened(job));
}

impl Kernel for Widened<Outer<'_>> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lane>(self, lane: L) {
        let Outer { a2, rows, segments, len, d2, n, c } = self.0;
        // Positions run downwards, channels across.
        let mut left = vec![0.0; DEPTH * ROWS];
        let mut right = vec![0.0; DEPTH * PANEL];
        for (rows, d2) in rows.chunks(DEPTH / 2).zip(d2.chunks(DEPTH * n)) {
            let blocks = (0..segments.len()).flat_map(|s| (0..len).step_by(ROWS).map(move |i| (s, i)));
            for (s, i) in blocks {
                let now = ROWS.min(len - i);
                for (to, row) in left.chunks_exact_mut(2 * ROWS).zip(rows) {
                    let (first, second) = to.split_at_mut(ROWS);
                    let pairs = a2[2 * (row + segments[s] + i)..][..2 * now].as_chunks::<2>().0;
                    for ((f, s), pair) in first.iter_mut().zip(second).zip(pairs) {
                        *f = value(pair[0]);
                        *s = value(pair[1]);
                    }
                }
                for panel in 0..n / PANEL {
                    for (to, d2) in right.chunks_exact_mut(2 * PANEL).zip(d2.chunks_exact(2 * n)) {
                        widen(&d2[2 * panel * PANEL..][..2 * PANEL], to);
                    }
                    let c = &mut c[(s * len + i) * n + panel * PANEL..];
                    let count = 2 * rows.len();
                    let product = Product { left: &left, row: 1, step: ROWS, right: &right, count, c, n };
                    product.add(lane, now);
                }
            }
        }
    }
}

/// c\[r\]\[j\] += sum over k < count of left\[r * row + k * step\] * right\[k\]\[j\], for the 16 columns j of a panel.
struct Product<'a> {
    left: &'a [f32],
    row: usize,
    step: usize,
    right: &'a [f32],
    count: usize,
    c: &'a mut [f32],
    /// Distance between two rows of `c`.
    n: usize,
}

impl Product<'_> {
    #[inline(always)]
    fn add<L: Lane>(mut self, lane: L, rows: usize) {
        // The unsafe blocks below rely on these assertions.
        assert!(rows > 0 && self.count > 0 && self.right.len() >= self.count * PANEL);
        assert!(self.left.len() > (rows - 1) * self.row + (self.count - 1) * self.step);
        assert!(self.c.len() >= (rows - 1) * self.n + PANEL);
        let mut r = 0;
        while r < rows {
            // SAFETY: the block ends at row `rows` at the latest; the rest is asserted above.
            r += unsafe {
                match (L::N, rows - r) {
                    (16, 8..) => self.block::<L, 8, 1>(lane, r),
                    (16, 4..) => self.block::<L, 4, 1>(lane, r),
                    (16, _) => self.block::<L, 1, 1>(lane, r),
                    (_, 4..) => self.block::<L, 4, 2>(lane, r),
                    (_, _) => self.block::<L, 1, 2>(lane, r),
                }
            };
        }
    }

    /// Adds to R rows from `first` on; returns R.
    ///
    /// # Safety
    /// V * N must be 16, and the rows and `count` must be within the slices.
    #[inline(always)]
    unsafe fn block<L: Lane, const R: usize, const V: usize>(&mut self, lane: L, first: usize) -> usize {
        let mut acc = [[lane.splat(0.0); V]; R];
        let mut left = self.left.as_ptr().wrapping_add(first * self.row);
        let mut right = self.right.as_ptr();
        for _ in 0..self.count {
            let mut y = [lane.splat(0.0); V];
            for (v, y) in y.iter_mut().enumerate() {
                // SAFETY: `right` has 16 floats in each of `count` rows.
                *y = unsafe { lane.load(right.wrapping_add(v * L::N)) };
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                // SAFETY: a factor of row first + r, of which there are `count`.
                let x = lane.splat(unsafe { *left.wrapping_add(r * self.row) });
                for (acc, y) in acc.iter_mut().zip(y) {
                    *acc = lane.fma(x, y, *acc);
                }
            }
            left = left.wrapping_add(self.step);
            right = right.wrapping_add(PANEL);
        }
        let one = lane.splat(1.0);
        for (r, acc) in acc.iter().enumerate() {
            for (v, acc) in acc.iter().enumerate() {
                let c = self.c.as_mut_ptr().wrapping_add((first + r) * self.n + v * L::N);
                // SAFETY: row first + r of c has 16 floats.
                unsafe { lane.store(c, lane.fma(*acc, one, lane.load(c.cast_const()))) };
            }
        }
        R
    }
}
