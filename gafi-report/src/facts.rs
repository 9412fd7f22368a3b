//! The results of runs as figures: runs that differ only in their seed form one group, whose rows hold a value for each run.
//! Every table, of the HTML page and of the other formats, is made from these.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::Result;
use gafi_core::{ClassTally, Protocol};
use gafi_pipeline::record::{Reference, Repeat, TestResult};
use gafi_pipeline::{Labels, PipelineConfig, REAL_ROW as REAL, SOFT_ROW, SUBSET_ROW, Setting, TEACHER_ROW, Usage};
use serde::Serialize;
use serde_json::{Value, json};

use crate::run::Run;
use crate::statistics::{holm, pooled_sd, standard_error};
use crate::values::Values;

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
        /// The labels.
        labels: Labels,
        /// Different images over all epochs.
        seen: u64,
        /// Training images in total.
        of: u64,
    },
    /// Generated images.
    Generated {
        /// The setting of each generator.
        settings: Vec<Setting>,
        /// Images of each class.
        per_class: u64,
        /// Whether the generator was untrained, as a control.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        untrained: bool,
    },
}

impl TrainedOn {
    /// The training of a reference on real images, of which class `c` has `train[c]`.
    fn real(reference: &Reference, train: &[u64]) -> Self {
        let Reference { per_class, epochs, labels, .. } = *reference;
        // All references but the subset continue each epoch where the last one stopped.
        let in_turn = if reference.name == SUBSET_ROW { 1 } else { u64::from(epochs) };
        let most = per_class.map_or(u64::MAX, |n| n.saturating_mul(in_turn));
        let seen = train.iter().map(|&images| images.min(most)).sum();
        Self::Real { per_class, epochs, labels, seen, of: train.iter().sum() }
    }
}

impl fmt::Display for TrainedOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Real { per_class, epochs, labels, seen, of } => {
                match per_class {
                    None => write!(f, "all images in each of {epochs} epochs")?,
                    Some(n) => write!(f, "{n} images per class in each of {epochs} epochs")?,
                }
                write!(f, ", in total {seen} of the {of} images")?;
                f.write_str(if *labels == Labels::Soft { ", soft labels" } else { "" })
            }
            Self::Generated { settings, per_class, .. } => {
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
    /// Its results with several student seeds; `None` if it was trained once in each run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) student_seeds: Option<StudentSeeds>,
    /// Test images.
    #[serde(rename = "test_images")]
    pub(crate) tested: u64,
    /// The training in each run.
    pub(crate) trained_on: Vec<Option<TrainedOn>>,
    /// Samples drawn, accepted and backfilled for the training in each run; `None` for references.
    pub(crate) samples: Vec<Option<ClassTally>>,
}

impl RowFacts {
    /// Descriptions of its training in each run, without repeats.
    pub(crate) fn trainings(&self) -> Vec<String> {
        let mut trainings: Vec<String> = self.trained_on.iter().flatten().map(ToString::to_string).collect();
        trainings.dedup();
        trainings
    }

    /// Backfilled samples over all runs, and their share of the samples that students learned from: "120 (3.0 %)"; `None` without any.
    pub(crate) fn backfilled(&self) -> Option<String> {
        let samples = || self.samples.iter().flatten();
        let backfilled: u64 = samples().map(|tally| tally.backfilled).sum();
        let all: u64 = samples().map(ClassTally::handed_over).sum();
        (backfilled > 0).then(|| format!("{backfilled} ({:.1} %)", 100.0 * backfilled as f64 / all as f64))
    }

    /// Whether it is a reference on real images.
    pub(crate) fn is_reference(&self) -> bool {
        self.against.is_none()
    }

    /// Binomial standard error, in percentage points, of one run's accuracy on `tested` random images; `None` before the test.
    pub(crate) fn binomial_error(&self) -> Option<f64> {
        (self.tested > 0).then(|| standard_error(self.accuracy.mean() / 100.0, self.tested))
    }

    /// What the row stands for, if its name doesn't say.
    pub(crate) fn note(&self) -> Option<String> {
        let trained_on = self.trained_on.iter().flatten().next()?;
        let text = match (self.name.as_str(), trained_on) {
            (TEACHER_ROW, _) => {
                "the classifier that filters and gives soft labels, trained on all real training images".into()
            }
            (REAL, TrainedOn::Real { per_class: None, .. }) => {
                "the student's classifier, trained like the teacher".into()
            }
            (REAL, TrainedOn::Real { seen, of, .. }) => {
                let images = if seen == of { format!("all {of}") } else { format!("{seen} of the {of}") };
                format!(
                    "the student's classifier with a student's epochs and steps; over all epochs it sees {images} real training images"
                )
            }
            (SOFT_ROW, _) => {
                "as `real`, but with the teacher's soft labels: shows what these gain without any generator".into()
            }
            (SUBSET_ROW, _) => "as `real`, but on a fixed set of real images, no larger than a synthetic one".into(),
            (_, TrainedOn::Real { .. }) => {
                "as `real`, but with more images in each epoch: the reference of rows with larger sets".into()
            }
            (_, TrainedOn::Generated { untrained: true, .. }) => {
                "samples of an untrained generator: shows what the teacher's labels gain by themselves".into()
            }
            (_, TrainedOn::Generated { settings, .. }) if settings[0].labels() == Labels::Soft => {
                "its labels are probabilities of the teacher, which saw all real training images".to_string()
            }
            _ => return None,
        };
        Some(format!("`{}`: {text}", self.name))
    }

    /// Adds a run's results with other student seeds.
    fn repeated(&mut self, run: usize, repeats: &[Repeat]) {
        let repeated = repeats.iter().filter_map(|repeat| Some(100.0 * repeat.test.as_ref()?.score.accuracy()));
        let Some(first) = self.accuracy.0[run] else { return };
        let values: Vec<f64> = std::iter::once(first).chain(repeated).collect();
        if values.len() > 1 {
            let all = self.student_seeds.get_or_insert_with(StudentSeeds::default);
            all.values.resize(run, Vec::new());
            all.values.push(values);
            all.sd = pooled_sd(&all.values);
        }
    }

    fn tested(&mut self, run: usize, test: Option<&TestResult>) {
        if let Some(test) = test {
            self.accuracy.0[run] = Some(100.0 * test.score.accuracy());
            self.tested = test.n;
        }
    }
}

/// A row's results with several student seeds, everything else equal.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct StudentSeeds {
    /// Standard deviation of the test accuracy within a run, in percentage points, pooled over runs.
    pub(crate) sd: Option<f64>,
    /// Test accuracies in percent, by run; empty for a run that trained the row once.
    pub(crate) values: Vec<Vec<f64>>,
}

impl StudentSeeds {
    /// Number of classifiers trained, over all runs.
    pub(crate) fn trainings(&self) -> usize {
        self.values.iter().map(Vec::len).sum()
    }
}

/// What a search of the three grids cost and found, over the runs of a group.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct SearchFacts {
    /// Its strategy, and the generator's number unless it is the first.
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

/// The difference of two rows, a comparison that the configuration declares.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ComparisonFacts {
    /// The row.
    pub(crate) row: String,
    /// The row that it is compared with.
    pub(crate) with: String,
    /// Test accuracy of `row` minus that of `with` in each run, in percentage points.
    #[serde(rename = "difference_points")]
    pub(crate) difference: Values,
    /// Two-sided p-value of the paired t-test; `None` for fewer than two runs, or where all differences are equal.
    pub(crate) p: Option<f64>,
    /// The same, adjusted by Holm's method over the declared comparisons.
    pub(crate) p_holm: Option<f64>,
}

/// Runs of one configuration, each with another seed, on the same real images.
#[derive(Debug, Serialize)]
pub(crate) struct Group {
    /// Name of the real set.
    pub(crate) dataset: String,
    /// The named set, if it is one.
    #[serde(skip)]
    pub(crate) set: Option<String>,
    /// How choices were made.
    pub(crate) protocol: Protocol,
    /// The runs, as indices into those given.
    #[serde(skip)]
    pub(crate) runs: Vec<usize>,
    /// The values of the configuration keys in which the groups of a report differ, by dotted key. `images.train` and `images.val`
    /// are ids of datasets.
    pub(crate) differs: BTreeMap<String, Value>,
    /// The reference first, then larger references, then the rows in their order.
    pub(crate) rows: Vec<RowFacts>,
    /// The comparisons that the configuration declares.
    pub(crate) comparisons: Vec<ComparisonFacts>,
    /// Rows without a student in some run.
    pub(crate) infeasible: Vec<InfeasibleFacts>,
    /// Searches of the three grids.
    pub(crate) searches: Vec<SearchFacts>,
    #[serde(skip)]
    identity: Identity,
}

/// What the runs of a group share.
#[derive(Debug, Clone, PartialEq)]
struct Identity {
    /// The resolved configuration, with seed 0 and without repeats, which change no row.
    config: PipelineConfig,
    /// Ids of the real training images and of those that choose.
    images: [Option<String>; 2],
}

impl Identity {
    fn of(run: &Run) -> Self {
        let roles = &run.record.roles;
        let images = [&roles.train, &roles.val].map(|link| link.as_ref().map(|link| link.id.clone()));
        Self { config: PipelineConfig { seed: 0, student_seeds: 1, ..run.record.config.clone() }, images }
    }

    /// Every key with its value.
    fn keys(&self) -> Result<BTreeMap<String, Value>> {
        let mut keys = BTreeMap::new();
        flatten(String::new(), serde_json::to_value(&self.config)?, &mut keys);
        let [train, val] = &self.images;
        flatten("images".into(), json!({"train": train, "val": val}), &mut keys);
        Ok(keys)
    }
}

/// Adds the keys of nested objects, joined by dots.
fn flatten(key: String, value: Value, keys: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            let join = |name: String| if key.is_empty() { name } else { format!("{key}.{name}") };
            fields.into_iter().for_each(|(name, value)| flatten(join(name), value, keys));
        }
        value => {
            keys.insert(key, value);
        }
    }
}

/// The groups of `runs`, in order.
///
/// # Errors
/// [`Usage`] for two runs of one group with the same seed.
pub(crate) fn groups(runs: &[Run]) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let identity = Identity::of(run);
        let Some(group) = groups.iter_mut().find(|group| group.identity == identity) else {
            groups.push(Group {
                dataset: run.dataset(),
                set: run.record.config.data.set.map(|set| set.to_string()),
                protocol: run.record.config.protocol,
                runs: vec![index],
                differs: BTreeMap::new(),
                rows: Vec::new(),
                comparisons: Vec::new(),
                infeasible: Vec::new(),
                searches: Vec::new(),
                identity,
            });
            continue;
        };
        let seed = run.record.config.seed;
        if let Some(&twin) = group.runs.iter().find(|&&at| runs[at].record.config.seed == seed) {
            return Err(Usage(format!(
                "{} and {} have the same configuration and seed ({seed}), so one result would count twice; report only one of them, \
                 or run the pipeline again with another seed",
                runs[twin].dir.display(),
                run.dir.display()
            ))
            .into());
        }
        group.runs.push(index);
    }
    for group in &mut groups {
        for at in 0..group.runs.len() {
            group.add(at, &runs[group.runs[at]]);
        }
        // References come first, even those that only a later run has.
        group.rows.sort_by_key(|row| !row.is_reference());
        group.compare();
    }
    tell_apart(&mut groups)?;
    Ok(groups)
}

/// Fills in the keys in which the groups differ.
fn tell_apart(groups: &mut [Group]) -> Result<()> {
    let all = groups.iter().map(|group| group.identity.keys()).collect::<Result<Vec<_>>>()?;
    let names: BTreeSet<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    for name in names {
        let values: Vec<_> = all.iter().map(|keys| keys.get(name).cloned().unwrap_or_default()).collect();
        if values.iter().any(|value| *value != values[0]) {
            let groups = groups.iter_mut().zip(values);
            groups.for_each(|(group, value)| drop(group.differs.insert(name.clone(), value)));
        }
    }
    Ok(())
}

impl Group {
    /// Adds the run with index `at` of this group.
    fn add(&mut self, at: usize, run: &Run) {
        let record = &run.record;
        for reference in &record.roles.references {
            let facts = self.row(&reference.name);
            facts.val.0[at] = Some(100.0 * reference.val.accuracy());
            facts.trained_on[at] = Some(TrainedOn::real(reference, &record.dataset.train));
            facts.tested(at, reference.test.as_ref());
            facts.repeated(at, &reference.repeats);
        }
        for row in &record.rows {
            let facts = self.row(&row.name);
            facts.against = Some(row.against.clone());
            facts.val.0[at] = Some(100.0 * row.val.accuracy());
            facts.gap.0[at] = row.gap;
            facts.trained_on[at] = Some(TrainedOn::Generated {
                settings: row.settings.clone(),
                per_class: row.per_class,
                untrained: record.is_untrained(&row.name),
            });
            facts.samples[at] = row.tally.clone();
            facts.tested(at, row.test.as_ref());
            facts.repeated(at, &row.repeats);
        }
        for row in &record.infeasible {
            self.infeasible.push(InfeasibleFacts { run: at, name: row.name.clone(), why: row.why.clone() });
        }
        for search in record.searches.iter().filter(|s| s.row.is_none()) {
            let mut name = search.strategy.name().to_string();
            if search.generator > 0 {
                name += &format!(", generator {}", search.generator + 1);
            }
            let facts = self.search(name);
            facts.trainings.0[at] = Some(search.trainings as f64);
            facts.epochs.0[at] = Some(search.epochs as f64);
            facts.val.0[at] = search.val.map(|val| 100.0 * val.accuracy());
        }
    }

    /// Makes the declared comparisons.
    fn compare(&mut self) {
        let none = Values(vec![None; self.runs.len()]);
        let accuracy = |name| self.find(name).map_or(&none, |row| &row.accuracy);
        let compared = self.identity.config.comparisons.iter().map(|[row, with]| {
            let difference = accuracy(row).minus(accuracy(with));
            let p = difference.summary().and_then(|summary| summary.p_value());
            ComparisonFacts { row: row.clone(), with: with.clone(), difference, p, p_holm: None }
        });
        let mut comparisons: Vec<_> = compared.collect();
        let p_values: Vec<_> = comparisons.iter().map(|found| found.p).collect();
        for (found, p_holm) in comparisons.iter_mut().zip(holm(&p_values)) {
            found.p_holm = p_holm;
        }
        self.comparisons = comparisons;
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
                samples: vec![None; n],
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

    /// The resolved configuration of its runs, with seed 0.
    pub(crate) fn config(&self) -> &PipelineConfig {
        &self.identity.config
    }

    /// Whether a row has backfilled samples.
    pub(crate) fn any_backfilled(&self) -> bool {
        self.rows.iter().any(|row| row.backfilled().is_some())
    }

    /// Whether `other` has the same configuration except for the protocol.
    pub(crate) fn is_other_protocol_of(&self, other: &Self) -> bool {
        let protocol = other.protocol;
        self.protocol != protocol
            && PipelineConfig { protocol, ..self.identity.config.clone() } == other.identity.config
    }

    /// The row called `name`.
    pub(crate) fn find(&self, name: &str) -> Option<&RowFacts> {
        self.rows.iter().find(|r| r.name == name)
    }

    /// The row of generated images with the best mean validation accuracy; the first on a tie.
    pub(crate) fn best(&self) -> Option<&RowFacts> {
        let rows = self.rows.iter().filter(|r| !r.is_reference() && r.val.n() > 0);
        rows.rev().max_by(|a, b| a.val.mean().total_cmp(&b.val.mean()))
    }
}
