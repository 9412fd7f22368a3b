//! The modes of a forward pass. The mode is an argument, not a state of the network: the same network is trained,
//! frozen and evaluated in turn.

use candle_core::{Tensor, Var};
use gafi_kernels::Precision;
use gafi_kernels::trunk::{Batch, Settings};

/// The statistics used by batch norms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Statistics {
    /// Those of the batch. The running statistics are updated: running += momentum * (batch - running).
    Batch {
        /// 0 to 1: 0.1 in training. 1 / k for the k-th of several batches averages over all of them (standing
        /// statistics).
        momentum: f64,
    },
    /// The running statistics. An image then does not depend on the rest of its batch.
    Running,
}

/// The mode of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pass {
    /// Whether the weights get gradients. Gradients of the input are computed either way.
    pub grad: bool,
    /// Whether spectral norms run a power iteration.
    pub iterate: bool,
    /// Statistics of the batch norms.
    pub statistics: Statistics,
}

impl Pass {
    /// For the network being trained.
    pub const TRAIN: Self = Self { grad: true, iterate: true, statistics: Statistics::Batch { momentum: 0.1 } };
    /// For the network that is not being updated: training mode, but its weights get no gradients.
    pub const FROZEN: Self = Self { grad: false, iterate: true, statistics: Statistics::Batch { momentum: 0.1 } };
    /// For evaluation: changes no state.
    pub const EVAL: Self = Self { grad: false, iterate: false, statistics: Statistics::Running };

    /// For batch `k` (from 0) of the batches over which standing statistics are averaged.
    pub fn standing(k: usize) -> Self {
        Self { grad: false, iterate: false, statistics: Statistics::Batch { momentum: 1.0 / (k as f64 + 1.0) } }
    }

    /// Settings of a trunk; `norms` says whether it has batch norms.
    pub(crate) fn settings(self, norms: bool, precision: Precision) -> Settings {
        let batch = match self {
            Self::EVAL => Batch::Pieces,
            Self { statistics: Statistics::Batch { .. }, .. } if norms => Batch::FusedMoments,
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
