//! `DatasetInfo`: shape, classes and counts of a dataset, on disk or in memory.

use serde::{Deserialize, Serialize};

use crate::spec::{ImageSpec, Split};

/// What a dataset says of itself in its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetInfo {
    /// Shape of the images.
    pub image: ImageSpec,
    /// Names of the classes; a label is an index into them.
    pub classes: Vec<String>,
    /// The part it plays.
    pub split: Split,
    /// Rows of each class.
    pub counts: Vec<u64>,
    /// The shards in order.
    pub shards: Vec<ShardInfo>,
}

/// One shard of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardInfo {
    /// File name.
    pub file: String,
    /// Rows in it.
    pub rows: usize,
}

impl DatasetInfo {
    /// An empty dataset.
    pub fn new(image: ImageSpec, classes: Vec<String>, split: Split) -> Self {
        let counts = vec![0; classes.len()];
        Self { image, classes, split, counts, shards: Vec::new() }
    }

    /// Rows of all classes.
    pub fn rows(&self) -> u64 {
        self.counts.iter().fold(0, |a, &b| a.saturating_add(b))
    }
}
