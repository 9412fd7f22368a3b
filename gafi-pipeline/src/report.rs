//! What a pipeline reports: `results.json`, the table, and a picture of the samples.

use std::path::Path;

use anyhow::Result;
use gafi_core::{Protocol, write_atomic};
use gafi_expand::StdRange;
use serde::{Deserialize, Serialize};

use crate::config::Labels;
use crate::search::Search;
use crate::setting::{Setting, epochs};
use crate::stats::standard_error;
use crate::workshop::StageTime;

/// Schema of [`Results`].
pub const SCHEMA: &str = "gafi/results/2";

/// `results.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: String,
    /// Name of the real set.
    pub dataset: String,
    /// How choices were made.
    pub protocol: Protocol,
    /// The student's classifier trained on as many real images, for as many steps.
    pub real: Real,
    /// The same with as many real images as the sets of variants that have several `times` the usual number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub larger: Vec<LargerReal>,
    /// Baseline, each technique alone, all together.
    pub rows: Vec<Row>,
    /// Rows that have no student, because a class ran out of samples.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub impossible: Vec<InfeasibleRow>,
    /// The searches, that of the first generator first.
    pub searches: Vec<Search>,
    /// Classifiers trained, teacher and reference included.
    pub trainings: usize,
    /// Epochs that they were trained for.
    pub epochs: u64,
    /// Seconds that this call took.
    pub wall_s: f64,
    /// What it spent them on.
    pub stages: Vec<StageTime>,
}

/// The reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Real {
    /// Real images of each class: as many as a synthetic set has, or all that there are. Not in records of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_class: Option<u64>,
    /// A student's epochs, or, where there are too few images, so many more that the steps are as many. Not in records of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
    /// In [0, 1].
    pub test_accuracy: f64,
    /// Test images, for this and every other test accuracy. Not in records of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tested: Option<u64>,
}

/// A reference for larger synthetic sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LargerReal {
    /// The synthetic set, as a multiple of the usual one.
    pub times: u32,
    /// Real images of each class: as many as the synthetic set has, or all that there are.
    pub per_class: u64,
    /// A student's epochs, or, where there are too few images, so many more that the steps are as many.
    pub epochs: u32,
    /// The classifier's folder, within the pipeline's.
    pub artifact: String,
    /// In [0, 1].
    pub test_accuracy: f64,
}

impl LargerReal {
    /// For people; of how many images of each class the usual reference is, where that is known.
    pub fn name(&self, usual: Option<u64>) -> String {
        let steps = usual.is_some_and(|usual| self.per_class < u64::from(self.times) * usual);
        // Where there are no more images, the network looks at them more often.
        format!("real images, {}x{}", self.times, if steps { " the steps" } else { "" })
    }
}

/// A row without a student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InfeasibleRow {
    /// Its name.
    pub name: String,
    /// What was to be trained.
    pub setting: Setting,
    /// Which class could not be filled, and how many samples there were.
    pub why: String,
}

/// One student's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which techniques, `gafi` for all, or a variant's name.
    pub name: String,
    /// The student's folder, within the pipeline's.
    #[serde(default)]
    pub artifact: String,
    /// In [0, 1].
    pub test_accuracy: f64,
    /// What the reference of as many images has more, in percentage points.
    pub gap: f64,
    /// The generator's checkpoint, in steps; of the first one where there are several.
    pub checkpoint: u64,
    /// Standard deviation of the latents; of the first generator.
    pub std: StdRange,
    /// The teacher's threshold, for the first generator; null: unfiltered.
    pub threshold: Option<f64>,
    /// Epochs between renewals; null: never.
    pub recycle_period: Option<u32>,
    /// Share of the set that a renewal replaces. Not in records of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recycle_factor: Option<f64>,
    /// What the student was told about an image.
    pub labels: Labels,
    /// Images of each class in the set.
    pub per_class: u64,
    /// Generators.
    pub generators: usize,
    /// Validation accuracy of the epoch that was kept, in [0, 1].
    pub val_accuracy: f64,
    /// Students trained.
    pub n: usize,
}

impl Results {
    /// Writes `results.json` into `dir`, in one step.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(write_atomic(&dir.join("results.json"), &text)?)
    }

    /// The row whose student did best on the split that chooses, of several `gafi`, or the first; of `labels` alone where they are given.
    pub fn best(&self, labels: Option<Labels>) -> Option<&Row> {
        let rows = self.rows.iter().filter(|row| labels.is_none_or(|labels| row.labels == labels));
        let gafi = |row: &Row| row.name == "gafi";
        rows.rev().max_by(|a, b| a.val_accuracy.total_cmp(&b.val_accuracy).then(gafi(a).cmp(&gafi(b))))
    }

    /// Differences of test accuracies below this, in percentage points, may come of which test images there are: two standard errors
    /// of a difference of two. None where no record tells how many they are.
    pub fn noise(&self) -> Option<f64> {
        let n = self.real.tested?;
        let accuracies = self.rows.iter().map(|row| row.test_accuracy).chain([self.real.test_accuracy]);
        let error = accuracies.map(|accuracy| standard_error(accuracy, n)).fold(0.0, f64::max);
        Some(2.0 * 2f64.sqrt() * error)
    }

    /// The table, as Markdown.
    pub fn table(&self) -> String {
        let mut text =
            String::from("| trained on | test accuracy | gap | checkpoint | std | threshold | renewed every |\n");
        text += "|---|---:|---:|---:|---:|---:|---:|\n";
        text += &format!("| real images | {:.2} % | | | | | |\n", 100.0 * self.real.test_accuracy);
        for larger in &self.larger {
            let name = larger.name(self.real.per_class);
            text += &format!("| {name} | {:.2} % | | | | | |\n", 100.0 * larger.test_accuracy);
        }
        for row in &self.rows {
            let threshold = row.threshold.map_or("-".into(), |t| format!("{t:.2}"));
            let period = row.recycle_period.map_or("never".into(), |period| match row.recycle_factor {
                Some(factor) if factor < 1.0 => format!("{}, {:.0} %", epochs(period), 100.0 * factor),
                _ => epochs(period),
            });
            text += &format!(
                "| {} | {:.2} % | {:.2} | {} | {} | {threshold} | {period} |\n",
                row.name,
                100.0 * row.test_accuracy,
                row.gap,
                row.checkpoint,
                row.std,
            );
        }
        for row in &self.impossible {
            text +=
                &format!("| {} | impossible | | {} | {} | | |\n", row.name, row.setting.checkpoint, row.setting.std);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_of_a_part_is_told_from_one_of_all() {
        let row = |name: &str, period: Option<u32>, factor: Option<f64>| Row {
            name: name.into(),
            artifact: String::new(),
            test_accuracy: 0.5,
            gap: 1.0,
            checkpoint: 1,
            std: StdRange::default(),
            threshold: None,
            recycle_period: period,
            recycle_factor: factor,
            labels: Labels::Hard,
            per_class: 1,
            generators: 1,
            val_accuracy: 0.5,
            n: 1,
        };
        for (period, factor, cell) in [
            (None, None, "never"),
            (Some(1), Some(1.0), "epoch"),
            (Some(1), None, "epoch"),
            (Some(1), Some(0.5), "epoch, 50 %"),
            (Some(10), Some(0.25), "10 epochs, 25 %"),
        ] {
            let results = Results {
                schema: SCHEMA.into(),
                dataset: String::new(),
                protocol: Protocol::Holdout,
                real: Real { per_class: None, epochs: None, test_accuracy: 0.75, tested: None },
                larger: Vec::new(),
                rows: vec![row("row", period, factor)],
                impossible: Vec::new(),
                searches: Vec::new(),
                trainings: 1,
                epochs: 1,
                wall_s: 1.0,
                stages: Vec::new(),
            };
            let table = results.table();
            assert_eq!(results.noise(), None, "nothing says of how many images");
            assert!(table.ends_with(&format!("| {cell} |\n")), "{table}");
        }
    }
}
