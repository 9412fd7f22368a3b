//! The primitives that a device implements to run a [`super::Tape`].
//!
//! Feature maps are stored as (N, H, W, C), channels innermost, in the backend's storage type (f32 or bf16). Weights,
//! biases, gains, statistics and their gradients are f32 tensors on the device, in PyTorch's shapes. Nothing here copies
//! to the host, so a GPU never waits for it.

use candle_core::{Result, Tensor};

use crate::activation::Activation;
use crate::geometry::{Geometry, Maps};
use crate::memory::Pooled;

/// Feature maps in a backend's memory.
#[derive(Debug)]
pub(crate) enum Data {
    /// f32 on the CPU.
    F32(Pooled<f32>),
    /// bf16 on the CPU, as bits.
    Bf16(Pooled<u16>),
    /// A contiguous tensor (n, h, w, c) on a device whose memory Candle manages.
    #[cfg_attr(not(any(feature = "cuda", test)), expect(dead_code, reason = "constructed by the CUDA backend only"))]
    Tensor(Tensor),
}

/// The prologue of a read: what is applied to maps as an op reads them. Most activations are never written to memory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pre<'a> {
    /// Nothing.
    None,
    /// An activation.
    Activation(Activation),
    /// x * scale + offset, then the activation if there is one.
    Affine(&'a Affine, Option<Activation>),
}

/// A batch norm folded into one affine map: y = x * scale + offset.
#[derive(Debug, Clone)]
pub(crate) struct Affine {
    /// (C), or (N, C) for conditional batch norm: gain / sqrt(var + eps).
    pub(crate) scale: Tensor,
    /// In the shape of `scale`: shift - mean * scale.
    pub(crate) offset: Tensor,
    /// (C): the folded mean.
    pub(crate) mean: Tensor,
    /// (C): 1 / sqrt(var + eps).
    pub(crate) inv: Tensor,
    /// Whether mean and variance are those of the batch itself, so that gradients flow through them.
    pub(crate) training: bool,
}

/// Mean and biased variance of each channel over a batch.
#[derive(Debug, Clone)]
pub struct Moments {
    /// (C)
    pub mean: Tensor,
    /// (C), normalised by `count`.
    pub var: Tensor,
    /// Number of values per channel: N * H * W.
    pub count: usize,
}

/// Maps with the prologue of their read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) data: &'a Data,
    pub(crate) maps: Maps,
    pub(crate) pre: Pre<'a>,
}

/// The gradients of a batch norm.
pub(crate) struct NormGradients {
    /// In the shape of the maps.
    pub(crate) dx: Data,
    /// In the shape of the gain: (C), summed over the batch, or (N, C).
    pub(crate) dgain: Tensor,
    /// In the shape of the shift.
    pub(crate) dshift: Tensor,
}

/// The primitives. All maps of a call have the backend's storage type; the tape has checked the shapes.
pub(crate) trait Backend: Send + Sync {
    /// A contiguous f32 tensor (N, C, H, W) as maps.
    fn load(&self, x: &Tensor) -> Result<Data>;
    /// Maps as a contiguous f32 tensor (N, C, H, W).
    fn store(&self, x: Source<'_>) -> Result<Tensor>;

    /// Convolution with weights (cout, cin, k, k) and bias (cout). If `upsampled`, nearest upsampling by 2 precedes it: then the
    /// stride is 1, `g.h` and `g.w` are the size after upsampling, and `x` has half of it. The gradients follow the same
    /// convention.
    ///
    /// With `moments`, also the moments of the result; for bf16 those of the values before or after rounding, whichever is
    /// cheaper.
    fn conv(
        &self,
        g: &Geometry,
        upsampled: bool,
        x: Source<'_>,
        w: &Tensor,
        bias: Option<&Tensor>,
        moments: bool,
    ) -> Result<(Data, Option<Moments>)>;
    /// The gradient (n, h, w, cin) of the convolution's input after its prologue, from the gradient (n, ho, wo, cout) of its
    /// result.
    fn conv_input_gradient(&self, g: &Geometry, upsampled: bool, dy: &Data, w: &Tensor) -> Result<Data>;
    /// The gradient (cout, cin, k, k) of the weights, from the convolution's input and the gradient of its result.
    fn conv_weight_gradient(&self, g: &Geometry, upsampled: bool, x: Source<'_>, dy: &Data) -> Result<Tensor>;
    /// Sums over batch and positions, (C): the gradient of a bias.
    fn channel_sums(&self, maps: Maps, dy: &Data) -> Result<Tensor>;

    /// Moments of maps, accurate to f32: accumulated in f64, or in shifted or pairwise sums.
    fn moments(&self, maps: Maps, x: &Data) -> Result<Moments>;
    /// Folds moments, gain and shift, (C) or (N, C), into one affine map.
    fn affine(&self, moments: &Moments, gain: &Tensor, shift: &Tensor, eps: f64, training: bool) -> Result<Affine>;
    /// The gradients of x, gain (in the shape of `affine.scale`) and shift, from the gradient `dy` of
    /// activation(x * scale + offset). The derivative of the activation is recomputed from `x`.
    fn norm_gradients(
        &self,
        maps: Maps,
        x: &Data,
        affine: &Affine,
        activation: Option<Activation>,
        dy: &Data,
    ) -> Result<NormGradients>;
    /// The gradient of x from the gradient `dy` of activation(x). For a relu, `x` may also be its result.
    fn activation_gradient(&self, maps: Maps, x: &Data, activation: Activation, dy: &Data) -> Result<Data>;

    /// [`Backend::conv_input_gradient`] followed by [`Backend::activation_gradient`], for a convolution that read x through an
    /// activation and without upsampling.
    fn conv_activation_gradient(
        &self,
        g: &Geometry,
        dy: &Data,
        w: &Tensor,
        x: &Data,
        maps: Maps,
        activation: Activation,
    ) -> Result<Data> {
        let upstream = self.conv_input_gradient(g, false, dy, w)?;
        self.activation_gradient(maps, x, activation, &upstream)
    }

    /// [`Backend::conv_input_gradient`] followed by [`Backend::norm_gradients`], for a convolution that is the only reader of
    /// the norm of x.
    #[expect(clippy::too_many_arguments, reason = "the arguments of a convolution and of a norm")]
    fn conv_norm_gradients(
        &self,
        g: &Geometry,
        upsampled: bool,
        dy: &Data,
        w: &Tensor,
        x: &Data,
        maps: Maps,
        affine: &Affine,
        activation: Option<Activation>,
    ) -> Result<NormGradients> {
        let upstream = self.conv_input_gradient(g, upsampled, dy, w)?;
        self.norm_gradients(maps, x, affine, activation, &upstream)
    }

    /// a + b, or relu(a + b) if `relu`.
    fn add(&self, a: Source<'_>, b: Source<'_>, relu: bool) -> Result<Data>;
    /// sum += more, in place.
    fn accumulate(&self, maps: Maps, sum: &mut Data, more: &Data) -> Result<()>;

    /// Means of 2x2 windows; an odd last row or column is dropped.
    fn avg_pool(&self, x: Source<'_>) -> Result<Data>;
    /// The gradient of `avg_pool`; `maps` is the shape before pooling.
    fn avg_pool_gradient(&self, maps: Maps, dy: &Data) -> Result<Data>;
    /// Maxima of 2x2 windows; an odd last row or column is dropped.
    fn max_pool(&self, x: Source<'_>) -> Result<Data>;
    /// The gradient of `max_pool`, which goes to the first maximum of a window in row-major order. `x` is the input of
    /// `max_pool`.
    fn max_pool_gradient(&self, x: Source<'_>, dy: &Data) -> Result<Data>;
    /// Nearest upsampling by 2.
    fn upsample(&self, x: Source<'_>) -> Result<Data>;
    /// The gradient of `upsample`, 2x2 sums; `maps` is the shape before upsampling.
    fn upsample_gradient(&self, maps: Maps, dy: &Data) -> Result<Data>;
    /// Every second pixel of every second row, from the first on, with zero channels on both sides: (channels - c) / 2 before,
    /// rounded down, and the rest after.
    fn subsample_pad(&self, x: Source<'_>, channels: usize) -> Result<Data>;
    /// The gradient of `subsample_pad`; `maps` is the shape before.
    fn subsample_pad_gradient(&self, maps: Maps, channels: usize, dy: &Data) -> Result<Data>;

    /// Sums over positions: an f32 tensor (N, C).
    fn sums(&self, x: Source<'_>) -> Result<Tensor>;
    /// The gradient of `sums`: `grad` (N, C) at each position.
    fn sums_gradient(&self, maps: Maps, grad: &Tensor) -> Result<Data>;

    /// Attention of each position p of `query` (n, h, w, c) over the positions j of `key` (n, h', w', c): the sum over j of
    /// softmax_j(query_p . key_j) value_j, with `value` (n, h', w', v), to (n, h, w, v).
    fn attend(&self, query: Source<'_>, key: Source<'_>, value: Source<'_>) -> Result<Data>;
    /// The gradients of query, key and value after their prologues, from the gradient of the result.
    fn attend_gradients(&self, query: Source<'_>, key: Source<'_>, value: Source<'_>, dy: &Data) -> Result<[Data; 3]>;
}
