//! Operations one by one, on tensors.
//!
//! A network runs its convolutional part as one [`trunk`]; here the same kernels can be used op by op: each takes and gives
//! candle tensors, f32, NCHW, and can be differentiated by candle's `backward`. Results on the CPU don't depend on the
//! number of threads, and an image's result doesn't depend on the batch that it is in (batch norm in training excepted, by
//! its nature). What comes behind a trunk, [`linear`], [`tanh`] and [`cross_entropy`], is here alone and takes any device
//! and any type of numbers.

pub(crate) mod host;
mod loss;
pub(crate) mod pointwise;
pub(crate) mod reduce;
pub(crate) mod simd;

use candle_core::{Result, Tensor, bail};

use crate::trunk::{self, Moments, Output, Settings, Tape, Value};
use host::on_cpu;

/// A trunk of one op.
fn alone(x: &Tensor, op: impl Fn(&mut Tape, Value) -> Result<Value> + Sync) -> Result<Tensor> {
    trunk::run(x, Settings::default(), |tape, x| Ok(Output::Maps(op(tape, x)?)))
}

/// Convolution (cross-correlation): x (N, Cin, H, W), w (Cout, Cin, K, K), bias (Cout), to
/// (N, Cout, (H + 2 padding - K) / stride + 1, ...), rounded down.
///
/// # Errors
/// Shapes that don't fit together, a kernel larger than the padded image, stride 0.
pub fn conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, stride: usize, padding: usize) -> Result<Tensor> {
    alone(x, |tape, x| tape.conv2d(x, w, bias, stride, padding))
}

/// Nearest upsampling by 2, then the convolution of stride 1: x (N, Cin, H, W), w (Cout, Cin, K, K), bias (Cout), to
/// (N, Cout, 2H + 2 padding - K + 1, ...). Equal to `conv2d(upsample2x(x), ...)` but for rounding, at 4/9 of its work for K = 3.
///
/// # Errors
/// As [`conv2d`].
pub fn upsample2x_conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, padding: usize) -> Result<Tensor> {
    alone(x, |tape, x| tape.upsample2x_conv2d(x, w, bias, padding))
}

/// Nearest upsampling by 2: (N, C, H, W) to (N, C, 2H, 2W).
///
/// # Errors
/// A tensor that doesn't have four dimensions.
pub fn upsample2x(x: &Tensor) -> Result<Tensor> {
    alone(x, Tape::upsample2x)
}

/// Means of 2x2 windows: (N, C, H, W) to (N, C, H/2, W/2); an odd last row or column is dropped.
///
/// # Errors
/// A tensor that doesn't have four dimensions.
pub fn avg_pool2x2(x: &Tensor) -> Result<Tensor> {
    alone(x, Tape::avg_pool2x2)
}

/// Maxima of 2x2 windows: (N, C, H, W) to (N, C, H/2, W/2); an odd last row or column is dropped. The gradient goes to the
/// first maximum of a window in reading order, as in PyTorch.
///
/// # Errors
/// A tensor that doesn't have four dimensions.
pub fn max_pool2x2(x: &Tensor) -> Result<Tensor> {
    alone(x, Tape::max_pool2x2)
}

/// Sums over all positions: (N, C, H, W) to (N, C).
///
/// # Errors
/// A tensor that doesn't have four dimensions.
pub fn global_sum(x: &Tensor) -> Result<Tensor> {
    trunk::run(x, Settings::default(), |_, x| Ok(Output::Sums(x)))
}

/// Mean and biased variance of each channel of x (N, C, H, W), accumulated in f64. No gradient: [`batch_norm`] knows it.
///
/// # Errors
/// A tensor that doesn't have four dimensions or has no elements.
pub fn channel_moments(x: &Tensor) -> Result<Moments> {
    trunk::moments(x)
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
    alone(x, |tape, x| tape.batch_norm(x, gain, bias, moments, training, eps, relu.then_some(0.0)))
}

/// relu(a + b), the end of a residual block, for tensors (N, C, H, W) of one shape.
///
/// # Errors
/// Shapes that differ or don't have four dimensions.
pub fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    alone(a, |tape, a| {
        let b = tape.also(b)?;
        tape.add_relu(a, b)
    })
}

/// max(x, 0) of x (N, C, H, W). The gradient at 0 is 0.
///
/// # Errors
/// A tensor that doesn't have four dimensions.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    leaky_relu(x, 0.0)
}

/// x (N, C, H, W) where positive, slope * x elsewhere.
///
/// # Errors
/// A tensor that doesn't have four dimensions.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    alone(x, |tape, x| tape.leaky_relu(x, slope as f32))
}

/// Attention: for each position of `query` (N, C, H, W) the mean of `value` (N, V, H', W') over positions, weighted by the
/// softmax of query . key, `key` (N, C, H', W'); to (N, V, H, W).
///
/// # Errors
/// Shapes that don't fit together.
pub fn attend(query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
    alone(query, |tape, query| {
        let (key, value) = (tape.also(key)?, tape.also(value)?);
        tape.attend(query, key, value)
    })
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
    if on_cpu(x) { x.contiguous()?.apply_op1(pointwise::Tanh) } else { x.tanh() }
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
    if on_cpu(logits) {
        logits.contiguous()?.apply_op1(loss::CrossEntropy(labels.to_vec()))
    } else {
        loss::composed(logits, labels)
    }
}

/// Cross-entropy with soft labels: the mean over the batch of -sum over classes of target * log softmax(logits), a scalar;
/// logits (N, C), targets (N, C) in row order.
///
/// # Errors
/// Another number of targets than logits, an empty batch.
pub fn soft_cross_entropy(logits: &Tensor, targets: Vec<f32>) -> Result<Tensor> {
    let (n, c) = logits.dims2()?;
    if n == 0 || targets.len() != n * c {
        bail!("soft_cross_entropy: {} targets for logits {:?}", targets.len(), logits.dims())
    }
    if on_cpu(logits) {
        return logits.contiguous()?.apply_op1(loss::SoftCrossEntropy(targets));
    }
    loss::soft_composed(logits, targets)
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
