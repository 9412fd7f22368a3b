//! The record of a training.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::scores::{Protocol, ValScore};
use crate::source::Tally;

/// One epoch of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochRecord {
    /// Its number, from 1.
    pub epoch: u32,
    /// Mean training loss.
    pub loss: f64,
    /// Training accuracy, in [0, 1].
    pub train_accuracy: f64,
    /// Score on the validation split.
    pub val: ValScore,
    /// Images of the set that were new in this epoch.
    pub renewed: u64,
}

/// One training: what was tried and what came of it. Wall times are in the artifact's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialRecord {
    /// What was tried: the stage's configuration.
    pub setting: Value,
    /// How choices were made.
    pub protocol: Protocol,
    /// The epochs in order.
    pub epochs: Vec<EpochRecord>,
    /// The epoch whose weights were kept, from 1.
    pub chosen_epoch: u32,
    /// Its score.
    pub val: ValScore,
    /// Images generated, accepted and let in, per class, over the whole training; absent for real images.
    pub tally: Option<Tally>,
}

/// The file of a classifier artifact that holds its [`TrialRecord`].
pub const TRIAL_FILE: &str = "trial.json";
