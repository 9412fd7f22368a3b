//! Convolutions of whole batches, over the kernels of `gemm` and `winograd`.
//!
//! Forward and input gradient are one thing here, a [`Plan`]: a frame of zeros to put each image into, and either Winograd's
//! transforms or passes that each make every `step`-th row and column of the result. (The input gradient of a stride-s
//! convolution has s * s such passes, one for each phase of the input, with a share of the taps each.) Small images are
//! worked on in groups, which threads share.

mod upsampled;
mod weights;

use std::cell::RefCell;

use rayon::prelude::*;

use super::super::backend::Geometry;
use super::super::memory::Pooled;
use super::bf16;
use super::gemm::{PANEL, Rows, level_for, padded};
use super::maps::{Element, Frame, Halves, HostPre, add_sums, read, write};
use super::winograd::{self, PLACES, Tiles};
use crate::ops::simd::{Level, Scratch, dispatch};

/// Positions that a group of small images has at least.
const GROUP: usize = 64;
/// Values of the transformed input (and of the products) of a block of Winograd tiles: 256 KiB, so that both stay in L2.
const BLOCK: usize = 64 * 1024;
/// Tiles of a block at least, however many channels they have: weights are read once for each block.
const TILES: usize = 32;
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

/// Result images, and of each the sums and sums of squares of its channels (2, C), if asked.
pub(super) struct Results<E: Element> {
    pub(super) values: Pooled<E>,
    pub(super) sums: Option<Vec<f64>>,
}

/// Where the rows (or columns) of one phase of an input get their gradient from: input rows stride * r + a - pad for r in
/// start..start + count; kernel rows a, a + stride, ..., `taps` of them, of which the j-th reads output row r - j.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    pub(super) start: isize,
    pub(super) count: usize,
    pub(super) taps: usize,
}

/// One direction of an input gradient: its phases, and how far they read.
pub(super) struct Axis {
    pub(super) phases: Vec<Phase>,
    /// First and last output row that some tap reads; those outside the output count as zero.
    pub(super) lo: isize,
    pub(super) hi: isize,
}

impl Axis {
    pub(super) fn new(n: usize, g: &Geometry) -> Axis {
        let (n, s, pad) = (n as isize, g.stride as isize, g.pad as isize);
        let phase = |a: isize| {
            let start = (pad - a + s - 1).div_euclid(s).max(0);
            let end = (n - 1 + pad - a).div_euclid(s) + 1;
            let taps = g.k.saturating_sub(a as usize).div_ceil(g.stride);
            Phase { start, count: (end - start).max(0) as usize, taps }
        };
        let phases: Vec<Phase> = (0..s).map(phase).collect();
        let reading = || phases.iter().filter(|p| p.count > 0 && p.taps > 0);
        let lo = reading().map(|p| p.start + 1 - p.taps as isize).min().unwrap_or(0);
        let hi = reading().map(|p| p.start + p.count as isize - 1).max().unwrap_or(0);
        Axis { phases, lo, hi }
    }
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

/// Weights (run, i) x column in panels of 16 columns, of `at(run, i, column)`.
fn pack(runs: usize, len: usize, n: usize, at: impl Fn(usize, usize, usize) -> f32) -> Vec<f32> {
    let mut packed = vec![0.0; padded(n) * runs * len];
    for (panel, packed) in packed.chunks_exact_mut((runs * len * PANEL).max(1)).enumerate() {
        for run in 0..runs {
            for i in 0..len {
                let to = &mut packed[(run * len + i) * PANEL..][..PANEL];
                for (j, to) in to.iter_mut().enumerate().take(n - panel * PANEL) {
                    *to = at(run, i, panel * PANEL + j);
                }
            }
        }
    }
    packed
}

/// `rows` of each image of a group, whose frames are `frame` values apart.
pub(super) fn grouped(rows: &[usize], group: usize, frame: usize) -> Vec<usize> {
    (0..group).flat_map(|image| rows.iter().map(move |row| image * frame + row)).collect()
}

fn group_of(positions: usize) -> usize {
    GROUP.div_ceil(positions.max(1))
}

impl Plan {
    /// The convolution with `w` (cout, cin, k, k).
    pub(super) fn forward(level: Level, g: &Geometry, w: &[f32]) -> Self {
        let (source, result) = ((g.h, g.w, g.cin), (g.ho, g.wo, g.cout));
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
        if let Some(tiles) = tiles_of(g) {
            let weights =
                winograd::pack_weights(g.cout, g.cin, |i, o| std::array::from_fn(|t| w[(o * g.cin + i) * 9 + 8 - t]));
            return Self::winograd(level, source, result, weights, tiles);
        }
        let (down, across) = (Axis::new(g.h, g), Axis::new(g.w, g));
        let (top, left) = (-down.lo.min(0), -across.lo.min(0));
        let size = |n: usize, hi: isize, before: isize| (hi + 1).max(n as isize) + before;
        let frame = Frame {
            top: top as usize,
            left: left as usize,
            rows: size(g.ho, down.hi, top) as usize,
            cols: size(g.wo, across.hi, left) as usize,
        };
        let pitch = frame.cols * g.cout;
        let group = group_of((g.h / g.stride) * (g.w / g.stride));
        let mut passes = Vec::new();
        for (a, row) in down.phases.iter().enumerate() {
            for (b, col) in across.phases.iter().enumerate() {
                let (mut rows, mut pixels) = (Vec::new(), Vec::new());
                for r in row.start..row.start + row.count as isize {
                    for c in col.start..col.start + col.count as isize {
                        // The taps run upwards and to the left; memory runs the other way.
                        let first = c + 1 - col.taps as isize;
                        let (fr, fc) = (r + 1 - row.taps as isize + top, first + left);
                        rows.push(fr.max(0) as usize * pitch + fc.max(0) as usize * g.cout);
                        let pixel = |at: isize, phase: usize| (at * g.stride as isize) as usize + phase - g.pad;
                        pixels.push(pixel(r, a) * g.w + pixel(c, b));
                    }
                }
                if rows.is_empty() {
                    continue;
                }
                // A phase that no tap falls on has a gradient of zero.
                let taps = if col.taps == 0 { 0 } else { row.taps };
                let len = col.taps * g.cout;
                let runs: Vec<usize> = (0..taps).map(|run| run * pitch).collect();
                let weights = pack(taps, len, g.cin, |run, i, ci| {
                    let (kh, kw) = (a + g.stride * (taps - 1 - run), b + g.stride * (col.taps - 1 - i / g.cout));
                    w[((i % g.cout * g.cin + ci) * g.k + kh) * g.k + kw]
                });
                let all = pixels.len() == g.h * g.w;
                let pixels = if all { None } else { Some(grouped(&pixels, group, g.h * g.w)) };
                let rows = grouped(&rows, group, frame.rows * pitch);
                passes.push(Pass { rows, runs, len, weights, pixels });
            }
        }
        Plan { level, source, result, frame, group, how: How::Passes(passes) }
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

    /// The results of all images; `finish(number of the first, images)` is called for each group of them while it is in the cache.
    pub(super) fn run<E: Element>(
        &self,
        images: Images<'_, E>,
        bias: Option<&[f32]>,
        sums: bool,
        finish: impl Fn(usize, &mut [E]) + Sync,
    ) -> Results<E> {
        let (h, w, c) = self.source;
        let (ho, wo, co) = self.result;
        let (from, to) = (h * w * c, ho * wo * co);
        let n = images.values.len() / from.max(1);
        let mut values = Pooled::<E>::new(n * to);
        let mut all_sums = vec![0.0f64; if sums { n * 2 * co } else { 0 }];
        let group_sums = if sums { self.group * 2 * co } else { 0 };
        let groups = values.par_chunks_mut((self.group * to).max(1)).enumerate();
        let work = |first: usize, out: &mut [E], sums: &mut [f64]| {
            self.group(images, first * self.group, bias, out);
            finish(first * self.group, out);
            for (image, sums) in out.chunks_exact(to.max(1)).zip(sums.chunks_exact_mut(2 * co)) {
                add_sums(self.level, image, sums);
            }
        };
        if sums {
            groups.zip(all_sums.par_chunks_mut(group_sums)).for_each(|((i, out), sums)| work(i, out, sums));
        } else {
            groups.for_each(|(i, out)| work(i, out, &mut []));
        }
        Results { values, sums: sums.then_some(all_sums) }
    }

    /// A group of images, from number `first` on.
    fn group<E: Element>(&self, images: Images<'_, E>, first: usize, bias: Option<&[f32]>, out: &mut [E]) {
        SCRATCH.with_borrow_mut(|[frames, tiles, products, results]| {
            let count = out.len() / (self.result.0 * self.result.1 * self.result.2).max(1);
            let values = framed(self.level, self.frame, self.source, images, first, count, frames);
            match E::floats_mut(out) {
                Some(out) => self.compute(values, count, bias, out, tiles, products),
                None => {
                    let result = results.take(out.len());
                    self.compute(values, count, bias, result, tiles, products);
                    write(self.level, result, out);
                }
            }
        });
    }

    fn compute(
        &self,
        frames: &[f32],
        count: usize,
        bias: Option<&[f32]>,
        out: &mut [f32],
        transformed: &mut Scratch,
        products: &mut Scratch,
    ) {
        let (level, (h, w, n)) = (self.level, self.result);
        match &self.how {
            How::Passes(passes) => {
                let level = level_for(level, n);
                for Pass { rows, runs, len, weights, pixels } in passes {
                    let (a, b, panel) = (frames, &weights[..], runs.len() * len * PANEL);
                    let rows = &rows[..rows.len() / self.group * count];
                    match pixels {
                        None => {
                            dispatch(
                                level,
                                Rows { a, rows, runs, len: *len, b, panel, n, start: bias, out, stride: n },
                            );
                        }
                        Some(pixels) => {
                            let out_flat = products.take(rows.len() * n);
                            let flat = &mut *out_flat;
                            dispatch(
                                level,
                                Rows { a, rows, runs, len: *len, b, panel, n, start: bias, out: flat, stride: n },
                            );
                            for (from, pixel) in out_flat.chunks_exact(n).zip(pixels) {
                                out[pixel * n..][..n].copy_from_slice(from);
                            }
                        }
                    }
                }
            }
            How::Winograd(_, tiles) | How::HalfWinograd(_, tiles, _) => {
                let (frame, c) = ((self.frame.rows, self.frame.cols), self.source.2);
                let (all, block) = (count * tiles.rows, block_rows(*tiles, c.max(n)));
                for start in (0..all).step_by(block) {
                    let rows = start..all.min(start + block);
                    let count = rows.len() * tiles.across;
                    let (v, m) = (transformed.take(PLACES * count * c), products.take(PLACES * count * n));
                    winograd::transform_input(level, frames, frame, c, *tiles, rows.clone(), v);
                    let at: Vec<usize> = (0..count).map(|tile| tile * c).collect();
                    self.multiply(v, &at, m);
                    winograd::transform_output(level, m, (h, w), n, *tiles, rows, bias, out);
                }
            }
        }
    }
}

/// The 16 products of transformed tiles, each of which begins at `rows`, with the transformed weights.
impl Plan {
    fn multiply(&self, v: &[f32], rows: &[usize], m: &mut [f32]) {
        let (level, c, n) = (self.level, self.source.2, self.result.2);
        let tiles = rows.len() * c;
        let outs = m.chunks_exact_mut(rows.len() * n).enumerate();
        match &self.how {
            How::Passes(_) => {}
            How::Winograd(weights, _) => outs.for_each(|(p, out)| {
                let (a, b, panel) = (&v[p * tiles..][..tiles], &weights[p * c * PANEL..], PLACES * c * PANEL);
                dispatch(level, Rows { a, rows, runs: &[0], len: c, b, panel, n, start: None, out, stride: n });
            }),
            How::HalfWinograd(weights, _, products) => HALVES.with_borrow_mut(|[halves, _]| {
                let halves = halves.take(v.len());
                write(level, v, halves);
                outs.for_each(|(p, out)| {
                    let (a, b) = (&halves[p * tiles..][..tiles], &weights[p * c * n..][..c * n]);
                    let start = bf16::Start::Zero;
                    bf16::Rows { a, rows, segments: &[0], len: c, b, n, start, c: out, ldc: n }.run(*products);
                });
            }),
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
