//! Convolutions of whole batches, over the kernels of `gemm` and `winograd`.
//!
//! Forward and input gradient are one thing here, a [`Plan`]: a frame of zeros to put each image into, and either Winograd's
//! transforms or passes that each make every `step`-th row and column of the result. (The input gradient of a stride-s
//! convolution has s * s such passes, one for each phase of the input, with a share of the taps each.) Small images are
//! worked on in groups, which threads share.

mod phases;
mod taps;
mod upsampled;
mod weights;

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::super::backend::Geometry;
use super::super::memory::Pooled;
use super::bf16;
use super::gemm::{PANEL, Rows, level_for, pack};
use super::maps::{Element, Frame, Halves, HostPre, read};
use super::winograd::{self, PLACES, Tiles};
use crate::ops::simd::{Level, Scratch, dispatch};

/// Positions that a group of small images has at least.
const GROUP: usize = 64;
/// Values of the transformed input (and of the products) of a block of Winograd tiles: 256 KiB, so that both stay in L2.
const BLOCK: usize = 64 * 1024;
/// Tiles of a block at least, however many channels they have: weights are read once for each block.
const TILES: usize = 32;
pub(super) use phases::back_passes;
pub(super) use taps::has_few;
pub(super) use upsampled::Upsampled;
pub(super) use weights::{halved_weight_gradient, weight_gradient};

thread_local! {
    /// Frames, transformed tiles, products and results of this thread; kept, as they are needed for every image of every layer.
    static SCRATCH: RefCell<[Scratch; 4]> = RefCell::default();
    /// Transformed tiles in bf16.
    static HALVES: RefCell<[Halves; 2]> = RefCell::default();
}

/// Images with what is applied to them as they are read.
#[derive(Clone, Copy)]
pub(super) struct Images<'a, E> {
    pub(super) values: &'a [E],
    pub(super) pre: &'a HostPre,
}

/// Result images, and the sums that were made of each.
pub(super) struct Results<E: Element> {
    pub(super) values: Pooled<E>,
    pub(super) sums: Vec<f64>,
}

/// Some rows and columns of the result.
struct Pass {
    /// Where in a group's frames each position reads.
    rows: Vec<usize>,
    runs: Vec<usize>,
    len: usize,
    /// Packed for [`Rows`].
    weights: Vec<f32>,
    /// The pixel of the result that each of an image's positions makes; `None` where they are all, in order.
    pixels: Option<Vec<usize>>,
}

enum How {
    Passes(Vec<Pass>),
    Taps(taps::Taps),
    /// Transformed weights.
    Winograd(Vec<f32>, Tiles),
    /// The same in bf16: transforms in f32, products rounded to bf16 and summed in f32.
    HalfWinograd(Vec<u16>, Tiles, bf16::Level),
}

/// How to get result images out of source images.
pub(super) struct Plan {
    level: Level,
    source: (usize, usize, usize),
    result: (usize, usize, usize),
    frame: Frame,
    /// Images of a group.
    group: usize,
    how: How,
}

/// `rows` of each image of a group, whose frames are `frame` values apart.
pub(super) fn grouped(rows: &[usize], group: usize, frame: usize) -> Vec<usize> {
    (0..group).flat_map(|image| rows.iter().map(move |row| image * frame + row)).collect()
}

pub(super) fn group_of(positions: usize) -> usize {
    GROUP.div_ceil(positions.max(1))
}

impl Plan {
    /// The convolution with `w` (cout, cin, k, k).
    pub(super) fn forward(level: Level, g: &Geometry, w: &[f32]) -> Self {
        let (source, result) = ((g.h, g.w, g.cin), (g.ho, g.wo, g.cout));
        if has_few(g, false) {
            let weight = |tap, i, o| w[(o * g.cin + i) * g.k * g.k + tap];
            return Self::taps(level, source, result, (g.k, g.pad), weight);
        }
        if let Some(tiles) = tiles_of(g) {
            let weights =
                winograd::pack_weights(g.cin, g.cout, |o, i| std::array::from_fn(|t| w[(o * g.cin + i) * 9 + t]));
            return Self::winograd(level, source, result, weights, tiles);
        }
        let frame = input_frame(g);
        let (rows, runs, len) = reads(g, frame);
        let weights = pack(g.k, len, g.cout, |run, i, o| w[((o * g.cin + i % g.cin) * g.k + run) * g.k + i / g.cin]);
        let group = group_of(rows.len());
        let rows = grouped(&rows, group, frame.rows * frame.cols * g.cin);
        let how = How::Passes(vec![Pass { rows, runs, len, weights, pixels: None }]);
        Plan { level, source, result, frame, group, how }
    }

    /// The input gradient of the convolution with `w` (cout, cin, k, k): from its results to its inputs.
    pub(super) fn input_gradient(level: Level, g: &Geometry, w: &[f32]) -> Self {
        let (source, result) = ((g.ho, g.wo, g.cout), (g.h, g.w, g.cin));
        if has_few(g, true) {
            let weight = |tap, o, i| w[(o * g.cin + i) * g.k * g.k + g.k * g.k - 1 - tap];
            return Self::taps(level, source, result, (g.k, g.k - 1 - g.pad), weight);
        }
        if let Some(tiles) = tiles_of(g) {
            let weights =
                winograd::pack_weights(g.cout, g.cin, |i, o| std::array::from_fn(|t| w[(o * g.cin + i) * 9 + 8 - t]));
            return Self::winograd(level, source, result, weights, tiles);
        }
        let (frame, group, passes) = back_passes(g, g.cout);
        let passes = passes.into_iter().map(|pass| {
            let weights = pack(pass.runs.len(), pass.len, g.cin, |run, i, ci| {
                let (kh, kw) = pass.tap(run, i / g.cout);
                w[((i % g.cout * g.cin + ci) * g.k + kh) * g.k + kw]
            });
            Pass { rows: pass.rows, runs: pass.runs, len: pass.len, weights, pixels: pass.pixels }
        });
        Plan { level, source, result, frame, group, how: How::Passes(passes.collect()) }
    }

    /// The same plan with its products in bf16, where it is one of Winograd's; else nothing.
    pub(super) fn halved(self, products: bf16::Level) -> Option<Self> {
        let How::Winograd(weights, tiles) = self.how else { return None };
        let (inputs, results) = (self.source.2, self.result.2);
        let weights = winograd::halve_weights(&weights, inputs, results);
        Some(Self { how: How::HalfWinograd(weights, tiles, products), ..self })
    }

    fn winograd(
        level: Level,
        source: (usize, usize, usize),
        result: (usize, usize, usize),
        weights: Vec<f32>,
        tiles: Tiles,
    ) -> Self {
        let frame = tile_frame(tiles);
        // A quarter of the positions are tiles.
        let group = group_of(tiles.rows * tiles.across);
        Plan { level, source, result, frame, group, how: How::Winograd(weights, tiles) }
    }

    /// The results of all images, and `sums` numbers for each: `finish(number of the first, images, their sums)` is called for
    /// each group of them while it is in the cache.
    pub(super) fn run<E: Element>(
        &self,
        images: Images<'_, E>,
        bias: Option<&[f32]>,
        sums: usize,
        finish: impl Fn(usize, &mut [E], &mut [f64]) + Sync,
    ) -> Results<E> {
        let work = |first: usize, out: &mut [E]| self.group(images, first, bias, out);
        run_groups(images.values.len(), self.source, self.result, self.group, sums, work, finish)
    }

    /// A group of images, from number `first` on.
    fn group<E: Element>(&self, images: Images<'_, E>, first: usize, bias: Option<&[f32]>, out: &mut [E]) {
        let (h, w, n) = self.result;
        let count = out.len() / (h * w * n).max(1);
        SCRATCH.with_borrow_mut(|[frames, transformed, products, results]| {
            let frames = framed(self.level, self.frame, self.source, images, first, count, frames);
            match &self.how {
                How::Taps(taps) => as_floats(out, results, |out| {
                    self.sum_taps(taps, frames, count, bias, out, products);
                }),
                How::Passes(passes) => as_floats(out, results, |out| {
                    passes.iter().for_each(|pass| self.pass(pass, frames, count, bias, out, products));
                }),
                How::Winograd(_, tiles) | How::HalfWinograd(_, tiles, _) => {
                    let (tiles, level, c) = (*tiles, self.level, self.source.2);
                    let (frame, all) = ((self.frame.rows, self.frame.cols), count * tiles.rows);
                    let block = block_rows(tiles, c.max(n));
                    for start in (0..all).step_by(block) {
                        let rows = start..all.min(start + block);
                        let count = rows.len() * tiles.across;
                        let (v, m) = (transformed.take(PLACES * count * c), products.take(PLACES * count * n));
                        winograd::transform_input(level, frames, frame, c, tiles, rows.clone(), v);
                        self.multiply(v, count, m);
                        let pixels = tiles.pixel_rows(h, &rows);
                        as_floats(&mut out[pixels.start * w * n..pixels.end * w * n], results, |out| {
                            winograd::transform_output(level, m, (h, w), n, tiles, rows, bias, out);
                        });
                    }
                }
            }
        });
    }

    /// The positions of a pass, of `count` images.
    fn pass(
        &self,
        pass: &Pass,
        frames: &[f32],
        count: usize,
        bias: Option<&[f32]>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let Pass { rows, runs, len, weights, pixels } = pass;
        let (n, rows) = (self.result.2, &rows[..rows.len() / self.group * count]);
        let multiply = |out: &mut [f32]| {
            let (a, b, panel) = (frames, &weights[..], runs.len() * len * PANEL);
            let rows = Rows { a, rows, runs, len: *len, b, panel, n, start: bias, out, stride: n };
            dispatch(level_for(self.level, n), rows);
        };
        match pixels {
            None => multiply(out),
            Some(pixels) => {
                let sums = scratch.take(rows.len() * n);
                multiply(sums);
                for (from, pixel) in sums.chunks_exact(n).zip(pixels) {
                    out[pixel * n..][..n].copy_from_slice(from);
                }
            }
        }
    }

    /// The 16 products of `count` transformed tiles with the transformed weights.
    fn multiply(&self, v: &[f32], count: usize, m: &mut [f32]) {
        let (level, c, n) = (self.level, self.source.2, self.result.2);
        let rows: Vec<usize> = (0..count).map(|tile| tile * c).collect();
        let places = v.chunks_exact(count * c).zip(m.chunks_exact_mut(count * n)).enumerate();
        match &self.how {
            How::Passes(_) | How::Taps(_) => {}
            How::Winograd(weights, _) => places.for_each(|(p, (a, out))| {
                let (b, panel) = (&weights[p * c * PANEL..], PLACES * c * PANEL);
                dispatch(level, Rows { a, rows: &rows, runs: &[0], len: c, b, panel, n, start: None, out, stride: n });
            }),
            How::HalfWinograd(weights, _, products) => HALVES.with_borrow_mut(|[halves, _]| {
                let halves = halves.take(count * c);
                places.for_each(|(p, (v, c_out))| {
                    bf16::round(v, halves);
                    let (a, b, start) = (&*halves, &weights[p * c * n..][..c * n], bf16::Start::Zero);
                    bf16::Rows { a, rows: &rows, segments: &[0], len: c, b, n, start, c: c_out, ldc: n, rounded: None }
                        .run(*products);
                });
            }),
        }
    }
}

/// Makes result images in groups of `group`, by `work(number of the first, results)` and then `finish`; see [`Plan::run`].
pub(super) fn run_groups<E: Element>(
    values: usize,
    source: (usize, usize, usize),
    result: (usize, usize, usize),
    group: usize,
    sums: usize,
    work: impl Fn(usize, &mut [E]) + Sync,
    finish: impl Fn(usize, &mut [E], &mut [f64]) + Sync,
) -> Results<E> {
    let size = |(h, w, c): (usize, usize, usize)| h * w * c;
    let (n, to) = (values / size(source).max(1), size(result));
    let (mut values, mut all_sums) = (Pooled::<E>::new(n * to), vec![0.0f64; n * sums]);
    // One group at a time: the loop's end waits for whoever lost its core in the midst of its share.
    let groups = values.par_chunks_mut((group * to).max(1)).enumerate().with_max_len(1);
    let whole = |first: usize, out: &mut [E], sums: &mut [f64]| {
        work(first * group, out);
        finish(first * group, out, sums);
    };
    if sums > 0 {
        groups.zip(all_sums.par_chunks_mut(group * sums)).for_each(|((i, out), sums)| whole(i, out, sums));
    } else {
        groups.for_each(|(i, out)| whole(i, out, &mut []));
    }
    Results { values, sums: all_sums }
}

/// Has `work` fill `out`, which is stored as `E`, with floats.
pub(super) fn as_floats<E: Element>(out: &mut [E], scratch: &mut Scratch, work: impl FnOnce(&mut [f32])) {
    match E::floats_mut(out) {
        Some(out) => work(out),
        None => {
            let floats = scratch.take(out.len());
            work(floats);
            E::write(floats, out);
        }
    }
}

/// The tiles of a convolution that Winograd's transforms serve.
fn tiles_of(g: &Geometry) -> Option<Tiles> {
    let fits = g.k == 3 && g.stride == 1 && g.pad == 1 && winograd::fits(g.cin, g.cout);
    fits.then(|| Tiles { rows: g.ho.div_ceil(2), across: g.wo.div_ceil(2) })
}

/// Whether a convolution is faster through Winograd's transforms than directly when AVX-512-BF16 multiplies: with few channels
/// the transforms cost more than they save.
pub(super) fn transforms_in_halves(g: &Geometry) -> bool {
    tiles_of(g).is_some() && g.cin.min(g.cout) >= 64
}

/// The frame that holds all that tiles read.
fn tile_frame(tiles: Tiles) -> Frame {
    Frame { top: 1, left: 1, rows: 2 * tiles.rows + 2, cols: 2 * tiles.across + 2 }
}

/// Rows of tiles in a block.
fn block_rows(tiles: Tiles, channels: usize) -> usize {
    let across = tiles.across.max(1);
    (BLOCK / (PLACES * channels * across)).max(TILES.div_ceil(across))
}

/// The frame that holds all that a convolution reads.
pub(super) fn input_frame(g: &Geometry) -> Frame {
    let size = |n: usize, out: usize| ((out - 1) * g.stride + g.k).max(if g.pad == 0 { n } else { 0 });
    Frame { top: g.pad, left: g.pad, rows: size(g.h, g.ho), cols: size(g.w, g.wo) }
}

/// Where each position of a convolution's result reads, the runs from there on, and their length.
pub(super) fn reads(g: &Geometry, frame: Frame) -> (Vec<usize>, Vec<usize>, usize) {
    let pitch = frame.cols * g.cin;
    let rows = (0..g.ho).flat_map(|r| (0..g.wo).map(move |c| r * g.stride * pitch + c * g.stride * g.cin));
    (rows.collect(), (0..g.k).map(|run| run * pitch).collect(), g.k * g.cin)
}

/// `count` images from number `first` on in their frames, one after the other: where they lie already, or in `scratch`.
fn framed<'a, E: Element>(
    level: Level,
    frame: Frame,
    (h, w, c): (usize, usize, usize),
    images: Images<'a, E>,
    first: usize,
    count: usize,
    scratch: &'a mut Scratch,
) -> &'a [f32] {
    let image = h * w * c;
    let tight = frame.is_tight(h, w);
    let values = &images.values[first * image..][..count * image];
    if let (true, true, Some(floats)) = (tight, images.pre.is_none(), E::floats(values)) {
        return floats;
    }
    let size = frame.rows * frame.cols * c;
    let to = scratch.take(count * size);
    for (i, (to, image)) in to.chunks_exact_mut(size).zip(values.chunks_exact(image)).enumerate() {
        let pre = images.pre.image(first + i, c);
        if tight { read(level, image, pre, to) } else { frame.fill(level, image, (h, w, c), pre, to) }
    }
    to
}

/// Rows (counted through images of (h, w, c), from image `first` on) as they are read: where they lie already, or in `scratch`.
fn rows_read<'a, E: Element>(
    level: Level,
    (h, w, c): (usize, usize, usize),
    images: Images<'a, E>,
    first: usize,
    rows: Range<usize>,
    scratch: &'a mut Scratch,
) -> &'a [f32] {
    let pitch = w * c;
    let values = &images.values[(first * h + rows.start) * pitch..(first * h + rows.end) * pitch];
    if let (true, Some(floats)) = (images.pre.is_none(), E::floats(values)) {
        return floats;
    }
    let to = scratch.take(values.len());
    let mut at = rows.start;
    while at < rows.end {
        let image = at / h;
        let end = rows.end.min((image + 1) * h);
        let part = (at - rows.start) * pitch..(end - rows.start) * pitch;
        read(level, &values[part.clone()], images.pre.image(first + image, c), &mut to[part]);
        at = end;
    }
    to
}
