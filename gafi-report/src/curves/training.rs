//! Training curves of classifiers and generators.

use anyhow::Result;
use gafi_core::{EpochRecord, TrialRecord};
use gafi_pipeline::{REAL_ROW as REAL, TEACHER_ROW};
use serde_json::Value;

use crate::chart::{Chart, Line};
use crate::facts::{BASELINE, GAFI};
use crate::run::Run;

/// Maximum number of points in a line. Of a longer series, only every second, third and so on is drawn.
const POINTS: usize = 160;

/// Accuracy and loss of the teacher, the reference and two students, and the losses of each generator.
///
/// # Errors
/// When a training record is damaged.
pub(crate) fn training(run: &Run) -> Result<Vec<Chart>> {
    let classifiers = classifiers(run)?;
    let mut charts = vec![
        Chart {
            title: "classifiers: validation accuracy".into(),
            x: "epoch".into(),
            y: "validation accuracy, %".into(),
            lines: classifiers.iter().map(accuracy).collect(),
        },
        Chart {
            title: "classifiers: training loss".into(),
            x: "epoch".into(),
            y: "mean loss of the epoch".into(),
            lines: classifiers.iter().map(loss).collect(),
        },
    ];
    let finished = run.record().roles.generators.iter().filter(|g| g.trained);
    for generator in finished {
        let artifact = run.artifact(&generator.artifact)?;
        charts.push(gan(&artifact.path, &artifact.events()));
    }
    charts.extend(run.partial.iter().map(|partial| gan(&partial.folder, &partial.events)));
    charts.retain(|chart| !chart.lines.is_empty());
    Ok(charts)
}

/// Name and training record of each classifier that has finished.
fn classifiers(run: &Run) -> Result<Vec<(&'static str, TrialRecord)>> {
    let mut found = Vec::new();
    for name in [TEACHER_ROW, REAL, BASELINE, GAFI] {
        if let Some(link) = run.record().artifact(name) {
            found.extend(run.artifact(link)?.trial()?.map(|trial| (name, trial)));
        }
    }
    Ok(found)
}

/// The ring marks the epoch whose weights were kept.
fn accuracy((name, trial): &(&'static str, TrialRecord)) -> Line {
    let points = points(trial, |e| 100.0 * e.val.accuracy());
    let chosen = points.iter().find(|p| p.0 == f64::from(trial.chosen_epoch)).copied();
    Line { name: (*name).into(), points: thinned(points), chosen }
}

fn loss((name, trial): &(&'static str, TrialRecord)) -> Line {
    Line { name: (*name).into(), points: thinned(points(trial, |e| e.loss)), chosen: None }
}

fn points(trial: &TrialRecord, value: impl Fn(&EpochRecord) -> f64) -> Vec<(f64, f64)> {
    trial.epochs.iter().map(|e| (f64::from(e.epoch), value(e))).collect()
}

/// The losses in the log of a GAN; no lines for other logs.
fn gan(folder: &str, events: &[Value]) -> Chart {
    let line = |(name, key): (&str, &str)| {
        let point = |e: &Value| Some((e["step"].as_f64()?, e["losses"].get(key)?.as_f64()?));
        Line { name: name.into(), points: thinned(events.iter().filter_map(point).collect()), chosen: None }
    };
    let lines = [("generator", "g_loss"), ("discriminator", "d_loss")].map(line);
    let lines = lines.into_iter().filter(|line| line.points.len() > 1).collect();
    Chart { title: format!("GAN losses ({folder})"), x: "step".into(), y: "loss".into(), lines }
}

/// At most about [`POINTS`] of `points`, always with the last one.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(POINTS).max(1);
    let last = points.len().saturating_sub(1);
    points.into_iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last).map(|(_, p)| p).collect()
}
