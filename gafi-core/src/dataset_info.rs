//! `DatasetInfo`: shape, classes and counts of a dataset, on disk or in memory.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::{ImageSpec, SHARD_ROWS, Split};

/// The description of a dataset, in the content of its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetInfo {
    /// Shape of the images.
    pub image: ImageSpec,
    /// Names of the classes; a label is an index into them.
    pub classes: Vec<String>,
    /// The role of the set.
    pub split: Split,
    /// Number of rows of each class.
    pub counts: Vec<u64>,
    /// Its shards, in order; empty for a set in memory.
    pub shards: Vec<ShardInfo>,
    /// For imported images: what the import found, skipped and converted (`ImportReport` of `gafi-data`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<serde_json::Value>,
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
        Self { image, classes, split, counts, shards: Vec::new(), import: None }
    }

    /// Number of rows of all classes.
    pub fn rows(&self) -> u64 {
        self.counts.iter().fold(0, |a, &b| a.saturating_add(b))
    }

    /// Checks that the description is consistent. Errors name `file`, from which it was read.
    #[cfg_attr(not(feature = "artifacts"), expect(dead_code, reason = "only readers of artifacts call it"))]
    pub(crate) fn check(&self, file: &Path) -> Result<()> {
        check_image(file, &self.image)?;
        check_classes(file, &self.classes)?;
        let bad = |place: &str, expected: String, found: String| Err(Error::format(file, place, expected, found));
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
            return bad(
                "content.shards",
                format!("{} rows, according to the counts", self.rows()),
                format!("{rows} rows"),
            );
        }
        Ok(())
    }
}

/// Checks the image shape in a manifest's content. Errors name `file`, from which it was read.
pub(crate) fn check_image(file: &Path, image: &ImageSpec) -> Result<()> {
    // 2^28 values are a colour image of 9,459 x 9,459.
    if (1..=1 << 28).contains(&image.bytes()) {
        return Ok(());
    }
    Err(Error::format(file, "content.image", "1 to 2^28 values", image.to_string()))
}

/// Checks the class names in a manifest's content; errors name `file`, from which it was read. Folders, columns and predictions
/// refer to classes by name, so every class needs a name of its own.
pub(crate) fn check_classes(file: &Path, classes: &[String]) -> Result<()> {
    let bad = |expected: &str, found: String| Err(Error::format(file, "content.classes", expected, found));
    if classes.is_empty() || classes.len() > 1 << 20 {
        return bad("1 to 2^20 names", classes.len().to_string());
    }
    if let Some(class) = classes.iter().position(|name| name.trim().is_empty()) {
        return bad("names that are not empty", format!("an empty name of class {class}"));
    }
    let mut seen = BTreeMap::new();
    for (class, name) in classes.iter().enumerate() {
        if let Some(before) = seen.insert(name, class) {
            return bad("a different name for each class", format!("{name:?} for classes {before} and {class}"));
        }
    }
    Ok(())
}
