//! From runs to figures: rows averaged over seeds, what each class did, what it all cost. Nothing is read here.

use gafi_core::{Evaluation, Protocol};

use super::gather::{Made, Run};
use gafi_pipeline::{LargerReal, epochs, standard_error};

/// The name of the reference's row.
const REAL: &str = "real images";

/// Values of one quantity, one a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Stat(pub(crate) Vec<f64>);

impl Stat {
    /// Runs.
    pub(crate) fn n(&self) -> usize {
        self.0.len()
    }

    /// The mean; not a number where there is none.
    pub(crate) fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    /// The sample standard deviation, from two runs on.
    pub(crate) fn sd(&self) -> Option<f64> {
        let (n, mean) = (self.0.len(), self.mean());
        let squares: f64 = self.0.iter().map(|v| (v - mean).powi(2)).sum();
        (n > 1).then(|| (squares / (n - 1) as f64).sqrt())
    }
}

/// One row of the results, over runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct RowFacts {
    /// Its name; "real images" for the reference.
    pub(crate) name: String,
    /// Accuracy on the test split, in percent.
    pub(crate) accuracy: Stat,
    /// Gap to the reference of as many images in the same run, in percentage points; empty for references.
    pub(crate) gap: Stat,
    /// The name of that reference's row; empty for references.
    pub(crate) against: String,
    /// Accuracy on the split that chose, in percent; empty where no record tells.
    pub(crate) val: Stat,
    /// What was chosen, one a run.
    pub(crate) settings: Vec<String>,
    /// Accuracy of each class on the test split, in percent, mean over runs; empty where no record tells.
    pub(crate) per_class: Vec<f64>,
    /// Test images of class `row` that were taken for class `column`, summed over runs; empty where no record tells.
    pub(crate) confusion: Vec<Vec<u64>>,
    /// Test images of one run.
    pub(crate) tested: u64,
}

/// Runs on the same set, under the same protocol.
#[derive(Debug)]
pub(crate) struct Group {
    /// The set.
    pub(crate) dataset: String,
    /// How choices were made.
    pub(crate) protocol: Protocol,
    /// Runs.
    pub(crate) n: usize,
    /// The reference first.
    pub(crate) rows: Vec<RowFacts>,
    /// Rows that a run has no student for, and why.
    pub(crate) impossible: Vec<(String, String)>,
}

/// Artifacts of one stage.
#[derive(Debug)]
pub(crate) struct Cost {
    /// The stage.
    pub(crate) stage: String,
    /// Artifacts.
    pub(crate) made: usize,
    /// Epochs, of classifiers.
    pub(crate) epochs: usize,
    /// Seconds of all of them together, as their logs tell.
    pub(crate) wall_s: f64,
    /// Artifacts whose log tells nothing.
    pub(crate) untold: usize,
}

/// Runs that have ended, in groups, in their order.
pub(crate) fn groups(runs: &[Run]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for run in runs {
        let Some(results) = &run.results else { continue };
        let same = |g: &Group| g.dataset == run.set() && g.protocol == results.protocol;
        let at = groups.iter().position(same).unwrap_or_else(|| {
            let protocol = results.protocol;
            groups.push(Group { dataset: run.set(), protocol, n: 0, rows: Vec::new(), impossible: Vec::new() });
            groups.len() - 1
        });
        groups[at].add(run);
    }
    for row in groups.iter_mut().flat_map(|g| &mut g.rows) {
        let sums = &row.confusion;
        row.per_class = sums.iter().enumerate().map(|(c, of)| 100.0 * share(of[c], of.iter().sum())).collect();
    }
    groups
}

/// What a reference saw, for people.
fn passes(per_class: u64, epochs: u32) -> String {
    format!("{per_class} images a class, {epochs} epochs")
}

fn share(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

impl Group {
    fn add(&mut self, run: &Run) {
        let Some(results) = &run.results else { return };
        self.n += 1;
        let reference = run.reference();
        let real = self.row(REAL);
        real.accuracy.0.push(100.0 * results.real.test_accuracy);
        if let (Some(per_class), Some(epochs)) = (results.real.per_class, results.real.epochs) {
            real.settings.push(passes(per_class, epochs));
        }
        real.val.0.extend(reference.and_then(|m| m.trial.as_ref()).map(|t| 100.0 * t.val.accuracy()));
        real.evaluated(reference.and_then(|m| run.tested(m)).map(|e| &e.evaluation));
        for larger in &results.larger {
            let facts = self.row(&larger.name(None));
            facts.accuracy.0.push(100.0 * larger.test_accuracy);
            facts.settings.push(passes(larger.per_class, larger.epochs));
            let made = run.made.iter().find(|m| m.folder == larger.artifact);
            facts.val.0.extend(made.and_then(|m| m.trial.as_ref()).map(|t| 100.0 * t.val.accuracy()));
            facts.evaluated(made.and_then(|m| run.tested(m)).map(|e| &e.evaluation));
        }
        self.impossible.extend(results.impossible.iter().map(|row| (row.name.clone(), row.why.clone())));
        let usual = results.rows.iter().find(|row| row.name == "gafi").map_or(0, |row| row.per_class);
        for row in &results.rows {
            let larger = results.larger.iter().find(|larger| u64::from(larger.times) * usual == row.per_class);
            let facts = self.row(&row.name);
            facts.against = larger.map_or_else(|| REAL.into(), |larger: &LargerReal| larger.name(None));
            facts.accuracy.0.push(100.0 * row.test_accuracy);
            facts.gap.0.push(row.gap);
            facts.val.0.push(100.0 * row.val_accuracy);
            let threshold = row.threshold.map_or("no filter".into(), |t| format!("threshold {t:.2}"));
            let part = match row.recycle_factor {
                Some(factor) if factor < 1.0 => format!("{:.0} % ", 100.0 * factor),
                _ => String::new(),
            };
            let renewed = row
                .recycle_period
                .map_or("never renewed".into(), |period| format!("{part}renewed every {}", epochs(period)));
            let more = if row.labels == gafi_pipeline::Labels::Soft { ", soft labels" } else { "" };
            let several = if row.generators > 1 { format!(", {} generators", row.generators) } else { String::new() };
            facts.settings.push(format!(
                "checkpoint {}, std {}, {threshold}, {renewed}, {} images a class{more}{several}",
                row.checkpoint, row.std, row.per_class
            ));
            facts.evaluated(run.student(row).and_then(|m| run.tested(m)).map(|e| &e.evaluation));
        }
    }

    fn row(&mut self, name: &str) -> &mut RowFacts {
        let at = self.rows.iter().position(|r| r.name == name).unwrap_or_else(|| {
            self.rows.push(RowFacts { name: name.into(), ..RowFacts::default() });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    /// A row by its name.
    pub(crate) fn find(&self, name: &str) -> Option<&RowFacts> {
        self.rows.iter().find(|r| r.name == name)
    }

    /// The row of generated images that did best on the split that chose.
    pub(crate) fn best(&self) -> Option<&RowFacts> {
        let rows = self.rows.iter().filter(|r| r.gap.n() > 0 && r.val.n() > 0);
        // The first of equals, as `Results::best` has it.
        rows.rev().max_by(|a, b| a.val.mean().total_cmp(&b.val.mean()))
    }
}

impl RowFacts {
    fn evaluated(&mut self, evaluation: Option<&Evaluation>) {
        let Some(found) = evaluation else { return };
        self.tested = found.n;
        if self.confusion.is_empty() {
            self.confusion = vec![vec![0; found.confusion.len()]; found.confusion.len()];
        }
        // Runs of one group have the same classes; a record of other ones is not added up.
        if self.confusion.len() == found.confusion.len() {
            let cells = |of: &[Vec<u64>]| of.iter().flatten().copied().collect::<Vec<u64>>();
            for (sum, n) in self.confusion.iter_mut().flatten().zip(cells(&found.confusion)) {
                *sum += n;
            }
        }
    }

    /// The standard error that drawing other test images would make, in percentage points, of one run's accuracy.
    pub(crate) fn sampling_error(&self) -> Option<f64> {
        (self.tested > 0).then(|| standard_error(self.accuracy.mean() / 100.0, self.tested))
    }
}

/// What a run cost, by stage, in the order of the stages' names.
pub(crate) fn costs(run: &Run) -> Vec<Cost> {
    let mut costs: std::collections::BTreeMap<&str, Vec<&Made>> = Default::default();
    for made in &run.made {
        costs.entry(&made.artifact.manifest().made_by.stage).or_default().push(made);
    }
    let cost = |(stage, made): (&str, Vec<&Made>)| Cost {
        stage: stage.into(),
        made: made.len(),
        epochs: made.iter().filter_map(|m| m.trial.as_ref()).map(|t| t.epochs.len()).sum(),
        wall_s: made.iter().filter_map(|m| m.wall_s).sum(),
        untold: made.iter().filter(|m| m.wall_s.is_none()).count(),
    };
    costs.into_iter().map(cost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_that_of_a_sample() {
        let stat = Stat(vec![2.0, 4.0, 9.0]);
        assert_eq!((stat.mean(), stat.n()), (5.0, 3));
        assert!((stat.sd().unwrap() - 13f64.sqrt()).abs() < 1e-12);
        assert_eq!(Stat(vec![5.0]).sd(), None);
    }
}
