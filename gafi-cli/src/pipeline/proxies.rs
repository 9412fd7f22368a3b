//! Measures that train no student: what the cheap search asks first, and how well each orders the trials of a search.

use anyhow::Result;
use gafi_audit::{PROBE, Probe, ProbeRecord};
use gafi_core::{DatasetInfo, Inputs};
use gafi_recycle::GENERATORS;
use serde::{Deserialize, Serialize};

use super::config::Strategy;
use super::search::Step;
use super::setting::{Impossible, Setting};
use super::students::{Classroom, going_without};
use super::workshop::{Task, Workshop};
use crate::source::SourceConfig;

/// Images that a classifier in closed form learns from at the most: their features are in memory twice, 5 KiB each time.
const CLOSED_FORM_IMAGES: u64 = 20_000;

/// One measure against the students' validation accuracies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proxy {
    /// Its name in [`ProbeRecord::proxies`].
    pub name: String,
    /// Spearman's rank correlation, in [-1, 1].
    pub spearman: f64,
    /// Trials.
    pub n: usize,
}

/// A setting as a classifier that is solved for sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Screened {
    /// Where its samples came from.
    pub setting: Setting,
    /// Share of real training images that it tells rightly, in [0, 1]. Not to be compared with a student's accuracy.
    pub accuracy: f64,
}

/// Judges the samples of each of `settings` by a classifier in closed form ([`gafi_audit::ClosedForm`]) on real training images, as many
/// as there are samples. In the order of `settings`.
///
/// # Errors
/// What a stage says, but for a class that cannot be filled under a setting.
pub(super) fn screen(
    shop: &mut Workshop,
    class: &Classroom,
    generator: usize,
    name: &str,
    settings: &[Setting],
) -> Result<Vec<Result<Screened, Impossible>>> {
    let classes = DatasetInfo::of(class.train)?.classes.len().max(1) as u64;
    let per_class = class.per_class.min(CLOSED_FORM_IMAGES / classes).max(1);
    let task = |setting| probe(class, generator, setting, format!("{name}, closed form"), per_class as usize, 0);
    let made = shop.try_all(settings.iter().map(task).collect::<Result<_>>()?)?;
    let judged = settings.iter().zip(made).map(|(setting, made)| {
        let artifact = match made {
            Ok(artifact) => artifact,
            Err(error) => return Ok(Err(going_without(shop, setting.clone(), &error))),
        };
        let found = artifact.read_json::<ProbeRecord>(PROBE)?.closed_form;
        Ok(Ok(Screened { setting: setting.clone(), accuracy: found.patches.unwrap_or(found.features) }))
    });
    judged.collect()
}

/// The probe of the samples under `setting`.
fn probe(
    class: &Classroom,
    generator: usize,
    setting: &Setting,
    name: String,
    per_class: usize,
    neighbours: usize,
) -> Result<Task> {
    // As a student's: one generator is always plugged into the first port.
    let source = SourceConfig { generator: GENERATORS[0].into(), ..class.source(generator, setting) };
    let stage = Probe { source: serde_json::to_value(source)?, per_class, neighbours };
    let inputs = Inputs::new().with(GENERATORS[0], &class.generators[generator]).with("teacher", class.teacher);
    Ok((format!("{name} ({})", setting.samples()), Box::new(stage), inputs.with("real", class.train)))
}

/// Probes every trial of the grid of the first generator, `per_class` images a class, against as many real ones.
///
/// # Errors
/// What a stage says.
pub(super) fn measure(shop: &mut Workshop, class: &Classroom, steps: &[Step], per_class: usize) -> Result<Vec<Proxy>> {
    let mut trials = Vec::new();
    for trial in steps.iter().filter(|s| s.generator == 0 && s.strategy == Strategy::Grid).flat_map(|s| &s.trials) {
        // Soft labels make of a set what a probe of its images cannot see.
        if trial.setting.distill.is_none() && !trials.iter().any(|(_, _, folder)| *folder == trial.artifact) {
            trials.push((&trial.setting, trial.val.accuracy(), trial.artifact.clone()));
        }
    }
    let neighbours = Probe::default().neighbours;
    let task =
        |(setting, _, _): &(&Setting, f64, String)| probe(class, 0, setting, "probe".into(), per_class, neighbours);
    let tasks = trials.iter().map(task).collect::<Result<_>>()?;
    let records =
        shop.run_all(tasks)?.iter().map(|a| a.read_json(PROBE)).collect::<gafi_core::Result<Vec<ProbeRecord>>>()?;
    let scores: Vec<f64> = trials.iter().map(|(_, val, _)| *val).collect();
    let measured: Vec<_> = records.iter().map(ProbeRecord::proxies).collect();
    let names = measured.first().map_or(Vec::new(), |first| first.iter().map(|(name, _)| *name).collect());
    let of = |name: &str| -> Option<Proxy> {
        let values: Option<Vec<f64>> =
            measured.iter().map(|m| m.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)).collect();
        let spearman = spearman(&values?, &scores)?;
        Some(Proxy { name: name.into(), spearman, n: scores.len() })
    };
    Ok(names.into_iter().filter_map(of).collect())
}

/// Spearman's rank correlation: Pearson's, of ranks, equal values sharing the mean of theirs. None where either does not vary.
fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    (scale > 0.0).then(|| product(&a, &b) / scale)
}

/// Ranks from 0.
fn ranks(values: &[f64]) -> Vec<f64> {
    let of = |x: &f64| {
        let below = values.iter().filter(|v| *v < x).count();
        let equal = values.iter().filter(|v| *v == x).count();
        below as f64 + (equal as f64 - 1.0) / 2.0
    };
    values.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_correlation_of_tables() {
        let close = |a: &[f64], b: &[f64], expected: f64| assert!((spearman(a, b).unwrap() - expected).abs() < 1e-12);
        close(&[1.0, 2.0, 30.0], &[0.1, 0.2, 0.3], 1.0);
        close(&[1.0, 2.0, 3.0], &[9.0, 5.0, 1.0], -1.0);
        // As scipy.stats.spearmanr has them: without ties 1 - 6 sum(d^2) / (n (n^2 - 1)), and with some.
        close(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 6.0, 7.0, 8.0, 7.5], 0.9);
        close(&[1.0, 2.0, 2.0, 4.0], &[1.0, 3.0, 2.0, 4.0], 0.948_683_298_050_513_8);
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(spearman(&[], &[]), None);
    }
}
