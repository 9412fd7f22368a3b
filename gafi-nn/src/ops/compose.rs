//! Every op of this module written with candle's own operations, differentiable by candle's own rules.
//!
//! Two uses: it is the path of every device and dtype that has no kernel here (CUDA, f64), and it is what the tests hold
//! the CPU kernels against. Where candle 0.11's own op has a wrong gradient it is avoided: `upsample_nearest2d`
//! overwrites what other consumers of its input added, and `max_pool2d` scales the gradient by the share of maxima.

use candle_core::{D, DType, Result, Tensor, bail};

use super::norm::Moments;

/// Convolution: x (N, Cin, H, W), w (Cout, Cin, K, K), bias (Cout), of shapes that fit together.
pub fn conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, stride: usize, padding: usize) -> Result<Tensor> {
    let ((_, _, height, width), (_, _, k, _)) = (x.dims4()?, w.dims4()?);
    let left_over = |n: usize| (n + 2 * padding - k) % stride;
    let y = if left_over(height) == left_over(width) {
        x.conv2d(w, padding, stride, 1, 1)?
    } else {
        // Candle takes the rows that no window covers for the columns' too, and its backward fails: cut both off.
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
pub fn upsample2x(x: &Tensor) -> Result<Tensor> {
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
pub fn avg_pool2x2(x: &Tensor) -> Result<Tensor> {
    windows2x2(x)?.mean(D::Minus1)
}

/// Maxima of 2x2 windows.
pub fn max_pool2x2(x: &Tensor) -> Result<Tensor> {
    windows2x2(x)?.max(D::Minus1)
}

/// Sums over all positions: (N, C, ...) to (N, C).
pub fn global_sum(x: &Tensor) -> Result<Tensor> {
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

/// Batch norm. When `training`, mean and variance are computed again as a part of the graph, so that the gradient flows
/// through them; else `moments` are constants.
pub fn batch_norm(
    x: &Tensor,
    gain: &Tensor,
    bias: &Tensor,
    moments: &Moments,
    training: bool,
    eps: f64,
    relu: bool,
) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let (mean, var) = if training {
        let by_channel = x.transpose(0, 1)?.contiguous()?.reshape((c, n * h * w))?;
        let mean = by_channel.mean_keepdim(1)?;
        let var = by_channel.broadcast_sub(&mean)?.sqr()?.mean_keepdim(1)?;
        (mean.reshape((1, c, 1, 1))?, var.reshape((1, c, 1, 1))?)
    } else {
        let constant = |v: &[f32]| Tensor::from_slice(v, (1, c, 1, 1), x.device())?.to_dtype(x.dtype());
        (constant(&moments.mean)?, constant(&moments.var)?)
    };
    let inv = (var + eps)?.sqrt()?.recip()?;
    let y = x.broadcast_sub(&mean)?.broadcast_mul(&inv)?;
    let y = y.broadcast_mul(&per_channel(gain)?)?.broadcast_add(&per_channel(bias)?)?;
    if relu { y.relu() } else { Ok(y) }
}

/// Biased moments of each channel, computed in f64.
pub fn channel_moments(x: &Tensor) -> Result<Moments> {
    let (n, c, h, w) = x.dims4()?;
    let x = x.detach().to_dtype(DType::F64)?.transpose(0, 1)?.contiguous()?.reshape((c, n * h * w))?;
    let mean = x.mean_keepdim(1)?;
    let var = x.broadcast_sub(&mean)?.sqr()?.mean(1)?;
    let host = |t: &Tensor| -> Result<Vec<f32>> { t.to_dtype(DType::F32)?.flatten_all()?.to_vec1() };
    Ok(Moments { mean: host(&mean)?, var: host(&var)?, count: n * h * w })
}

/// relu(a + b).
pub fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    (a + b)?.relu()
}

/// x where positive, slope * x elsewhere.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    x.relu()? - (x.neg()?.relu()? * slope)?
}

/// Softmax over the last dimension.
pub fn softmax_last(x: &Tensor) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?.exp()?;
    shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)
}

/// Mean over the batch of -log softmax(logits)\[label\]: logits (N, C).
pub fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let n = logits.dim(0)?;
    let labels = Tensor::from_slice(labels, (n, 1), logits.device())?;
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(1)?)?;
    let log_sum = shifted.exp()?.sum_keepdim(1)?.log()?;
    (log_sum - shifted.gather(&labels, 1)?)?.sum_all()? / n as f64
}
