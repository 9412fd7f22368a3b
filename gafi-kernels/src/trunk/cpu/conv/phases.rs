//! The passes of a plan. A convolution has one. Its input gradient consists of convolutions: a stride of s splits the input
//! into s * s phases; each phase is a convolution of the result's gradient with some of the taps.

use super::layout::{Direction, group_of, grouped, input_frame, read_offsets};
use crate::geometry::Geometry;
use crate::trunk::cpu::frame::Frame;

/// The rows (or columns) of phase a of an input: rows stride * r + a - pad for r in start..start + count. They receive their
/// gradient through the kernel rows a, a + stride, ..., `taps` of them; the j-th of these reads output row r - j.
#[derive(Clone, Copy, Debug)]
struct Phase {
    start: isize,
    count: usize,
    taps: usize,
}

/// The phases of one axis of an input gradient, and the range that they read.
struct Axis {
    phases: Vec<Phase>,
    /// First and last output row that any tap reads. Rows outside the output are zero.
    lo: isize,
    hi: isize,
}

impl Axis {
    fn new(n: usize, g: &Geometry) -> Axis {
        let n = n as isize;
        let s = g.stride as isize;
        let pad = g.pad as isize;
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

/// A part of the result: some rows and columns.
pub(crate) struct Pass {
    /// The offset in a group's frames at which each position reads.
    pub(crate) rows: Vec<usize>,
    /// Offsets of the runs, relative to a position.
    pub(crate) runs: Vec<usize>,
    /// Length of a run.
    pub(crate) len: usize,
    /// The result pixel of each of a group's positions; `None` if the positions are all pixels, in order.
    pub(crate) pixels: Option<Vec<usize>>,
    /// Where the row of the kernel (k, k) that multiplies each run begins.
    kernel_rows: Vec<usize>,
    /// The column of the kernel that multiplies each pixel of a run.
    kernel_cols: Vec<usize>,
}

impl Pass {
    /// The index in the kernel (k, k) of the tap that multiplies pixel `at` of a run.
    pub(crate) fn tap(&self, run: usize, at: usize) -> usize {
        self.kernel_rows[run] + self.kernel_cols[at]
    }
}

/// The frame for source images with `channels` channels, the number of images in a group, and the passes.
pub(crate) fn passes(direction: Direction, g: &Geometry, channels: usize) -> (Frame, usize, Vec<Pass>) {
    match direction {
        Direction::Forward => forward_pass(g, channels),
        Direction::Backward => backward_passes(g, channels),
    }
}

fn forward_pass(g: &Geometry, channels: usize) -> (Frame, usize, Vec<Pass>) {
    let frame = input_frame(g);
    let (rows, runs, len) = read_offsets(g, channels, frame);
    let group = group_of(rows.len());
    let rows = grouped(&rows, group, frame.rows * frame.cols * channels);
    let kernel_rows = (0..g.k).map(|row| row * g.k).collect();
    let kernel_cols = (0..g.k).collect();
    (frame, group, vec![Pass { rows, runs, len, pixels: None, kernel_rows, kernel_cols }])
}

fn backward_passes(g: &Geometry, channels: usize) -> (Frame, usize, Vec<Pass>) {
    let down = Axis::new(g.h, g);
    let across = Axis::new(g.w, g);
    let top = -down.lo.min(0);
    let left = -across.lo.min(0);
    let size = |n: usize, hi: isize, before: isize| ((hi + 1).max(n as isize) + before) as usize;
    let rows = size(g.ho, down.hi, top);
    let cols = size(g.wo, across.hi, left);
    let frame = Frame { top: top as usize, left: left as usize, rows, cols };
    let pitch = cols * channels;
    let group = group_of((g.h / g.stride) * (g.w / g.stride));
    let mut passes = Vec::new();
    for (a, row) in down.phases.iter().enumerate() {
        for (b, col) in across.phases.iter().enumerate() {
            let mut rows = Vec::new();
            let mut pixels = Vec::new();
            for r in row.start..row.start + row.count as isize {
                for c in col.start..col.start + col.count as isize {
                    // Taps run upwards and to the left; memory runs the other way.
                    let r0 = r + 1 - row.taps as isize + top;
                    let c0 = c + 1 - col.taps as isize + left;
                    rows.push(r0.max(0) as usize * pitch + c0.max(0) as usize * channels);
                    let pixel = |at: isize, phase: usize| (at * g.stride as isize) as usize + phase - g.pad;
                    pixels.push(pixel(r, a) * g.w + pixel(c, b));
                }
            }
            if rows.is_empty() {
                continue;
            }
            // A phase without taps has a gradient of zero.
            let taps = (if col.taps == 0 { 0 } else { row.taps }, col.taps);
            let all = pixels.len() == g.h * g.w;
            passes.push(Pass {
                rows: grouped(&rows, group, frame.rows * pitch),
                runs: (0..taps.0).map(|run| run * pitch).collect(),
                len: taps.1 * channels,
                pixels: (!all).then(|| grouped(&pixels, group, g.h * g.w)),
                kernel_rows: (0..taps.0).rev().map(|tap| (a + g.stride * tap) * g.k).collect(),
                kernel_cols: (0..taps.1).rev().map(|tap| b + g.stride * tap).collect(),
            });
        }
    }
    (frame, group, passes)
}
