//! What a device must be able to do for a [`super::Tape`] to run on it.
//!
//! Feature maps lie in memory as (N, H, W, C), channels innermost, in the backend's storage type (f32 or bf16). Weights,
//! biases, gains, statistics and their gradients are f32 tensors on the device, in the shapes that PyTorch gives them.
//! Nothing here copies to the host: a GPU never waits.

use candle_core::{Result, Tensor, bail};

use super::memory::Pooled;

/// The type that feature maps are stored in and that convolutions multiply in. They accumulate in f32 whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// f32 throughout. On CUDA without TF32.
    #[default]
    F32,
    /// f32 in memory; CUDA may round the factors of convolutions and matrix products to TF32 (10 bits of mantissa). As
    /// [`Precision::F32`] on a CPU.
    Tf32,
    /// bfloat16 maps and factors, f32 sums; statistics, weights and losses stay f32.
    Bf16,
}

/// The shape of a batch of feature maps: (n, h, w, c) in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Maps {
    pub(crate) n: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) c: usize,
}

impl Maps {
    /// Values of one image.
    pub(crate) fn image(&self) -> usize {
        self.h * self.w * self.c
    }

    /// Values of all.
    pub(crate) fn count(&self) -> usize {
        self.n * self.image()
    }

    /// As many images, of another shape.
    pub(crate) fn with(&self, h: usize, w: usize, c: usize) -> Maps {
        Maps { n: self.n, h, w, c }
    }
}

/// Feature maps in a backend's memory.
#[derive(Debug)]
pub(crate) enum Data {
    /// On the CPU, f32.
    F32(Pooled<f32>),
    /// On the CPU, the bits of bf16.
    Bf16(Pooled<u16>),
    /// A contiguous tensor (n, h, w, c) of a device that candle manages the memory of.
    #[cfg_attr(not(any(feature = "cuda", test)), expect(dead_code, reason = "made by the CUDA backend only"))]
    Tensor(Tensor),
}

/// What is done to maps as they are read: most activations are never written to memory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pre<'a> {
    /// Nothing.
    None,
    /// x where positive, slope * x elsewhere; a relu has slope 0.
    Leaky(f32),
    /// x * scale + offset, then, if asked, the leaky relu.
    Affine(&'a Affine, Option<f32>),
}

/// A batch norm with everything folded in: y = x * scale + offset.
#[derive(Debug, Clone)]
pub(crate) struct Affine {
    /// (C), or (N, C) for conditional batch norm: gain / sqrt(var + eps).
    pub(crate) scale: Tensor,
    /// The same shape: shift - mean * scale.
    pub(crate) offset: Tensor,
    /// (C): the mean that was folded in.
    pub(crate) mean: Tensor,
    /// (C): 1 / sqrt(var + eps).
    pub(crate) inv: Tensor,
    /// Whether mean and variance are the batch's own, so that gradients flow through them.
    pub(crate) training: bool,
}

/// Mean and biased variance of each channel over a batch.
#[derive(Debug, Clone)]
pub struct Moments {
    /// (C)
    pub mean: Tensor,
    /// (C), divided by `count`.
    pub var: Tensor,
    /// Values a channel: N * H * W.
    pub count: usize,
}

/// Maps to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) data: &'a Data,
    pub(crate) maps: Maps,
    pub(crate) pre: Pre<'a>,
}

/// A convolution of stride `stride` with zeros around: maps (n, h, w, cin), weights (cout, cin, k, k), to (n, ho, wo, cout).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) cin: usize,
    pub(crate) cout: usize,
    pub(crate) k: usize,
    pub(crate) stride: usize,
    pub(crate) pad: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) ho: usize,
    pub(crate) wo: usize,
}

/// The gradients of a batch norm.
pub(crate) struct NormGradients {
    /// As the maps.
    pub(crate) dx: Data,
    /// As the gain: (C), summed over the batch, or (N, C).
    pub(crate) dgain: Tensor,
    /// As the shift.
    pub(crate) dshift: Tensor,
}

/// The primitives. All maps of one call are of the backend's own storage type; shapes have been checked by the tape.
pub(crate) trait Backend: Send + Sync {
    /// A contiguous f32 tensor (N, C, H, W) as maps.
    fn load(&self, x: &Tensor) -> Result<Data>;
    /// Maps as a contiguous f32 tensor (N, C, H, W).
    fn store(&self, x: Source<'_>) -> Result<Tensor>;

    /// Convolution with weights (cout, cin, k, k) and bias (cout). With `moments`, also those of the result as it is stored
    /// (for bf16: of the values before or after rounding, as is cheaper).
    fn conv(
        &self,
        g: &Geometry,
        x: Source<'_>,
        w: &Tensor,
        bias: Option<&Tensor>,
        moments: bool,
    ) -> Result<(Data, Option<Moments>)>;
    /// The gradient of what the convolution read (behind `pre`), (n, h, w, cin), from that of its result, (n, ho, wo, cout).
    fn conv_input_gradient(&self, g: &Geometry, n: usize, dy: &Data, w: &Tensor) -> Result<Data>;
    /// The gradient of the weights, (cout, cin, k, k), from what the convolution read and the gradient of its result.
    fn conv_weight_gradient(&self, g: &Geometry, x: Source<'_>, dy: &Data) -> Result<Tensor>;
    /// Nearest upsampling by 2, then the convolution `g` of stride 1: `g.h`, `g.w` are the size after upsampling, `x` has half
    /// of it. The gradients work alike.
    fn upconv(
        &self,
        g: &Geometry,
        x: Source<'_>,
        w: &Tensor,
        bias: Option<&Tensor>,
        moments: bool,
    ) -> Result<(Data, Option<Moments>)>;
    /// As `conv_input_gradient`, at the size before upsampling.
    fn upconv_input_gradient(&self, g: &Geometry, n: usize, dy: &Data, w: &Tensor) -> Result<Data>;
    /// As `conv_weight_gradient`; `x` at the size before upsampling.
    fn upconv_weight_gradient(&self, g: &Geometry, x: Source<'_>, dy: &Data) -> Result<Tensor>;
    /// Sums over batch and positions, (C): the gradient of a bias.
    fn channel_sums(&self, maps: Maps, dy: &Data) -> Result<Tensor>;

    /// Moments of maps, accumulated so that they are good to f32 (f64, or shifted or pairwise sums).
    fn moments(&self, maps: Maps, x: &Data) -> Result<Moments>;
    /// Folds moments, gain and shift, (C) or (N, C), into one affine map.
    fn affine(&self, moments: &Moments, gain: &Tensor, shift: &Tensor, eps: f64, training: bool) -> Result<Affine>;
    /// From the gradient `dy` of leaky?(x * scale + offset), whose mask is computed again from `x`, to those of x, gain (its
    /// shape is that of `affine.scale`) and shift.
    fn norm_gradients(
        &self,
        maps: Maps,
        x: &Data,
        affine: &Affine,
        slope: Option<f32>,
        dy: &Data,
    ) -> Result<NormGradients>;
    /// From the gradient of leaky(x) to that of x: where x > 0, dy; elsewhere slope * dy.
    fn leaky_gradient(&self, maps: Maps, x: &Data, slope: f32, dy: &Data) -> Result<Data>;

    /// [`Backend::conv_input_gradient`] and, as the convolution read x through a leaky relu, [`Backend::leaky_gradient`] in one.
    fn conv_leaky_gradient(
        &self,
        g: &Geometry,
        dy: &Data,
        w: &Tensor,
        x: &Data,
        maps: Maps,
        slope: f32,
    ) -> Result<Data> {
        let behind = self.conv_input_gradient(g, maps.n, dy, w)?;
        self.leaky_gradient(maps, x, slope, &behind)
    }

    /// [`Backend::conv_input_gradient`] (or that of an upsampled one) and, as the convolution read the norm of x, and nobody else
    /// did, [`Backend::norm_gradients`] in one.
    #[expect(clippy::too_many_arguments, reason = "a convolution and a norm have that many")]
    fn conv_norm_gradients(
        &self,
        g: &Geometry,
        upsampled: bool,
        dy: &Data,
        w: &Tensor,
        x: &Data,
        maps: Maps,
        affine: &Affine,
        slope: Option<f32>,
    ) -> Result<NormGradients> {
        let behind = if upsampled {
            self.upconv_input_gradient(g, maps.n, dy, w)
        } else {
            self.conv_input_gradient(g, maps.n, dy, w)
        };
        self.norm_gradients(maps, x, affine, slope, &behind?)
    }

    /// a + b, with the negative part cut off if `relu`.
    fn add(&self, a: Source<'_>, b: Source<'_>, relu: bool) -> Result<Data>;
    /// dy where y > 0, 0 elsewhere: the gradient of a relu from its result.
    fn relu_gradient(&self, maps: Maps, y: &Data, dy: &Data) -> Result<Data>;
    /// sum += more, in place; both are the caller's alone.
    fn accumulate(&self, maps: Maps, sum: &mut Data, more: &Data) -> Result<()>;

    /// Means of 2x2 windows; an odd last row or column is dropped.
    fn avg_pool(&self, x: Source<'_>) -> Result<Data>;
    /// Its gradient; `maps` is the shape before pooling.
    fn avg_pool_gradient(&self, maps: Maps, dy: &Data) -> Result<Data>;
    /// Maxima of 2x2 windows; an odd last row or column is dropped.
    fn max_pool(&self, x: Source<'_>) -> Result<Data>;
    /// Its gradient, which goes to the first maximum of a window in reading order. `x` as it was read.
    fn max_pool_gradient(&self, x: Source<'_>, dy: &Data) -> Result<Data>;
    /// Nearest upsampling by 2.
    fn upsample(&self, x: Source<'_>) -> Result<Data>;
    /// Its gradient, 2x2 sums; `maps` is the shape before upsampling.
    fn upsample_gradient(&self, maps: Maps, dy: &Data) -> Result<Data>;
    /// Every second pixel of every second row (the first included), with zero channels on both sides: (channels - c) / 2,
    /// rounded down, before and the others after.
    fn subsample_pad(&self, x: Source<'_>, channels: usize) -> Result<Data>;
    /// Its gradient; `maps` is the shape before.
    fn subsample_pad_gradient(&self, maps: Maps, channels: usize, dy: &Data) -> Result<Data>;

    /// Sums over positions: an f32 tensor (N, C).
    fn sums(&self, x: Source<'_>) -> Result<Tensor>;
    /// Its gradient: `grad` (N, C) at each position.
    fn sums_gradient(&self, maps: Maps, grad: &Tensor) -> Result<Data>;

    /// Attention of each position p of `query` (n, h, w, c) over the positions j of `key` (n, h', w', c): the sum over j of
    /// softmax_j(query_p . key_j) value_j, with `value` (n, h', w', v), to (n, h, w, v).
    fn attend(&self, query: Source<'_>, key: Source<'_>, value: Source<'_>) -> Result<Data>;
    /// The gradients of query, key and value, as they were read, from that of the result.
    fn attend_gradients(&self, query: Source<'_>, key: Source<'_>, value: Source<'_>, dy: &Data) -> Result<[Data; 3]>;
}

impl Geometry {
    /// Checks that the shapes fit together; `op` names the caller in errors.
    pub(crate) fn new(
        op: &str,
        x: Maps,
        weights: &Tensor,
        bias: Option<&Tensor>,
        stride: usize,
        pad: usize,
    ) -> Result<Self> {
        let Maps { n, h, w, c } = x;
        let &[cout, cin, k, width] = weights.dims() else {
            bail!("{op}: weights must be (Cout, Cin, K, K), got {:?}", weights.dims())
        };
        let x = [n, c, h, w];
        if cin != c || k != width || k == 0 || cin == 0 || cout == 0 {
            bail!("{op}: weights {:?} don't fit x {x:?}", weights.dims())
        }
        if let Some(bias) = bias.filter(|bias| bias.dims() != [cout]) {
            bail!("{op}: bias {:?} doesn't fit weights {:?}", bias.dims(), weights.dims())
        }
        if stride == 0 || h == 0 || w == 0 || h + 2 * pad < k || w + 2 * pad < k {
            bail!("{op}: kernel {k}, stride {stride} and padding {pad} don't fit x {x:?}")
        }
        let out = |size: usize| (size + 2 * pad - k) / stride + 1;
        Ok(Geometry { cin, cout, k, stride, pad, h, w, ho: out(h), wo: out(w) })
    }
}
