//! The results of runs as figures: runs that differ in their seed only become one group, whose rows hold a value for each run.
//! Every table, of the HTML page and of the other formats, is made from these.

use std::fmt;

use gafi_core::Protocol;
use gafi_pipeline::record::TestResult;
use gafi_pipeline::{Labels, PipelineConfig, Setting, Strategy, standard_error};
use serde::Serialize;

use crate::run::Run;
use crate::values::Values;

/// Name of the row of the reference.
pub(crate) const REAL: &str = "real";
/// Name of the row with all techniques.
pub(crate) const GAFI: &str = "gafi";
/// Name of the row with raw samples.
pub(crate) const BASELINE: &str = "baseline";

/// What a row's student was trained on.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "images", rename_all = "kebab-case")]
pub(crate) enum TrainedOn {
    /// Real images.
    Real {
        /// Images of each class in an epoch; `None` for all of them.
        per_class: Option<u64>,
        /// Epochs.
        epochs: u32,
    },
    /// Generated images.
    Generated {
        /// The setting of each generator.
        settings: Vec<Setting>,
        /// Images of each class.
        per_class: u64,
    },
}

impl fmt::Display for TrainedOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Real { per_class: None, epochs } => write!(f, "all images, {epochs} epochs"),
            Self::Real { per_class: Some(n), epochs } => write!(f, "{n} images per class, {epochs} epochs"),
            Self::Generated { settings, per_class } => {
                let setting = &settings[0];
                let threshold = setting.threshold.map_or("unfiltered".into(), |t| format!("threshold {t:.2}"));
                let (checkpoint, std) = (setting.checkpoint, setting.std);
                write!(f, "checkpoint {checkpoint}, std {std}, {threshold}, {}", setting.renewal())?;
                write!(f, ", {per_class} images per class")?;
                if setting.labels() == Labels::Soft {
                    write!(f, ", soft labels")?;
                }
                if settings.len() > 1 {
                    write!(f, ", {} generators", settings.len())?;
                }
                Ok(())
            }
        }
    }
}

/// One row of the results over the runs of a group. Accuracies are in percent.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct RowFacts {
    /// Its name.
    pub(crate) name: String,
    /// Accuracy on the test split.
    #[serde(rename = "accuracy_percent")]
    pub(crate) accuracy: Values,
    /// Gap to the reference `against` of the same run, in percentage points; empty for references.
    #[serde(rename = "gap_points")]
    pub(crate) gap: Values,
    /// The row of that reference; `None` for references.
    pub(crate) against: Option<String>,
    /// Accuracy on the validation split.
    #[serde(rename = "val_accuracy_percent")]
    pub(crate) val: Values,
    /// Test images.
    #[serde(rename = "test_images")]
    pub(crate) tested: u64,
    /// The training in each run.
    pub(crate) trained_on: Vec<Option<TrainedOn>>,
}

impl RowFacts {
    /// Whether it is a reference on real images.
    pub(crate) fn is_reference(&self) -> bool {
        self.against.is_none()
    }

    /// Standard error in percentage points of one run's accuracy, as an estimate from `tested` random images; `None` before the test.
    pub(crate) fn sampling_error(&self) -> Option<f64> {
        (self.tested > 0).then(|| standard_error(self.accuracy.mean() / 100.0, self.tested))
    }

    fn tested(&mut self, run: usize, test: Option<&TestResult>) {
        if let Some(test) = test {
            self.accuracy.0[run] = Some(100.0 * test.score.accuracy());
            self.tested = test.n;
        }
    }
}

/// What a search of the three grids cost and found, over the runs of a group.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct SearchFacts {
    /// Its strategy; of further generators, with their number.
    pub(crate) name: String,
    /// Students trained.
    pub(crate) trainings: Values,
    /// Their epochs.
    pub(crate) epochs: Values,
    /// Validation accuracy of the chosen setting, in percent.
    #[serde(rename = "val_accuracy_percent")]
    pub(crate) val: Values,
}

/// A row for which a run has no student.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct InfeasibleFacts {
    /// The run's index in the group.
    pub(crate) run: usize,
    /// The row.
    pub(crate) name: String,
    /// Which class ran out of samples.
    pub(crate) why: String,
}

/// Runs whose configurations differ in the seed only.
#[derive(Debug, Serialize)]
pub(crate) struct Group {
    /// Name of the real set.
    pub(crate) dataset: String,
    /// How choices were made.
    pub(crate) protocol: Protocol,
    /// The runs, as indices into those given.
    #[serde(skip)]
    pub(crate) runs: Vec<usize>,
    /// The reference first, then larger references, then the rows in their order.
    pub(crate) rows: Vec<RowFacts>,
    /// Rows that a run has no student for.
    pub(crate) infeasible: Vec<InfeasibleFacts>,
    /// Searches of the three grids.
    pub(crate) searches: Vec<SearchFacts>,
    #[serde(skip)]
    config: PipelineConfig,
}

/// The groups of `runs`, in order.
pub(crate) fn groups(runs: &[Run]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let config = PipelineConfig { seed: 0, ..run.record.config.clone() };
        match groups.iter_mut().find(|g| g.config == config) {
            Some(group) => group.runs.push(index),
            None => groups.push(Group {
                dataset: run.dataset(),
                protocol: run.record.config.protocol,
                runs: vec![index],
                rows: Vec::new(),
                infeasible: Vec::new(),
                searches: Vec::new(),
                config,
            }),
        }
    }
    for group in &mut groups {
        for at in 0..group.runs.len() {
            group.add(at, &runs[group.runs[at]]);
        }
        // References stand first, also those that only a later run has.
        group.rows.sort_by_key(|row| !row.is_reference());
    }
    groups
}

impl Group {
    /// Adds the run with index `at` of this group.
    fn add(&mut self, at: usize, run: &Run) {
        let record = &run.record;
        for reference in &record.roles.references {
            let facts = self.row(&reference.name);
            facts.val.0[at] = Some(100.0 * reference.val.accuracy());
            facts.trained_on[at] = Some(TrainedOn::Real { per_class: reference.per_class, epochs: reference.epochs });
            facts.tested(at, reference.test.as_ref());
        }
        for row in &record.rows {
            let facts = self.row(&row.name);
            facts.against = Some(row.against.clone());
            facts.val.0[at] = Some(100.0 * row.val.accuracy());
            facts.gap.0[at] = row.gap;
            facts.trained_on[at] =
                Some(TrainedOn::Generated { settings: row.settings.clone(), per_class: row.per_class });
            facts.tested(at, row.test.as_ref());
        }
        let infeasible = record.infeasible.iter();
        let infeasible =
            infeasible.map(|row| InfeasibleFacts { run: at, name: row.name.clone(), why: row.why.clone() });
        self.infeasible.extend(infeasible);
        for search in record.searches.iter().filter(|s| s.row.is_none()) {
            let mut name = strategy_name(search.strategy).to_string();
            if search.generator > 0 {
                name += &format!(", generator {}", search.generator + 1);
            }
            let facts = self.search(name);
            facts.trainings.0[at] = Some(search.trainings as f64);
            facts.epochs.0[at] = Some(search.epochs as f64);
            facts.val.0[at] = search.val.map(|val| 100.0 * val.accuracy());
        }
    }

    fn row(&mut self, name: &str) -> &mut RowFacts {
        let n = self.runs.len();
        let at = self.rows.iter().position(|r| r.name == name).unwrap_or_else(|| {
            let empty = || Values(vec![None; n]);
            self.rows.push(RowFacts {
                name: name.into(),
                accuracy: empty(),
                gap: empty(),
                val: empty(),
                trained_on: vec![None; n],
                ..RowFacts::default()
            });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    fn search(&mut self, name: String) -> &mut SearchFacts {
        let n = self.runs.len();
        let at = self.searches.iter().position(|s| s.name == name).unwrap_or_else(|| {
            let empty = || Values(vec![None; n]);
            self.searches.push(SearchFacts { name, trainings: empty(), epochs: empty(), val: empty() });
            self.searches.len() - 1
        });
        &mut self.searches[at]
    }

    /// The row called `name`.
    pub(crate) fn find(&self, name: &str) -> Option<&RowFacts> {
        self.rows.iter().find(|r| r.name == name)
    }

    /// The row of generated images with the best mean validation accuracy; the first of equals.
    pub(crate) fn best(&self) -> Option<&RowFacts> {
        let rows = self.rows.iter().filter(|r| !r.is_reference() && r.val.n() > 0);
        rows.rev().max_by(|a, b| a.val.mean().total_cmp(&b.val.mean()))
    }
}

/// The name of a strategy in configurations.
pub(crate) fn strategy_name(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Grid => "grid",
        Strategy::Halving => "halving",
    }
}
