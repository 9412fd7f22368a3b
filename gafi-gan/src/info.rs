//! What a generator artifact says of itself.

use gafi_core::ImageSpec;
use serde::{Deserialize, Serialize};

use crate::config::{Architecture, BatchNorm};

/// The file with all of the training's last state: both live networks, optimisers, the average.
pub const TRAINING: &str = "training.safetensors";

/// The content section of a generator artifact's manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorInfo {
    /// Name and hyper-parameters of the networks.
    pub architecture: Architecture,
    /// Shape of the images.
    pub image: ImageSpec,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Length of a latent.
    pub latent_dim: usize,
    /// Which batch-norm statistics the checkpoints carry; unknown of an imported generator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bn: Option<BatchNorm>,
    /// Generator updates that one pass over the training images took; unknown of an imported generator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps_per_epoch: Option<u64>,
    /// The series, in order.
    pub checkpoints: Vec<CheckpointInfo>,
    /// [`TRAINING`]; an imported generator has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<String>,
}

/// One checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointInfo {
    /// Generator updates done.
    pub step: u64,
    /// The averaged generator in inference form: parameters (spectral norms divided out) and batch-norm buffers.
    pub file: String,
    /// Its samples: a PNG with one row a class (an imported one's: of the first classes), from latents that are the same for
    /// all checkpoints.
    pub samples: String,
}

impl CheckpointInfo {
    /// The checkpoint after `step` updates.
    pub fn new(step: u64) -> Self {
        Self { step, file: format!("checkpoint-{step:08}.safetensors"), samples: samples_file(step) }
    }
}

/// The file of the samples shown after `step` updates.
pub(crate) fn samples_file(step: u64) -> String {
    format!("samples-{step:08}.png")
}
