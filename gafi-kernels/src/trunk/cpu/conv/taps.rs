//! Convolutions into very few channels, such as the three of a colour image.
//!
//! The matrix kernels compute whole vectors of result channels, so three channels would cost as much as eight or sixteen.
//! Here each tap of each channel has a column of its own: one 1x1 product with k * k * n columns, hardly any of them padding.
//! A result is the sum of its taps' columns, each read at its own neighbour.

use super::super::gemm::{Rows, padded};
use super::layout::{Direction, group_of};
use super::{Method, Plan, pack};
use crate::geometry::Geometry;
use crate::memory::Scratch;
use crate::simd::{Level, dispatch};
use crate::trunk::cpu::frame::Frame;

/// Maximum number of result channels.
const FEW: usize = 4;
/// Maximum number of columns. The final sum reads each column again, so larger kernels gain nothing.
const COLUMNS: usize = 48;

/// A convolution of stride 1 with k x k taps, packed for [`Rows`].
pub(super) struct Taps {
    weights: Vec<f32>,
    /// The offset of each pixel of a group's images.
    rows: Vec<usize>,
    k: usize,
    pad: usize,
}

/// Whether this method applies to the convolution `g` or to its input gradient.
pub(crate) fn has_few_results(g: &Geometry, direction: Direction) -> bool {
    let n = direction.sides(g).1.image.2;
    g.stride == 1 && g.k > 1 && g.pad < g.k && n <= FEW && n * g.k * g.k <= COLUMNS
}

impl Plan {
    /// A plan with the weights `weight(tap, channel, result channel)`.
    pub(super) fn taps(
        level: Level,
        source: (usize, usize, usize),
        result: (usize, usize, usize),
        (k, pad): (usize, usize),
        weight: impl Fn(usize, usize, usize) -> f32,
    ) -> Self {
        let (h, w, c) = source;
        let n = result.2;
        let weights = pack(1, c, k * k * n, |_, i, column| weight(column / n, i, column % n));
        let group = group_of(h * w);
        let rows = (0..group * h * w).map(|pixel| pixel * c).collect();
        let frame = Frame { top: 0, left: 0, rows: h, cols: w };
        Plan { level, source, result, frame, group, method: Method::Taps(Taps { weights, rows, k, pad }) }
    }

    /// Computes the results of `count` images.
    pub(super) fn sum_taps(
        &self,
        taps: &Taps,
        images: &[f32],
        count: usize,
        bias: Option<&[f32]>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (h, w, c) = self.source;
        let (ho, wo, n) = self.result;
        let Taps { weights: b, rows, k, pad } = taps;
        let wide = padded(k * k * n);
        let rows = &rows[..count * h * w];
        let products = scratch.take(count * h * w * wide);
        let panel = c * super::PANEL;
        let product = Rows { a: images, rows, runs: &[0], len: c, b, panel, n: wide, start: None, out: &mut *products };
        dispatch(self.level, product);
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
                // The range of result columns whose tap reads inside the image.
                let first = pad.saturating_sub(j);
                let end = wo.min((w + pad).saturating_sub(j));
                let products = products[(image * h + from - pad) * w * wide..][..w * wide].chunks_exact(wide);
                let pixels = out.chunks_exact_mut(n).take(end).skip(first);
                for (out, products) in pixels.zip(products.skip((first + j).saturating_sub(*pad))) {
                    out.iter_mut().zip(&products[(i * k + j) * n..]).for_each(|(out, v)| *out += v);
                }
            }
        }
    }
}
