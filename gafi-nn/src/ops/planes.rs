//! How images lie in memory for the kernels: flat planes with zeros around them, so that each tap of a kernel is an offset.
//!
//! A plane has rows of `pitch` floats. The zeros to the right of a row serve as those to the left of the next one, so the gap
//! is only as wide as the padding; likewise below and above images that are stacked in one plane. For a stride s > 1 a
//! channel has a plane for each phase (row mod s, column mod s): then a tap is an offset there too, and all loads are of
//! consecutive floats.

use candle_core::{Result, bail};

/// The sizes of one convolution: x (N, cin, h, w), weights (cout, cin, k, k), result (N, cout, ho, wo).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) cin: usize,
    pub(super) cout: usize,
    pub(super) k: usize,
    pub(super) stride: usize,
    pub(super) pad: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) ho: usize,
    pub(super) wo: usize,
}

impl Geometry {
    /// Checks that the shapes fit together; `op` names the caller in errors.
    pub(super) fn new(op: &str, x: &[usize], weights: &[usize], stride: usize, pad: usize) -> Result<Self> {
        let (&[_, cin, h, w], &[cout, wcin, k, kw]) = (x, weights) else {
            bail!("{op}: x must be (N, Cin, H, W) and weights (Cout, Cin, K, K), got {x:?} and {weights:?}")
        };
        if cin != wcin || k != kw || k == 0 || cin == 0 || cout == 0 {
            bail!("{op}: weights {weights:?} don't fit x {x:?}")
        }
        if stride == 0 || h == 0 || w == 0 || h + 2 * pad < k || w + 2 * pad < k {
            bail!("{op}: kernel {k}, stride {stride} and padding {pad} don't fit x {x:?}")
        }
        let out = |n: usize| (n + 2 * pad - k) / stride + 1;
        Ok(Geometry { cin, cout, k, stride, pad, h, w, ho: out(h), wo: out(w) })
    }

    pub(super) fn input_len(&self) -> usize {
        self.cin * self.h * self.w
    }

    pub(super) fn output_len(&self) -> usize {
        self.cout * self.ho * self.wo
    }
}

/// How the images of one channel are packed.
#[derive(Clone, Debug)]
pub(super) struct Planes {
    /// Size of a source image.
    pub(super) source: (usize, usize),
    /// A plane's row r, column c of phase (a, b) is the source's row r * split + a - top, column c * split + b - left.
    split: usize,
    /// Phases in each direction that some tap reads.
    pub(super) phases: usize,
    top: isize,
    left: isize,
    /// Rows and columns of a plane that some tap reads, for one image.
    extent: (usize, usize),
    pub(super) pitch: usize,
    /// Floats from one stacked image to the next.
    pub(super) image: usize,
    /// Floats of a plane.
    pub(super) plane: usize,
}

impl Planes {
    /// For the taps of `g`, with `images` stacked: forward and weight gradient.
    pub(super) fn of_input(g: &Geometry, images: usize) -> Planes {
        let reach = (g.k - 1) / g.stride;
        let extent = (g.ho + reach, g.wo + reach);
        let (rows, pitch) = match g.stride {
            1 => ((g.h + g.pad).max(g.ho), (g.w + g.pad).max(g.wo)),
            _ => extent,
        };
        Planes {
            source: (g.h, g.w),
            split: g.stride,
            phases: g.k.min(g.stride),
            top: g.pad as isize,
            left: g.pad as isize,
            extent,
            pitch,
            image: rows * pitch,
            plane: plane_len(((images - 1) * rows + extent.0 - 1) * pitch + extent.1),
        }
    }

    /// Of the output gradient of `g`, for its input gradient: each input phase reads it at offsets of its own.
    pub(super) fn of_output(g: &Geometry, rows: &Axis, cols: &Axis) -> Planes {
        let extent = ((rows.hi - rows.lo + 1) as usize, (cols.hi - cols.lo + 1) as usize);
        let crop = cols.lo.max(0) as usize;
        let left = (-cols.lo).max(0) as usize;
        let right = (cols.hi + 1 - g.wo as isize).max(0) as usize;
        let widest = cols.phases.iter().map(|p| p.count).max().unwrap_or(0);
        let pitch = (g.wo.saturating_sub(crop) + left.max(right)).max(widest);
        Planes {
            source: (g.ho, g.wo),
            split: 1,
            phases: 1,
            top: -rows.lo,
            left: -cols.lo,
            extent,
            pitch,
            image: extent.0 * pitch,
            plane: plane_len((extent.0 - 1) * pitch + extent.1),
        }
    }

    /// Floats of the planes of `channels`, and what the last vector may read behind them.
    pub(super) fn total(&self, channels: usize) -> usize {
        channels * self.phases * self.phases * self.plane + 16
    }

    /// Where phase (a, b) of `channel` begins.
    pub(super) fn offset(&self, channel: usize, a: usize, b: usize) -> usize {
        ((channel * self.phases + a) * self.phases + b) * self.plane
    }

    /// The offset of the tap (kh, kw) of `channel`, for planes of an input.
    pub(super) fn tap(&self, channel: usize, kh: usize, kw: usize) -> usize {
        let s = self.split;
        self.offset(channel, kh % s, kw % s) + kh / s * self.pitch + kw / s
    }

    /// Copies one image's `channels` of source to stack position `at`. The zeros must be there already.
    pub(super) fn pack(&self, source: &[f32], channels: usize, at: usize, out: &mut [f32]) {
        let (h, w) = self.source;
        for (channel, source) in source.chunks_exact(h * w).take(channels).enumerate() {
            for a in 0..self.phases {
                let (row0, rows, first_row) = covered(h, self.split, a, self.top, self.extent.0);
                for b in 0..self.phases {
                    let (col0, cols, first_col) = covered(w, self.split, b, self.left, self.extent.1);
                    if cols == 0 {
                        continue;
                    }
                    let base = self.offset(channel, a, b) + at * self.image + col0;
                    for r in 0..rows {
                        let from = &source[(first_row + r * self.split) * w..][..w];
                        let to = &mut out[base + (row0 + r) * self.pitch..][..cols];
                        copy_every(&from[first_col..], self.split, to);
                    }
                }
            }
        }
    }
}

/// Planes a multiple of 1 KiB apart would fall into the same few sets of the L1 cache.
fn plane_len(len: usize) -> usize {
    if len.is_multiple_of(256) { len + 16 } else { len }
}

/// The plane's rows of phase `a` that hold source rows: (first, how many, source row of the first).
fn covered(source: usize, split: usize, a: usize, top: isize, extent: usize) -> (usize, usize, usize) {
    let (source, split, shift) = (source as isize, split as isize, a as isize - top);
    // Rows r with 0 <= r * split + shift < source.
    let first = (-shift + split - 1).div_euclid(split).max(0);
    let end = ((source - 1 - shift).div_euclid(split) + 1).min(extent as isize);
    let count = (end - first).max(0);
    (first as usize, count as usize, (first * split + shift).max(0) as usize)
}

/// to\[i\] = from\[i * step\].
#[inline(always)]
fn copy_every(from: &[f32], step: usize, to: &mut [f32]) {
    match step {
        1 => copy_row(&from[..to.len()], to),
        2 => {
            for (t, f) in to.iter_mut().zip(from.chunks_exact(2)) {
                *t = f[0];
            }
            // A row of odd length ends in half a pair.
            if let (Some(t), true) = (to.get_mut(from.len() / 2), from.len() % 2 == 1) {
                *t = from[from.len() - 1];
            }
        }
        _ => to.iter_mut().zip(from.iter().step_by(step)).for_each(|(t, f)| *t = *f),
    }
}

/// A copy of rows as short as images have: in blocks, without a call.
#[inline(always)]
pub(super) fn copy_row(from: &[f32], to: &mut [f32]) {
    let (from16, from_rest) = from.as_chunks::<16>();
    let (to16, to_rest) = to.as_chunks_mut::<16>();
    for (t, f) in to16.iter_mut().zip(from16) {
        *t = *f;
    }
    let (from4, from_rest) = from_rest.as_chunks::<4>();
    let (to4, to_rest) = to_rest.as_chunks_mut::<4>();
    for (t, f) in to4.iter_mut().zip(from4) {
        *t = *f;
    }
    for (t, f) in to_rest.iter_mut().zip(from_rest) {
        *t = *f;
    }
}

/// Where the input rows (or columns) of one phase get their gradient from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    /// Input rows stride * r + a - pad for r in start..start + count.
    pub(super) start: isize,
    pub(super) count: usize,
    /// Kernel rows a, a + stride, ...: this many; the j-th reads output row r - j.
    pub(super) taps: usize,
}

/// One direction of an input gradient.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) phases: Vec<Phase>,
    /// First and last output row that some tap reads; those outside the output count as zero.
    pub(super) lo: isize,
    pub(super) hi: isize,
}

impl Axis {
    /// For an input of `n` rows.
    pub(super) fn new(n: usize, k: usize, stride: usize, pad: usize) -> Axis {
        let (n, s, pad) = (n as isize, stride as isize, pad as isize);
        let phases: Vec<Phase> = (0..s)
            .map(|a| {
                let start = (pad - a + s - 1).div_euclid(s).max(0);
                let end = (n - 1 + pad - a).div_euclid(s) + 1;
                let taps = k.saturating_sub(a as usize).div_ceil(stride);
                Phase { start, count: (end - start).max(0) as usize, taps }
            })
            .collect();
        let reading = || phases.iter().filter(|p| p.count > 0 && p.taps > 0);
        let lo = reading().map(|p| p.start + 1 - p.taps as isize).min().unwrap_or(0);
        let hi = reading().map(|p| p.start + p.count as isize - 1).max().unwrap_or(0);
        Axis { phases, lo, hi }
    }
}
