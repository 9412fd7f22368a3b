//! Operations that training spends its time in: convolution, batch norm, pooling, activations and losses.
//!
//! All take and give candle tensors, f32, NCHW, and can be differentiated by candle's `backward`. On the CPU they run on
//! kernels of this module, as candle `CustomOp`s; on any other device or dtype they are compositions of candle's own
//! operations ([`compose`]). Results on the CPU don't depend on the number of threads, and an image's result doesn't
//! depend on the batch that it is in (batch norm in training excepted, by its nature).

pub mod compose;
mod conv;
mod conv_cpu;
pub(crate) mod host;
mod kernels;
mod loss;
mod norm;
mod planes;
pub(crate) mod pointwise;
mod pool;
pub(crate) mod reduce;
pub(crate) mod simd;

use candle_core::{Result, Tensor, bail};

use host::on_cpu;
pub use norm::Moments;

/// Convolution (cross-correlation): x (N, Cin, H, W), w (Cout, Cin, K, K), bias (Cout), to
/// (N, Cout, (H + 2 padding - K) / stride + 1, ...), rounded down.
///
/// # Errors
/// Shapes that don't fit together, a kernel larger than the padded image, stride 0.
pub fn conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, stride: usize, padding: usize) -> Result<Tensor> {
    if on_cpu(&[x, w]) {
        return conv::Conv::apply(x, w, bias, stride, padding);
    }
    planes::Geometry::new("conv2d", x.dims(), w.dims(), stride, padding)?;
    compose::conv2d(x, w, bias, stride, padding)
}

/// Nearest upsampling by 2, then the convolution of stride 1: x (N, Cin, H, W), w (Cout, Cin, K, K), bias (Cout), to
/// (N, Cout, 2H + 2 padding - K + 1, ...). Equal to `conv2d(upsample2x(x), ...)` but for rounding, at 4/9 of its work for K = 3.
///
/// # Errors
/// As [`conv2d`].
pub fn upsample2x_conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, padding: usize) -> Result<Tensor> {
    if on_cpu(&[x, w])
        && let Some(y) = conv::UpsampleConv::apply(x, w, bias, padding)?
    {
        return Ok(y);
    }
    conv2d(&upsample2x(x)?, w, bias, 1, padding)
}

/// Nearest upsampling by 2: (N, C, H, W) to (N, C, 2H, 2W).
///
/// # Errors
/// A tensor that doesn't have four dimensions.
pub fn upsample2x(x: &Tensor) -> Result<Tensor> {
    if on_cpu(&[x]) { x.contiguous()?.apply_op1(pool::Pool::Upsample) } else { compose::upsample2x(x) }
}

/// Means of 2x2 windows: (N, C, H, W) to (N, C, H/2, W/2); an odd last row or column is dropped.
///
/// # Errors
/// A tensor that doesn't have four dimensions.
pub fn avg_pool2x2(x: &Tensor) -> Result<Tensor> {
    if on_cpu(&[x]) { x.contiguous()?.apply_op1(pool::Pool::Average) } else { compose::avg_pool2x2(x) }
}

/// Maxima of 2x2 windows: (N, C, H, W) to (N, C, H/2, W/2); an odd last row or column is dropped. The gradient goes to the
/// first maximum of a window in reading order, as in PyTorch.
///
/// # Errors
/// A tensor that doesn't have four dimensions.
pub fn max_pool2x2(x: &Tensor) -> Result<Tensor> {
    if on_cpu(&[x]) { x.contiguous()?.apply_op1(pool::Pool::Max) } else { compose::max_pool2x2(x) }
}

/// Sums over all positions: (N, C, H, W) to (N, C).
///
/// # Errors
/// A tensor that doesn't have four dimensions.
pub fn global_sum(x: &Tensor) -> Result<Tensor> {
    if on_cpu(&[x]) { x.contiguous()?.apply_op1(reduce::GlobalSum) } else { compose::global_sum(x) }
}

/// Mean and biased variance of each channel of x (N, C, H, W), accumulated in f64. No gradient: [`batch_norm`] knows it.
///
/// # Errors
/// A tensor that doesn't have four dimensions or has no elements.
pub fn channel_moments(x: &Tensor) -> Result<Moments> {
    if x.elem_count() == 0 {
        bail!("channel_moments: no values in {:?}", x.dims())
    }
    if on_cpu(&[x]) { reduce::channel_moments(x) } else { compose::channel_moments(x) }
}

/// Batch norm, and relu if asked: y = gain * (x - mean) / sqrt(var + eps) + bias, with x (N, C, H, W), gain and bias (C), or
/// (N, C) for conditional batch norm.
///
/// When `training`, `moments` must be those of x itself ([`channel_moments`]), and the gradient includes the terms through
/// them; else they are constants.
///
/// # Errors
/// Shapes that don't fit together.
pub fn batch_norm(
    x: &Tensor,
    gain: &Tensor,
    bias: &Tensor,
    moments: &Moments,
    training: bool,
    eps: f64,
    relu: bool,
) -> Result<Tensor> {
    if on_cpu(&[x, gain, bias]) {
        return norm::BatchNorm::apply(x, gain, bias, moments, training, eps, relu);
    }
    norm::check(x, gain, bias, moments)?;
    compose::batch_norm(x, gain, bias, moments, training, eps, relu)
}

/// relu(a + b), the end of a residual block, for tensors of one shape.
///
/// # Errors
/// Shapes that differ.
pub fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if on_cpu(&[a, b]) { pointwise::AddRelu::apply(a, b) } else { compose::add_relu(a, b) }
}

/// max(x, 0). The gradient at 0 is 0.
///
/// # Errors
/// Only those of the device.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    if on_cpu(&[x]) { x.contiguous()?.apply_op1(pointwise::Activation::LeakyRelu(0.0)) } else { x.relu() }
}

/// x where positive, slope * x elsewhere.
///
/// # Errors
/// Only those of the device.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    if on_cpu(&[x]) {
        x.contiguous()?.apply_op1(pointwise::Activation::LeakyRelu(slope as f32))
    } else {
        compose::leaky_relu(x, slope)
    }
}

/// Hyperbolic tangent.
///
/// # Errors
/// Only those of the device.
pub fn tanh(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if host::on_gpu(x) {
        return crate::cuda::tanh(x);
    }
    if on_cpu(&[x]) { x.contiguous()?.apply_op1(pointwise::Activation::Tanh) } else { x.tanh() }
}

/// Softmax over the last dimension.
///
/// # Errors
/// A tensor without dimensions.
pub fn softmax_last(x: &Tensor) -> Result<Tensor> {
    if on_cpu(&[x]) { x.contiguous()?.apply_op1(loss::SoftmaxLast) } else { compose::softmax_last(x) }
}

/// Cross-entropy: the mean over the batch of -log softmax(logits)\[label\], a scalar; logits (N, C).
///
/// # Errors
/// Another number of labels than rows, a label that is no class, an empty batch.
pub fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let (n, c) = logits.dims2()?;
    if n == 0 || labels.len() != n {
        bail!("cross_entropy: {} labels for logits {:?}", labels.len(), logits.dims())
    }
    if let Some(label) = labels.iter().find(|&&l| l as usize >= c) {
        bail!("cross_entropy: label {label} for {c} classes")
    }
    #[cfg(feature = "cuda")]
    if host::on_gpu(logits) {
        return crate::cuda::cross_entropy(logits, labels);
    }
    if on_cpu(&[logits]) {
        logits.contiguous()?.apply_op1(loss::CrossEntropy(labels.to_vec()))
    } else {
        compose::cross_entropy(logits, labels)
    }
}

/// x w^T + bias: x (N, I), w (O, I), bias (O), to (N, O).
///
/// # Errors
/// Shapes that don't fit together.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&w.t()?)?;
    match bias {
        Some(b) => y.broadcast_add(b),
        None => Ok(y),
    }
}
