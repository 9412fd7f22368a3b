//! Wall times of a run. They differ from call to call, so they are not part of the record.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::RECORD_MAX;
use crate::usage::Usage;

/// The file of a run's folder that holds its [`Timings`].
pub const TIMINGS: &str = "timings.json";

/// `timings.json`: wall times of the latest call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timings {
    /// Hash of the configuration, as in `run.json`.
    pub config_hash: String,
    /// Seconds of the call so far.
    pub wall_s: f64,
    /// Seconds of each stage.
    pub stages: Vec<StageTime>,
}

/// Wall time of one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageTime {
    /// Its name, for display.
    pub name: String,
    /// Seconds in this call.
    pub wall_s: f64,
    /// Whether its artifact existed before the call.
    pub cached: bool,
}

impl Timings {
    /// Reads the wall times of the run in `dir`.
    ///
    /// # Errors
    /// [`Usage`] when they cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(TIMINGS);
        let wrong = |e: &dyn std::fmt::Display| Usage(format!("cannot read {}: {e}", path.display()));
        let bytes = gafi_core::read_regular(&path, RECORD_MAX).map_err(|e| wrong(&e))?;
        Ok(serde_json::from_slice(&bytes).map_err(|e| wrong(&e))?)
    }
}
