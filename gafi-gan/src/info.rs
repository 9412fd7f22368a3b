//! Names of the files of a generator artifact.

use gafi_core::CheckpointInfo;

/// File of the training state: both networks, both optimisers and the moving average. Unfinished work resumes from it, and the
/// artifact keeps the last one.
pub(crate) const TRAINING: &str = "training.safetensors";

/// The checkpoint after `step` generator updates, with its two files.
pub(crate) fn checkpoint_at(step: u64) -> CheckpointInfo {
    CheckpointInfo { step, file: Some(weights_file(step)), samples: Some(samples_file(step)) }
}

/// File of the averaged generator in inference form: parameters divided by their spectral norms, and batch-norm
/// buffers.
pub(crate) fn weights_file(step: u64) -> String {
    format!("checkpoint-{step:08}.safetensors")
}

/// PNG file of samples with a row for each class. All checkpoints use the same latents.
pub(crate) fn samples_file(step: u64) -> String {
    format!("samples-{step:08}.png")
}
