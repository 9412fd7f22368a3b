//! What was tried, as curves: scores against checkpoint, deviation and threshold, and trainings as they went.

use serde_json::Value;

use super::gather::{Lesson, Made, Run, Step};
use super::plots::{Chart, Line};
use gafi_pipeline::{Setting, Strategy};

/// More points of one line are thinned out.
const POINTS: usize = 160;

/// What a step of the search varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Axis {
    Checkpoint,
    Std,
    Threshold,
}

impl Axis {
    const ALL: [Self; 3] = [Self::Checkpoint, Self::Std, Self::Threshold];

    /// That of a step: steps are called by it, those of a variant with the variant's name in front.
    fn of(step: &Step) -> Option<Self> {
        let ends = |word: &str| step.name == word || step.name.ends_with(&format!(": {word}"));
        [("checkpoint", Self::Checkpoint), ("expansion", Self::Std), ("threshold", Self::Threshold)]
            .into_iter()
            .find_map(|(word, axis)| ends(word).then_some(axis))
    }

    fn label(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint, steps",
            Self::Std => "std of the latents",
            Self::Threshold => "threshold of the teacher's probability",
        }
    }

    fn value(self, setting: &Setting) -> Option<f64> {
        match self {
            Self::Checkpoint => Some(setting.checkpoint as f64),
            Self::Std => Some(middle(setting.std.bounds())),
            Self::Threshold => setting.threshold,
        }
    }

    fn of_lesson(self, lesson: &Lesson) -> Option<f64> {
        match self {
            Self::Checkpoint => lesson.source.checkpoint.map(|c| c as f64),
            Self::Std => lesson.std().map(|s| middle(s.bounds())),
            Self::Threshold => lesson.threshold()?,
        }
    }
}

fn middle((lo, hi): (f64, f64)) -> f64 {
    f64::midpoint(lo, hi)
}

/// One chart for each step of the searches, with a line for each run, and one of what it judged without students. First those of the main search of the first generator,
/// then the others; the number of the first ones is given too.
pub(crate) fn search(runs: &[&Run]) -> (Vec<Chart>, usize) {
    let mut charts: Vec<(bool, Chart)> = Vec::new();
    let mut keys: Vec<(usize, Strategy, String, bool)> = Vec::new();
    for run in runs {
        let main = run.steps.first().map(|s| s.strategy);
        for step in &run.steps {
            let Some(axis) = Axis::of(step) else { continue };
            let asked = (!step.screened.is_empty()).then(|| (true, screened(run, step, axis)));
            let trained = (!step.trials.is_empty()).then(|| (false, line(run, step, axis)));
            for (closed_form, line) in asked.into_iter().chain(trained) {
                let key = (step.generator, step.strategy, step.name.clone(), closed_form);
                let at = keys.iter().position(|k| *k == key).unwrap_or_else(|| {
                    let first = step.generator == 0 && main == Some(step.strategy) && !step.name.contains(':');
                    keys.push(key);
                    charts.push((first, chart(step, axis, closed_form)));
                    charts.len() - 1
                });
                charts[at].1.lines.push(line);
            }
        }
    }
    charts.sort_by_key(|(first, _)| !first);
    let first = charts.iter().filter(|(first, _)| *first).count();
    (charts.into_iter().map(|(_, chart)| chart).collect(), first)
}

fn chart(step: &Step, axis: Axis, closed_form: bool) -> Chart {
    let how = match step.strategy {
        Strategy::Grid => "grid",
        Strategy::Halving => "halving",
    };
    let which = if step.generator > 0 { format!(", generator {}", step.generator + 1) } else { String::new() };
    let (before, y) = match closed_form {
        true => (", without students", "closed form, accuracy on training images, %"),
        false => ("", "validation accuracy, %"),
    };
    Chart {
        title: format!("{} search ({how}{which}{before})", step.name),
        x: axis.label().into(),
        y: y.into(),
        ..Chart::default()
    }
}

/// What classifiers in closed form said of every setting; a ring marks the one that was chosen in the end.
fn screened(run: &Run, step: &Step, axis: Axis) -> Line {
    let points = step.screened.iter().filter_map(|s| Some((axis.value(&s.setting)?, 100.0 * s.accuracy)));
    let points = sorted(points.collect());
    let at = axis.value(step.setting());
    let chosen = points.iter().find(|point| Some(point.0) == at).copied();
    Line { name: run.name.clone(), points, chosen }
}

/// Trials as long as the chosen one: scores of shorter students are not comparable with its own.
fn line(run: &Run, step: &Step, axis: Axis) -> Line {
    let point = |i: usize| Some((axis.value(&step.trials[i].setting)?, 100.0 * step.trials[i].val.accuracy()));
    let length = step.trials[step.chosen].setting.epochs;
    let alike = (0..step.trials.len()).filter(|&i| step.trials[i].setting.epochs == length);
    Line { name: run.name.clone(), points: sorted(alike.filter_map(point).collect()), chosen: point(step.chosen) }
}

fn sorted(mut points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

/// Before the search has ended it has no record; students that differ in one thing alone make its curves all the same.
pub(crate) fn unfinished(run: &Run) -> Vec<Chart> {
    let lessons: Vec<(Lesson, f64)> =
        run.of_stage("recycle").filter_map(|m| Some((m.lesson()?, 100.0 * m.trial.as_ref()?.val.accuracy()))).collect();
    let rest = |axis: Axis, l: &Lesson| {
        let others = Axis::ALL.into_iter().filter(|a| *a != axis).map(|a| a.of_lesson(l).map(f64::to_bits));
        let others: Vec<_> = others.collect();
        format!("{others:?} {} {:?} {:?} {} {}", l.generator, l.period, l.labels, l.per_class, l.epochs)
    };
    let mut charts = Vec::new();
    for axis in Axis::ALL {
        let mut groups: std::collections::BTreeMap<String, Vec<(f64, f64)>> = Default::default();
        for (lesson, val) in &lessons {
            if let Some(x) = axis.of_lesson(lesson) {
                groups.entry(rest(axis, lesson)).or_default().push((x, *val));
            }
        }
        if let Some(points) = groups.into_values().max_by_key(Vec::len).filter(|points| points.len() > 1) {
            charts.push(Chart {
                title: format!("so far: by {}", axis.label()),
                x: axis.label().into(),
                y: "validation accuracy, %".into(),
                lines: vec![Line { name: run.name.clone(), points: sorted(points), chosen: None }],
            });
        }
    }
    charts
}

/// How classifiers and generators trained.
pub(crate) fn training(run: &Run) -> Vec<Chart> {
    let mut charts = Vec::new();
    let mut named: Vec<(String, &Made)> = Vec::new();
    named.extend(run.teacher().map(|m| ("teacher".to_string(), m)));
    named.extend(run.reference().map(|m| ("real images".to_string(), m)));
    for name in ["baseline", "gafi"] {
        named.extend(run.row(name).and_then(|row| run.student(row)).map(|m| (name.to_string(), m)));
    }
    let epochs = |value: &dyn Fn(&gafi_core::EpochRecord) -> f64, chosen: bool| -> Vec<Line> {
        let line = |(name, made): &(String, &Made)| {
            let trial = made.trial.as_ref()?;
            let points: Vec<_> = trial.epochs.iter().map(|e| (f64::from(e.epoch), value(e))).collect();
            let kept = points.iter().find(|p| p.0 == f64::from(trial.chosen_epoch)).copied();
            Some(Line { name: name.clone(), points: thinned(points), chosen: kept.filter(|_| chosen) })
        };
        named.iter().filter_map(line).collect()
    };
    for (title, y, lines) in [
        ("classifiers: validation accuracy", "validation accuracy, %", epochs(&|e| 100.0 * e.val.accuracy(), true)),
        ("classifiers: training loss", "mean loss of the epoch", epochs(&|e| e.loss, false)),
    ] {
        if !lines.is_empty() {
            charts.push(Chart { title: title.into(), x: "epoch".into(), y: y.into(), lines });
        }
    }
    let made = run.generators().into_iter().map(|m| (m.folder.as_str(), m.events().collect::<Vec<_>>()));
    // Of what is under way there is the log alone.
    let begun = run.begun.iter().map(|b| (b.folder.as_str(), b.events.clone()));
    for (folder, events) in made.chain(begun) {
        let losses = |key: &str| -> Vec<(f64, f64)> {
            let of = |e: &Value| Some((e["step"].as_f64()?, e["losses"].get(key)?.as_f64()?));
            events.iter().filter_map(of).collect()
        };
        let lines: Vec<Line> = [("generator", "g_loss"), ("discriminator", "d_loss")]
            .map(|(name, key)| Line { name: name.into(), points: thinned(losses(key)), chosen: None })
            .into_iter()
            .filter(|line| line.points.len() > 1)
            .collect();
        if !lines.is_empty() {
            let title = format!("GAN: losses ({folder})");
            charts.push(Chart { title, x: "step".into(), y: "loss".into(), lines });
        }
    }
    charts
}

fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(POINTS).max(1);
    let last = points.len().saturating_sub(1);
    points.into_iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last).map(|(_, p)| p).collect()
}
