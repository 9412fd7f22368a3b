//! Convolutions of many channels into very few: to an image of three colours, or back to one.
//!
//! The kernels make whole vectors of result channels, so three of them cost as much as eight or sixteen. With a column for each
//! tap of each channel the product is one of 1x1 (k * k * n columns, hardly any of them empty), and a result is the sum of its
//! taps' columns, each at its own neighbour.

use super::super::super::backend::Geometry;
use super::super::gemm::{Rows, padded};
use super::super::maps::Frame;
use super::{How, Plan, group_of, pack};
use crate::ops::simd::{Level, Scratch, dispatch};

/// Result channels that are very few.
const FEW: usize = 4;
/// Columns that pay: of a larger kernel each is touched once more.
const COLUMNS: usize = 48;

/// A stride-1 convolution with `k` x `k` taps, packed for [`Rows`].
pub(super) struct Taps {
    weights: Vec<f32>,
    /// Where each pixel of a group's images begins.
    rows: Vec<usize>,
    k: usize,
    pad: usize,
}

/// Whether the convolution `g` (or, `back`, its input gradient) is one of these.
pub(in super::super) fn has_few(g: &Geometry, back: bool) -> bool {
    let n = if back { g.cin } else { g.cout };
    g.stride == 1 && g.k > 1 && g.pad < g.k && n <= FEW && n * g.k * g.k <= COLUMNS
}

impl Plan {
    /// With `weight(tap, channel, result channel)`.
    pub(super) fn taps(
        level: Level,
        source: (usize, usize, usize),
        result: (usize, usize, usize),
        (k, pad): (usize, usize),
        weight: impl Fn(usize, usize, usize) -> f32,
    ) -> Self {
        let ((h, w, c), n) = (source, result.2);
        let weights = pack(1, c, k * k * n, |_, i, column| weight(column / n, i, column % n));
        let group = group_of(h * w);
        let rows = (0..group * h * w).map(|pixel| pixel * c).collect();
        let frame = Frame { top: 0, left: 0, rows: h, cols: w };
        Plan { level, source, result, frame, group, how: How::Taps(Taps { weights, rows, k, pad }) }
    }

    /// The results of `count` images.
    pub(super) fn sum_taps(
        &self,
        taps: &Taps,
        images: &[f32],
        count: usize,
        bias: Option<&[f32]>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let ((h, w, c), (ho, wo, n)) = (self.source, self.result);
        let Taps { weights: b, rows, k, pad } = taps;
        let wide = padded(k * k * n);
        let (rows, products) = (&rows[..count * h * w], scratch.take(count * h * w * wide));
        let (a, panel, to) = (images, c * super::PANEL, &mut *products);
        dispatch(
            self.level,
            Rows { a, rows, runs: &[0], len: c, b, panel, n: wide, start: None, out: to, stride: wide },
        );
        for (r, out) in out.chunks_exact_mut(wo * n).enumerate() {
            match bias {
                Some(bias) => out.chunks_exact_mut(n).for_each(|out| out.copy_from_slice(&bias[..n])),
                None => out.fill(0.0),
            }
            let (image, r) = (r / ho, r % ho);
            for (i, j) in (0..*k).flat_map(|i| (0..*k).map(move |j| (i, j))) {
                let from = r + i;
                if from < *pad || from >= h + pad {
                    continue;
                }
                // Columns of the result whose tap reads inside the image.
                let (first, end) = (pad.saturating_sub(j), wo.min((w + pad).saturating_sub(j)));
                let products = products[(image * h + from - pad) * w * wide..][..w * wide].chunks_exact(wide);
                let pixels = out.chunks_exact_mut(n).take(end).skip(first);
                for (out, products) in pixels.zip(products.skip((first + j).saturating_sub(*pad))) {
                    out.iter_mut().zip(&products[(i * k + j) * n..]).for_each(|(out, v)| *out += v);
                }
            }
        }
    }
}
