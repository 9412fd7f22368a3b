//! Convolution as a candle op: plain, and behind a nearest upsampling by 2.
//!
//! Upsampling and then convolving with K x K is the same as a transposed convolution of stride 2 with (K + 1) x (K + 1), whose
//! weights are sums of the given ones: two outputs that fall on the same pair of copies share a product. So it is the *input
//! gradient* of a stride-2 convolution, and needs no kernel of its own in any direction. For K = 3 each output takes 4
//! multiplications instead of 9.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::conv_cpu::{forward, input_gradient, weight_gradient};
use super::host::{floats, gradient, lock, made};
use super::planes::Geometry;
use super::reduce::channel_sums;
use super::simd::Level;

/// A convolution whose sizes are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conv {
    geometry: Geometry,
    level: Level,
}

impl Conv {
    /// Applies it: x (N, Cin, H, W), w (Cout, Cin, K, K), bias (Cout).
    pub(super) fn apply(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, stride: usize, pad: usize) -> Result<Tensor> {
        let geometry = Geometry::new("conv2d", x.dims(), w.dims(), stride, pad)?;
        apply("conv2d", x, w, bias, Conv { geometry, level: Level::best() })
    }
}

/// Applies `op`, with or without a bias, to contiguous tensors.
fn apply<C>(name: &str, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, op: C) -> Result<Tensor>
where
    C: CustomOp2 + CustomOp3 + Send + Sync + 'static,
{
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    match bias {
        None => x.apply_op2(&w, op),
        Some(b) if b.dims() == [w.dim(0)?] => x.apply_op3(&w, &b.contiguous()?, op),
        Some(b) => bail!("{name}: bias {:?} doesn't fit weights {:?}", b.dims(), w.dims()),
    }
}

/// The three directions that each of the ops has.
trait Directions {
    const NAME: &'static str;
    /// Channels and size of a result image.
    fn result(&self) -> (usize, usize, usize);
    fn input_len(&self) -> usize;
    fn forward(&self, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32>;
    fn input_gradient(&self, dy: &[f32], w: &[f32]) -> Vec<f32>;
    fn weight_gradient(&self, x: &[f32], dy: &[f32]) -> Vec<f32>;

    fn run(&self, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Result<(CpuStorage, Shape)> {
        let (channels, h, w_out) = self.result();
        made(self.forward(x, w, bias), (x.len() / self.input_len(), channels, h, w_out))
    }

    /// Gradients with respect to x and the weights, of those that are tracked.
    fn gradients(&self, x: &Tensor, w: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        lock!(Self::NAME, xs = x, ws = w, dy = grad);
        let dx = x.track_op().then(|| gradient(self.input_gradient(dy, ws), x)).transpose()?;
        let dw = w.track_op().then(|| gradient(self.weight_gradient(xs, dy), w)).transpose()?;
        Ok((dx, dw))
    }
}

impl Directions for Conv {
    const NAME: &'static str = "conv2d";

    fn result(&self) -> (usize, usize, usize) {
        (self.geometry.cout, self.geometry.ho, self.geometry.wo)
    }

    fn input_len(&self) -> usize {
        self.geometry.input_len()
    }

    fn forward(&self, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        forward(self.level, &self.geometry, x, w, bias)
    }

    fn input_gradient(&self, dy: &[f32], w: &[f32]) -> Vec<f32> {
        input_gradient(self.level, &self.geometry, dy, w, None)
    }

    fn weight_gradient(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        weight_gradient(self.level, &self.geometry, x, dy)
    }
}

/// Nearest upsampling by 2, then a convolution of stride 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct UpsampleConv {
    /// The stride-2 convolution from the result back to x, whose input gradient this op is: its `cin` are the result's channels.
    transposed: Geometry,
    /// Rows of the given kernel.
    k: usize,
    level: Level,
}

impl UpsampleConv {
    /// Applies it; `None` where the padding is so wide that the trick doesn't hold (then upsample and convolve).
    pub(super) fn apply(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, pad: usize) -> Result<Option<Tensor>> {
        let name = "upsample2x_conv2d";
        let &[n, cin, h, width] = x.dims() else { bail!("{name}: x must be (N, Cin, H, W), got {:?}", x.dims()) };
        let g = Geometry::new(name, &[n, cin, 2 * h, 2 * width], w.dims(), 1, pad)?;
        if pad + 1 > g.k {
            return Ok(None);
        }
        let k = g.k;
        let transposed = Geometry {
            cin: g.cout,
            cout: g.cin,
            k: k + 1,
            stride: 2,
            pad: k - 1 - pad,
            h: g.ho,
            w: g.wo,
            ho: h,
            wo: width,
        };
        apply(name, x, w, bias, UpsampleConv { transposed, k, level: Level::best() }).map(Some)
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
    fn fold(&self, w: &[f32]) -> Vec<f32> {
        let mut folded = vec![0.0; w.len() / (self.k * self.k) * (self.k + 1) * (self.k + 1)];
        self.parts(|given, transposed| folded[transposed] += w[given]);
        folded
    }
}

impl Directions for UpsampleConv {
    const NAME: &'static str = "upsample2x_conv2d";

    fn result(&self) -> (usize, usize, usize) {
        (self.transposed.cin, self.transposed.h, self.transposed.w)
    }

    fn input_len(&self) -> usize {
        self.transposed.output_len()
    }

    fn forward(&self, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        input_gradient(self.level, &self.transposed, x, &self.fold(w), bias)
    }

    fn input_gradient(&self, dy: &[f32], w: &[f32]) -> Vec<f32> {
        forward(self.level, &self.transposed, dy, &self.fold(w), None)
    }

    fn weight_gradient(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        let folded = weight_gradient(self.level, &self.transposed, dy, x);
        let mut grad = vec![0.0; folded.len() / ((self.k + 1) * (self.k + 1)) * self.k * self.k];
        self.parts(|given, transposed| grad[given] += folded[transposed]);
        grad
    }
}

/// Both ops are the same to candle but for the directions.
macro_rules! candle_op {
    ($op:ty) => {
        impl CustomOp2 for $op {
            fn name(&self) -> &'static str {
                Self::NAME
            }

            fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
                self.run(floats(Self::NAME, x, lx)?, floats(Self::NAME, w, lw)?, None)
            }

            fn bwd(
                &self,
                x: &Tensor,
                w: &Tensor,
                _: &Tensor,
                grad: &Tensor,
            ) -> Result<(Option<Tensor>, Option<Tensor>)> {
                self.gradients(x, w, grad)
            }
        }

        impl CustomOp3 for $op {
            fn name(&self) -> &'static str {
                Self::NAME
            }

            fn cpu_fwd(
                &self,
                x: &CpuStorage,
                lx: &Layout,
                w: &CpuStorage,
                lw: &Layout,
                b: &CpuStorage,
                lb: &Layout,
            ) -> Result<(CpuStorage, Shape)> {
                let (x, w, b) = (floats(Self::NAME, x, lx)?, floats(Self::NAME, w, lw)?, floats(Self::NAME, b, lb)?);
                self.run(x, w, Some(b))
            }

            fn bwd(
                &self,
                x: &Tensor,
                w: &Tensor,
                bias: &Tensor,
                _: &Tensor,
                grad: &Tensor,
            ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
                let (dx, dw) = self.gradients(x, w, grad)?;
                let db = bias.track_op().then(|| channel_sums(Self::NAME, grad, bias)).transpose()?;
                Ok((dx, dw, db))
            }
        }
    };
}
candle_op!(Conv);
candle_op!(UpsampleConv);
