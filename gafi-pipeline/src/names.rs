//! Names of generators, searches and their steps, which the schedule and the record share.

use serde::{Deserialize, Serialize};

use crate::config::Strategy;

/// The name of a generator, numbered from 0.
pub(crate) fn generator_name(number: usize) -> String {
    match number {
        0 => "generator".into(),
        number => format!("generator-{}", number + 1),
    }
}

/// The row of the classifier that filters.
pub const TEACHER_ROW: &str = "teacher";
/// The row that the gap is measured from: a student's classifier trained on all real training images.
pub const REAL_ROW: &str = "real";
/// The row of the same classifier with the teacher's probabilities as labels.
pub const SOFT_ROW: &str = "real-soft";
/// The row of the same classifier trained on few real images, always the same ones.
pub const SUBSET_ROW: &str = "real-subset";

/// The row of the reference for sets of `times` the usual size: `real`, `real-2x`.
pub(crate) fn real_name(times: u32) -> String {
    match times {
        1 => REAL_ROW.into(),
        times => format!("{REAL_ROW}-{times}x"),
    }
}

/// Identifies a search.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SearchId {
    /// Which generator, from 0.
    pub generator: usize,
    /// How it searches.
    pub strategy: Strategy,
    /// The variant or row of the ablation that it searches for; `None` for a search of all three grids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<String>,
}

impl std::fmt::Display for SearchId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.row {
            Some(row) => write!(f, "search of row {row}"),
            None => write!(f, "search of generator {} ({})", self.generator + 1, self.strategy.name()),
        }
    }
}

/// Which setting a step of a search varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    /// The generator's checkpoint.
    Checkpoint,
    /// The standard deviation of the latents.
    Std,
    /// The teacher's threshold.
    Threshold,
}

impl std::fmt::Display for StepKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Checkpoint => "checkpoint",
            Self::Std => "std",
            Self::Threshold => "threshold",
        })
    }
}
