//! The gradient of a convolution's weights, on the kernels of `gemm` and `winograd`. It is summed over a fixed number of
//! pieces of the batch, in a fixed order.

use super::layout::{
    framed, group_of, grouped, input_frame, read_offsets, read_rows, tile_blocks, tile_frame, tiles_of,
};
use super::{HALF_SCRATCH, SCRATCH};
use crate::geometry::Geometry;
use crate::memory::{Pooled, Scratch};
use crate::simd::{Level, dispatch};
use crate::trunk::cpu::bf16;
use crate::trunk::cpu::element::Element;
use crate::trunk::cpu::frame::Frame;
use crate::trunk::cpu::gemm::{Outer, columns, level_for, whole_columns};
use crate::trunk::cpu::parallel::{Tasks, for_each_chunk};
use crate::trunk::cpu::view::Images;
use crate::trunk::cpu::winograd::{self, GradientTransform, InputTransform, Tiles};

/// Number of pieces of the batch that are summed separately; half as many if the gradient is large.
const PIECES: usize = 8;
/// Number of values beyond which a gradient is large.
const LARGE: usize = 1 << 19;
/// Number of sums in a task of the final reduction: 32 KiB of each piece.
const CHUNK: usize = 8 * 1024;

/// The gradient (cout, cin, k, k) of the weights, from the convolution's input images and the gradients of its results. An
/// upsampled convolution swaps the two, so both may have a prologue. For `products` in bf16, Winograd's transforms must apply.
pub(crate) fn weight_gradient<E: Element>(
    level: Level,
    g: &Geometry,
    x: Images<'_, E>,
    dy: Images<'_, E>,
    products: Option<bf16::Level>,
) -> Vec<f32> {
    if let Some(tiles) = tiles_of(g, products) {
        let sums = weight_sums(level, g, x, dy, tile_frame(tiles), &Sum::Winograd(tiles, products));
        return winograd::unpack_gradient(tiles, &sums, g.cin, g.cout);
    }
    let frame = input_frame(g);
    let (rows, runs, len) = read_offsets(g, g.cin, frame);
    let sums = weight_sums(level, g, x, dy, frame, &Sum::Direct { rows, runs, len });
    // From (kh, kw, cin, padded cout).
    let mut grad = vec![0.0; g.cout * g.cin * g.k * g.k];
    let n = columns(g.cout);
    for (from, row) in sums.chunks_exact(n).enumerate() {
        let tap = from / g.cin;
        let ci = from % g.cin;
        for (o, v) in row.iter().enumerate().take(g.cout) {
            grad[(o * g.cin + ci) * g.k * g.k + tap] = *v;
        }
    }
    grad
}

/// The algorithm of a weight gradient. Winograd's transforms have products in bf16 if a level is given.
enum Sum {
    Direct { rows: Vec<usize>, runs: Vec<usize>, len: usize },
    Winograd(Tiles, Option<bf16::Level>),
}

/// The sums of a weight gradient over all images, in the layout of the algorithm.
fn weight_sums<E: Element>(
    level: Level,
    g: &Geometry,
    x: Images<'_, E>,
    dy: Images<'_, E>,
    frame: Frame,
    sum: &Sum,
) -> Pooled<f32> {
    let images = x.values.len() / (g.h * g.w * g.cin).max(1);
    let positions = g.ho * g.wo;
    let n = columns(g.cout);
    let (count, positions) = match sum {
        Sum::Direct { runs, len, .. } => (runs.len() * len * n, positions),
        Sum::Winograd(tiles, _) => (tiles.places() * g.cin * n, tiles.rows * tiles.across),
    };
    let group = group_of(positions);
    let pieces = images.div_ceil(group).min(if count > LARGE { PIECES / 2 } else { PIECES }).max(1);
    let mut partial = Pooled::<f32>::new(pieces * count);
    for_each_chunk(&mut partial, count, Tasks::SINGLE, &|piece, sums| {
        sums.fill(0.0);
        let range = piece * images / pieces..(piece + 1) * images / pieces;
        for first in range.clone().step_by(group) {
            let count = group.min(range.end - first);
            SCRATCH.with_borrow_mut(|[frames, transformed, gradients, results]| {
                let a = framed(level, frame, (g.h, g.w, g.cin), x, first, count, frames);
                match sum {
                    Sum::Direct { rows, runs, len } => {
                        let rows = grouped(rows, count, frame.rows * frame.cols * g.cin);
                        let d = read_rows(level, (g.ho, g.wo, g.cout), dy, first, 0..count * g.ho, results);
                        let d = whole_columns(d, g.cout, gradients);
                        let level = level_for(level, n);
                        for (run, sum) in runs.iter().zip(sums.chunks_exact_mut(len * n)) {
                            dispatch(level, Outer { a: &a[*run..], rows: &rows, len: *len, d, n, sum });
                        }
                    }
                    Sum::Winograd(tiles, products) => {
                        add_tiles(
                            level,
                            g,
                            (*tiles, *products),
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
    for_each_chunk(total, CHUNK, Tasks::SINGLE, &|chunk, total| {
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
    let size = (g.ho, g.wo);
    let frame = (frame.rows, frame.cols);
    for tile_rows in tile_blocks(tiles, images, g.cin.max(g.cout)) {
        let count = tile_rows.len() * tiles.across;
        let v = transformed.take(tiles.places() * count * g.cin);
        let m = gradients.take(tiles.places() * count * g.cout);
        let rows = tile_rows.clone();
        let input = InputTransform { frames: a, frame, channels: g.cin, tiles, tile_rows: rows, out: &mut *v };
        winograd::transform(level, tiles.size, input);
        let pixels = tiles.pixel_rows(g.ho, &tile_rows);
        let images = read_rows(level, (g.ho, g.wo, g.cout), dy, first, pixels, results);
        let gradient = GradientTransform { images, size, channels: g.cout, tiles, tile_rows, out: &mut *m };
        winograd::transform(level, tiles.size, gradient);
        let at: Vec<usize> = (0..count).map(|tile| tile * g.cin).collect();
        let places = sums.chunks_exact_mut(g.cin * g.cout).enumerate().map(|(p, sum)| {
            (&v[p * count * g.cin..][..count * g.cin], &m[p * count * g.cout..][..count * g.cout], sum)
        });
        match products {
            None => places.for_each(|(a, d, sum)| {
                dispatch(level, Outer { a, rows: &at, len: g.cin, d, n: g.cout, sum });
            }),
            Some(products) => HALF_SCRATCH.with_borrow_mut(|[left, right]| {
                let pairs = count.div_ceil(2);
                places.for_each(|(a, d, c)| {
                    let a2 = left.take(pairs * g.cin * 2);
                    let d2 = right.take(pairs * g.cout * 2);
                    bf16::rounded_pairs(a, g.cin, a2);
                    bf16::rounded_pairs(d, g.cout, d2);
                    let rows = &at[..pairs];
                    let n = g.cout;
                    bf16::Outer { a2, rows, segments: &[0], len: g.cin, d2, n, c }.run(products);
                });
            }),
        }
    }
}
