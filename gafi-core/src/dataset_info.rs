//! `DatasetInfo`: shape, classes and counts of a dataset, on disk or in memory.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::{ImageSpec, SHARD_ROWS, Split};

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

    /// Checks that the description can be true; `file` is where it was read from.
    pub(crate) fn check(&self, file: &Path) -> Result<()> {
        let bad = |place: &str, expected: String, found: String| Err(Error::format(file, place, expected, found));
        let ImageSpec { channels, height, width } = self.image;
        // 2^28 values are an image of 9,459 x 9,459 in colour.
        let values = channels.checked_mul(height).and_then(|n| n.checked_mul(width)).unwrap_or(usize::MAX);
        if !(1..=1 << 28).contains(&values) {
            return bad("content.image", "1 to 2^28 values".into(), self.image.to_string());
        }
        if self.classes.is_empty() || self.classes.len() > 1 << 20 {
            return bad("content.classes", "1 to 2^20 names".into(), self.classes.len().to_string());
        }
        if self.counts.len() != self.classes.len() {
            let expected = format!("one for each of {} classes", self.classes.len());
            return bad("content.counts", expected, self.counts.len().to_string());
        }
        if let Some(class) = self.counts.iter().position(|&n| n == 0) {
            let place = format!("content.counts, class {class} ({})", self.classes[class]);
            return bad(&place, "at least one row".into(), "none".into());
        }
        let mut rows = 0u64;
        for (i, shard) in self.shards.iter().enumerate() {
            if !(1..=SHARD_ROWS).contains(&shard.rows) {
                let found = shard.rows.to_string();
                return bad(&format!("content.shards[{i}].rows"), format!("1 to {SHARD_ROWS}"), found);
            }
            rows += shard.rows as u64;
        }
        if rows != self.rows() {
            return bad("content.shards", format!("{} rows, as the counts say", self.rows()), format!("{rows} rows"));
        }
        Ok(())
    }
}
