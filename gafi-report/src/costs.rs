//! What a run cost, by stage, from the logs of the artifacts that its record names.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::run::Run;

/// Artifacts of one stage.
#[derive(Debug, Default)]
pub(crate) struct Cost {
    /// How many it made.
    pub(crate) artifacts: usize,
    /// Epochs of all classifiers among them.
    pub(crate) epochs: usize,
    /// Seconds, summed over artifacts.
    pub(crate) wall_s: f64,
    /// Artifacts whose log has no time.
    pub(crate) untimed: usize,
}

/// The costs of `run`, by name of the stage.
///
/// # Errors
/// When a training record is damaged.
pub(crate) fn costs(run: &Run) -> Result<BTreeMap<&str, Cost>> {
    let mut costs: BTreeMap<&str, Cost> = BTreeMap::new();
    for artifact in &run.artifacts {
        let cost = costs.entry(artifact.stage()).or_default();
        cost.artifacts += 1;
        cost.epochs += artifact.trial()?.map_or(0, |trial| trial.epochs.len());
        match artifact.wall_s {
            Some(seconds) => cost.wall_s += seconds,
            None => cost.untimed += 1,
        }
    }
    Ok(costs)
}
