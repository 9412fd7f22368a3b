//! The jobs of a schedule: what each runs, on which inputs, and an upper bound of its cost.

use std::path::PathBuf;

use gafi_core::Split;
use gafi_data::ImportConfig;
use gafi_expand::StdRange;
use gafi_gan::GanConfig;
use gafi_nn::Distill;
use gafi_recycle::Renewal;
use serde::Serialize;

use super::bound::CostBound;
use super::reference::ReferenceSpec;
use crate::names::{SearchId, StepKind};
use crate::setting::Setting;

/// One job of a pipeline. A job that depends on earlier choices holds a template, and its cost is an upper bound.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Job {
    /// Its name within the schedule.
    pub id: String,
    /// The stage that it runs, once or several times.
    pub stage: &'static str,
    /// Its role and configuration.
    #[serde(flatten)]
    pub work: Work,
    /// The artifacts and choices that it needs.
    pub inputs: Vec<JobInput>,
    /// An upper bound on its cost.
    pub bound: CostBound,
}

/// An input of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobInput {
    /// The id of an earlier job.
    Job(String),
    /// The folder of an artifact.
    Artifact(PathBuf),
}

/// The role of a job, with the configuration of its stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "role", rename_all = "kebab-case")]
pub enum Work {
    /// Imports real images.
    Import {
        /// The split.
        split: Split,
        /// The source and its splits.
        config: Box<ImportConfig>,
    },
    /// Trains the classifier that filters.
    Teacher(ReferenceSpec),
    /// Trains a generator.
    Generator {
        /// Which one, from 0.
        number: usize,
        /// Its training.
        config: Box<GanConfig>,
    },
    /// Trains a reference on real images.
    Reference(ReferenceSpec),
    /// One step of a search.
    SearchStep(StepTemplate),
    /// Trains the student of a row.
    Row(RowTemplate),
    /// Trains the classifier of a row again with another student seed.
    Repeat {
        /// The row.
        of: String,
        /// Which repeat, from 1.
        number: u32,
    },
    /// Evaluates a classifier on the test split.
    Test {
        /// The job that trains it.
        of: String,
    },
}

/// One step of a search. Its settings vary the one that the step before chose.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepTemplate {
    /// The search that it belongs to.
    pub search: SearchId,
    /// The values that it tries.
    pub grid: Grid,
    /// How it tries them.
    pub method: Method,
    /// How its settings follow from the search's first one.
    pub template: SettingTemplate,
}

/// The values that a step tries.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", content = "values", rename_all = "kebab-case")]
pub enum Grid {
    /// Checkpoints, in steps.
    Checkpoint(Vec<u64>),
    /// Standard deviations of the latents, ascending.
    Std(Vec<StdRange>),
    /// Thresholds, ascending.
    Threshold(Vec<f64>),
}

/// How a step tries its values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Method {
    /// A student of full length for each value.
    Full,
    /// Students of `epochs`, at the points of a bisection on the sign of the slope.
    Bisect {
        /// Their length.
        epochs: u32,
    },
    /// A closed-form classifier for each value; the best `keep` go through rounds of students or, if `keep` is 1, are chosen.
    Screen {
        /// Values that are left after screening.
        keep: usize,
        /// The rounds, each over the best of the round before.
        rounds: Vec<Round>,
    },
}

/// A round of students.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Round {
    /// Number of students.
    pub students: usize,
    /// Epochs of each.
    pub epochs: u32,
}

/// The techniques of a setting whose values a search chooses.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SettingTemplate {
    /// Whether it filters.
    pub filter: bool,
    /// Whether latents are wide.
    pub expand: bool,
    /// How its set is renewed.
    pub recycle: Option<Renewal>,
    /// How much soft labels count; `None` for hard labels.
    pub distill: Option<Distill>,
    /// Size of its set, as a multiple of the usual one.
    pub times: u32,
    /// Whether its samples are those of the untrained generator.
    pub untrained: bool,
}

/// A row of the results table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RowTemplate {
    /// Its name.
    pub name: String,
    /// The searches that choose its values: one for each generator.
    pub chosen_by: Vec<SearchId>,
    /// Its techniques.
    pub template: SettingTemplate,
    /// Whether the search's next best setting replaces one under which a class runs out of samples.
    pub fallback: bool,
    /// Whether several generators take turns instead of equal shares.
    pub turns: bool,
}

impl Grid {
    /// Standard deviations, sorted.
    pub(super) fn stds(stds: &[StdRange]) -> Self {
        let mut stds = stds.to_vec();
        stds.sort_by(|a, b| a.bounds().0.total_cmp(&b.bounds().0).then(a.bounds().1.total_cmp(&b.bounds().1)));
        Self::Std(stds)
    }

    /// Thresholds, sorted.
    pub(super) fn thresholds(thresholds: &[f64]) -> Self {
        let mut thresholds = thresholds.to_vec();
        thresholds.sort_by(f64::total_cmp);
        Self::Threshold(thresholds)
    }

    /// What it varies.
    pub fn kind(&self) -> StepKind {
        match self {
            Self::Checkpoint(_) => StepKind::Checkpoint,
            Self::Std(_) => StepKind::Std,
            Self::Threshold(_) => StepKind::Threshold,
        }
    }

    /// `base` with each of the values, at full length.
    pub(crate) fn settings(&self, base: &Setting) -> Vec<Setting> {
        let base = Setting { epochs: None, ..base.clone() };
        match self {
            Self::Checkpoint(steps) => steps.iter().map(|&checkpoint| Setting { checkpoint, ..base.clone() }).collect(),
            Self::Std(stds) => stds.iter().map(|&std| Setting { std, ..base.clone() }).collect(),
            Self::Threshold(thresholds) => {
                thresholds.iter().map(|&t| Setting { threshold: Some(t), ..base.clone() }).collect()
            }
        }
    }
}

impl SettingTemplate {
    /// All techniques but renewal, hard labels.
    pub(super) const ALL: Self =
        Self { filter: true, expand: true, recycle: None, distill: None, times: 1, untrained: false };

    /// The setting with the values of `chosen`, at full length.
    pub(crate) fn apply(&self, chosen: &Setting) -> Setting {
        Setting {
            checkpoint: if self.untrained { 0 } else { chosen.checkpoint },
            std: if self.expand && !self.untrained { chosen.std } else { StdRange::default() },
            threshold: if self.filter { chosen.threshold } else { None },
            recycle: self.recycle,
            distill: self.distill,
            times: self.times,
            epochs: None,
        }
    }
}

impl StepTemplate {
    /// Its name in progress lines.
    pub(crate) fn name(&self) -> String {
        match &self.search.row {
            Some(row) => format!("{row}: {}", self.grid.kind()),
            None => self.grid.kind().to_string(),
        }
    }
}
