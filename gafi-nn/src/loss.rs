//! The classifier's loss.

use candle_core::Tensor;
use gafi_kernels::ops;

use crate::error::Result;

/// Mean cross-entropy of logits (N, classes) with label smoothing s: the target is 1 - s on the label plus s / classes
/// on every class (Szegedy et al. 2015, arXiv 1512.00567, section 7).
///
/// Computed as the plain loss plus the mean of `s (z[label] - mean(z))`.
///
/// # Errors
/// When a label is not a class, or there is not one label for each row.
pub fn smoothed_cross_entropy(logits: &Tensor, labels: &[u32], smoothing: f64) -> Result<Tensor> {
    let plain = ops::cross_entropy(logits, labels)?;
    if smoothing == 0.0 {
        return Ok(plain);
    }
    let labels = Tensor::from_slice(labels, (labels.len(), 1), logits.device())?;
    let spread = (logits.gather(&labels, 1)?.mean_all()? - logits.mean_all()?)?;
    Ok((plain + (spread * smoothing)?)?)
}
