//! Cross-entropy fused with its softmax.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::host::{floats, gradient, lock, output};
use crate::math::largest;

/// The largest logit of a row, and the sum of exp(logit - largest): the parts of a softmax. NaNs reach the result through the
/// sum.
fn softmax_parts(row: &[f32]) -> (f64, f64) {
    let max = f64::from(largest(row));
    (max, row.iter().map(|&v| (f64::from(v) - max).exp()).sum())
}

/// Mean over the batch of -log softmax(logits)\[label\]. There must be one valid label for each row.
pub(super) struct CrossEntropy(pub(super) Vec<u32>);

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c) = layout.shape().dims2()?;
        let mut total = 0.0;
        for (row, &label) in floats(self.name(), logits, layout)?.chunks_exact(c).zip(&self.0) {
            let (max, sum) = softmax_parts(row);
            total += sum.ln() - (f64::from(row[label as usize]) - max);
        }
        output(vec![(total / n as f64) as f32], ())
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (n, c) = logits.dims2()?;
        let scale = f64::from(grad.to_scalar::<f32>()?) / n as f64;
        lock!(self.name(), xs = logits);
        let mut dx = vec![0.0; xs.len()];
        for ((row, dx), &label) in xs.chunks_exact(c).zip(dx.chunks_exact_mut(c)).zip(&self.0) {
            let (max, sum) = softmax_parts(row);
            for (i, (dx, &v)) in dx.iter_mut().zip(row).enumerate() {
                let target = f64::from(u8::from(i == label as usize));
                *dx = (scale * ((f64::from(v) - max).exp() / sum - target)) as f32;
            }
        }
        gradient(dx, logits).map(Some)
    }
}

/// Cross-entropy composed of Candle ops, for devices and types that have no kernel here.
pub(super) fn composed(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let n = logits.dim(0)?;
    let labels = Tensor::from_slice(labels, (n, 1), logits.device())?;
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(1)?)?;
    let log_sum = shifted.exp()?.sum_keepdim(1)?.log()?;
    (log_sum - shifted.gather(&labels, 1)?)?.sum_all()? / n as f64
}

/// Mean over the batch of -sum target * log softmax(logits); targets (n, c).
pub(super) struct SoftCrossEntropy(pub(super) Vec<f32>);

impl CustomOp1 for SoftCrossEntropy {
    fn name(&self) -> &'static str {
        "soft_cross_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c) = layout.shape().dims2()?;
        let mut total = 0.0;
        for (row, target) in floats(self.name(), logits, layout)?.chunks_exact(c).zip(self.0.chunks_exact(c)) {
            let (max, sum) = softmax_parts(row);
            let log_sum = max + sum.ln();
            total += row.iter().zip(target).map(|(&v, &t)| f64::from(t) * (log_sum - f64::from(v))).sum::<f64>();
        }
        output(vec![(total / n as f64) as f32], ())
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (n, c) = logits.dims2()?;
        let scale = f64::from(grad.to_scalar::<f32>()?) / n as f64;
        lock!(self.name(), xs = logits);
        let mut dx = vec![0.0; xs.len()];
        let rows = xs.chunks_exact(c).zip(self.0.chunks_exact(c)).zip(dx.chunks_exact_mut(c));
        for ((row, target), dx) in rows {
            let (max, sum) = softmax_parts(row);
            let weight = target.iter().map(|&t| f64::from(t)).sum::<f64>();
            for ((dx, &v), &t) in dx.iter_mut().zip(row).zip(target) {
                *dx = (scale * (weight * (f64::from(v) - max).exp() / sum - f64::from(t))) as f32;
            }
        }
        gradient(dx, logits).map(Some)
    }
}

/// Soft cross-entropy composed of Candle ops.
pub(super) fn soft_composed(logits: &Tensor, targets: Vec<f32>) -> Result<Tensor> {
    let n = logits.dim(0)?;
    let targets = Tensor::from_vec(targets, logits.shape(), logits.device())?.to_dtype(logits.dtype())?;
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(1)?)?;
    let log_sum = shifted.exp()?.sum_keepdim(1)?.log()?;
    (log_sum.broadcast_sub(&shifted)? * targets)?.sum_all()? / n as f64
}
