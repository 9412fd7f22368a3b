//! Convolutions of whole batches of bf16 maps, over the kernels of `bf16`: what `conv` is for f32.
//!
//! Images are put into frames of bf16, channels filled up to an even number, as factors come in pairs. A pass makes
//! some hundred positions of its result at a time, rounded as they leave the registers. There are no Winograd transforms here: AMX multiplies faster than anything transforms, and for
//! AVX-512-BF16 `conv` has them.

use std::cell::RefCell;
use std::mem::take;

use rayon::prelude::*;

use super::super::backend::Geometry;
use super::super::memory::Pooled;
use super::bf16::{self, Level, Outer, PANEL, Rounded, Rows, Start};
use super::conv::{Images, Results, back_passes, group_of, grouped, input_frame, reads, run_groups};
use super::maps::{Frame, Halves, ImagePre, Tiles, at_a_time, read};
use crate::ops::simd::{self, Kernel, Lane, Scratch, dispatch};

/// Positions whose sums are made at a time: a multiple of all register blocks.
const CHUNK: usize = 192;
/// Positions that weight gradients are summed over at a time, at least.
const POSITIONS: usize = 512;
/// Pieces of a batch that a weight gradient is summed over.
const PIECES: usize = 8;
/// Larger gradients, in values, are not summed in pieces, which would not stay in L2. Threads share the gradient
/// itself.
const LARGE: usize = 1 << 17;
/// Rows of such a gradient (numbers that a position reads) that are summed over the whole batch at a time.
const BLOCK: usize = 96;

/// What a thread keeps, as it is needed for every image of every layer.
#[derive(Default)]
struct Kept {
    frames: Halves,
    left: Halves,
    right: Halves,
    sums: Scratch,
    floats: Scratch,
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// Some rows and columns of the result.
struct Pass {
    /// Where in a group's frames each position reads.
    rows: Vec<usize>,
    segments: Vec<usize>,
    len: usize,
    /// Packed for [`Rows`].
    weights: Pooled<u16>,
    /// The pixel of the result that each of a group's positions makes; `None` where they are all, in order.
    pixels: Option<Vec<usize>>,
}

/// How to get result images out of source images.
pub(super) struct Plan {
    level: Level,
    source: (usize, usize, usize),
    result: (usize, usize, usize),
    frame: Frame,
    /// Images of a group.
    group: usize,
    passes: Vec<Pass>,
}

fn packed(w: &[f32], bases: &[Option<usize>], stride: usize, n: usize) -> Pooled<u16> {
    let mut packed = Pooled::new(bases.len() * n.next_multiple_of(PANEL));
    bf16::pack(w, bases, stride, n, &mut packed);
    packed
}

/// The geometry of frames: with an even number of channels to read.
fn even(g: &Geometry) -> Geometry {
    Geometry { cin: g.cin.next_multiple_of(2), ..*g }
}

impl Plan {
    /// The convolution with `w` (cout, cin, k, k).
    pub(super) fn forward(level: Level, g: &Geometry, w: &[f32]) -> Self {
        let (frame, even) = (input_frame(g), even(g));
        let (rows, segments, len) = reads(&even, frame);
        let bases: Vec<Option<usize>> = (0..g.k * len)
            .map(|at| {
                let (kh, kw, ci) = (at / len, at % len / even.cin, at % even.cin);
                (ci < g.cin).then_some((ci * g.k + kh) * g.k + kw)
            })
            .collect();
        let weights = packed(w, &bases, g.cin * g.k * g.k, g.cout);
        let group = group_of(rows.len());
        let rows = grouped(&rows, group, frame.rows * frame.cols * even.cin);
        let passes = vec![Pass { rows, segments, len, weights, pixels: None }];
        Plan { level, source: (g.h, g.w, g.cin), result: (g.ho, g.wo, g.cout), frame, group, passes }
    }

    /// The input gradient of the convolution with `w` (cout, cin, k, k): from its results to its inputs.
    pub(super) fn input_gradient(level: Level, g: &Geometry, w: &[f32]) -> Self {
        let channels = g.cout.next_multiple_of(2);
        let (frame, group, passes) = back_passes(g, channels);
        let passes = passes.into_iter().map(|pass| {
            let bases: Vec<Option<usize>> = (0..pass.runs.len() * pass.len)
                .map(|at| {
                    let (kh, kw) = pass.tap(at / pass.len, at % pass.len / channels);
                    let co = at % channels;
                    (co < g.cout).then_some((co * g.cin * g.k + kh) * g.k + kw)
                })
                .collect();
            let weights = packed(w, &bases, g.k * g.k, g.cin);
            Pass { rows: pass.rows, segments: pass.runs, len: pass.len, weights, pixels: pass.pixels }
        });
        let passes = passes.collect();
        Plan { level, source: (g.ho, g.wo, g.cout), result: (g.h, g.w, g.cin), frame, group, passes }
    }

    /// As [`super::conv::Plan::run`].
    pub(super) fn run(
        &self,
        images: Images<'_, u16>,
        bias: Option<&[f32]>,
        sums: usize,
        finish: impl Fn(usize, &mut [u16], &mut [f64]) + Sync,
    ) -> Results<u16> {
        let bias = bias.map(|bias| {
            let mut filled = bias.to_vec();
            filled.resize(bias.len().next_multiple_of(PANEL), 0.0);
            filled
        });
        let work = |first: usize, out: &mut [u16]| self.group(images, first, bias.as_deref(), out);
        run_groups(images.values.len(), self.source, self.result, self.group, sums, work, finish)
    }

    /// A group of images, from number `first` on.
    fn group(&self, images: Images<'_, u16>, first: usize, bias: Option<&[f32]>, out: &mut [u16]) {
        let (ho, wo, n) = self.result;
        let (count, wide) = (out.len() / (ho * wo * n).max(1), n.next_multiple_of(PANEL));
        let start = bias.map_or(Start::Zero, Start::Bias);
        KEPT.with_borrow_mut(|Kept { frames, sums, floats, .. }| {
            let a = framed(self.frame, self.source, images, first, count, frames, floats);
            for Pass { rows, segments, len, weights: b, pixels } in &self.passes {
                let each = rows.len() / self.group;
                for (chunk, rows) in rows[..each * count].chunks(CHUNK).enumerate() {
                    let (from, c) = (chunk * CHUNK, sums.take(rows.len() * wide));
                    let pixels = pixels.as_ref().map(|pixels| &pixels[from..][..rows.len()]);
                    let rounded = Some(Rounded { to: &mut *out, n, first: from, pixels });
                    Rows { a, rows, segments, len: *len, b, n: wide, start, c, ldc: wide, rounded }.run(self.level);
                }
            }
        });
    }
}

/// Puts an image (h, w, c), `pre` applied, into a frame with zeros around it and behind its channels. What of the image
/// doesn't fit is left out.
fn fill(
    frame: Frame,
    image: &[u16],
    (h, w, c): (usize, usize, usize),
    pre: ImagePre<'_>,
    to: &mut [u16],
    floats: &mut Scratch,
) {
    let (wide, level) = (c.next_multiple_of(2), simd::Level::best());
    let (height, width) = (frame.rows.saturating_sub(frame.top).min(h), frame.cols.saturating_sub(frame.left).min(w));
    let mut tiles = Tiles::default();
    // Once for all rows.
    let pre = pre.tiled(&mut tiles);
    for (r, to) in to.chunks_exact_mut((frame.cols * wide).max(1)).enumerate() {
        if r < frame.top || r >= frame.top + height {
            to.fill(0);
            continue;
        }
        let (before, to) = to.split_at_mut(frame.left * wide);
        let (to, behind) = to.split_at_mut(width * wide);
        before.fill(0);
        behind.fill(0);
        let from = &image[(r - frame.top) * w * c..][..width * c];
        match pre {
            ImagePre::None if c == wide => to.copy_from_slice(from),
            ImagePre::Leaky(0.0) if c == wide => dispatch(level, Relu(from, to)),
            _ => {
                let floats = floats.take(from.len());
                read(level, from, pre, floats);
                if c == wide {
                    bf16::round(floats, to);
                } else {
                    for (to, from) in to.chunks_exact_mut(wide).zip(floats.chunks_exact(c)) {
                        bf16::round(from, &mut to[..c]);
                        to[c..].fill(0);
                    }
                }
            }
        }
    }
}

/// A relu without arithmetic, so without rounding.
struct Relu<'a>(&'a [u16], &'a mut [u16]);

impl Kernel for Relu<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        // From minus the smallest number to minus infinity; a NaN stays.
        let negative = |v: u16| v.wrapping_sub(0x8001) < 0x7f80;
        self.1.iter_mut().zip(self.0).for_each(|(to, from)| *to = if negative(*from) { 0 } else { *from });
    }
}

/// `count` images from number `first` on in their frames, one after the other: where they lie already, or in `kept`.
fn framed<'a>(
    frame: Frame,
    (h, w, c): (usize, usize, usize),
    images: Images<'a, u16>,
    first: usize,
    count: usize,
    kept: &'a mut Halves,
    floats: &mut Scratch,
) -> &'a [u16] {
    let values = &images.values[first * h * w * c..][..count * h * w * c];
    if frame.is_tight(h, w) && c.is_multiple_of(2) && images.pre.is_none() {
        return values;
    }
    let size = frame.rows * frame.cols * c.next_multiple_of(2);
    let to = kept.take(count * size);
    for (i, (to, image)) in to.chunks_exact_mut(size).zip(values.chunks_exact(h * w * c)).enumerate() {
        let pre = images.pre.image(first + i, c);
        fill(frame, image, (h, w, c), pre, to, floats);
    }
    to
}

/// The gradient of the weights, (cout, cin, k, k), from the images that the convolution read and the gradients of its
/// results. For an upsampled convolution the two change places, so both may have something applied.
pub(super) fn weight_gradient(level: Level, g: &Geometry, x: Images<'_, u16>, dy: Images<'_, u16>) -> Vec<f32> {
    let images = x.values.len() / (g.h * g.w * g.cin).max(1);
    let (frame, even, n) = (input_frame(g), even(g), g.cout.next_multiple_of(PANEL));
    let (segments, len) = (reads(&even, frame).1, g.k * even.cin);
    // Where pairs of neighbours of an image's result begin to read.
    let across = g.wo.div_ceil(2);
    let rows: Vec<usize> =
        (0..g.ho).flat_map(|r| (0..across).map(move |q| (r * frame.cols + 2 * q) * g.stride * even.cin)).collect();
    let (size, pairs) = (frame.rows * frame.cols * even.cin, Pairs { g, frame, x, dy });
    let (left, right) = (2 * size, g.ho * across * n * 2);
    let count = segments.len() * len * n;
    let partial = if count > LARGE {
        let (mut a2, mut d2) = (Pooled::new(images * left), Pooled::new(images * right));
        let both = a2.par_chunks_mut(left).zip(d2.par_chunks_mut(right)).enumerate().with_max_len(1);
        both.for_each(|(image, (a2, d2))| pairs.make(image, a2, d2));
        let rows = grouped(&rows, images, size);
        let mut sums = Pooled::<f32>::new(count);
        for (segment, sums) in segments.iter().zip(sums.chunks_exact_mut(len * n)) {
            sums.par_chunks_mut(BLOCK * n).enumerate().with_max_len(1).for_each(|(block, c)| {
                c.fill(0.0);
                let (segment, len) = (segment + block * BLOCK, c.len() / n);
                Outer { a2: &a2, rows: &rows, segments: &[segment], len, d2: &d2, n, c, ldc: n }.run(level);
            });
        }
        sums
    } else {
        let group = POSITIONS.div_ceil((g.ho * g.wo).max(1));
        let rows = grouped(&rows, group, size);
        let pieces = images.div_ceil(group_of(g.ho * g.wo)).clamp(1, PIECES);
        let mut partial = Pooled::<f32>::new(pieces * count);
        partial.par_chunks_mut(count.max(1)).enumerate().with_max_len(1).for_each(|(piece, c)| {
            c.fill(0.0);
            let range = piece * images / pieces..(piece + 1) * images / pieces;
            for first in range.clone().step_by(group) {
                let now = group.min(range.end - first);
                // Taken out, as making pairs needs what else a thread keeps.
                let (mut a2, mut d2) = KEPT.with_borrow_mut(|kept| (take(&mut kept.left), take(&mut kept.right)));
                let (lefts, rights) = (a2.take(now * left), d2.take(now * right));
                for (i, (a2, d2)) in lefts.chunks_exact_mut(left).zip(rights.chunks_exact_mut(right)).enumerate() {
                    pairs.make(first + i, a2, d2);
                }
                let rows = &rows[..now * g.ho * across];
                Outer { a2: lefts, rows, segments: &segments, len, d2: rights, n, c, ldc: n }.run(level);
                KEPT.with_borrow_mut(|kept| (kept.left, kept.right) = (a2, d2));
            }
        });
        partial
    };
    // (piece, kh, kw, even cin, n) to (cout, cin, kh, kw).
    let mut grad = vec![0.0; g.cout * g.cin * g.k * g.k];
    let taps = g.k * g.k;
    let panels = grad.par_chunks_mut((PANEL * g.cin * taps).max(1)).enumerate();
    panels.with_min_len(at_a_time(PANEL * g.cin * taps)).for_each(|(panel, grad)| {
        for (at, tap) in (0..taps).flat_map(|tap| (0..g.cin).map(move |ci| (tap * even.cin + ci, ci * taps + tap))) {
            let mut total = [0.0f32; PANEL];
            for piece in partial.chunks_exact(count) {
                total.iter_mut().zip(&piece[at * n + panel * PANEL..]).for_each(|(t, p)| *t += p);
            }
            grad[tap..].iter_mut().step_by(g.cin * taps).zip(total).for_each(|(g, t)| *g = t);
        }
    });
    grad
}

/// Pairs of neighbours in a row of the result: what they read, and their gradients.
struct Pairs<'a> {
    g: &'a Geometry,
    frame: Frame,
    x: Images<'a, u16>,
    dy: Images<'a, u16>,
}

impl Pairs<'_> {
    /// Those of one image, as [`Outer`] wants them.
    fn make(&self, image: usize, a2: &mut [u16], d2: &mut [u16]) {
        let Pairs { g, frame, x, dy } = *self;
        KEPT.with_borrow_mut(|Kept { frames, floats, .. }| {
            let a = framed(frame, (g.h, g.w, g.cin), x, image, 1, frames, floats);
            // The neighbour in the result is `stride` pixels on. (Behind the last pixels there is nothing, and its
            // gradient is zero.)
            let ahead = (g.stride * g.cin.next_multiple_of(2)).min(a.len());
            let (pairs, rest) = a2.split_at_mut(2 * (a.len() - ahead));
            bf16::interleave(a, &a[ahead..], pairs);
            for (pair, a) in rest.as_chunks_mut::<2>().0.iter_mut().zip(&a[a.len() - ahead..]) {
                *pair = [*a, 0];
            }

            let (n, odd) = (g.cout.next_multiple_of(PANEL), g.cout % 2);
            let tight = Frame { top: 0, left: 0, rows: g.ho, cols: g.wo };
            let plain = dy.pre.is_none();
            let d = if plain {
                &dy.values[image * g.ho * g.wo * g.cout..][..g.ho * g.wo * g.cout]
            } else {
                framed(tight, (g.ho, g.wo, g.cout), dy, image, 1, frames, floats)
            };
            // Frames have an even number of channels.
            let channels = if plain { g.cout } else { g.cout + odd };
            let to = d2.chunks_exact_mut(g.wo.div_ceil(2) * n * 2);
            d.chunks_exact(g.wo * channels).zip(to).for_each(|(d, to)| bf16::pairs(d, channels, n, to));
        });
    }
}

#[cfg(test)]
mod tests;
