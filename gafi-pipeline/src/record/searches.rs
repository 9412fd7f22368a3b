//! The searches of a run: their steps, trials and choices.

use std::collections::BTreeMap;

use gafi_core::ValScore;
use serde::{Deserialize, Serialize};

use super::roles::ArtifactRef;
use crate::config::Strategy;
use crate::names::{SearchId, StepKind};
use crate::setting::{Infeasible, Setting};

/// One search: of one generator by one strategy, or for a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchRecord {
    /// Which generator, from 0.
    pub generator: usize,
    /// How it searched.
    pub strategy: Strategy,
    /// The variant or row of the ablation that it searched for; `None` for a search of all three grids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<String>,
    /// Its steps so far.
    pub steps: Vec<Step>,
    /// Students trained, each counted once.
    pub trainings: usize,
    /// Epochs of these students.
    pub epochs: u64,
    /// Settings screened by closed-form classifiers.
    pub closed_form: usize,
    /// The setting that it chose, once it ended.
    pub chosen: Option<Setting>,
    /// Validation score of the chosen trial; of the last chosen trial if the last step trained none.
    pub val: Option<ValScore>,
}

impl SearchRecord {
    pub(crate) fn new(search: &SearchId) -> Self {
        let SearchId { generator, strategy, row } = search.clone();
        let steps = Vec::new();
        Self { generator, strategy, row, steps, trainings: 0, epochs: 0, closed_form: 0, chosen: None, val: None }
    }

    /// Whether it is the record of `search`.
    pub(crate) fn is(&self, search: &SearchId) -> bool {
        (self.generator, self.strategy, &self.row) == (search.generator, search.strategy, &search.row)
    }

    /// Counts the students of its steps, equal ones once.
    pub(crate) fn count_trainings(&mut self) {
        let trials = self.steps.iter().flat_map(|step| &step.trials);
        let students: BTreeMap<&str, u64> = trials.map(|t| (t.artifact.path.as_str(), t.epochs)).collect();
        self.trainings = students.len();
        self.epochs = students.values().sum();
    }
}

/// One step of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What it varied.
    pub kind: StepKind,
    /// The trials, in the order of the grid. Those of the last round, which may be chosen, come before those of earlier rounds.
    pub trials: Vec<Trial>,
    /// The chosen one, as an index into `trials`; into `screened` where there are no trials.
    pub chosen: usize,
    /// The grid as closed-form classifiers scored it, under [`Strategy::Halving`]. The best quarter became trials, or was chosen
    /// if it was a single setting.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub screened: Vec<Screened>,
    /// Settings under which a class ran out of samples.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub infeasible: Vec<Infeasible>,
}

impl Step {
    /// The setting that it chose.
    pub fn chosen(&self) -> &Setting {
        match self.trials.get(self.chosen) {
            Some(trial) => &trial.setting,
            None => &self.screened[self.chosen].setting,
        }
    }

    pub(super) fn is_sound(&self) -> bool {
        let choices = if self.trials.is_empty() { self.screened.len() } else { self.trials.len() };
        self.chosen < choices
    }
}

/// A student trained during a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// The setting that it tried.
    pub setting: Setting,
    /// Validation score of the epoch that was kept.
    pub val: ValScore,
    /// Epochs trained.
    pub epochs: u64,
    /// The student. It may have been pruned since.
    pub artifact: ArtifactRef,
}

/// A setting as a closed-form classifier scored it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Screened {
    /// The setting, of which only the samples matter.
    pub setting: Setting,
    /// Accuracy on the screening part of the validation images, in [0, 1]; not comparable with a student's.
    pub accuracy: f64,
}
