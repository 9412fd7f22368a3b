//! Convolutions of whole batches, on the kernels of `gemm` and `winograd`.
//!
//! A [`Plan`] describes a forward convolution or an input gradient: a zero-padded frame for each image, and either Winograd's
//! transforms, or passes that each compute every `stride`-th row and column of the result. (The input gradient of a
//! convolution of stride s has s * s passes, one for each phase of the input, and each uses some of the taps.) Small images
//! are processed in groups, which are divided among threads.

mod layout;
mod phases;
mod taps;
mod upsampled;
mod weights;

use std::cell::RefCell;

use super::bf16;
use super::element::{Element, as_floats};
use super::frame::Frame;
use super::gemm::{PANEL, Rows, level_for, pack};
use super::view::Images;
use super::winograd::{self, Tiles};
use crate::geometry::Geometry;
use crate::memory::{HalfScratch, Scratch};
use crate::simd::{Level, dispatch};
pub(super) use layout::{
    Finish, Results, group_of, grouped, input_frame, read_offsets, run_groups, transforms_in_bf16,
};
use layout::{block_rows, framed, tile_frame, tiles_for_bf16, tiles_of};
pub(super) use phases::backward_passes;
pub(super) use taps::has_few_results;
pub(super) use upsampled::Upsampled;
pub(super) use weights::{bf16_weight_gradient, weight_gradient};

thread_local! {
    /// Frames, transformed tiles, products and results. Kept, as every image of every layer needs them.
    static SCRATCH: RefCell<[Scratch; 4]> = RefCell::default();
    /// Transformed tiles in bf16.
    static HALF_SCRATCH: RefCell<[HalfScratch; 2]> = RefCell::default();
}

/// A part of the result: some rows and columns.
struct Pass {
    /// The offset in a group's frames at which each position reads.
    rows: Vec<usize>,
    /// Offsets of the runs, relative to a position.
    runs: Vec<usize>,
    /// Length of a run.
    len: usize,
    /// Packed for [`Rows`].
    weights: Vec<f32>,
    /// The result pixel of each of an image's positions; `None` if the positions are all pixels, in order.
    pixels: Option<Vec<usize>>,
}

/// The algorithm of a plan.
enum Method {
    Passes(Vec<Pass>),
    /// For few result channels.
    Taps(taps::Taps),
    /// Transformed weights.
    Winograd(Vec<f32>, Tiles),
    /// Transforms in f32, products in bf16 with f32 sums.
    WinogradBf16(Vec<u16>, Tiles, bf16::Level),
}

/// How to compute result images from source images.
pub(super) struct Plan {
    level: Level,
    /// (h, w, c) of a source image.
    source: (usize, usize, usize),
    /// (h, w, c) of a result image.
    result: (usize, usize, usize),
    frame: Frame,
    /// Number of images in a group.
    group: usize,
    method: Method,
}

impl Plan {
    /// The convolution with weights `w` (cout, cin, k, k).
    pub(super) fn forward(level: Level, g: &Geometry, w: &[f32]) -> Self {
        Self::forward_by(level, g, w, tiles_of(g))
    }

    /// [`Plan::forward`] with transforms for bf16 products, which must apply.
    pub(super) fn forward_in_bf16(level: Level, g: &Geometry, w: &[f32], products: bf16::Level) -> Self {
        Self::forward_by(level, g, w, Some(tiles_for_bf16(g))).with_bf16_products(products)
    }

    fn forward_by(level: Level, g: &Geometry, w: &[f32], tiles: Option<Tiles>) -> Self {
        let source = (g.h, g.w, g.cin);
        let result = (g.ho, g.wo, g.cout);
        if has_few_results(g, false) {
            let weight = |tap, i, o| w[(o * g.cin + i) * g.k * g.k + tap];
            return Self::taps(level, source, result, (g.k, g.pad), weight);
        }
        if let Some(tiles) = tiles {
            let weights = winograd::pack_weights(tiles, g.cin, g.cout, |o, i| {
                std::array::from_fn(|t| w[(o * g.cin + i) * 9 + t])
            });
            return Self::winograd(level, source, result, weights, tiles);
        }
        let frame = input_frame(g);
        let (rows, runs, len) = read_offsets(g, frame);
        let weights = pack(g.k, len, g.cout, |run, i, o| w[((o * g.cin + i % g.cin) * g.k + run) * g.k + i / g.cin]);
        let group = group_of(rows.len());
        let rows = grouped(&rows, group, frame.rows * frame.cols * g.cin);
        let method = Method::Passes(vec![Pass { rows, runs, len, weights, pixels: None }]);
        Plan { level, source, result, frame, group, method }
    }

    /// The input gradient of the convolution with weights `w` (cout, cin, k, k): from results to inputs.
    pub(super) fn input_gradient(level: Level, g: &Geometry, w: &[f32]) -> Self {
        Self::input_gradient_by(level, g, w, tiles_of(g))
    }

    /// [`Plan::input_gradient`] with transforms for bf16 products, which must apply.
    pub(super) fn input_gradient_in_bf16(level: Level, g: &Geometry, w: &[f32], products: bf16::Level) -> Self {
        Self::input_gradient_by(level, g, w, Some(tiles_for_bf16(g))).with_bf16_products(products)
    }

    fn input_gradient_by(level: Level, g: &Geometry, w: &[f32], tiles: Option<Tiles>) -> Self {
        let source = (g.ho, g.wo, g.cout);
        let result = (g.h, g.w, g.cin);
        if has_few_results(g, true) {
            let weight = |tap, o, i| w[(o * g.cin + i) * g.k * g.k + g.k * g.k - 1 - tap];
            return Self::taps(level, source, result, (g.k, g.k - 1 - g.pad), weight);
        }
        if let Some(tiles) = tiles {
            let weights = winograd::pack_weights(tiles, g.cout, g.cin, |i, o| {
                std::array::from_fn(|t| w[(o * g.cin + i) * 9 + 8 - t])
            });
            return Self::winograd(level, source, result, weights, tiles);
        }
        let (frame, group, passes) = backward_passes(g, g.cout);
        let passes = passes.into_iter().map(|pass| {
            let weights = pack(pass.runs.len(), pass.len, g.cin, |run, i, ci| {
                let (kh, kw) = pass.tap(run, i / g.cout);
                w[((i % g.cout * g.cin + ci) * g.k + kh) * g.k + kw]
            });
            Pass { rows: pass.rows, runs: pass.runs, len: pass.len, weights, pixels: pass.pixels }
        });
        Plan { level, source, result, frame, group, method: Method::Passes(passes.collect()) }
    }

    /// The same plan with bf16 products, if it uses Winograd's transforms.
    fn with_bf16_products(self, products: bf16::Level) -> Self {
        let Method::Winograd(weights, tiles) = self.method else { return self };
        let weights = winograd::bf16_weights(tiles, &weights, self.source.2, self.result.2);
        Self { method: Method::WinogradBf16(weights, tiles, products), ..self }
    }

    fn winograd(
        level: Level,
        source: (usize, usize, usize),
        result: (usize, usize, usize),
        weights: Vec<f32>,
        tiles: Tiles,
    ) -> Self {
        let frame = tile_frame(tiles);
        let group = group_of(tiles.rows * tiles.across);
        Plan { level, source, result, frame, group, method: Method::Winograd(weights, tiles) }
    }

    /// The results of all images, and `sums` numbers for each. `finish(first, results, sums)` is called for each group while it
    /// is in the cache; `first` is the index of the group's first image.
    pub(super) fn run<E: Element>(
        &self,
        images: Images<'_, E>,
        bias: Option<&[f32]>,
        sums: usize,
        finish: &Finish<'_, E>,
    ) -> Results<E> {
        let work = |first: usize, out: &mut [E]| self.group(images, first, bias, out);
        run_groups(images.values.len(), self.source, self.result, self.group, sums, &work, finish)
    }

    /// Computes the results of a group of images, from index `first` on.
    fn group<E: Element>(&self, images: Images<'_, E>, first: usize, bias: Option<&[f32]>, out: &mut [E]) {
        let (h, w, n) = self.result;
        let count = out.len() / (h * w * n).max(1);
        SCRATCH.with_borrow_mut(|[frames, transformed, products, results]| {
            let frames = framed(self.level, self.frame, self.source, images, first, count, frames);
            match &self.method {
                Method::Taps(taps) => as_floats(out, results, |out| {
                    self.sum_taps(taps, frames, count, bias, out, products);
                }),
                Method::Passes(passes) => as_floats(out, results, |out| {
                    passes.iter().for_each(|pass| self.pass(pass, frames, count, bias, out, products));
                }),
                Method::Winograd(_, tiles) | Method::WinogradBf16(_, tiles, _) => {
                    let tiles = *tiles;
                    let level = self.level;
                    let c = self.source.2;
                    let frame = (self.frame.rows, self.frame.cols);
                    let all = count * tiles.rows;
                    let block = block_rows(tiles, c.max(n));
                    for start in (0..all).step_by(block) {
                        let rows = start..all.min(start + block);
                        let count = rows.len() * tiles.across;
                        let v = transformed.take(tiles.places() * count * c);
                        let m = products.take(tiles.places() * count * n);
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

    /// Computes the positions of a pass for `count` images.
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
        let n = self.result.2;
        let rows = &rows[..rows.len() / self.group * count];
        let multiply = |out: &mut [f32]| {
            let panel = runs.len() * len * PANEL;
            let rows = Rows { a: frames, rows, runs, len: *len, b: weights, panel, n, start: bias, out, stride: n };
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

    /// The products of `count` transformed tiles with the transformed weights.
    fn multiply(&self, v: &[f32], count: usize, m: &mut [f32]) {
        let level = self.level;
        let c = self.source.2;
        let n = self.result.2;
        let rows: Vec<usize> = (0..count).map(|tile| tile * c).collect();
        let places = v.chunks_exact(count * c).zip(m.chunks_exact_mut(count * n)).enumerate();
        match &self.method {
            Method::Passes(_) | Method::Taps(_) => {}
            Method::Winograd(weights, tiles) => places.for_each(|(p, (a, out))| {
                let b = &weights[p * c * PANEL..];
                let panel = tiles.places() * c * PANEL;
                dispatch(level, Rows { a, rows: &rows, runs: &[0], len: c, b, panel, n, start: None, out, stride: n });
            }),
            Method::WinogradBf16(weights, _, products) => HALF_SCRATCH.with_borrow_mut(|[halves, _]| {
                let halves = halves.take(count * c);
                places.for_each(|(p, (v, c_out))| {
                    bf16::round(v, halves);
                    let a = &*halves;
                    let b = &weights[p * c * n..][..c * n];
                    let start = bf16::Start::Zero;
                    bf16::Rows { a, rows: &rows, segments: &[0], len: c, b, n, start, c: c_out, ldc: n, rounded: None }
                        .run(*products);
                });
            }),
        }
    }
}
