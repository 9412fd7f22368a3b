//! The gradient of a convolution's weights, over the kernels of `gemm` and `winograd`: sums over a fixed number of pieces of the
//! batch, in a fixed order.

use rayon::prelude::*;

use super::super::super::backend::Geometry;
use super::super::super::memory::Pooled;
use super::super::bf16;
use super::super::gemm::{Outer, columns, level_for, whole_columns};
use super::super::maps::{Element, Frame};
use super::super::winograd::{self, PLACES, Tiles};
use super::{
    HALVES, Images, SCRATCH, block_rows, framed, group_of, grouped, input_frame, reads, rows_read, tile_frame,
    tiles_of, transforms_in_halves,
};
use crate::ops::simd::{Level, Scratch, dispatch};

/// Pieces of a batch that a weight gradient is summed over; half as many where the sums are large.
const PIECES: usize = 8;
/// What counts as large, in values.
const LARGE: usize = 1 << 19;
/// Sums that a thread adds up at a time: 32 KiB of each piece.
const CHUNK: usize = 8 * 1024;

/// The gradient of the weights, (cout, cin, k, k), from the images that the convolution read and the gradients of its results.
/// For an upsampled convolution the two change places, so both may have something applied.
pub(in super::super) fn weight_gradient<E: Element>(
    level: Level,
    g: &Geometry,
    x: Images<'_, E>,
    dy: Images<'_, E>,
) -> Vec<f32> {
    match tiles_of(g) {
        Some(tiles) => winograd_gradient(level, g, x, dy, tiles, None),
        None => {
            let frame = input_frame(g);
            let (rows, runs, len) = reads(g, frame);
            let sums = weight_sums(level, g, x, dy, frame, &Sum::Direct { rows, runs, len });
            // (kh, kw, cin), cout padded.
            let (mut grad, n) = (vec![0.0; g.cout * g.cin * g.k * g.k], columns(g.cout));
            for (from, row) in sums.chunks_exact(n).enumerate() {
                let (tap, ci) = (from / g.cin, from % g.cin);
                for (o, v) in row.iter().enumerate().take(g.cout) {
                    grad[(o * g.cin + ci) * g.k * g.k + tap] = *v;
                }
            }
            grad
        }
    }
}

/// [`weight_gradient`] with transforms in f32 and products in bf16, where the convolution is one of Winograd's.
pub(in super::super) fn halved_weight_gradient<E: Element>(
    level: Level,
    g: &Geometry,
    x: Images<'_, E>,
    dy: Images<'_, E>,
    products: bf16::Level,
) -> Option<Vec<f32>> {
    let tiles = tiles_of(g).filter(|_| transforms_in_halves(g))?;
    Some(winograd_gradient(level, g, x, dy, tiles, Some(products)))
}

fn winograd_gradient<E: Element>(
    level: Level,
    g: &Geometry,
    x: Images<'_, E>,
    dy: Images<'_, E>,
    tiles: Tiles,
    products: Option<bf16::Level>,
) -> Vec<f32> {
    let sums = weight_sums(level, g, x, dy, tile_frame(tiles), &Sum::Winograd(tiles, products));
    winograd::unpack_gradient(&sums, g.cin, g.cout)
}

enum Sum {
    Direct {
        rows: Vec<usize>,
        runs: Vec<usize>,
        len: usize,
    },
    /// In bf16, if a level is given.
    Winograd(Tiles, Option<bf16::Level>),
}

/// The sums that the gradient of the weights is made of, over all images.
fn weight_sums<E: Element>(
    level: Level,
    g: &Geometry,
    x: Images<'_, E>,
    dy: Images<'_, E>,
    frame: Frame,
    sum: &Sum,
) -> Pooled<f32> {
    let images = x.values.len() / (g.h * g.w * g.cin).max(1);
    let (positions, n) = (g.ho * g.wo, columns(g.cout));
    let (count, positions) = match sum {
        Sum::Direct { runs, len, .. } => (runs.len() * len * n, positions),
        Sum::Winograd(tiles, _) => (PLACES * g.cin * n, tiles.rows * tiles.across),
    };
    let group = group_of(positions);
    let pieces = images.div_ceil(group).min(if count > LARGE { PIECES / 2 } else { PIECES }).max(1);
    let mut partial = Pooled::<f32>::new(pieces * count);
    partial.par_chunks_mut(count.max(1)).enumerate().with_max_len(1).for_each(|(piece, sums)| {
        sums.fill(0.0);
        let range = piece * images / pieces..(piece + 1) * images / pieces;
        for first in range.clone().step_by(group) {
            let count = group.min(range.end - first);
            SCRATCH.with_borrow_mut(|[frames, transformed, gradients, results]| {
                let a = framed(level, frame, (g.h, g.w, g.cin), x, first, count, frames);
                match sum {
                    Sum::Direct { rows, runs, len } => {
                        let rows = grouped(rows, count, frame.rows * frame.cols * g.cin);
                        let d = rows_read(level, (g.ho, g.wo, g.cout), dy, first, 0..count * g.ho, results);
                        let (d, level) = (whole_columns(d, g.cout, gradients), level_for(level, n));
                        for (run, sum) in runs.iter().zip(sums.chunks_exact_mut(len * n)) {
                            dispatch(level, Outer { a: &a[*run..], rows: &rows, len: *len, d, n, sum });
                        }
                    }
                    Sum::Winograd(tiles, products) => {
                        let how = (*tiles, *products);
                        add_tiles(
                            level,
                            g,
                            how,
                            (frame, a),
                            (dy, first, count),
                            [transformed, gradients, results],
                            sums,
                        );
                    }
                }
            });
        }
    });
    let (total, others) = partial.split_at_mut(count);
    total.par_chunks_mut(CHUNK).enumerate().with_max_len(1).for_each(|(chunk, total)| {
        for piece in others.chunks_exact(count.max(1)) {
            total.iter_mut().zip(&piece[chunk * CHUNK..]).for_each(|(t, p)| *t += p);
        }
    });
    partial.shorten(count);
    partial
}

/// Adds the products of a group of images' transformed tiles to `sums`, (place, cin, cout).
fn add_tiles<E: Element>(
    level: Level,
    g: &Geometry,
    (tiles, products): (Tiles, Option<bf16::Level>),
    (frame, a): (Frame, &[f32]),
    (dy, first, images): (Images<'_, E>, usize, usize),
    [transformed, gradients, results]: [&mut Scratch; 3],
    sums: &mut [f32],
) {
    let (all, block) = (images * tiles.rows, block_rows(tiles, g.cin.max(g.cout)));
    for start in (0..all).step_by(block) {
        let rows = start..all.min(start + block);
        let count = rows.len() * tiles.across;
        let (v, m) = (transformed.take(PLACES * count * g.cin), gradients.take(PLACES * count * g.cout));
        winograd::transform_input(level, a, (frame.rows, frame.cols), g.cin, tiles, rows.clone(), v);
        let d = rows_read(level, (g.ho, g.wo, g.cout), dy, first, tiles.pixel_rows(g.ho, &rows), results);
        winograd::transform_gradient(level, d, (g.ho, g.wo), g.cout, tiles, rows, m);
        let at: Vec<usize> = (0..count).map(|tile| tile * g.cin).collect();
        let places = sums.chunks_exact_mut(g.cin * g.cout).enumerate().map(|(p, sum)| {
            (&v[p * count * g.cin..][..count * g.cin], &m[p * count * g.cout..][..count * g.cout], sum)
        });
        match products {
            None => places.for_each(|(a, d, sum)| {
                dispatch(level, Outer { a, rows: &at, len: g.cin, d, n: g.cout, sum });
            }),
            Some(products) => HALVES.with_borrow_mut(|[left, right]| {
                let pairs = count.div_ceil(2);
                places.for_each(|(a, d, c)| {
                    let (a2, d2) = (left.take(pairs * g.cin * 2), right.take(pairs * g.cout * 2));
                    bf16::rounded_pairs(a, g.cin, a2);
                    bf16::rounded_pairs(d, g.cout, d2);
                    let rows = &at[..pairs];
                    let (segments, len, n, ldc) = (&[0][..], g.cin, g.cout, g.cout);
                    bf16::Outer { a2, rows, segments, len, d2, n, c, ldc }.run(products);
                });
            }),
        }
    }
}
