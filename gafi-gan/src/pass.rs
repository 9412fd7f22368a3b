//! The modes of a forward pass. The mode is an argument, not a state of the network: the same network is trained,
//! frozen and evaluated in turn.

use candle_core::{Tensor, Var};
use gafi_kernels::Precision;
use gafi_kernels::trunk::{Batch, Settings};

/// The mode of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pass {
    /// Whether the weights get gradients. Gradients of the input are computed either way.
    pub grad: bool,
    /// Whether spectral norms run a power iteration.
    pub iterate: bool,
    /// If given, batch norms use the statistics of the batch and update the running ones: running += momentum * (batch -
    /// running), with a momentum from 0 to 1. Otherwise they use the running ones, and an image does not depend on the rest
    /// of its batch.
    pub momentum: Option<f64>,
}

impl Pass {
    /// For the network being trained.
    pub const TRAIN: Self = Self { grad: true, iterate: true, momentum: Some(0.1) };
    /// For the network that is not being updated: training mode, but its weights get no gradients.
    pub const FROZEN: Self = Self { grad: false, iterate: true, momentum: Some(0.1) };
    /// For evaluation: changes no state.
    pub const EVAL: Self = Self { grad: false, iterate: false, momentum: None };

    /// For batch `k` (from 0) of the batches over which standing statistics are averaged.
    pub fn standing(k: usize) -> Self {
        Self { momentum: Some(1.0 / (k as f64 + 1.0)), ..Self::EVAL }
    }

    /// Settings of a trunk; `norms` says whether it has batch norms.
    pub(crate) fn settings(self, norms: bool, precision: Precision) -> Settings {
        let batch = match self {
            Self::EVAL => Batch::Pieces,
            Self { momentum: Some(_), .. } if norms => Batch::FusedMoments,
            _ => Batch::Whole,
        };
        Settings { precision, batch }
    }

    /// A parameter, detached from the graph unless the weights get gradients.
    pub fn var(self, var: &Var) -> Tensor {
        if self.grad { var.as_tensor().clone() } else { var.as_detached_tensor() }
    }
}

/// The form of a network's spectrally normalised weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Raw weights with the vectors of the power iteration, for training.
    Training,
    /// Weights already divided by their spectral norm ([`bake`](crate::spectral::bake)), for sampling.
    Inference,
}
