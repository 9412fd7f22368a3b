//! How well measures that train no student order the trials of a search.

use anyhow::Result;
use gafi_audit::{PROBE, Probe, ProbeRecord};
use gafi_core::{Artifact, Inputs};
use gafi_recycle::GENERATORS;
use serde::{Deserialize, Serialize};

use super::config::Strategy;
use super::search::Step;
use super::students::Classroom;
use super::workshop::{Task, Workshop};

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

/// Probes every trial of the grid of the first generator, `per_class` images a class, against as many of `train`.
///
/// # Errors
/// What a stage says.
pub(super) fn measure(
    shop: &mut Workshop,
    class: &Classroom,
    train: &Artifact,
    steps: &[Step],
    per_class: usize,
) -> Result<Vec<Proxy>> {
    let mut trials = Vec::new();
    for trial in steps.iter().filter(|s| s.generator == 0 && s.strategy == Strategy::Grid).flat_map(|s| &s.trials) {
        // Soft labels make of a set what a probe of its images cannot see.
        if trial.setting.distill.is_none() && !trials.iter().any(|(_, _, folder)| *folder == trial.artifact) {
            trials.push((&trial.setting, trial.val.accuracy(), trial.artifact.clone()));
        }
    }
    let mut tasks: Vec<Task> = Vec::new();
    for (setting, _, _) in &trials {
        let source = serde_json::to_value(class.source(0, setting))?;
        let probe = Probe { source, per_class, ..Probe::default() };
        let inputs = Inputs::new().with(GENERATORS[0], &class.generators[0]).with("teacher", class.teacher);
        tasks.push((format!("probe ({setting})"), Box::new(probe), inputs.with("real", train)));
    }
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
