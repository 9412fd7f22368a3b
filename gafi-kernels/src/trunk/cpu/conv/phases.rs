//! The input gradient of a convolution as convolutions: of stride s it has s * s phases, each with a share of the taps.

use super::super::super::backend::Geometry;
use super::super::maps::Frame;
use super::{group_of, grouped};

/// Where the rows (or columns) of one phase of an input get their gradient from: input rows stride * r + a - pad for r in
/// start..start + count; kernel rows a, a + stride, ..., `taps` of them, of which the j-th reads output row r - j.
#[derive(Clone, Copy, Debug)]
struct Phase {
    start: isize,
    count: usize,
    taps: usize,
}

/// One direction of an input gradient: its phases, and how far they read.
struct Axis {
    phases: Vec<Phase>,
    /// First and last output row that some tap reads; those outside the output count as zero.
    lo: isize,
    hi: isize,
}

impl Axis {
    fn new(n: usize, g: &Geometry) -> Axis {
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

/// One phase of rows and columns.
pub(in super::super) struct BackPass {
    /// Where in a group's frames each position reads.
    pub(in super::super) rows: Vec<usize>,
    /// The runs from there on, and their length.
    pub(in super::super) runs: Vec<usize>,
    pub(in super::super) len: usize,
    /// The pixel that each of a group's positions makes; `None` where they are all, in order.
    pub(in super::super) pixels: Option<Vec<usize>>,
    first: (usize, usize),
    taps: (usize, usize),
    stride: usize,
}

impl BackPass {
    /// The kernel's row and column that pixel `at` of a run meets.
    pub(in super::super) fn tap(&self, run: usize, at: usize) -> (usize, usize) {
        let ((a, b), (down, across), s) = (self.first, self.taps, self.stride);
        (a + s * (down - 1 - run), b + s * (across - 1 - at))
    }
}

/// The frame for results of `channels`, the images of a group, and the passes.
pub(in super::super) fn back_passes(g: &Geometry, channels: usize) -> (Frame, usize, Vec<BackPass>) {
    let (down, across) = (Axis::new(g.h, g), Axis::new(g.w, g));
    let (top, left) = (-down.lo.min(0), -across.lo.min(0));
    let size = |n: usize, hi: isize, before: isize| ((hi + 1).max(n as isize) + before) as usize;
    let (rows, cols) = (size(g.ho, down.hi, top), size(g.wo, across.hi, left));
    let frame = Frame { top: top as usize, left: left as usize, rows, cols };
    let pitch = cols * channels;
    let group = group_of((g.h / g.stride) * (g.w / g.stride));
    let mut passes = Vec::new();
    for (a, row) in down.phases.iter().enumerate() {
        for (b, col) in across.phases.iter().enumerate() {
            let (mut rows, mut pixels) = (Vec::new(), Vec::new());
            for r in row.start..row.start + row.count as isize {
                for c in col.start..col.start + col.count as isize {
                    // The taps run upwards and to the left; memory runs the other way.
                    let (r0, c0) = (r + 1 - row.taps as isize + top, c + 1 - col.taps as isize + left);
                    rows.push(r0.max(0) as usize * pitch + c0.max(0) as usize * channels);
                    let pixel = |at: isize, phase: usize| (at * g.stride as isize) as usize + phase - g.pad;
                    pixels.push(pixel(r, a) * g.w + pixel(c, b));
                }
            }
            if rows.is_empty() {
                continue;
            }
            // A phase that no tap falls on has a gradient of zero.
            let taps = (if col.taps == 0 { 0 } else { row.taps }, col.taps);
            let all = pixels.len() == g.h * g.w;
            passes.push(BackPass {
                rows: grouped(&rows, group, frame.rows * pitch),
                runs: (0..taps.0).map(|run| run * pitch).collect(),
                len: taps.1 * channels,
                pixels: (!all).then(|| grouped(&pixels, group, g.h * g.w)),
                first: (a, b),
                taps,
                stride: g.stride,
            });
        }
    }
    (frame, group, passes)
}
