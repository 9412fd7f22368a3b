//! The results table as JSON, with the values of each run.
//!
//! Only `times` and `meta` differ between two calls with the same results.

use std::collections::BTreeMap;

use anyhow::Result;
use gafi_pipeline::record::{Cost, StageTime, Status};
use serde::Serialize;

use super::paper;
use crate::facts::Group;
use crate::run::Run;

const SCHEMA: &str = "gafi/table/2";

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    meta: BTreeMap<&'a str, &'a str>,
    tables: Vec<Table<'a>>,
}

/// One group. Lists called `values`, `trained_on`, `samples`, `runs` and `times` have an entry for each run.
#[derive(Serialize)]
struct Table<'a> {
    #[serde(flatten)]
    group: &'a Group,
    runs: Vec<RunSummary<'a>>,
    /// Gap in percentage points that the paper reports for all techniques with several generators.
    paper_gap_points: Option<f64>,
    /// `null` for a run without `timings.json`.
    times: Vec<Option<Times<'a>>>,
}

#[derive(Serialize)]
struct RunSummary<'a> {
    name: &'a str,
    seed: u64,
    version: &'a str,
    config_hash: &'a str,
    #[serde(flatten)]
    status: &'a Status,
    cost: Cost,
}

#[derive(Serialize)]
struct Times<'a> {
    wall_s: f64,
    stages: &'a [StageTime],
}

/// The document as indented JSON with a final newline.
///
/// # Errors
/// When a value cannot be written as JSON.
pub(super) fn render(groups: &[Group], runs: &[Run], meta: &[(String, String)]) -> Result<String> {
    let meta = meta.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let tables = groups.iter().map(|group| table(group, runs)).collect();
    Ok(serde_json::to_string_pretty(&Document { schema: SCHEMA, meta, tables })? + "\n")
}

fn table<'a>(group: &'a Group, runs: &'a [Run]) -> Table<'a> {
    let runs = group.runs.iter().map(|&at| &runs[at]);
    let times = |run: &'a Run| run.timings.as_ref().map(|t| Times { wall_s: t.wall_s, stages: &t.stages });
    let paper_gap_points = paper::gap(group);
    Table { group, runs: runs.clone().map(summary).collect(), paper_gap_points, times: runs.map(times).collect() }
}

fn summary(run: &Run) -> RunSummary<'_> {
    let record = run.record();
    RunSummary {
        name: &run.name,
        seed: record.config.seed,
        version: &record.version,
        config_hash: &record.config_hash,
        status: &record.status,
        cost: record.cost,
    }
}
