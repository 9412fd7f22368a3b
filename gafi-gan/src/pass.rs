//! How a network is run: one value that says which weights get gradients, whether spectral norm iterates, and which
//! statistics batch norm uses. An argument, not a state: the same network trains, is averaged over and is sampled from.

use candle_core::{Tensor, Var};
use gafi_kernels::trunk::{Batch, Precision, Settings};

/// The statistics that batch norm uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Statistics {
    /// The batch's own; the running ones move towards them by this share of the way.
    Batch {
        /// 0 to 1: 0.1 in training; 1 / k for the k-th of many batches makes them the mean over all (standing statistics).
        momentum: f64,
    },
    /// The running ones. An image then does not depend on its batch.
    Running,
}

/// How a network is run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pass {
    /// Whether the weights get gradients. Without, no graph is kept of them; gradients still reach the input.
    pub grad: bool,
    /// Whether spectral norm makes a power iteration.
    pub iterate: bool,
    /// What batch norm uses.
    pub statistics: Statistics,
}

impl Pass {
    /// The network is being trained.
    pub const TRAIN: Self = Self { grad: true, iterate: true, statistics: Statistics::Batch { momentum: 0.1 } };
    /// In training mode, but it is the other network that is being trained.
    pub const FROZEN: Self = Self { grad: false, iterate: true, statistics: Statistics::Batch { momentum: 0.1 } };
    /// Evaluation: nothing moves.
    pub const EVAL: Self = Self { grad: false, iterate: false, statistics: Statistics::Running };

    /// The pass over batch number `k`, from 0, of those that standing statistics are made of.
    pub fn standing(k: usize) -> Self {
        Self { grad: false, iterate: false, statistics: Statistics::Batch { momentum: 1.0 / (k as f64 + 1.0) } }
    }

    /// How a trunk with (or without) batch norms is run.
    pub(crate) fn settings(self, norms: bool, precision: Precision) -> Settings {
        let batch = match self {
            Self::EVAL => Batch::Pieces,
            Self { statistics: Statistics::Batch { .. }, .. } if norms => Batch::Normed,
            _ => Batch::Whole,
        };
        Settings { precision, batch }
    }

    /// A parameter with its gradient, or without.
    pub fn var(self, var: &Var) -> Tensor {
        if self.grad { var.as_tensor().clone() } else { var.as_detached_tensor() }
    }
}

/// What a network's spectral norms are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// To be trained: weights and power-iteration vectors.
    Training,
    /// To be sampled from: the weights are loaded divided already (see [`crate::bake`]).
    Inference,
}
