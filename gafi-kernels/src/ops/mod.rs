//! Single ops on tensors.
//!
//! A network runs its convolutional part as one [`trunk`]. Here are the same kernels op by op: each takes and returns
//! Candle tensors, f32, NCHW, and works with Candle's `backward`. Results on the CPU do not depend on the number of
//! threads, and an image's result does not depend on the other images of its batch (except for batch norm in training,
//! by definition). The ops that follow a trunk, [`linear`], [`tanh()`] and the cross-entropies, take any device and any
//! floating-point type.

mod loss;
mod tanh;

use candle_core::{Result, Tensor, bail};

use crate::host::on_cpu;
use crate::trunk::{self, Activation, Moments, Output, Settings, Tape, Value};

/// Runs a trunk of one op.
fn single_op(x: &Tensor, op: impl Fn(&mut Tape, Value) -> Result<Value> + Sync) -> Result<Tensor> {
    trunk::run(x, Settings::default(), |tape, x| Ok(Output::Maps(op(tape, x)?)))
}

/// Convolution (cross-correlation): x (N, Cin, H, W), w (Cout, Cin, K, K), bias (Cout), to
/// (N, Cout, (H + 2 padding - K) / stride + 1, ...), rounded down.
///
/// # Errors
/// Shapes that do not fit together, a kernel larger than the padded image, stride 0.
pub fn conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, stride: usize, padding: usize) -> Result<Tensor> {
    single_op(x, |tape, x| tape.conv2d(x, w, bias, stride, padding))
}

/// Nearest upsampling by 2 followed by a convolution of stride 1: x (N, Cin, H, W), w (Cout, Cin, K, K), bias (Cout), to
/// (N, Cout, 2H + 2 padding - K + 1, ...). Up to rounding it equals `conv2d(upsample2x(x), ...)`, at 4/9 of the
/// multiplications for K = 3.
///
/// # Errors
/// The same as for [`conv2d`].
pub fn upsample2x_conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, padding: usize) -> Result<Tensor> {
    single_op(x, |tape, x| tape.upsample2x_conv2d(x, w, bias, padding))
}

/// Nearest upsampling by 2: (N, C, H, W) to (N, C, 2H, 2W).
///
/// # Errors
/// A tensor without four dimensions.
pub fn upsample2x(x: &Tensor) -> Result<Tensor> {
    single_op(x, Tape::upsample2x)
}

/// Means of 2x2 windows: (N, C, H, W) to (N, C, H/2, W/2); an odd last row or column is dropped.
///
/// # Errors
/// A tensor without four dimensions.
pub fn avg_pool2x2(x: &Tensor) -> Result<Tensor> {
    single_op(x, Tape::avg_pool2x2)
}

/// Maxima of 2x2 windows: (N, C, H, W) to (N, C, H/2, W/2); an odd last row or column is dropped. The gradient goes to the
/// first maximum of a window in row-major order, as in PyTorch.
///
/// # Errors
/// A tensor without four dimensions.
pub fn max_pool2x2(x: &Tensor) -> Result<Tensor> {
    single_op(x, Tape::max_pool2x2)
}

/// Sums over all positions: (N, C, H, W) to (N, C).
///
/// # Errors
/// A tensor without four dimensions.
pub fn global_sum(x: &Tensor) -> Result<Tensor> {
    trunk::run(x, Settings::default(), |_, x| Ok(Output::Sums(x)))
}

/// Mean and biased variance of each channel of x (N, C, H, W), accumulated in f64. They carry no gradient: that
/// through the moments is part of [`batch_norm`].
///
/// # Errors
/// A tensor without four dimensions or without elements.
pub fn channel_moments(x: &Tensor) -> Result<Moments> {
    trunk::moments(x)
}

/// Batch norm, y = gain * (x - mean) / sqrt(var + eps) + bias, then a relu if `relu`. x is (N, C, H, W); gain and bias are
/// (C), or (N, C) for conditional batch norm.
///
/// When `training`, `moments` must be those of x itself ([`channel_moments`]), and the gradient includes the terms through
/// them. Else they are constants.
///
/// # Errors
/// Shapes that do not fit together.
pub fn batch_norm(
    x: &Tensor,
    gain: &Tensor,
    bias: &Tensor,
    moments: &Moments,
    training: bool,
    eps: f64,
    relu: bool,
) -> Result<Tensor> {
    single_op(x, |tape, x| tape.batch_norm(x, gain, bias, moments, training, eps, relu.then_some(Activation::RELU)))
}

/// relu(a + b), the end of a residual block, for tensors (N, C, H, W) of one shape.
///
/// # Errors
/// Different shapes, or without four dimensions.
pub fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    single_op(a, |tape, a| {
        let b = tape.extra_input(b)?;
        tape.add_relu(a, b)
    })
}

/// max(x, 0) for x (N, C, H, W). The gradient at 0 is 0.
///
/// # Errors
/// A tensor without four dimensions.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    leaky_relu(x, 0.0)
}

/// x where positive, slope * x elsewhere, for x (N, C, H, W).
///
/// # Errors
/// A tensor without four dimensions.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    single_op(x, |tape, x| tape.activation(x, Activation::Leaky(slope as f32)))
}

/// Attention of `query` (N, C, H, W) over `key` (N, C, H', W') and `value` (N, V, H', W'), to (N, V, H, W): for each query
/// position, the mean of `value` over positions, weighted by the softmax of query . key.
///
/// # Errors
/// Shapes that do not fit together.
pub fn attend(query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
    single_op(query, |tape, query| {
        let key = tape.extra_input(key)?;
        let value = tape.extra_input(value)?;
        tape.attend(query, key, value)
    })
}

/// Hyperbolic tangent.
///
/// # Errors
/// Errors of the device.
pub fn tanh(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if crate::host::on_gpu(x) {
        return crate::cuda::tanh(x);
    }
    if on_cpu(x) { x.contiguous()?.apply_op1(tanh::Tanh) } else { x.tanh() }
}

/// Cross-entropy: the mean over the batch of -log softmax(logits)\[label\], a scalar; logits (N, C).
///
/// # Errors
/// A number of labels other than the number of rows, a label of C or more, an empty batch.
pub fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let (n, c) = logits.dims2()?;
    if n == 0 || labels.len() != n {
        bail!("cross_entropy: {} labels don't fit logits {:?}", labels.len(), logits.dims())
    }
    if let Some(label) = labels.iter().find(|&&l| l as usize >= c) {
        bail!("cross_entropy: label {label} is out of range for {c} classes")
    }
    #[cfg(feature = "cuda")]
    if crate::host::on_gpu(logits) {
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
/// A number of targets other than N * C, an empty batch, no classes.
pub fn soft_cross_entropy(logits: &Tensor, targets: Vec<f32>) -> Result<Tensor> {
    let (n, c) = logits.dims2()?;
    if n == 0 || c == 0 {
        bail!("soft_cross_entropy: expected at least one row and one class, found logits {:?}", logits.dims())
    }
    if targets.len() != n * c {
        bail!("soft_cross_entropy: {} targets don't fit logits {:?}", targets.len(), logits.dims())
    }
    if on_cpu(logits) {
        return logits.contiguous()?.apply_op1(loss::SoftCrossEntropy(targets));
    }
    loss::soft_composed(logits, targets)
}

/// x w^T + bias: x (N, I), w (O, I), bias (O), to (N, O).
///
/// # Errors
/// Shapes that do not fit together.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&w.t()?)?;
    match bias {
        Some(b) => y.broadcast_add(b),
        None => Ok(y),
    }
}
