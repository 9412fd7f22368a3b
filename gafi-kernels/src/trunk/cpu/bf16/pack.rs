//! f32 to bf16 and back, and the orders in which the kernels read their factors.
//!
//! These loops are vectorised for the CPU's best f32 level, see `ops::simd`.

use rayon::prelude::*;

use super::super::maps::at_a_time;
use super::PANEL;
use crate::ops::simd::{Kernel, Lane, Level, dispatch};

/// The nearest bf16, ties to even; a NaN stays one.
#[inline(always)]
pub(in super::super) fn bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // Not `is_nan`, which would keep the loop from being vectorised with integers alone.
    let nan = bits & 0x7fff_ffff > 0x7f80_0000;
    (if nan { bits >> 16 | 0x40 } else { nearest }) as u16
}

/// A bf16 as f32, exactly.
#[inline(always)]
pub(in super::super) fn value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// A loop over whole slices, to be vectorised.
struct Loop<F>(F);

impl<F: FnOnce()> Kernel for Loop<F> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        (self.0)();
    }
}

/// Channels of two positions as pairs: to\[i\] = \[first\[i\], second\[i\]\].
pub(in super::super) fn interleave(first: &[u16], second: &[u16], to: &mut [u16]) {
    let (pairs, _) = to.as_chunks_mut::<2>();
    dispatch(
        Level::best(),
        Loop(
            #[inline(always)]
            || {
                for ((pair, a), b) in pairs.iter_mut().zip(first).zip(second) {
                    *pair = [*a, *b];
                }
            },
        ),
    );
}

/// Positions of `n` channels, one after the other, as pairs of neighbours, (pairs, wide, 2), filled up with zeros:
/// behind `n` of `wide` channels, and for the partner of an odd last position.
pub(in super::super) fn pairs(row: &[u16], n: usize, wide: usize, to: &mut [u16]) {
    dispatch(
        Level::best(),
        Loop(
            #[inline(always)]
            || {
                for (two, to) in row.chunks(2 * n).zip(to.as_chunks_mut::<2>().0.chunks_exact_mut(wide)) {
                    let (first, second) = two.split_at(n);
                    let (head, tail) = to.split_at_mut(n);
                    if second.is_empty() {
                        head.iter_mut().zip(first).for_each(|(pair, a)| *pair = [*a, 0]);
                    } else {
                        head.iter_mut().zip(first).zip(second).for_each(|((pair, a), b)| *pair = [*a, *b]);
                    }
                    tail.fill([0; 2]);
                }
            },
        ),
    );
}

/// The nearest bf16 of each number. The instruction for it takes subnormal numbers for zero, as those that multiply do.
pub(in super::super) fn round(from: &[f32], to: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if super::avx512::supported() {
        // SAFETY: the CPU has the instructions.
        return unsafe { super::avx512::round(from, to) };
    }
    dispatch(
        Level::best(),
        Loop(
            #[inline(always)]
            || to.iter_mut().zip(from).for_each(|(to, from)| *to = bits(*from)),
        ),
    );
}

/// Pairs of neighbours, as [`pairs`], of f32 positions of `n` channels, a multiple of [`PANEL`], rounded as by [`round`]:
/// (pairs, n, 2).
pub(in super::super) fn rounded_pairs(rows: &[f32], n: usize, to: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if super::avx512::supported() {
        for (two, to) in rows.chunks(2 * n).zip(to.chunks_exact_mut(2 * n)) {
            let (first, second) = two.split_at(n);
            if second.is_empty() {
                let zeros = [0.0; PANEL];
                for (first, to) in first.chunks_exact(PANEL).zip(to.chunks_exact_mut(2 * PANEL)) {
                    // SAFETY: the CPU has the instructions.
                    unsafe { super::avx512::round_pairs(first, &zeros, to) };
                }
            } else {
                // SAFETY: the CPU has the instructions.
                unsafe { super::avx512::round_pairs(first, second, to) };
            }
        }
        return;
    }
    dispatch(
        Level::best(),
        Loop(
            #[inline(always)]
            || {
                for (two, to) in rows.chunks(2 * n).zip(to.as_chunks_mut::<2>().0.chunks_exact_mut(n)) {
                    let (first, second) = two.split_at(n);
                    for (i, pair) in to.iter_mut().enumerate() {
                        *pair = [bits(first[i]), second.get(i).map_or(0, |v| bits(*v))];
                    }
                }
            },
        ),
    );
}

/// A matrix (depth, n) as [`super::Rows`] wants its `b`: \[panel\]\[k / 2\]\[16\]\[2\], with zero columns behind `n`.
/// Element (k, j) is w\[bases\[k\] + j * stride\], or zero where there is no base. The depth, `bases.len()`, is even,
/// and `to` has as many times n.next_multiple_of(16).
pub(in super::super) fn pack(w: &[f32], bases: &[Option<usize>], stride: usize, n: usize, to: &mut [u16]) {
    assert!(bases.len().is_multiple_of(2));
    let panels = to.par_chunks_exact_mut((bases.len() * PANEL).max(1)).enumerate();
    panels.with_min_len(at_a_time(bases.len() * PANEL)).for_each(|(panel, to)| {
        let columns = PANEL.min(n - panel * PANEL);
        let from = panel * PANEL * stride;
        for (base, to) in bases.as_chunks::<2>().0.iter().zip(to.as_chunks_mut::<2>().0.as_chunks_mut::<PANEL>().0) {
            let at = |base: Option<usize>, j: usize| base.map_or(0, |base| bits(w[base + from + j * stride]));
            for (j, pair) in to.iter_mut().enumerate() {
                *pair = if j < columns { [at(base[0], j), at(base[1], j)] } else { [0; 2] };
            }
        }
    });
}
