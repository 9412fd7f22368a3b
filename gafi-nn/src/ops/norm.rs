//! Batch norm: statistics of a batch, and the fused normalise-scale-shift-relu with its backward pass.

/// Mean and variance of each channel over a batch, on the host (so that running averages need no device).
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Biased variance of each channel (divided by `count`).
    pub var: Vec<f32>,
    /// Values per channel: N * H * W.
    pub count: usize,
}
