//! The real images of a pipeline, before they are imported.

use anyhow::Result;
use gafi_core::{ImageSpec, Protocol, Split};
use gafi_data::{Import, ImportConfig};
use serde::{Deserialize, Serialize};

use crate::config::PipelineConfig;

/// Number of images of a class that is assumed if it is unknown.
const PRESUMED_PER_CLASS: u64 = 5000;
/// Number of classes that is assumed if it is unknown.
const PRESUMED_CLASSES: usize = 10;

/// The real images of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSummary {
    /// Name of the set, or the path of its images.
    pub name: String,
    /// Shape of every image.
    pub image: ImageSpec,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Training images of each class.
    pub train: Vec<u64>,
    /// Images of the validation split, on which teacher and references choose their epoch.
    pub val: u64,
    /// Images that a GAN trains on, if these are training and validation images together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_val: Option<u64>,
    /// Test images, if they choose among students.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_as_val: Option<u64>,
    /// Validation images used only to screen settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screen: Option<u64>,
}

impl DataSummary {
    /// Counts the images of `import`, which `config` configures, in the splits that a run imports.
    ///
    /// # Errors
    /// When they cannot be read or split as configured.
    pub(crate) fn of(import: &Import, config: &PipelineConfig) -> Result<Self> {
        let splits = imported_splits(config);
        let count = |split: Split| -> Result<Option<u64>> {
            Ok(if splits.contains(&split) { Some(import.with_split(split).preview()?.rows()) } else { None })
        };
        let train = import.with_split(Split::Train).preview()?;
        Ok(Self {
            name: name(&config.data),
            image: train.image,
            classes: train.classes,
            train: train.counts,
            val: count(Split::Val)?.unwrap_or(0),
            train_val: count(Split::TrainVal)?,
            test_as_val: count(Split::TestAsVal)?,
            screen: count(Split::Screen)?,
        })
    }

    /// A guess for images that are not on this machine: enough to count trainings, not images.
    pub(crate) fn presumed(config: &PipelineConfig) -> Self {
        let size = config.data.size.unwrap_or(32);
        let classes = config.data.classes().unwrap_or(PRESUMED_CLASSES);
        let per_class = config.per_class.unwrap_or(PRESUMED_PER_CLASS);
        let train = per_class.saturating_mul(classes as u64);
        let val = config.data.val_per_class.map_or(train, |n| (n as u64).saturating_mul(classes as u64));
        let has = |split: Split, rows: u64| imported_splits(config).contains(&split).then_some(rows);
        Self {
            name: name(&config.data),
            image: ImageSpec::new(1, size, size),
            classes: (0..classes).map(|class| class.to_string()).collect(),
            train: vec![per_class; classes],
            val,
            train_val: has(Split::TrainVal, train.saturating_add(val)),
            test_as_val: has(Split::TestAsVal, val),
            screen: has(Split::Screen, val),
        }
    }

    /// Training images of all classes.
    pub fn rows(&self) -> u64 {
        self.train.iter().sum()
    }

    /// Images that a GAN trains on.
    pub fn gan_rows(&self) -> u64 {
        self.train_val.unwrap_or_else(|| self.rows())
    }

    /// Images of the split used to choose among students.
    pub fn choosing(&self) -> u64 {
        self.test_as_val.unwrap_or(self.val)
    }

    /// Training images of the smallest class.
    pub fn smallest_class(&self) -> u64 {
        self.train.iter().copied().min().unwrap_or(0)
    }
}

fn name(config: &ImportConfig) -> String {
    match (config.set, &config.path) {
        (Some(set), _) => set.to_string(),
        (None, Some(path)) => path.display().to_string(),
        (None, None) => String::new(),
    }
}

/// The split that a GAN trains on under `protocol`.
pub(crate) fn gan_split(protocol: Protocol) -> Split {
    match protocol {
        Protocol::Holdout => Split::Train,
        Protocol::Paper => Split::TrainVal,
    }
}

/// The split whose scores choose among students under `protocol`.
pub(crate) fn choosing_split(protocol: Protocol) -> Split {
    match protocol {
        Protocol::Holdout => Split::Val,
        Protocol::Paper => Split::TestAsVal,
    }
}

/// The splits of real images that a run imports before its last choice. Rows of one split are in no other, except that
/// `train-val` joins two.
pub(crate) fn imported_splits(config: &PipelineConfig) -> Vec<Split> {
    let mut splits = vec![Split::Train];
    if config.trained_generators.is_empty() && gan_split(config.protocol) == Split::TrainVal {
        splits.push(Split::TrainVal);
    }
    splits.push(Split::Val);
    if choosing_split(config.protocol) != Split::Val {
        splits.push(choosing_split(config.protocol));
    }
    if config.screens() {
        splits.push(Split::Screen);
    }
    splits
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Images of one channel and `size` rows and columns, of classes `0`, `1` and so on.
    pub(crate) fn summary(size: usize, train: Vec<u64>, val: u64) -> DataSummary {
        let image = ImageSpec::new(1, size, size);
        let classes = (0..train.len()).map(|class| class.to_string()).collect();
        let name = "set".into();
        DataSummary { name, image, classes, train, val, train_val: None, test_as_val: None, screen: None }
    }
}
