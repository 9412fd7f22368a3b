//! [`ImportReport`]: what an import found in its source, and what it did.

use std::collections::BTreeMap;

use gafi_core::Split;
use serde::{Deserialize, Serialize};

use crate::format::Format;
use crate::note::Note;

/// What an import found in its source, and what it did. The manifest of each split holds it (`content.import`). All paths are relative
/// to the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ImportReport {
    /// How the images are stored.
    pub format: Format,
    /// Class names, in label order.
    pub classes: Vec<String>,
    /// The splits, in the order train, val, screen, test.
    pub splits: Vec<SplitReport>,
    /// The ten most common sizes in the source (`ROWSxCOLUMNS`), and the number of images of each.
    pub sizes: Vec<(String, u64)>,
    /// Number of different sizes.
    pub different_sizes: u64,
    /// Number of images of each kind, such as `PNG, RGBA`.
    pub modes: BTreeMap<String, u64>,
    /// What was skipped, converted or assumed, and warnings.
    pub notes: Vec<Note>,
}

/// A split of an [`ImportReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SplitReport {
    /// The split.
    pub split: Split,
    /// Rows of each class.
    pub counts: Vec<u64>,
    /// Whether the source has this split. If not, its rows were held out of the training rows.
    pub own: bool,
}
