//! Convolutions of whole batches of bf16 maps, on the kernels of `bf16`; the counterpart of `conv`.
//!
//! Images are copied to frames of bf16 whose number of channels is even, as factors come in pairs. A pass computes up to
//! `CHUNK` positions at a time and rounds the results as they leave the registers. There are no Winograd transforms here:
//! with AMX they would cost more than they save, and for AVX-512-BF16 they are in `conv`.

use std::cell::RefCell;
use std::mem::take;

use super::bf16::{self, Level, Outer, PANEL, Rounded, Rows, Start};
use super::conv::{Direction, Finish, Pass, Results, group_of, grouped, input_frame, passes, read_offsets, run_groups};
use super::frame::Frame;
use super::parallel::{Tasks, for_each_chunk, for_each_chunk_pair};
use super::view::{ImagePre, Images, Tiles, read};
use crate::activation::Activation;
use crate::geometry::Geometry;
use crate::memory::{Pooled, Scratch};
use crate::simd::{self, vectorised};

/// Number of positions that a pass computes at a time; a multiple of all register blocks.
const CHUNK: usize = 192;
/// Minimum number of positions that weight gradients are summed over at a time.
const POSITIONS: usize = 512;
/// Number of pieces of the batch that are summed separately for a weight gradient.
const PIECES: usize = 8;
/// Weight gradients with more values than this are not summed in pieces, which would not stay in L2. Instead the gradient
/// itself is divided among threads.
const LARGE: usize = 1 << 17;
/// Number of rows of a large gradient that a task computes; there is one row for each value that a position reads.
const BLOCK: usize = 96;

/// The buffers of a thread. They are kept, because every image of every layer needs them.
#[derive(Default)]
struct Buffers {
    frames: Scratch<u16>,
    left: Scratch<u16>,
    right: Scratch<u16>,
    sums: Scratch,
    floats: Scratch,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
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
    /// With their weights, packed for [`Rows`].
    passes: Vec<(Pass, Pooled<u16>)>,
}

impl Plan {
    /// The plan of the convolution with weights `w` (cout, cin, k, k), or of its input gradient.
    pub(super) fn new(level: Level, direction: Direction, g: &Geometry, w: &[f32]) -> Self {
        let (from, to) = direction.sides(g);
        let inputs = from.image.2;
        let results = to.image.2;
        let channels = inputs.next_multiple_of(2);
        let (frame, group, passes) = passes(direction, g, channels);
        let passes = passes.into_iter().map(|pass| {
            let bases: Vec<Option<usize>> = (0..pass.runs.len() * pass.len)
                .map(|at| {
                    let channel = at % channels;
                    let tap = pass.tap(at / pass.len, at % pass.len / channels);
                    (channel < inputs).then_some(channel * from.stride + tap)
                })
                .collect();
            let mut weights = Pooled::<u16>::new(bases.len() * results.next_multiple_of(PANEL));
            bf16::pack(w, &bases, to.stride, results, &mut weights);
            (pass, weights)
        });
        let passes = passes.collect();
        Plan { level, source: from.image, result: to.image, frame, group, passes }
    }

    /// Like [`super::conv::Plan::run`].
    pub(super) fn run(
        &self,
        images: Images<'_, u16>,
        bias: Option<&[f32]>,
        sums: usize,
        finish: &Finish<'_, u16>,
    ) -> Results<u16> {
        let bias = bias.map(|bias| {
            let mut filled = bias.to_vec();
            filled.resize(bias.len().next_multiple_of(PANEL), 0.0);
            filled
        });
        let work = |first: usize, out: &mut [u16]| self.group(images, first, bias.as_deref(), out);
        run_groups(images.values.len(), self.source, self.result, self.group, sums, &work, finish)
    }

    /// Computes the results of a group of images, from index `first` on.
    fn group(&self, images: Images<'_, u16>, first: usize, bias: Option<&[f32]>, out: &mut [u16]) {
        let (ho, wo, n) = self.result;
        let count = out.len() / (ho * wo * n).max(1);
        let wide = n.next_multiple_of(PANEL);
        let start = bias.map_or(Start::Zero, Start::Bias);
        BUFFERS.with_borrow_mut(|Buffers { frames, sums, floats, .. }| {
            let a = framed(self.frame, self.source, images, first, count, frames, floats);
            for (Pass { rows, runs, len, pixels, .. }, b) in &self.passes {
                let each = rows.len() / self.group;
                for (chunk, rows) in rows[..each * count].chunks(CHUNK).enumerate() {
                    let from = chunk * CHUNK;
                    let c = sums.take(rows.len() * wide);
                    let pixels = pixels.as_ref().map(|pixels| &pixels[from..][..rows.len()]);
                    let rounded = Some(Rounded { to: &mut *out, n, first: from, pixels });
                    Rows { a, rows, segments: runs, len: *len, b, n: wide, start, c, rounded }.run(self.level);
                }
            }
        });
    }
}

/// Reads an image (h, w, c) through `pre` into a frame, with zeros around it and after its channels, cropped to the frame.
fn fill(
    frame: Frame,
    image: &[u16],
    (h, w, c): (usize, usize, usize),
    pre: ImagePre<'_>,
    to: &mut [u16],
    floats: &mut Scratch,
) {
    let wide = c.next_multiple_of(2);
    let level = simd::Level::best();
    let height = frame.rows.saturating_sub(frame.top).min(h);
    let width = frame.cols.saturating_sub(frame.left).min(w);
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
            ImagePre::Activation(Activation::Leaky(0.0)) if c == wide => relu(level, from, to),
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

/// A relu on the bits of bf16, without arithmetic.
fn relu(level: simd::Level, from: &[u16], to: &mut [u16]) {
    // The bits from the negative number of smallest magnitude to minus infinity. NaN stays.
    let negative = |v: u16| v.wrapping_sub(0x8001) < 0x7f80;
    vectorised(
        level,
        #[inline(always)]
        || to.iter_mut().zip(from).for_each(|(to, from)| *to = if negative(*from) { 0 } else { *from }),
    );
}

/// The frames of `count` images from index `first` on, one after the other: in place if they need neither padding nor
/// conversion, else in `scratch`.
fn framed<'a>(
    frame: Frame,
    (h, w, c): (usize, usize, usize),
    images: Images<'a, u16>,
    first: usize,
    count: usize,
    scratch: &'a mut Scratch<u16>,
    floats: &mut Scratch,
) -> &'a [u16] {
    let values = &images.values[first * h * w * c..][..count * h * w * c];
    if frame.is_tight(h, w) && c.is_multiple_of(2) && images.pre.is_none() {
        return values;
    }
    let size = frame.rows * frame.cols * c.next_multiple_of(2);
    let to = scratch.take(count * size);
    for (i, (to, image)) in to.chunks_exact_mut(size).zip(values.chunks_exact(h * w * c)).enumerate() {
        let pre = images.pre.image(first + i, c);
        fill(frame, image, (h, w, c), pre, to, floats);
    }
    to
}

/// The gradient (cout, cin, k, k) of the weights, from the convolution's input images and the gradients of its results. An
/// upsampled convolution swaps the two, so both may have a prologue.
pub(super) fn weight_gradient(level: Level, g: &Geometry, x: Images<'_, u16>, dy: Images<'_, u16>) -> Vec<f32> {
    let images = x.values.len() / (g.h * g.w * g.cin).max(1);
    let frame = input_frame(g);
    let channels = g.cin.next_multiple_of(2);
    let n = g.cout.next_multiple_of(PANEL);
    let (_, segments, len) = read_offsets(g, channels, frame);
    // The offset at which each pair of neighbouring results reads.
    let across = g.wo.div_ceil(2);
    let rows: Vec<usize> =
        (0..g.ho).flat_map(|r| (0..across).map(move |q| (r * frame.cols + 2 * q) * g.stride * channels)).collect();
    let size = frame.rows * frame.cols * channels;
    let pairs = Pairs { g, frame, x, dy };
    let left = 2 * size;
    let right = g.ho * across * n * 2;
    let count = segments.len() * len * n;
    let partial = if count > LARGE {
        let mut a2 = Pooled::new(images * left);
        let mut d2 = Pooled::new(images * right);
        for_each_chunk_pair((&mut a2, left), (&mut d2, right), &|image, a2, d2| pairs.make(image, a2, d2));
        let rows = grouped(&rows, images, size);
        let mut sums = Pooled::<f32>::new(count);
        for (segment, sums) in segments.iter().zip(sums.chunks_exact_mut(len * n)) {
            for_each_chunk(sums, BLOCK * n, Tasks::SINGLE, &|block, c| {
                c.fill(0.0);
                let segment = segment + block * BLOCK;
                let len = c.len() / n;
                Outer { a2: &a2, rows: &rows, segments: &[segment], len, d2: &d2, n, c }.run(level);
            });
        }
        sums
    } else {
        let group = POSITIONS.div_ceil((g.ho * g.wo).max(1));
        let rows = grouped(&rows, group, size);
        let pieces = images.div_ceil(group_of(g.ho * g.wo)).clamp(1, PIECES);
        let mut partial = Pooled::<f32>::new(pieces * count);
        for_each_chunk(&mut partial, count, Tasks::SINGLE, &|piece, c| {
            c.fill(0.0);
            let range = piece * images / pieces..(piece + 1) * images / pieces;
            for first in range.clone().step_by(group) {
                let now = group.min(range.end - first);
                // Taken out, as `pairs.make` borrows the other buffers.
                let (mut a2, mut d2) =
                    BUFFERS.with_borrow_mut(|buffers| (take(&mut buffers.left), take(&mut buffers.right)));
                let lefts = a2.take(now * left);
                let rights = d2.take(now * right);
                for (i, (a2, d2)) in lefts.chunks_exact_mut(left).zip(rights.chunks_exact_mut(right)).enumerate() {
                    pairs.make(first + i, a2, d2);
                }
                let rows = &rows[..now * g.ho * across];
                Outer { a2: lefts, rows, segments: &segments, len, d2: rights, n, c }.run(level);
                BUFFERS.with_borrow_mut(|buffers| (buffers.left, buffers.right) = (a2, d2));
            }
        });
        partial
    };
    // From (piece, kh, kw, channels, n) to (cout, cin, kh, kw).
    let mut grad = vec![0.0; g.cout * g.cin * g.k * g.k];
    let taps = g.k * g.k;
    let size = PANEL * g.cin * taps;
    for_each_chunk(&mut grad, size, Tasks::large(size), &|panel, grad| {
        for (at, tap) in (0..taps).flat_map(|tap| (0..g.cin).map(move |ci| (tap * channels + ci, ci * taps + tap))) {
            let mut total = [0.0f32; PANEL];
            for piece in partial.chunks_exact(count) {
                total.iter_mut().zip(&piece[at * n + panel * PANEL..]).for_each(|(t, p)| *t += p);
            }
            grad[tap..].iter_mut().step_by(g.cin * taps).zip(total).for_each(|(g, t)| *g = t);
        }
    });
    grad
}

/// Source of the factors of [`Outer`]: pairs of neighbours in a row of the result, with their inputs and gradients.
struct Pairs<'a> {
    g: &'a Geometry,
    frame: Frame,
    x: Images<'a, u16>,
    dy: Images<'a, u16>,
}

impl Pairs<'_> {
    /// Writes the factors of one image.
    fn make(&self, image: usize, a2: &mut [u16], d2: &mut [u16]) {
        let Pairs { g, frame, x, dy } = *self;
        BUFFERS.with_borrow_mut(|Buffers { frames, floats, .. }| {
            let a = framed(frame, (g.h, g.w, g.cin), x, image, 1, frames, floats);
            // The neighbour in the result reads `stride` pixels further on. The last pixels have no neighbour, so its
            // gradient is zero.
            let ahead = (g.stride * g.cin.next_multiple_of(2)).min(a.len());
            let (pairs, rest) = a2.split_at_mut(2 * (a.len() - ahead));
            bf16::interleave(a, &a[ahead..], pairs);
            for (pair, a) in rest.as_chunks_mut::<2>().0.iter_mut().zip(&a[a.len() - ahead..]) {
                *pair = [*a, 0];
            }

            let n = g.cout.next_multiple_of(PANEL);
            let odd = g.cout % 2;
            let tight = Frame { top: 0, left: 0, rows: g.ho, cols: g.wo };
            let plain = dy.pre.is_none();
            let d = if plain {
                &dy.values[image * g.ho * g.wo * g.cout..][..g.ho * g.wo * g.cout]
            } else {
                framed(tight, (g.ho, g.wo, g.cout), dy, image, 1, frames, floats)
            };
            // A frame has an even number of channels.
            let channels = if plain { g.cout } else { g.cout + odd };
            let to = d2.chunks_exact_mut(g.wo.div_ceil(2) * n * 2);
            d.chunks_exact(g.wo * channels).zip(to).for_each(|(d, to)| bf16::pairs(d, channels, n, to));
        });
    }
}

#[cfg(test)]
mod tests;
