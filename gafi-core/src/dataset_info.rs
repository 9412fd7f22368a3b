//! `DatasetInfo`: shape, classes and counts of a dataset, on disk or in memory.

use serde::{Deserialize, Serialize};

use crate::spec::{ImageSpec, Split};

/// The description of a dataset, in the content of its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetInfo {
    /// Shape of the images.
    pub image: ImageSpec,
    /// Names of the classes; a label is an index into them.
    pub classes: Vec<String>,
    /// Which part it plays.
    pub split: Split,
    /// Number of rows of each class.
    pub counts: Vec<u64>,
    /// Its shards, in order; none for a set in memory.
    pub shards: Vec<ShardInfo>,
}

/// A shard of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardInfo {
    /// File name.
    pub file: String,
    /// Number of rows.
    pub rows: usize,
}

impl DatasetInfo {
    /// The description of an empty dataset.
    pub fn new(image: ImageSpec, classes: Vec<String>, split: Split) -> Self {
        let counts = vec![0; classes.len()];
        Self { image, classes, split, counts, shards: Vec::new() }
    }

    /// Number of rows of all classes.
    pub fn rows(&self) -> u64 {
        self.counts.iter().fold(0, |a, &b| a.saturating_add(b))
    }
}
