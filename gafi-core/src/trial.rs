//! The record of a training run.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::scores::{Protocol, ValScore};
use crate::tally::Tally;

/// One epoch of a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochRecord {
    /// Number of the epoch, from 1.
    pub epoch: u32,
    /// Mean training loss.
    pub loss: f64,
    /// Training accuracy, in [0, 1].
    pub train_accuracy: f64,
    /// Score on the validation split.
    pub val: ValScore,
    /// Number of images that were new in this epoch.
    pub renewed: u64,
}

/// The record of a training run. Wall times are in the artifact's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialRecord {
    /// The configuration of the stage.
    pub setting: Value,
    /// How choices were made.
    pub protocol: Protocol,
    /// The epochs, in order.
    pub epochs: Vec<EpochRecord>,
    /// The best epoch, from 1, whose weights were kept.
    pub chosen_epoch: u32,
    /// Its validation score.
    pub val: ValScore,
    /// Samples drawn, accepted and backfilled per class over the whole training; absent for real images.
    pub tally: Option<Tally>,
}

/// The file of a classifier artifact that holds its [`TrialRecord`].
pub const TRIAL_FILE: &str = "trial.json";
