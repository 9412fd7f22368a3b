//! Convolution on the CPU: forward, input gradient and weight gradient of whole batches, over the kernels.
//!
//! Forward and input gradient are one thing here, a [`Plan`]: planes to pack, and passes that each read the planes at a list
//! of offsets and write every `step`-th row and column of the result. (The input gradient of a stride-s convolution has s * s
//! such passes, one for each phase of the input, with a share of the taps each.) Threads share images; with few images, blocks
//! of channels too. The weight gradient sums over a fixed number of pieces of the batch, in a fixed order.

use std::cell::RefCell;

use rayon::prelude::*;

use super::kernels::{Correlate, MaxBlock, WeightGradient, blocks};
use super::planes::{Axis, Geometry, Planes, copy_row};
use super::simd::{Level, Scratch, dispatch};

/// Pieces of a batch that the weight gradient is summed over.
const PIECES: usize = 8;
/// Positions that the weight gradient works through at once, small images being stacked.
const POSITIONS: usize = 1024;
/// Bytes of L1 that the input of a block of taps may take.
const TAP_BYTES: usize = 14 * 1024;

thread_local! {
    /// Packed images and unpacked results of this thread; kept, as both are needed for every image of every layer.
    static SCRATCH: RefCell<(Scratch, Scratch)> = RefCell::default();
}

/// The taps that make some rows and columns of the result.
struct Pass {
    taps: Vec<usize>,
    weights: Vec<f32>,
    tap_block: usize,
    /// Positions of the flat result, and its rows and columns among them.
    len: usize,
    rows: usize,
    cols: usize,
    /// Row r, column c of the pass is row first.0 + step * r, column first.1 + step * c of the result.
    first: (usize, usize),
}

/// How to get a result image out of a source image.
struct Plan<'a> {
    level: Level,
    planes: Planes,
    sources: usize,
    channels: usize,
    size: (usize, usize),
    step: usize,
    passes: Vec<Pass>,
    bias: Option<&'a [f32]>,
    /// The source serves as it is, and the result is written in place: 1x1 convolutions of whole vectors.
    direct: bool,
}

/// How many taps keep the input of all of them in L1: `windows` stretches of a channel's planes hold `per_channel` taps.
fn tap_block(windows: usize, per_channel: usize) -> usize {
    (TAP_BYTES / (windows.max(1) * 256)).max(1) * per_channel.max(1)
}

/// Weights in the order in which the kernel reads them: w\[channel * channel_stride + bases\[tap\]\].
fn pack_weights(w: &[f32], channels: usize, channel_stride: usize, bases: &[usize], max: usize) -> Vec<f32> {
    let mut packed = Vec::with_capacity(channels * bases.len());
    for (first, size) in blocks(channels, max) {
        for base in bases {
            packed.extend((first..first + size).map(|c| w[c * channel_stride + base]));
        }
    }
    packed
}

impl<'a> Plan<'a> {
    fn forward(level: Level, g: &Geometry, w: &[f32], bias: Option<&'a [f32]>) -> Self {
        let planes = Planes::of_input(g, 1);
        let direct = g.k == 1 && g.stride == 1 && g.pad == 0 && (g.h * g.w).is_multiple_of(16);
        let taps = if direct { (0..g.cin).map(|c| c * g.h * g.w).collect() } else { input_taps(g, &planes) };
        let bases: Vec<usize> = (0..taps.len()).collect();
        let pass = Pass {
            weights: pack_weights(w, g.cout, taps.len(), &bases, dispatch(level, MaxBlock)),
            taps,
            tap_block: tap_block(g.k * planes.phases, g.k * g.k),
            len: (g.ho - 1) * planes.pitch + g.wo,
            rows: g.ho,
            cols: g.wo,
            first: (0, 0),
        };
        Plan {
            level,
            planes,
            sources: g.cin,
            channels: g.cout,
            size: (g.ho, g.wo),
            step: 1,
            passes: vec![pass],
            bias,
            direct,
        }
    }

    fn input_gradient(level: Level, g: &Geometry, w: &[f32], bias: Option<&'a [f32]>) -> Self {
        let (rows, cols) = (Axis::new(g.h, g.k, g.stride, g.pad), Axis::new(g.w, g.k, g.stride, g.pad));
        let planes = Planes::of_output(g, &rows, &cols);
        let direct = g.k == 1 && g.stride == 1 && g.pad == 0 && (g.h * g.w).is_multiple_of(16);
        let max = dispatch(level, MaxBlock);
        let mut passes = Vec::new();
        for (a, row) in rows.phases.iter().enumerate() {
            for (b, col) in cols.phases.iter().enumerate() {
                if row.count == 0 || col.count == 0 {
                    continue;
                }
                let (mut taps, mut bases) = (Vec::new(), Vec::new());
                for co in 0..g.cout {
                    for jh in 0..row.taps {
                        for jw in 0..col.taps {
                            let (r, c) = (row.start - jh as isize - rows.lo, col.start - jw as isize - cols.lo);
                            let plane = if direct { co * g.h * g.w } else { planes.offset(co, 0, 0) };
                            taps.push(plane + r as usize * planes.pitch + c as usize);
                            bases.push((co * g.cin * g.k + a + g.stride * jh) * g.k + b + g.stride * jw);
                        }
                    }
                }
                let first = |start: isize, phase: usize| (start * g.stride as isize) as usize + phase - g.pad;
                passes.push(Pass {
                    weights: pack_weights(w, g.cin, g.k * g.k, &bases, max),
                    taps,
                    tap_block: tap_block(row.taps, row.taps * col.taps),
                    len: (row.count - 1) * planes.pitch + col.count,
                    rows: row.count,
                    cols: col.count,
                    first: (first(row.start, a), first(col.start, b)),
                });
            }
        }
        Plan { level, planes, sources: g.cout, channels: g.cin, size: (g.h, g.w), step: g.stride, passes, bias, direct }
    }

    /// The results of all images of `source`.
    fn run(&self, source: &[f32]) -> Vec<f32> {
        let source_len = self.sources * self.planes.source.0 * self.planes.source.1;
        let plane = self.size.0 * self.size.1;
        let images = source.len() / source_len;
        let mut out = vec![0.0; images * self.channels * plane];
        // With fewer images than keep the threads busy, an image's channels are shared too, in whole register blocks.
        let wanted = (4 * rayon::current_num_threads()).div_ceil(images.max(1));
        let group = if images >= 2 * rayon::current_num_threads() || rayon::current_num_threads() == 1 {
            self.channels
        } else {
            self.channels.div_ceil(wanted).next_multiple_of(8).min(self.channels)
        };
        let mut jobs: Vec<(usize, usize, &mut [f32])> = Vec::new();
        for (image, out) in out.chunks_mut(self.channels * plane).enumerate() {
            for (i, out) in out.chunks_mut(group * plane).enumerate() {
                jobs.push((image, i * group, out));
            }
        }
        jobs.into_par_iter().for_each(|(image, first, out)| {
            self.image(&source[image * source_len..][..source_len], first, out);
        });
        out
    }

    /// Channels of one result image, from `first` (a multiple of 8) on.
    fn image(&self, source: &[f32], first: usize, out: &mut [f32]) {
        let plane = self.size.0 * self.size.1;
        let channels = out.len() / plane;
        let bias = self.bias.map(|b| &b[first..first + channels]);
        if let (true, [pass]) = (self.direct, &self.passes[..]) {
            return self.correlate(pass, source, first, channels, bias, out, plane, plane);
        }
        SCRATCH.with_borrow_mut(|(packed, results)| {
            let buf = packed.take(self.planes.total(self.sources));
            buf.fill(0.0);
            self.planes.pack(source, self.sources, 0, buf);
            let mut passes = &self.passes[..];
            while let [pass, rest @ ..] = passes {
                let len = pass.len.next_multiple_of(16);
                // The two column phases of stride 2 are woven together: half as many stores, and whole vectors.
                if let (2, Some(odd)) = (self.step, rest.first().filter(|p| p.first.0 == pass.first.0)) {
                    let odd_len = odd.len.next_multiple_of(16);
                    let (flat, odd_flat) = results.take(channels * (len + odd_len)).split_at_mut(channels * len);
                    self.correlate(pass, buf, first, channels, bias, flat, len, len);
                    self.correlate(odd, buf, first, channels, bias, odd_flat, odd_len, odd_len);
                    let flats = flat.chunks_exact(len).zip(odd_flat.chunks_exact(odd_len));
                    for ((flat, odd_flat), out) in flats.zip(out.chunks_exact_mut(plane)) {
                        self.weave((pass, flat), (odd, odd_flat), out);
                    }
                    passes = &rest[1..];
                    continue;
                }
                let flat = results.take(channels * len);
                self.correlate(pass, buf, first, channels, bias, flat, len, len);
                for (flat, out) in flat.chunks_exact(len).zip(out.chunks_exact_mut(plane)) {
                    self.unpack(pass, flat, out);
                }
                passes = rest;
            }
        });
    }

    #[expect(clippy::too_many_arguments, reason = "two call sites that differ in what is written where")]
    fn correlate(
        &self,
        pass: &Pass,
        buf: &[f32],
        first: usize,
        channels: usize,
        bias: Option<&[f32]>,
        out: &mut [f32],
        stride: usize,
        len: usize,
    ) {
        let (taps, tap_block) = (&pass.taps[..], pass.tap_block);
        let weights = &pass.weights[first * taps.len()..];
        dispatch(self.level, Correlate { buf, taps, weights, bias, channels, tap_block, out, stride, len });
    }

    /// Rows and columns of a pass to their places in the result plane.
    fn unpack(&self, pass: &Pass, flat: &[f32], out: &mut [f32]) {
        let width = self.size.1;
        for r in 0..pass.rows {
            let from = &flat[r * self.planes.pitch..][..pass.cols];
            let to = &mut out[(pass.first.0 + self.step * r) * width..][..width];
            match self.step {
                1 => copy_row(from, &mut to[pass.first.1..][..pass.cols]),
                step => {
                    for (t, f) in to[pass.first.1..].iter_mut().step_by(step).zip(from) {
                        *t = *f;
                    }
                }
            }
        }
    }

    /// Two passes of the same rows, one of which has the even columns and the other the odd ones.
    fn weave(&self, one: (&Pass, &[f32]), other: (&Pass, &[f32]), out: &mut [f32]) {
        let (even, odd) = if one.0.first.1 == 0 { (one, other) } else { (other, one) };
        for r in 0..even.0.rows {
            let from = r * self.planes.pitch;
            let (evens, odds) = (&even.1[from..][..even.0.cols], &odd.1[from..][..odd.0.cols]);
            let to = &mut out[(even.0.first.0 + 2 * r) * self.size.1..][..self.size.1];
            let (pairs, last) = to.as_chunks_mut::<2>();
            for ((to, even), odd) in pairs.iter_mut().zip(evens).zip(odds) {
                *to = [*even, *odd];
            }
            if let ([last], Some(even)) = (last, evens.last()) {
                *last = *even;
            }
        }
    }
}

/// Offsets of all taps in the order of the weights: (channel, row, column).
fn input_taps(g: &Geometry, planes: &Planes) -> Vec<usize> {
    let mut taps = Vec::with_capacity(g.cin * g.k * g.k);
    for c in 0..g.cin {
        for kh in 0..g.k {
            taps.extend((0..g.k).map(|kw| planes.tap(c, kh, kw)));
        }
    }
    taps
}

/// Convolution of x (N, cin, h, w) with w (cout, cin, k, k), to (N, cout, ho, wo).
pub(super) fn forward(level: Level, g: &Geometry, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    Plan::forward(level, g, w, bias).run(x)
}

/// Gradient with respect to x from that of the result: (N, cout, ho, wo) to (N, cin, h, w). A `bias` (cin) makes it a transposed
/// convolution of its own right.
pub(super) fn input_gradient(level: Level, g: &Geometry, dy: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    Plan::input_gradient(level, g, w, bias).run(dy)
}

/// Gradient with respect to the weights, (cout, cin, k, k).
pub(super) fn weight_gradient(level: Level, g: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let images = x.len() / g.input_len();
    let pieces = images.min(PIECES);
    let single = Planes::of_input(g, 1);
    let most = images.div_ceil(pieces.max(1)).max(1);
    let stacked = (POSITIONS / single.image.max(1)).clamp(1, most);
    let planes = Planes::of_input(g, stacked);
    let taps = input_taps(g, &planes);
    let count = g.cout * taps.len();

    let mut partial = vec![0.0f32; pieces * count];
    partial.par_chunks_mut(count).enumerate().for_each(|(piece, grad)| {
        let range = piece * images / pieces..(piece + 1) * images / pieces;
        for from in range.clone().step_by(stacked) {
            let batch = from..range.end.min(from + stacked);
            let len = ((batch.len() - 1) * planes.image + (g.ho - 1) * planes.pitch + g.wo).next_multiple_of(16);
            // Channels a multiple of 1 KiB apart would fall into the same sets of L1.
            let stride = if len.is_multiple_of(256) { len + 16 } else { len };
            SCRATCH.with_borrow_mut(|(packed, results)| {
                let buf = packed.take(planes.total(g.cin));
                let dout = results.take(g.cout * stride);
                buf.fill(0.0);
                dout.fill(0.0);
                for (at, image) in batch.enumerate() {
                    planes.pack(&x[image * g.input_len()..][..g.input_len()], g.cin, at, buf);
                    let dy = &dy[image * g.output_len()..][..g.output_len()];
                    for (from, to) in dy.chunks_exact(g.ho * g.wo).zip(dout.chunks_exact_mut(stride)) {
                        for (r, row) in from.chunks_exact(g.wo).enumerate() {
                            copy_row(row, &mut to[at * planes.image + r * planes.pitch..][..g.wo]);
                        }
                    }
                }
                let (buf, dout, taps, channels) = (&*buf, &*dout, &taps[..], g.cout);
                dispatch(level, WeightGradient { buf, taps, dout, stride, channels, len, grad });
            });
        }
    });
    sum_pieces(partial, count)
}

/// The sum of `count`-long pieces, first to last, whatever thread does it.
fn sum_pieces(partial: Vec<f32>, count: usize) -> Vec<f32> {
    let mut sum = vec![0.0; count];
    for piece in partial.chunks_exact(count) {
        sum.par_iter_mut().with_min_len(16 * 1024).zip(piece).for_each(|(s, p)| *s += p);
    }
    sum
}

#[cfg(test)]
mod tests;
