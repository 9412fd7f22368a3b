//! Every op as a composition of Candle ops, differentiated by Candle: the reference for the kernels.
//!
//! Ops whose gradient is wrong in Candle 0.11 are avoided: `upsample_nearest2d` overwrites the gradients of other consumers of
//! its input, and `max_pool2d` scales the gradient by the share of maxima. So are `relu` and `max`, whose gradients at ties
//! differ from those of the kernels.

use candle_core::{D, DType, Result, Tensor, bail};

/// Convolution: x (N, Cin, H, W), w (Cout, Cin, K, K), bias (Cout).
pub(crate) fn conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, stride: usize, padding: usize) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    let k = w.dim(3)?;
    let left_over = |n: usize| (n + 2 * padding - k) % stride;
    let y = if left_over(height) == left_over(width) {
        x.conv2d(w, padding, stride, 1, 1)?
    } else {
        // Candle's backward pass fails if windows leave over different numbers of rows and columns: crop both.
        let padded = x.pad_with_zeros(2, padding, padding)?.pad_with_zeros(3, padding, padding)?;
        let covered = |n: usize| n + 2 * padding - left_over(n);
        padded.narrow(2, 0, covered(height))?.narrow(3, 0, covered(width))?.contiguous()?.conv2d(w, 0, stride, 1, 1)?
    };
    match bias {
        Some(b) => y.broadcast_add(&b.reshape((1, b.elem_count(), 1, 1))?),
        None => Ok(y),
    }
}

/// Nearest upsampling by 2: (N, C, H, W) to (N, C, 2H, 2W).
pub(crate) fn upsample2x(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    x.reshape((n, c, h, 1, w, 1))?.broadcast_as((n, c, h, 2, w, 2))?.contiguous()?.reshape((n, c, 2 * h, 2 * w))
}

/// The 2x2 windows of x (an odd last row or column is dropped) as (N, C, H/2, W/2, 4).
fn windows2x2(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let (h2, w2) = (h / 2, w / 2);
    let x = x.narrow(2, 0, 2 * h2)?.narrow(3, 0, 2 * w2)?.contiguous()?;
    let x = x.reshape((n * c * h2, 2, w2, 2))?.transpose(1, 2)?.contiguous()?;
    x.reshape((n, c, h2, w2, 4))
}

/// Means of 2x2 windows.
pub(crate) fn avg_pool2x2(x: &Tensor) -> Result<Tensor> {
    windows2x2(x)?.mean(D::Minus1)
}

/// Maxima of 2x2 windows; the first of equal values counts.
pub(crate) fn max_pool2x2(x: &Tensor) -> Result<Tensor> {
    let windows = windows2x2(x)?;
    let mut best = windows.narrow(4, 0, 1)?;
    for i in 1..4 {
        let next = windows.narrow(4, i, 1)?;
        let larger = next.detach().gt(&best.detach())?.to_dtype(x.dtype())?;
        best = (&best + ((next - &best)? * larger)?)?;
    }
    best.squeeze(4)
}

/// Sums over all positions: (N, C, ...) to (N, C).
pub(crate) fn global_sum(x: &Tensor) -> Result<Tensor> {
    x.flatten_from(2)?.sum(2)
}

/// (C) as (1, C, 1, 1), (N, C) as (N, C, 1, 1).
fn per_channel(t: &Tensor) -> Result<Tensor> {
    match t.dims() {
        [c] => t.reshape((1, *c, 1, 1)),
        [n, c] => t.reshape((*n, *c, 1, 1)),
        dims => bail!("batch_norm: gain and bias must be (C) or (N, C), got {dims:?}"),
    }
}

/// Batch norm, followed by the leaky relu of `slope` if given. Mean and variance, (C), are `fixed`, or computed as part of the
/// graph, so that gradients flow through them.
pub(crate) fn batch_norm(
    x: &Tensor,
    gain: &Tensor,
    bias: &Tensor,
    fixed: Option<(&Tensor, &Tensor)>,
    eps: f64,
    slope: Option<f64>,
) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let (mean, var) = match fixed {
        Some((mean, var)) => {
            let constant = |v: &Tensor| v.to_dtype(x.dtype())?.reshape((1, c, 1, 1));
            (constant(mean)?, constant(var)?)
        }
        None => {
            let by_channel = x.transpose(0, 1)?.contiguous()?.reshape((c, n * h * w))?;
            let mean = by_channel.mean_keepdim(1)?;
            let var = by_channel.broadcast_sub(&mean)?.sqr()?.mean_keepdim(1)?;
            (mean.reshape((1, c, 1, 1))?, var.reshape((1, c, 1, 1))?)
        }
    };
    let inv = (var + eps)?.sqrt()?.recip()?;
    let y = x.broadcast_sub(&mean)?.broadcast_mul(&inv)?;
    let y = y.broadcast_mul(&per_channel(gain)?)?.broadcast_add(&per_channel(bias)?)?;
    if let Some(slope) = slope { leaky_relu(&y, slope) } else { Ok(y) }
}

/// Mean and biased variance of each channel, (C), in f64.
pub(crate) fn channel_moments(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let (n, c, h, w) = x.dims4()?;
    let x = x.detach().to_dtype(DType::F64)?.transpose(0, 1)?.contiguous()?.reshape((c, n * h * w))?;
    let mean = x.mean_keepdim(1)?;
    let var = x.broadcast_sub(&mean)?.sqr()?.mean(1)?;
    Ok((mean.squeeze(1)?, var))
}

/// relu(a + b).
pub(crate) fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    leaky_relu(&(a + b)?, 0.0)
}

/// x where positive, slope * x elsewhere.
pub(crate) fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    let positive = x.detach().gt(0.0)?.to_dtype(x.dtype())?;
    x * positive.affine(1.0 - slope, slope)?
}

/// Every second pixel of every second row, with zero channels around.
pub(crate) fn subsample_pad(x: &Tensor, channels: usize) -> Result<Tensor> {
    let (_, c, h, w) = x.dims4()?;
    let even = |n: usize| Tensor::arange_step(0u32, n as u32, 2, x.device());
    let before = (channels - c) / 2;
    x.index_select(&even(h)?, 2)?.index_select(&even(w)?, 3)?.pad_with_zeros(1, before, channels - c - before)
}

/// Attention of query (N, C, H, W) over key (N, C, H', W') and value (N, V, H', W').
pub(crate) fn attend(query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
    let (n, _, h, w) = query.dims4()?;
    let logits = query.flatten_from(2)?.t()?.contiguous()?.matmul(&key.flatten_from(2)?)?;
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?.exp()?;
    let shares = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?;
    let v = value.dim(1)?;
    value.flatten_from(2)?.matmul(&shares.t()?.contiguous()?)?.reshape((n, v, h, w))
}

/// Mean over the batch of -log softmax(logits)\[label\]: logits (N, C).
pub(crate) fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let n = logits.dim(0)?;
    let labels = Tensor::from_slice(labels, (n, 1), logits.device())?;
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(1)?)?;
    let log_sum = shifted.exp()?.sum_keepdim(1)?.log()?;
    (log_sum - shifted.gather(&labels, 1)?)?.sum_all()? / n as f64
}

/// See [`gafi_kernels::ops::soft_cross_entropy`].
pub(crate) fn soft_cross_entropy(logits: &Tensor, targets: &[f32]) -> Result<Tensor> {
    let n = logits.dim(0)?;
    let targets = Tensor::from_slice(targets, logits.shape(), logits.device())?;
    let exp = logits.exp()?;
    let log = exp.broadcast_div(&exp.sum_keepdim(1)?)?.log()?;
    (log * targets.to_dtype(logits.dtype())?)?.sum_all()?.neg()? / n as f64
}
