//! Accuracy by class and confusions of the rows, from the artifacts of their evaluations.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::facts::Group;
use crate::run::Run;

/// The evaluations of a group's rows by name. Rows that were not tested have none.
pub(crate) type Evaluations = BTreeMap<String, Confusion>;

/// Test images of class `row` predicted as class `column`, summed over runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Confusion(pub(crate) Vec<Vec<u64>>);

/// Reads the evaluations of the rows of `group`.
///
/// # Errors
/// When an evaluation cannot be read.
pub(crate) fn read(group: &Group, runs: &[Run]) -> Result<Evaluations> {
    let mut found = Evaluations::new();
    for run in group.runs.iter().map(|&at| &runs[at]) {
        let record = run.record();
        let real = record.roles.references.iter().map(|r| (&r.name, &r.test));
        let rows = record.rows.iter().map(|r| (&r.name, &r.test));
        for (name, test) in real.chain(rows) {
            let Some(test) = test else { continue };
            let confusion = run.evaluation(test)?.evaluation.confusion;
            let sums = &mut found.entry(name.clone()).or_default().0;
            if sums.is_empty() {
                *sums = confusion;
            } else {
                // Runs of one configuration have the same classes.
                sums.iter_mut().flatten().zip(confusion.iter().flatten()).for_each(|(sum, n)| *sum += n);
            }
        }
    }
    Ok(found)
}

impl Confusion {
    /// Classes.
    pub(crate) fn classes(&self) -> usize {
        self.0.len()
    }

    /// The share of class `c` predicted as `d`, in [0, 1].
    pub(crate) fn share(&self, c: usize, d: usize) -> f64 {
        self.0[c][d] as f64 / self.0[c].iter().sum::<u64>().max(1) as f64
    }

    /// Accuracy on class `c`, in percent.
    pub(crate) fn accuracy(&self, c: usize) -> f64 {
        100.0 * self.share(c, c)
    }
}
