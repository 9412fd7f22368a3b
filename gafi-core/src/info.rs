//! What the manifests of classifier and generator artifacts describe.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::dataset_info::{check_classes, check_image};
use crate::error::{Error, Result};
use crate::spec::ImageSpec;
use crate::specs::ArchitectureSpec;

/// The file that holds a classifier's weights.
pub const WEIGHTS_FILE: &str = "weights.safetensors";

/// Content of a classifier artifact's manifest. The weights are in [`WEIGHTS_FILE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierInfo {
    /// Name and hyper-parameters of the network.
    pub architecture: ArchitectureSpec,
    /// Shape of the images it takes.
    pub image: ImageSpec,
    /// Names of its classes.
    pub classes: Vec<String>,
}

/// Content of a generator artifact's manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GeneratorInfo {
    /// Name and hyper-parameters of the network.
    pub architecture: ArchitectureSpec,
    /// Shape of the images it generates.
    pub image: ImageSpec,
    /// Names of its classes.
    pub classes: Vec<String>,
    /// Length of a latent; 0 for a generator that draws its own.
    pub latent_dim: usize,
    /// Whether a generator that draws its own noise takes a std; absent for others, which do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<bool>,
    /// Its checkpoints, by ascending step.
    pub checkpoints: Vec<CheckpointInfo>,
    /// Keys that are specific to the architecture.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A checkpoint of a generator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointInfo {
    /// Generator updates before it.
    pub step: u64,
    /// The file with its weights, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// A PNG of its samples with a row for each class, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<String>,
}

impl ClassifierInfo {
    /// Checks that the description is consistent. Errors name `file`, from which it was read.
    #[cfg_attr(not(feature = "artifacts"), expect(dead_code, reason = "only readers of artifacts call it"))]
    pub(crate) fn check(&self, file: &Path) -> Result<()> {
        check_image(file, &self.image)?;
        check_classes(file, &self.classes)
    }
}

impl GeneratorInfo {
    /// Whether its samples can be drawn with an `std` other than 1.
    pub fn takes_std(&self) -> bool {
        self.latent_dim > 0 || self.std != Some(false)
    }

    /// Checks that the description is consistent. Errors name `file`, from which it was read.
    #[cfg_attr(not(feature = "artifacts"), expect(dead_code, reason = "only readers of artifacts call it"))]
    pub(crate) fn check(&self, file: &Path) -> Result<()> {
        check_image(file, &self.image)?;
        check_classes(file, &self.classes)?;
        if self.checkpoints.is_empty() || !self.steps().is_sorted_by(|a, b| a < b) {
            let found = format!("steps {:?}", self.steps().collect::<Vec<_>>());
            return Err(Error::format(file, "content.checkpoints", "one or more, by ascending step", found));
        }
        Ok(())
    }

    /// The checkpoint of `step`, or the last one.
    ///
    /// # Errors
    /// [`Error::Config`] listing the steps when there is no such checkpoint.
    pub fn checkpoint(&self, step: Option<u64>) -> Result<&CheckpointInfo> {
        let found = match step {
            None => self.checkpoints.last(),
            Some(step) => self.checkpoints.iter().find(|checkpoint| checkpoint.step == step),
        };
        found.ok_or_else(|| {
            let known: Vec<_> = self.steps().map(|step| step.to_string()).collect();
            let wanted = step.map_or("the last".into(), |step| step.to_string());
            Error::config("checkpoint", wanted, format!("one of the generator's: {}", known.join(", ")))
        })
    }

    /// The steps of its checkpoints.
    pub fn steps(&self) -> impl Iterator<Item = u64> {
        self.checkpoints.iter().map(|checkpoint| checkpoint.step)
    }
}
