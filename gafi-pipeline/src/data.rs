//! The real images of a pipeline, before they are imported.

use anyhow::Result;
use gafi_core::{ImageSpec, Protocol, Split};
use gafi_data::{Import, ImportConfig};
use serde::{Deserialize, Serialize};

use crate::config::PipelineConfig;

/// Images of a class where nothing says how many there are.
const PRESUMED_PER_CLASS: u64 = 5000;
/// Classes where nothing says how many there are.
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
    /// Images of the split that chooses.
    pub val: u64,
}

impl DataSummary {
    /// Counts the images of `import`, which `config` configures.
    ///
    /// # Errors
    /// When they cannot be read or split as configured.
    pub(crate) fn of(import: &Import, config: &ImportConfig, protocol: Protocol) -> Result<Self> {
        let train = import.preview()?;
        let val = import.with_split(choosing_split(protocol)).preview()?.rows();
        Ok(Self { name: name(config), image: train.image, classes: train.classes, train: train.counts, val })
    }

    /// A guess for images that are not on this machine: enough to count trainings, not images.
    pub(crate) fn presumed(config: &PipelineConfig) -> Self {
        let size = config.data.size.unwrap_or(32);
        let classes = config.data.classes().unwrap_or(PRESUMED_CLASSES);
        let per_class = config.per_class.unwrap_or(PRESUMED_PER_CLASS);
        Self {
            name: name(&config.data),
            image: ImageSpec::new(1, size, size),
            classes: (0..classes).map(|class| class.to_string()).collect(),
            train: vec![per_class; classes],
            val: per_class,
        }
    }

    /// Training images of all classes.
    pub fn rows(&self) -> u64 {
        self.train.iter().sum()
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

/// The split whose scores choose under `protocol`.
pub(crate) fn choosing_split(protocol: Protocol) -> Split {
    match protocol {
        Protocol::Holdout => Split::Val,
        Protocol::Paper => Split::TestAsVal,
    }
}
