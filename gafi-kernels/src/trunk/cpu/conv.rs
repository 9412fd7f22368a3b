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
use super::winograd::{self, InputTransform, OutputTransform, Tiles};
use crate::geometry::Geometry;
use crate::memory::Scratch;
use crate::simd::{Level, dispatch};
pub(super) use layout::{
    Direction, Finish, Results, group_of, grouped, input_frame, read_offsets, run_groups, transforms_in_bf16,
};
use layout::{framed, tile_blocks, tile_frame, tiles_of};
pub(super) use phases::{Pass, passes};
pub(super) use taps::has_few_results;
pub(super) use upsampled::Upsampled;
pub(super) use weights::weight_gradient;

thread_local! {
    /// Frames, transformed tiles, products and results. Kept, as every image of every layer needs them.
    static SCRATCH: RefCell<[Scratch; 4]> = RefCell::default();
    /// Transformed tiles in bf16.
    static HALF_SCRATCH: RefCell<[Scratch<u16>; 2]> = RefCell::default();
}

/// The algorithm of a plan.
enum Method {
    /// With their weights, packed for [`Rows`].
    Passes(Vec<(Pass, Vec<f32>)>),
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
    /// The plan of the convolution with weights `w` (cout, cin, k, k), or of its input gradient. For `products` in bf16,
    /// Winograd's transforms must apply.
    pub(super) fn new(
        level: Level,
        direction: Direction,
        g: &Geometry,
        w: &[f32],
        products: Option<bf16::Level>,
    ) -> Self {
        let (from, to) = direction.sides(g);
        let source = from.image;
        let result = to.image;
        // The weight of a tap between channel i of the source and channel o of the result.
        let weight = |tap: usize, i: usize, o: usize| w[i * from.stride + o * to.stride + tap];
        // An input gradient of stride 1 is a convolution with the rotated kernel.
        let rotated = |tap: usize, i: usize, o: usize| match direction {
            Direction::Forward => weight(tap, i, o),
            Direction::Backward => weight(g.k * g.k - 1 - tap, i, o),
        };
        if has_few_results(g, direction) {
            let pad = match direction {
                Direction::Forward => g.pad,
                Direction::Backward => g.k - 1 - g.pad,
            };
            return Self::taps(level, source, result, (g.k, pad), rotated);
        }
        if let Some(tiles) = tiles_of(g, products) {
            let weights =
                winograd::pack_weights(tiles, source.2, result.2, |o, i| std::array::from_fn(|t| rotated(t, i, o)));
            let group = group_of(tiles.rows * tiles.across);
            let method = match products {
                None => Method::Winograd(weights, tiles),
                Some(products) => {
                    let weights = winograd::bf16_weights(tiles, &weights, source.2, result.2);
                    Method::WinogradBf16(weights, tiles, products)
                }
            };
            return Plan { level, source, result, frame: tile_frame(tiles), group, method };
        }
        let channels = source.2;
        let (frame, group, passes) = passes(direction, g, channels);
        let passes = passes.into_iter().map(|pass| {
            let weights = pack(pass.runs.len(), pass.len, result.2, |run, i, o| {
                weight(pass.tap(run, i / channels), i % channels, o)
            });
            (pass, weights)
        });
        Plan { level, source, result, frame, group, method: Method::Passes(passes.collect()) }
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
                    for tile_rows in tile_blocks(tiles, count, c.max(n)) {
                        let count = tile_rows.len() * tiles.across;
                        let v = transformed.take(tiles.places() * count * c);
                        let m = products.take(tiles.places() * count * n);
                        let rows = tile_rows.clone();
                        let input = InputTransform { frames, frame, channels: c, tiles, tile_rows: rows, out: &mut *v };
                        winograd::transform(level, tiles.size, input);
                        self.multiply(v, count, m);
                        let pixels = tiles.pixel_rows(h, &tile_rows);
                        as_floats(&mut out[pixels.start * w * n..pixels.end * w * n], results, |images| {
                            let products = &*m;
                            let size = (h, w);
                            let output =
                                OutputTransform { products, size, channels: n, tiles, tile_rows, bias, images };
                            winograd::transform(level, tiles.size, output);
                        });
                    }
                }
            }
        });
    }

    /// Computes the positions of a pass for `count` images.
    fn pass(
        &self,
        (pass, weights): &(Pass, Vec<f32>),
        frames: &[f32],
        count: usize,
        bias: Option<&[f32]>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let Pass { rows, runs, len, pixels, .. } = pass;
        let n = self.result.2;
        let rows = &rows[..rows.len() / self.group * count];
        let multiply = |out: &mut [f32]| {
            let panel = runs.len() * len * PANEL;
            let rows = Rows { a: frames, rows, runs, len: *len, b: weights, panel, n, start: bias, out };
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
                dispatch(level, Rows { a, rows: &rows, runs: &[0], len: c, b, panel, n, start: None, out });
            }),
            Method::WinogradBf16(weights, _, products) => HALF_SCRATCH.with_borrow_mut(|[halves, _]| {
                let halves = halves.take(count * c);
                places.for_each(|(p, (v, c_out))| {
                    bf16::round(v, halves);
                    let a = &*halves;
                    let b = &weights[p * c * n..][..c * n];
                    let start = bf16::Start::Zero;
                    bf16::Rows { a, rows: &rows, segments: &[0], len: c, b, n, start, c: c_out, rounded: None }
                        .run(*products);
                });
            }),
        }
    }
}
