//! The record of a run, `run.json`: its configuration, which artifact plays which role, every search with its trials, and
//! every row of the results table. It is written as the run advances, so a killed run leaves a correct partial record.
//! Wall times are in a file of their own, `timings.json`.

mod roles;
mod searches;
mod timings;

use std::path::Path;

use anyhow::Result;
use gafi_core::{ClassTally, ValScore, hash_json};
use serde::{Deserialize, Serialize};

use crate::config::{Labels, PipelineConfig};
use crate::data::DataSummary;
use crate::names::{TEACHER_ROW, generator_name};
use crate::setting::Setting;
use crate::usage::Usage;

pub use crate::names::StepKind;
pub use roles::{ArtifactRef, GeneratorRole, Reference, Repeat, Roles, TestResult};
pub use searches::{Screened, SearchRecord, Step, Trial};
pub use timings::{StageTime, TIMINGS, Timings};

/// The file of a run's folder that holds its [`RunRecord`].
pub const RECORD: &str = "run.json";
/// Longest record in bytes. A record of a thousand trials has about a million.
pub(crate) const RECORD_MAX: u64 = 64 << 20;
/// The file of a run's folder that shows samples of each class.
pub const SAMPLES_PICTURE: &str = "samples.png";
/// The file of a run's folder that holds its report.
pub const REPORT_PAGE: &str = "report.html";
/// The folder within a run's folder for records of earlier configurations, named by the first digits of their hash.
pub const SUPERSEDED: &str = "superseded";

const SCHEMA: &str = "gafi/run/2";

/// `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// Always `gafi/run/2`.
    pub schema: String,
    /// Version of the program that wrote it.
    pub version: String,
    /// BLAKE3 (hex) of `config` in canonical JSON.
    pub config_hash: String,
    /// The resolved configuration.
    pub config: PipelineConfig,
    /// Whether and how the run ended.
    pub status: Status,
    /// The real images.
    pub dataset: DataSummary,
    /// The artifacts that the searches and rows build on.
    pub roles: Roles,
    /// The searches in the order they ran: the first generator's by every strategy, the other generators', those for rows of the
    /// ablation, those for variants.
    pub searches: Vec<SearchRecord>,
    /// The results table.
    pub rows: Vec<Row>,
    /// Rows without a student, because a class ran out of samples.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub infeasible: Vec<InfeasibleRow>,
    /// Classifiers trained so far.
    pub cost: Cost,
    /// BLAKE3 (hex) of the other fields in canonical JSON. It is in the file only: [`RunRecord::read`] checks and clears it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checksum: Option<String>,
}

/// Whether and how a run ended. A run that was killed stays `running`.
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
    /// Its test score, once measured.
    pub test: Option<TestResult>,
    /// The reference that its gap is measured from: `real`, or `real-2x` and so on for a larger set, whatever its labels.
    pub against: String,
    /// Test accuracy of that reference minus its own, in percentage points.
    pub gap: Option<f64>,
    /// Samples drawn, accepted and backfilled over its training, of all classes; absent in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tally: Option<ClassTally>,
    /// Students of this row with other student seeds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repeats: Vec<Repeat>,
}

impl Row {
    /// Its setting; the first generator's if there are several.
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
    /// Which classes ran out, after how many samples, how the teacher classifies these, and a line of diagnosis or advice.
    pub why: String,
}

/// What a run trained: teacher, references, trials and rows. Equal students count once; reused ones count too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Classifiers.
    pub trainings: usize,
    /// Epochs of these classifiers.
    pub epochs: u64,
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
            checksum: None,
        })
    }

    /// Reads the record of the run in `dir`.
    ///
    /// # Errors
    /// [`Usage`] when it is missing, damaged or of another schema, or when its hash does not match its configuration.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(RECORD);
        let bytes = gafi_core::read_regular(&path, RECORD_MAX).map_err(|e| {
            Usage(format!("cannot read {}: {e}; expected the folder of a pipeline run", path.display()))
        })?;
        let damaged = |why: String| Usage(format!("{}: {why}; run the pipeline again to rewrite it", path.display()));
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        match value.get("schema").and_then(serde_json::Value::as_str) {
            Some(SCHEMA) => {}
            other => return Err(damaged(format!("expected schema {SCHEMA}, found {}", other.unwrap_or("none"))).into()),
        }
        let mut record: Self = serde_json::from_value(value).map_err(|e| damaged(e.to_string()))?;
        if record.config.hash()? != record.config_hash {
            return Err(damaged("its hash does not match its configuration".into()).into());
        }
        if let Some(checksum) = record.checksum.take()
            && record.sum()? != checksum
        {
            return Err(damaged("its checksum does not match its content".into()).into());
        }
        let sound = record.searches.iter().flat_map(|search| &search.steps).all(Step::is_sound);
        if !sound || record.rows.iter().any(|row| row.settings.is_empty()) {
            return Err(damaged("a choice is not among its trials, or a row has no setting".into()).into());
        }
        let tests = record.rows.iter().map(|row| &row.test).chain(record.roles.references.iter().map(|r| &r.test));
        if record.status == Status::Finished
            && (record.rows.is_empty() && record.infeasible.is_empty() || tests.into_iter().any(Option::is_none))
        {
            return Err(damaged("the run is finished, but it has no rows or an untested one".into()).into());
        }
        Ok(record)
    }

    /// BLAKE3 (hex) of all fields but `checksum` in canonical JSON.
    pub(crate) fn sum(&self) -> Result<String> {
        Ok(hash_json(&serde_json::to_value(Self { checksum: None, ..self.clone() })?))
    }

    /// Checks that every artifact that a role or a row needs is in the run's folder `dir` with the recorded id. Artifacts of
    /// trials may be gone (pruning frees them).
    ///
    /// # Errors
    /// [`Usage`] naming the first one that is not.
    pub fn verify_links(&self, dir: &Path) -> Result<()> {
        self.links().try_for_each(|link| link.open(dir).map(drop))
    }

    /// The artifacts that roles and rows need.
    pub fn links(&self) -> impl Iterator<Item = &ArtifactRef> {
        let roles = &self.roles;
        let single = roles.images().map(|(_, link)| link).chain(&roles.teacher);
        let generators = roles.generators.iter().map(|generator| &generator.artifact);
        let classifiers = self.classifiers().flat_map(|(classifier, _, test)| {
            std::iter::once(classifier).chain(test.as_ref().map(|test| &test.evaluation))
        });
        single.chain(generators).chain(classifiers)
    }

    /// The classifiers of references, rows and the repeats of both, each with its validation score and its test result.
    pub(crate) fn classifiers(&self) -> impl Iterator<Item = (&ArtifactRef, ValScore, &Option<TestResult>)> {
        let references = &self.roles.references;
        let repeats = references.iter().flat_map(|r| &r.repeats).chain(self.rows.iter().flat_map(|r| &r.repeats));
        let repeats = repeats.map(|r| (&r.artifact, r.val, &r.test));
        let rows = self.rows.iter().map(|r| (&r.artifact, r.val, &r.test));
        references.iter().map(|r| (&r.artifact, r.val, &r.test)).chain(rows).chain(repeats)
    }

    /// The artifact called `name`: a split such as `train`, `teacher`, `generator`, `generator-2` and so on, or the classifier of
    /// the row of that name, references such as `real` among them.
    pub fn artifact(&self, name: &str) -> Option<&ArtifactRef> {
        self.named().find(|(known, _)| known == name).map(|(_, link)| link)
    }

    /// The names that [`RunRecord::artifact`] currently knows.
    pub fn names(&self) -> Vec<String> {
        self.named().map(|(name, _)| name).collect()
    }

    /// The artifacts that have names.
    fn named(&self) -> impl Iterator<Item = (String, &ArtifactRef)> {
        let roles = &self.roles;
        let images = roles.images().map(|(split, link)| (split.to_string(), link));
        let teacher = roles.teacher.iter().map(|link| (TEACHER_ROW.to_string(), link));
        let references = roles.references.iter().filter(|r| r.name != TEACHER_ROW);
        let references = references.map(|r| (r.name.clone(), &r.artifact));
        let generators = roles.generators.iter().enumerate().map(|(number, g)| (generator_name(number), &g.artifact));
        let rows = self.rows.iter().map(|row| (row.name.clone(), &row.artifact));
        images.chain(teacher).chain(references).chain(generators).chain(rows)
    }

    /// The reference called `name`.
    pub fn reference(&self, name: &str) -> Option<&Reference> {
        self.roles.references.iter().find(|reference| reference.name == name)
    }

    /// The row of generated images called `name`.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Whether the row called `name` is a control, of samples of an untrained generator. The checkpoint does not tell: an imported
    /// generator may have only checkpoint 0.
    pub fn is_untrained(&self, name: &str) -> bool {
        self.config.variants.iter().any(|variant| variant.untrained && variant.name == name)
    }

    /// The row with the best validation score, among those of `labels` where given. Ties go to `gafi`, then to the first row. Rows
    /// of an untrained generator are controls, and never the best.
    pub fn best(&self, labels: Option<Labels>) -> Option<&Row> {
        let trained = self.rows.iter().filter(|row| !self.is_untrained(&row.name));
        let rows = trained.filter(|row| labels.is_none_or(|labels| row.labels() == labels));
        let gafi = |row: &Row| row.name == "gafi";
        let score = |row: &Row| row.val.accuracy();
        rows.rev().max_by(|a, b| score(a).total_cmp(&score(b)).then(gafi(a).cmp(&gafi(b))))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tests::summary;
    use crate::{PRESETS, preset};

    #[test]
    fn hashes_survive_writing_and_reading() {
        for (name, _) in PRESETS {
            let config: PipelineConfig = serde_json::from_value(preset(Some(name)).unwrap()).unwrap();
            let text = serde_json::to_string_pretty(&config).unwrap();
            let read: PipelineConfig = serde_json::from_str(&text).unwrap();
            assert_eq!(read.hash().unwrap(), config.hash().unwrap(), "{name}");
        }
    }

    #[test]
    fn ties_go_to_gafi_then_to_the_first_row() {
        let mut record = RunRecord::new(&PipelineConfig::default(), summary(8, Vec::new(), 1)).unwrap();
        let artifact = ArtifactRef { path: String::new(), id: String::new() };
        let row = |name: &str, val: f64| Row {
            name: name.into(),
            settings: vec![Setting::plain(1)],
            per_class: 1,
            artifact: artifact.clone(),
            val: serde_json::from_value(serde_json::json!(val)).unwrap(),
            test: None,
            against: "real".into(),
            gap: None,
            tally: None,
            repeats: Vec::new(),
        };
        let best = |record: &RunRecord| record.best(Some(Labels::Hard)).unwrap().name.clone();
        record.rows = vec![row("baseline", 0.5), row("filter", 0.5)];
        assert_eq!(best(&record), "baseline");
        record.rows.push(row("gafi", 0.5));
        assert_eq!(best(&record), "gafi");
        record.rows.push(row("other", 0.75));
        assert_eq!(best(&record), "other");
        assert!(record.best(Some(Labels::Soft)).is_none());
        // An imported generator has checkpoint 0; only variants of an untrained one are controls.
        record.rows.iter_mut().for_each(|row| row.settings = vec![Setting::plain(0)]);
        assert_eq!(best(&record), "other");
        record.config.variants =
            vec![crate::config::Variant { name: "other".into(), untrained: true, ..crate::config::Variant::default() }];
        assert_eq!(best(&record), "gafi");
    }
}
