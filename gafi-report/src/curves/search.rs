//! The searches as charts: validation accuracy by checkpoint, std or threshold.

use gafi_pipeline::record::{SearchRecord, Step, StepKind};
use gafi_pipeline::{Setting, Strategy};

use crate::chart::{Chart, Line};
use crate::run::Run;

/// Charts of the searches, one for each step, with a line for each run.
#[derive(Debug, Default)]
pub(crate) struct Searches {
    /// The first search of the first generator.
    pub(crate) main: Vec<Chart>,
    /// Other strategies and generators, and searches for single rows.
    pub(crate) other: Vec<Chart>,
}

/// Identifies a chart: lines of several runs with equal keys share one.
#[derive(Debug, Clone, PartialEq)]
struct Key {
    generator: usize,
    strategy: Strategy,
    row: Option<String>,
    kind: StepKind,
    /// Whether closed-form classifiers screened the grid, instead of students.
    screening: bool,
}

/// The charts of the searches of `runs`.
pub(crate) fn search(runs: &[Run]) -> Searches {
    let mut charts: Vec<(Key, Chart)> = Vec::new();
    for run in runs {
        for (search, step) in run.record().searches.iter().flat_map(|s| s.steps.iter().map(move |step| (s, step))) {
            if !step.screened.is_empty() {
                add(&mut charts, key(search, step, true), screened(&run.name, step));
            }
            if !step.trials.is_empty() {
                add(&mut charts, key(search, step, false), trials(&run.name, step));
            }
        }
    }
    let strategy = runs.iter().find_map(|run| run.record().searches.first()).map(|search| search.strategy);
    let is_main = |key: &Key| key.generator == 0 && key.row.is_none() && Some(key.strategy) == strategy;
    let (main, other): (Vec<_>, Vec<_>) = charts.into_iter().partition(|(key, _)| is_main(key));
    let charts = |of: Vec<(Key, Chart)>| of.into_iter().map(|(_, chart)| chart).collect();
    Searches { main: charts(main), other: charts(other) }
}

fn key(search: &SearchRecord, step: &Step, screening: bool) -> Key {
    let row = search.row.clone();
    Key { generator: search.generator, strategy: search.strategy, row, kind: step.kind, screening }
}

fn add(charts: &mut Vec<(Key, Chart)>, key: Key, line: Line) {
    match charts.iter_mut().find(|(of, _)| *of == key) {
        Some((_, chart)) => chart.lines.push(line),
        None => {
            let chart = Chart { lines: vec![line], ..empty(&key) };
            charts.push((key, chart));
        }
    }
}

/// The chart without its lines.
fn empty(key: &Key) -> Chart {
    let mut title = match &key.row {
        Some(row) => format!("{row}: {} search", key.kind),
        None => format!("{} search, {}", key.kind, key.strategy.name()),
    };
    if key.generator > 0 {
        title += &format!(", generator {}", key.generator + 1);
    }
    if key.screening {
        title += " (closed-form screening)";
    }
    let x = match key.kind {
        StepKind::Checkpoint => "checkpoint, steps",
        StepKind::Std => "std of the latents",
        StepKind::Threshold => "threshold on the teacher's probability",
    };
    let y = if key.screening { "closed form, accuracy on screening images, %" } else { "validation accuracy, %" };
    Chart { title, x: x.into(), y: y.into(), lines: Vec::new() }
}

/// The grid as closed-form classifiers scored it; the ring marks the setting that the step chose.
fn screened(name: &str, step: &Step) -> Line {
    let points = step.screened.iter().filter_map(|s| Some((value(step.kind, &s.setting)?, 100.0 * s.accuracy)));
    let points = sorted(points.collect());
    let at = value(step.kind, step.chosen());
    let chosen = points.iter().find(|point| Some(point.0) == at).copied();
    Line { name: name.into(), points, chosen }
}

/// Trials that trained for as many epochs as the chosen one. Shorter ones are not comparable.
fn trials(name: &str, step: &Step) -> Line {
    let point = |i: usize| Some((value(step.kind, &step.trials[i].setting)?, 100.0 * step.trials[i].val.accuracy()));
    let epochs = step.trials[step.chosen].setting.epochs;
    let alike = (0..step.trials.len()).filter(|&i| step.trials[i].setting.epochs == epochs);
    Line { name: name.into(), points: sorted(alike.filter_map(point).collect()), chosen: point(step.chosen) }
}

/// What a step varies; the middle of a range of std, `None` for an unfiltered setting.
fn value(kind: StepKind, setting: &Setting) -> Option<f64> {
    match kind {
        StepKind::Checkpoint => Some(setting.checkpoint as f64),
        StepKind::Std => {
            let (lo, hi) = setting.std.bounds();
            Some(f64::midpoint(lo, hi))
        }
        StepKind::Threshold => setting.threshold,
    }
}

fn sorted(mut points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}
