//! The record of a run, `run.json`: its configuration, which artifact plays which role, every search with its trials, and
//! every row of the results table. It is written as the run advances, so a killed run leaves a true partial record.
//!
//! Wall times differ from call to call, so they are in a file of their own, `timings.json`.

mod folder;

use std::path::Path;

use anyhow::Result;
use gafi_core::{Artifact, TestScore, ValScore, hash_json};
use serde::{Deserialize, Serialize};

use crate::config::{Labels, PipelineConfig, Strategy};
use crate::data::DataSummary;
use crate::screen::Screened;
use crate::setting::{Infeasible, Setting};
use crate::stats::standard_error;
use crate::usage::Usage;

pub(crate) use folder::RunFolder;

/// The file of a run's folder that holds its [`RunRecord`].
pub const RECORD: &str = "run.json";
/// The file of a run's folder that holds its [`Timings`].
pub const TIMINGS: &str = "timings.json";
/// The folder within a run's folder that holds the records of earlier configurations, by the first digits of their hash.
pub const SUPERSEDED: &str = "superseded";

const SCHEMA: &str = "gafi/run/1";

/// `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// Always `gafi/run/1`.
    pub schema: String,
    /// Version of the program that wrote it.
    pub version: String,
    /// BLAKE3 (hex) of `config` in canonical JSON.
    pub config_hash: String,
    /// The resolved configuration.
    pub config: PipelineConfig,
    /// Whether the run ended, and how.
    pub status: Status,
    /// The real images.
    pub dataset: DataSummary,
    /// The artifacts that the searches and rows build on.
    pub roles: Roles,
    /// The searches in the order they ran: the first generator's by every strategy, the other generators', the variants'.
    pub searches: Vec<SearchRecord>,
    /// The results table.
    pub rows: Vec<Row>,
    /// Rows without a student, because a class ran out of samples.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub infeasible: Vec<InfeasibleRow>,
    /// Classifiers trained so far.
    pub cost: Cost,
}

/// Whether a run ended, and how. A run that was killed stays `running`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Status {
    /// Under way, or killed.
    Running,
    /// Every row is trained and tested.
    Finished,
    /// Ended by an error, which may be an interrupt.
    Failed {
        /// The error's text.
        error: String,
    },
}

/// An artifact of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactRef {
    /// Name of its folder within the run's, or an absolute path.
    pub path: String,
    /// Its id.
    pub id: String,
}

/// Which artifact plays which role. A role is empty until its artifact exists.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Roles {
    /// Real training images.
    pub train: Option<ArtifactRef>,
    /// Real images of the split that chooses.
    pub val: Option<ArtifactRef>,
    /// Real test images, imported after the last choice.
    pub test: Option<ArtifactRef>,
    /// The classifier that filters.
    pub teacher: Option<ArtifactRef>,
    /// The student's classifier trained on real images, the reference for sets of the usual size first.
    pub references: Vec<Reference>,
    /// The generators.
    pub generators: Vec<GeneratorRole>,
}

/// A student's classifier trained on real images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// The synthetic set that it is a reference for, as a multiple of the usual one.
    pub times: u32,
    /// Real images of each class: as many as the synthetic set has, or all of the smallest class.
    pub per_class: u64,
    /// Its epochs: a student's, or, where there are fewer images, as many as give the same number of steps.
    pub epochs: u32,
    /// The classifier.
    pub artifact: ArtifactRef,
    /// Validation score of the epoch that was kept.
    pub val: ValScore,
    /// Its test score, once it was tested.
    pub test: Option<TestResult>,
}

/// A generator of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorRole {
    /// The generator.
    pub artifact: ArtifactRef,
    /// Whether the run trained it, as opposed to one that it was given.
    pub trained: bool,
}

/// A classifier's result on the test split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestResult {
    /// Its accuracy.
    pub score: TestScore,
    /// Test images.
    pub n: u64,
    /// The evaluation, with accuracy by class and confusions.
    pub evaluation: ArtifactRef,
}

/// One search: of one generator by one strategy, or of a variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchRecord {
    /// Which generator, from 0.
    pub generator: usize,
    /// How it searched.
    pub strategy: Strategy,
    /// The variant that it searched for; `None` for a search of all three grids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Its steps so far.
    pub steps: Vec<Step>,
    /// Students trained, each counted once.
    pub trainings: usize,
    /// Epochs of these students.
    pub epochs: u64,
    /// Settings screened by classifiers in closed form.
    pub closed_form: usize,
    /// The setting that it chose, once it ended.
    pub chosen: Option<Setting>,
    /// Validation score of the chosen trial; of the last chosen trial where the last step trained none.
    pub val: Option<ValScore>,
}

/// Which setting a step of a search varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    /// The generator's checkpoint.
    Checkpoint,
    /// The standard deviation of the latents.
    Std,
    /// The teacher's threshold.
    Threshold,
}

impl std::fmt::Display for StepKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Checkpoint => "checkpoint",
            Self::Std => "std",
            Self::Threshold => "threshold",
        })
    }
}

/// One step of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What it varied.
    pub kind: StepKind,
    /// The trials, in the order of the grid; those that may be chosen before those of earlier rounds.
    pub trials: Vec<Trial>,
    /// The chosen one, as an index into `trials`; into `screened` where there are no trials.
    pub chosen: usize,
    /// The grid as classifiers in closed form judged it, in [`Strategy::Halving`]. The best quarter became trials, or was
    /// chosen if it was one setting.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub screened: Vec<Screened>,
    /// Settings under which a class ran out of samples.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub infeasible: Vec<Infeasible>,
}

impl Step {
    /// The setting that it chose.
    pub fn chosen(&self) -> &Setting {
        match self.trials.get(self.chosen) {
            Some(trial) => &trial.setting,
            None => &self.screened[self.chosen].setting,
        }
    }

    fn is_sound(&self) -> bool {
        let choices = if self.trials.is_empty() { self.screened.len() } else { self.trials.len() };
        self.chosen < choices
    }
}

/// A student trained during a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// The setting that it tried.
    pub setting: Setting,
    /// Validation score of the epoch that was kept.
    pub val: ValScore,
    /// Epochs trained.
    pub epochs: u64,
    /// The student. It may have been pruned since.
    pub artifact: ArtifactRef,
}

/// A line of the results table: one student of generated images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its techniques, `gafi` for all of them, or a variant's name.
    pub name: String,
    /// The setting of each generator: of the first, or of all of them in order.
    pub settings: Vec<Setting>,
    /// Images of each class in its set.
    pub per_class: u64,
    /// The student.
    pub artifact: ArtifactRef,
    /// Validation score of the epoch that was kept.
    pub val: ValScore,
    /// Its test score, once it was tested.
    pub test: Option<TestResult>,
    /// Test accuracy of the reference for sets of its size minus its own, in percentage points.
    pub gap: Option<f64>,
}

impl Row {
    /// Its setting, the first generator's where there are several.
    pub fn setting(&self) -> &Setting {
        &self.settings[0]
    }

    /// The labels that its student learned from.
    pub fn labels(&self) -> Labels {
        self.setting().labels()
    }
}

/// A row without a student, because a class ran out of samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InfeasibleRow {
    /// Its name.
    pub name: String,
    /// The setting that it was to be trained under.
    pub setting: Setting,
    /// Which class ran out, and after how many samples.
    pub why: String,
}

/// What a run trained: teacher, references, trials and rows; equal students count once, and so do students found trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Classifiers.
    pub trainings: usize,
    /// Epochs of these classifiers.
    pub epochs: u64,
}

/// `timings.json`: wall times of the latest call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timings {
    /// Hash of the configuration, as in `run.json`.
    pub config_hash: String,
    /// Seconds of the call so far.
    pub wall_s: f64,
    /// Seconds of each stage.
    pub stages: Vec<StageTime>,
}

/// Wall time of one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageTime {
    /// Its name, for people.
    pub name: String,
    /// Seconds in this call.
    pub wall_s: f64,
    /// Whether its artifact existed before the call.
    pub cached: bool,
}

impl RunRecord {
    /// The record of a run that has just started.
    pub(crate) fn new(config: &PipelineConfig, dataset: DataSummary) -> Result<Self> {
        Ok(Self {
            schema: SCHEMA.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            config_hash: config.hash()?,
            config: config.clone(),
            status: Status::Running,
            dataset,
            roles: Roles::default(),
            searches: Vec::new(),
            rows: Vec::new(),
            infeasible: Vec::new(),
            cost: Cost::default(),
        })
    }

    /// Reads the record of the run in `dir`.
    ///
    /// # Errors
    /// [`Usage`] when there is none, when it is of another schema or damaged, or when its hash is not its configuration's.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(RECORD);
        let bytes = std::fs::read(&path).map_err(|e| {
            Usage(format!("cannot read {}: {e}; expected the folder of a pipeline run", path.display()))
        })?;
        let damaged = |why: String| Usage(format!("{}: {why}; run the pipeline again to rewrite it", path.display()));
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        match value.get("schema").and_then(serde_json::Value::as_str) {
            Some(SCHEMA) => {}
            other => return Err(damaged(format!("expected schema {SCHEMA}, found {}", other.unwrap_or("none"))).into()),
        }
        let record: Self = serde_json::from_value(value).map_err(|e| damaged(e.to_string()))?;
        if record.config.hash()? != record.config_hash {
            return Err(damaged("its hash is not that of its configuration".into()).into());
        }
        let sound = record.searches.iter().flat_map(|search| &search.steps).all(Step::is_sound);
        if !sound || record.rows.iter().any(|row| row.settings.is_empty()) {
            return Err(damaged("a choice is not among its trials, or a row has no setting".into()).into());
        }
        Ok(record)
    }

    /// Checks that every artifact that a role or a row needs is in the run's folder `dir` with the recorded id. Artifacts of
    /// trials may be gone (they can be pruned).
    ///
    /// # Errors
    /// [`Usage`] naming the first that is not.
    pub fn verify_links(&self, dir: &Path) -> Result<()> {
        self.links().try_for_each(|link| link.open(dir).map(drop))
    }

    /// The artifacts that roles and rows need.
    pub fn links(&self) -> impl Iterator<Item = &ArtifactRef> {
        let roles = &self.roles;
        let single = [&roles.train, &roles.val, &roles.test, &roles.teacher].into_iter().flatten();
        let generators = roles.generators.iter().map(|generator| &generator.artifact);
        let references = roles.references.iter().flat_map(|r| [Some(&r.artifact), evaluation(&r.test)]).flatten();
        let rows = self.rows.iter().flat_map(|r| [Some(&r.artifact), evaluation(&r.test)]).flatten();
        single.chain(generators).chain(references).chain(rows)
    }

    /// The artifact called `name`: `train`, `val`, `test`, `teacher`, `real` (the reference of the usual size), `generator`,
    /// `generator-2` and so on, or the student of the row of that name.
    pub fn artifact(&self, name: &str) -> Option<&ArtifactRef> {
        let roles = &self.roles;
        match name {
            "train" => roles.train.as_ref(),
            "val" => roles.val.as_ref(),
            "test" => roles.test.as_ref(),
            "teacher" => roles.teacher.as_ref(),
            "real" => roles.references.first().map(|reference| &reference.artifact),
            _ => {
                let mut generators = roles.generators.iter().enumerate();
                let generator = generators.find(|(number, _)| generator_name(*number) == name);
                generator.map(|(_, generator)| &generator.artifact).or_else(|| self.row(name).map(|row| &row.artifact))
            }
        }
    }

    /// The names that [`RunRecord::artifact`] knows now.
    pub fn names(&self) -> Vec<String> {
        let fixed = ["train", "val", "test", "teacher", "real"].into_iter().map(String::from);
        let generators = (0..self.roles.generators.len()).map(generator_name);
        let rows = self.rows.iter().map(|row| row.name.clone());
        fixed.chain(generators).chain(rows).filter(|name| self.artifact(name).is_some()).collect()
    }

    /// The row called `name`.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// The row with the best validation score, among those of `labels` where given. Ties go to `gafi`, then to the first row.
    pub fn best(&self, labels: Option<Labels>) -> Option<&Row> {
        let rows = self.rows.iter().filter(|row| labels.is_none_or(|labels| row.labels() == labels));
        let gafi = |row: &Row| row.name == "gafi";
        let score = |row: &Row| row.val.accuracy();
        rows.rev().max_by(|a, b| score(a).total_cmp(&score(b)).then(gafi(a).cmp(&gafi(b))))
    }

    /// The difference of two test accuracies, in percentage points, that the choice of test images alone may explain: two
    /// standard errors of a difference. `None` before the test.
    pub fn noise(&self) -> Option<f64> {
        let tests = self.roles.references.iter().map(|r| &r.test).chain(self.rows.iter().map(|r| &r.test)).flatten();
        let errors = tests.map(|test| standard_error(test.score.accuracy(), test.n));
        errors.reduce(f64::max).map(|error| 2.0 * 2f64.sqrt() * error)
    }
}

fn evaluation(test: &Option<TestResult>) -> Option<&ArtifactRef> {
    test.as_ref().map(|test| &test.evaluation)
}

/// The name of a generator, numbered from 0.
pub(crate) fn generator_name(number: usize) -> String {
    match number {
        0 => "generator".into(),
        number => format!("generator-{}", number + 1),
    }
}

impl ArtifactRef {
    /// Refers to `artifact` from the run's folder `dir`.
    pub(crate) fn new(artifact: &Artifact, dir: &Path) -> Self {
        let path = artifact.path();
        let path = match path.strip_prefix(dir) {
            Ok(inside) => inside.display().to_string(),
            Err(_) => std::path::absolute(path).unwrap_or_else(|_| path.into()).display().to_string(),
        };
        Self { path, id: artifact.id().into() }
    }

    /// Opens it, from the run's folder `dir`.
    ///
    /// # Errors
    /// When it is gone or damaged; [`Usage`] when its id is not the recorded one.
    pub fn open(&self, dir: &Path) -> Result<Artifact> {
        let artifact = Artifact::open(dir.join(&self.path))?;
        if artifact.id() != self.id {
            let path = artifact.path().display();
            let why = "it was replaced after the run; run the pipeline again";
            return Err(Usage(format!("{path}: expected id {}, found {}: {why}", self.id, artifact.id())).into());
        }
        Ok(artifact)
    }
}

impl Timings {
    /// Reads the wall times of the run in `dir`.
    ///
    /// # Errors
    /// [`Usage`] when they cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(TIMINGS);
        let wrong = |e: &dyn std::fmt::Display| Usage(format!("cannot read {}: {e}", path.display()));
        let bytes = std::fs::read(&path).map_err(|e| wrong(&e))?;
        Ok(serde_json::from_slice(&bytes).map_err(|e| wrong(&e))?)
    }
}

impl PipelineConfig {
    /// BLAKE3 (hex) of the configuration in canonical JSON.
    ///
    /// # Errors
    /// When a value cannot be written as JSON.
    pub fn hash(&self) -> Result<String> {
        Ok(hash_json(&serde_json::to_value(self)?))
    }
}
