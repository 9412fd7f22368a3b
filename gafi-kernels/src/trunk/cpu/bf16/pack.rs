//! Conversion between f32 and bf16, and the memory layouts of the kernels' factors.
//!
//! These loops are vectorised for the CPU's best f32 level, see `crate::simd`.

use super::PANEL;
use crate::simd::{Level, vectorised};
use crate::trunk::cpu::parallel::{Tasks, for_each_chunk};

/// Rounds to the nearest bf16, ties to even. NaN stays NaN.
#[inline(always)]
pub(crate) fn bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // Not `is_nan`: with integers alone, the compiler vectorises loops over this function.
    let nan = bits & 0x7fff_ffff > 0x7f80_0000;
    (if nan { bits >> 16 | 0x40 } else { nearest }) as u16
}

/// The exact value of a bf16.
#[inline(always)]
pub(crate) fn value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Pairs the channels of two positions: to\[i\] = \[first\[i\], second\[i\]\].
pub(crate) fn interleave(first: &[u16], second: &[u16], to: &mut [u16]) {
    let (pairs, _) = to.as_chunks_mut::<2>();
    vectorised(
        Level::best(),
        #[inline(always)]
        || {
            for ((pair, a), b) in pairs.iter_mut().zip(first).zip(second) {
                *pair = [*a, *b];
            }
        },
    );
}

/// Pairs neighbouring positions of `n` channels, to (pairs, wide, 2). The channels from `n` on and the missing partner of an
/// odd last position are zero.
pub(crate) fn pairs(row: &[u16], n: usize, wide: usize, to: &mut [u16]) {
    vectorised(
        Level::best(),
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
    );
}

/// Rounds each number to the nearest bf16. The instruction for it treats subnormal numbers as zero, like those that
/// multiply.
pub(crate) fn round(from: &[f32], to: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if super::avx512::supported() {
        // SAFETY: `supported` has confirmed the instructions.
        return unsafe { super::avx512::round(from, to) };
    }
    vectorised(
        Level::best(),
        #[inline(always)]
        || to.iter_mut().zip(from).for_each(|(to, from)| *to = bits(*from)),
    );
}

/// Pairs neighbouring f32 positions like [`pairs`], rounded like [`round`], to (pairs, n, 2). `n` is a multiple of
/// [`PANEL`].
pub(crate) fn rounded_pairs(rows: &[f32], n: usize, to: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if super::avx512::supported() {
        for (two, to) in rows.chunks(2 * n).zip(to.chunks_exact_mut(2 * n)) {
            let (first, second) = two.split_at(n);
            if second.is_empty() {
                let zeros = [0.0; PANEL];
                for (first, to) in first.chunks_exact(PANEL).zip(to.chunks_exact_mut(2 * PANEL)) {
                    // SAFETY: `supported` has confirmed the instructions.
                    unsafe { super::avx512::round_pairs(first, &zeros, to) };
                }
            } else {
                // SAFETY: `supported` has confirmed the instructions.
                unsafe { super::avx512::round_pairs(first, second, to) };
            }
        }
        return;
    }
    vectorised(
        Level::best(),
        #[inline(always)]
        || {
            for (two, to) in rows.chunks(2 * n).zip(to.as_chunks_mut::<2>().0.chunks_exact_mut(n)) {
                let (first, second) = two.split_at(n);
                for (i, pair) in to.iter_mut().enumerate() {
                    *pair = [bits(first[i]), second.get(i).map_or(0, |v| bits(*v))];
                }
            }
        },
    );
}

/// Packs a matrix (depth, n) into the layout of `b` in [`super::Rows`]: \[panel\]\[k / 2\]\[16\]\[2\], with zero columns from
/// `n` on. Element (k, j) is w\[bases\[k\] + j * stride\], or zero where there is no base. The depth, `bases.len()`, must be
/// even, and `to` must have depth * n.next_multiple_of(16) elements.
pub(crate) fn pack(w: &[f32], bases: &[Option<usize>], stride: usize, n: usize, to: &mut [u16]) {
    assert!(bases.len().is_multiple_of(2));
    let size = bases.len() * PANEL;
    for_each_chunk(to, size, Tasks::large(size), &|panel, to| {
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
