//! Nearest upsampling in front of a convolution, without the larger image.

use super::super::super::backend::Geometry;

/// Nearest upsampling by 2 and then convolving with K x K is a transposed convolution of stride 2 with (K + 1) x (K + 1), whose
/// weights are sums of the given ones: two results that fall on the same pair of copies share a product. So it is the *input
/// gradient* of a stride-2 convolution, and for K = 3 each result takes 4 multiplications instead of 9.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Upsampled {
    /// The stride-2 convolution from the result back to x: its `cin` are the result's channels.
    pub(in super::super) transposed: Geometry,
    k: usize,
}

impl Upsampled {
    /// Of the convolution `g`, whose `h` and `w` are the size after upsampling; its padding must be less than its kernel.
    pub(in super::super) fn new(g: &Geometry) -> Self {
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

    /// For each weight of the given kernel and each weight of the transposed one that it is a part of: (its index, the other's).
    /// In each direction, kernel row i serves rows k - 1 - i and k - i.
    fn parts(&self, mut part: impl FnMut(usize, usize)) {
        let (cin, cout, k, k1) = (self.transposed.cout, self.transposed.cin, self.k, self.k + 1);
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

    /// (Cout, Cin, K, K) to (Cin, Cout, K + 1, K + 1).
    pub(in super::super) fn fold(&self, w: &[f32]) -> Vec<f32> {
        let mut folded = vec![0.0; w.len() / (self.k * self.k) * (self.k + 1) * (self.k + 1)];
        self.parts(|given, transposed| folded[transposed] += w[given]);
        folded
    }

    /// The gradient of the given weights from that of the transposed ones.
    pub(in super::super) fn unfold(&self, folded: &[f32]) -> Vec<f32> {
        let mut grad = vec![0.0; folded.len() / ((self.k + 1) * (self.k + 1)) * self.k * self.k];
        self.parts(|given, transposed| grad[given] += folded[transposed]);
        grad
    }
}
