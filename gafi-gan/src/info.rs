//! Names of the files of a generator artifact.

use gafi_core::CheckpointInfo;

/// The file with all of the training's last state: both live networks, optimisers, the average.
pub const TRAINING: &str = "training.safetensors";

/// The checkpoint after `step` updates, with its weights and its samples as files.
pub(crate) fn checkpoint_at(step: u64) -> CheckpointInfo {
    CheckpointInfo { step, file: Some(weights_file(step)), samples: Some(samples_file(step)) }
}

/// The averaged generator in inference form: parameters (spectral norms divided out) and batch-norm buffers.
pub(crate) fn weights_file(step: u64) -> String {
    format!("checkpoint-{step:08}.safetensors")
}

/// A PNG of samples with a row for each class, from latents that are the same for all checkpoints.
pub(crate) fn samples_file(step: u64) -> String {
    format!("samples-{step:08}.png")
}
