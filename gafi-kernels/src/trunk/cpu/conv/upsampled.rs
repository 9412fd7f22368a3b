//! Nearest upsampling followed by a convolution, without storing the upsampled image.

use crate::geometry::Geometry;

/// Nearest upsampling by 2 followed by a K x K convolution, as a transposed convolution of stride 2 with a kernel of
/// (K + 1) x (K + 1), whose weights are sums of the given ones: taps that meet copies of the same pixel share a product.
/// A transposed convolution is the *input gradient* of a convolution. For K = 3 each result takes 4 multiplications per
/// channel instead of 9.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upsampled {
    /// The convolution of stride 2 from the result to x. Its `cin` is the number of result channels.
    pub(crate) transposed: Geometry,
    k: usize,
}

impl Upsampled {
    /// For the convolution `g`, whose `h` and `w` are the size after upsampling and whose padding is less than its kernel.
    pub(crate) fn new(g: &Geometry) -> Self {
        let transposed = Geometry {
            cin: g.cout,
            cout: g.cin,
            k: g.k + 1,
            stride: 2,
            pad: g.k - 1 - g.pad,
            h: g.ho,
            w: g.wo,
            ho: g.h / 2,
            wo: g.w / 2,
        };
        Self { transposed, k: g.k }
    }

    /// Calls `part(given, transposed)` with the indices of each given weight and each transposed weight that includes it. Along
    /// each axis, row i of the given kernel is part of rows k - 1 - i and k - i of the transposed one.
    fn parts(&self, mut part: impl FnMut(usize, usize)) {
        let cin = self.transposed.cout;
        let cout = self.transposed.cin;
        let k = self.k;
        let k1 = k + 1;
        for co in 0..cout {
            for ci in 0..cin {
                for i in 0..k {
                    for j in 0..k {
                        let at = ((co * cin + ci) * k + i) * k + j;
                        for m in [k - 1 - i, k - i] {
                            for n in [k - 1 - j, k - j] {
                                part(at, ((ci * cout + co) * k1 + m) * k1 + n);
                            }
                        }
                    }
                }
            }
        }
    }

    /// The transposed weights (Cin, Cout, K + 1, K + 1) of the given weights (Cout, Cin, K, K).
    pub(crate) fn fold(&self, w: &[f32]) -> Vec<f32> {
        let mut folded = vec![0.0; w.len() / (self.k * self.k) * (self.k + 1) * (self.k + 1)];
        self.parts(|given, transposed| folded[transposed] += w[given]);
        folded
    }

    /// The gradient of the given weights from that of the transposed weights.
    pub(crate) fn unfold(&self, folded: &[f32]) -> Vec<f32> {
        let mut grad = vec![0.0; folded.len() / ((self.k + 1) * (self.k + 1)) * self.k * self.k];
        self.parts(|given, transposed| grad[given] += folded[transposed]);
        grad
    }
}
