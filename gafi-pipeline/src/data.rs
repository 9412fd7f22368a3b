//! What a pipeline needs to know of its real images before it reads them.

use anyhow::Result;
use gafi_core::{ImageSpec, Protocol, Split};
use gafi_data::{Import, ImportConfig};
use serde::{Deserialize, Serialize};

use crate::host::Host;

/// The real images of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSummary {
    /// Name of the set, or the path that it was read from.
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
    /// Counts the images of `config`, of which those of `protocol`'s split choose. Downloads nothing with `offline`.
    ///
    /// # Errors
    /// When the images are not there, cannot be read or cannot be split as configured.
    pub fn read(config: &ImportConfig, protocol: Protocol, offline: bool, host: &Host) -> Result<Self> {
        let config = ImportConfig { offline: offline || config.offline, ..config.clone() };
        Self::of(&Import::new(&config, Split::Train, host.cx())?, &config, protocol)
    }

    /// The images of an import that found them.
    pub(crate) fn of(import: &Import, config: &ImportConfig, protocol: Protocol) -> Result<Self> {
        let train = import.preview()?;
        let val = import.with_split(choosing_split(protocol)).preview()?.rows();
        let name = match (config.set, &config.path) {
            (Some(set), _) => set.to_string(),
            (None, Some(path)) => path.display().to_string(),
            (None, None) => String::new(),
        };
        Ok(Self { name, image: train.image, classes: train.classes, train: train.counts, val })
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

/// The split whose scores choose under `protocol`.
pub(crate) fn choosing_split(protocol: Protocol) -> Split {
    match protocol {
        Protocol::Holdout => Split::Val,
        Protocol::Paper => Split::TestAsVal,
    }
}
