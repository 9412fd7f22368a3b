//! What a run's folder tells: its records and artifacts, read and nothing computed. A run in progress has fewer of them,
//! and a record that cannot be read is a note, never an error.
//!
//! Of the test split only figures are taken, from records that the pipeline wrote after its last choice.

use std::fs;
use std::path::Path;

use gafi_core::{Artifact, Kind, LOG_FILE, Split, TRIAL_FILE, TrialRecord, ValScore};
use gafi_expand::{ClassStds, StdRange};
use gafi_filter::{Accept, FilterRule, Thresholds};
use gafi_nn::EvaluationRecord;
use serde::Deserialize;
use serde_json::Value;

use gafi_pipeline::SourceConfig;
use gafi_pipeline::{CONFIG, Infeasible, Labels, Results, Row, Screened, Setting, Strategy};

/// A run of the pipeline, as far as it has come.
#[derive(Debug, Default)]
pub struct Run {
    /// Name of its folder.
    pub name: String,
    /// `results.json`, once the run has ended.
    pub results: Option<Results>,
    /// `config.json`, what the run was asked for.
    pub config: Option<Value>,
    /// `search.json`, once every choice is made.
    pub steps: Vec<Step>,
    /// Whole artifacts, by folder.
    pub made: Vec<Made>,
    /// Artifacts that are being made, or were when the run was cut off.
    pub begun: Vec<Begun>,
    /// What could not be read, and why.
    pub notes: Vec<String>,
}

/// One whole artifact.
#[derive(Debug)]
pub struct Made {
    /// Name of its folder.
    pub folder: String,
    /// The artifact.
    pub artifact: Artifact,
    /// Its training's record, of a classifier.
    pub trial: Option<TrialRecord>,
    /// Its evaluation's record.
    pub evaluation: Option<EvaluationRecord>,
    /// Seconds that it took, where its log tells.
    pub wall_s: Option<f64>,
}

/// One artifact that is not whole.
#[derive(Debug)]
pub struct Begun {
    /// Name of the folder that it will be.
    pub folder: String,
    /// What its log tells.
    pub events: Vec<Value>,
}

/// One step of the search, as in `search.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Step {
    /// Which generator, from 0.
    pub generator: usize,
    /// How.
    pub strategy: Strategy,
    /// "checkpoint", "expansion" or "threshold", or a variant's name with one of these.
    pub name: String,
    /// The trials.
    pub trials: Vec<Tried>,
    /// The chosen one of them, or of `screened` where there are none.
    pub chosen: usize,
    /// What was judged without a student before.
    #[serde(default)]
    pub screened: Vec<Screened>,
    /// What could not be tried.
    #[serde(default)]
    pub impossible: Vec<Infeasible>,
}

impl Step {
    /// What was chosen.
    pub fn setting(&self) -> &Setting {
        if self.trials.is_empty() { &self.screened[self.chosen].setting } else { &self.trials[self.chosen].setting }
    }
}

/// One trial of the search.
#[derive(Debug, Clone, Deserialize)]
pub struct Tried {
    /// What was tried.
    pub setting: Setting,
    /// What came of it.
    pub val: ValScore,
}

/// What a student of generated images was trained on, from its artifact's configuration.
#[derive(Debug, Clone)]
pub struct Lesson {
    /// How its samples were made; of the first generator where there are several.
    pub source: SourceConfig,
    /// Id of the generator, the first one.
    pub generator: String,
    /// Epochs between renewals.
    pub period: Option<u64>,
    /// Whether labels were soft.
    pub labels: Labels,
    /// Images of each class.
    pub per_class: u64,
    /// Epochs.
    pub epochs: u64,
}

impl Run {
    /// Reads the run in `dir`.
    pub fn read(dir: &Path) -> Self {
        let name = dir.canonicalize().ok().and_then(|d| d.file_name().map(|n| n.to_string_lossy().into_owned()));
        let mut run = Self { name: name.unwrap_or_else(|| dir.display().to_string()), ..Self::default() };
        run.results = run.json(dir, "results.json");
        run.config = run.json(dir, CONFIG);
        #[derive(Deserialize)]
        struct Search {
            steps: Vec<Step>,
        }
        let search: Option<Search> = run.json(dir, "search.json");
        run.steps = search.map(|s| s.steps).unwrap_or_default();
        let is_whole = |s: &Step| s.chosen < if s.trials.is_empty() { s.screened.len() } else { s.trials.len() };
        let whole = run.steps.iter().filter(|s| is_whole(s)).count();
        if whole < run.steps.len() {
            run.notes.push("search.json: a chosen trial is not among the trials".into());
            run.steps.retain(is_whole);
        }
        // Generators that were not trained here.
        let elsewhere = run.config.as_ref().and_then(|c| c.get("trained_generators")?.as_array().cloned());
        for path in elsewhere.iter().flatten().filter_map(Value::as_str) {
            match Made::open(Path::new(path), path.into()) {
                Ok(made) => run.made.push(made),
                Err(e) => run.notes.push(format!("{path}: {e}")),
            }
        }
        for folder in folders(dir) {
            let path = dir.join(&folder);
            if let Some(dest) = folder.strip_prefix('.').and_then(|f| f.strip_suffix(".partial")) {
                run.begun.push(Begun { folder: dest.into(), events: events(&path).collect() });
            } else if path.join("manifest.json").is_file() {
                match Made::open(&path, folder.clone()) {
                    Ok(made) => run.made.push(made),
                    Err(e) => run.notes.push(format!("{folder}: {e}")),
                }
            }
        }
        run
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self, dir: &Path, name: &str) -> Option<T> {
        let bytes = fs::read(dir.join(name)).ok()?;
        serde_json::from_slice(&bytes)
            .map_err(|e| self.notes.push(format!("{name}: not as this program writes it: {e}")))
            .ok()
    }

    /// The artifact of an id.
    pub fn of_id(&self, id: &str) -> Option<&Made> {
        self.made.iter().find(|m| m.artifact.id() == id)
    }

    /// Artifacts that a stage made.
    pub fn of_stage<'a>(&'a self, stage: &'a str) -> impl Iterator<Item = &'a Made> {
        self.made.iter().filter(move |m| m.artifact.manifest().made_by.stage == stage)
    }

    /// The teacher: what students were judged by or, before there are any, the classifier of all real images that trained
    /// longest.
    pub fn teacher(&self) -> Option<&Made> {
        let named = self.of_stage("recycle").find_map(|m| self.of_id(m.input("teacher")?));
        let epochs = |m: &&Made| m.trial.as_ref().map_or(0, |t| t.epochs.len());
        named.or_else(|| {
            let all = self.of_stage("train-classifier").filter(|m| m.config("/per_class").is_none_or(Value::is_null));
            all.max_by_key(epochs)
        })
    }

    /// The reference on real images: the one that was judged as `results.json` says or, before that, another than the teacher.
    pub fn reference(&self) -> Option<&Made> {
        let teacher = self.teacher().map(|m| m.artifact.id());
        let others = self.of_stage("train-classifier").filter(|m| Some(m.artifact.id()) != teacher);
        let told = |m: &&Made| match &self.results {
            Some(r) => self.tested(m).is_some_and(|e| e.evaluation.accuracy == r.real.test_accuracy),
            None => true,
        };
        // Those for larger sets have more images, or, where there are no more, more epochs.
        let size = |m: &&Made| {
            let images = m.config("/per_class").and_then(Value::as_u64).unwrap_or(u64::MAX);
            (images, m.trial.as_ref().map_or(0, |t| t.epochs.len()))
        };
        others.filter(told).min_by_key(size)
    }

    /// The generators that students learned from or, before there are any students, all that there are.
    pub fn generators(&self) -> Vec<&Made> {
        let all: Vec<&Made> = self.made.iter().filter(|m| m.artifact.kind() == Kind::Generator).collect();
        let named: Vec<&str> =
            self.of_stage("recycle").flat_map(|m| m.inputs("generators")).map(String::as_str).collect();
        let used: Vec<&Made> = all.iter().copied().filter(|m| named.contains(&m.artifact.id())).collect();
        let mut found = if used.is_empty() { all } else { used };
        // A copy under another name is the same artifact.
        found.sort_by_key(|m| (m.artifact.id(), &m.folder));
        found.dedup_by_key(|m| m.artifact.id());
        found.sort_by_key(|m| &m.folder);
        found
    }

    /// What the evaluation on the test split found of a classifier.
    pub fn tested(&self, classifier: &Made) -> Option<&EvaluationRecord> {
        let of = |m: &&Made| m.input("classifier") == Some(classifier.artifact.id());
        self.of_stage("evaluate").filter(of).filter_map(|m| m.evaluation.as_ref()).find(|e| e.split == Split::Test)
    }

    /// The student of a row.
    pub fn student(&self, row: &Row) -> Option<&Made> {
        self.of_stage("recycle").find(|m| m.folder == row.artifact)
    }

    /// The row of a name.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.results.as_ref()?.rows.iter().find(|r| r.name == name)
    }

    /// What people call it: a split of the real images, the teacher, the reference on real images, the generator, or the student of
    /// a row.
    pub fn named(&self, name: &str) -> Option<&Made> {
        match name {
            "train" | "val" | "test" => self.dataset(name),
            "teacher" => self.teacher(),
            "real" => self.reference(),
            "generator" => {
                let student = self.row("gafi").and_then(|row| self.student(row));
                let used = student.and_then(|student| self.of_id(student.input("generators")?));
                used.or_else(|| self.generators().into_iter().next())
            }
            row => self.student(self.row(row)?),
        }
    }

    /// The names that [`Run::named`] knows now.
    pub fn names(&self) -> Vec<&str> {
        let rows = self.results.iter().flat_map(|results| results.rows.iter().map(|row| row.name.as_str()));
        let all = ["train", "val", "test", "teacher", "real", "generator"].into_iter().chain(rows);
        all.filter(|name| self.named(name).is_some()).collect()
    }

    /// The dataset artifact of a split.
    pub fn dataset(&self, split: &str) -> Option<&Made> {
        let of = |m: &&Made| m.artifact.manifest().content.get("split").and_then(Value::as_str) == Some(split);
        self.made.iter().filter(|m| m.artifact.kind() == Kind::Dataset).find(of)
    }

    /// Names of the classes, as soon as anything knows them.
    pub fn classes(&self) -> Vec<String> {
        let of = |m: &Made| serde_json::from_value(m.artifact.manifest().content.get("classes")?.clone()).ok();
        self.made.iter().find_map(of).unwrap_or_default()
    }

    /// Name of the real set: that of the results, or what the import was told.
    pub fn set(&self) -> String {
        let told = self.of_stage("import").find_map(|m| m.config("/set").and_then(Value::as_str)).map(str::to_owned);
        // A path is nobody's business but its last part.
        let last = |name: &str| Path::new(name).file_name().map(|n| n.to_string_lossy().into_owned());
        self.results.as_ref().and_then(|r| last(&r.dataset)).or(told).unwrap_or_else(|| "images of its own".into())
    }
}

impl Made {
    fn open(path: &Path, folder: String) -> gafi_core::Result<Self> {
        let artifact = Artifact::open(path)?;
        let has = |name: &str| artifact.manifest().files.contains_key(name);
        let trial = if has(TRIAL_FILE) { Some(artifact.read_json(TRIAL_FILE)?) } else { None };
        let evaluation =
            if has(EvaluationRecord::FILE) { Some(artifact.read_json(EvaluationRecord::FILE)?) } else { None };
        let walls = events(path).filter(|e| e["event"] == "finished").filter_map(|e| e["wall_s"].as_f64());
        Ok(Self { wall_s: walls.last(), folder, artifact, trial, evaluation })
    }

    /// The id of the first input of a port.
    pub fn input(&self, port: &str) -> Option<&str> {
        self.inputs(port).first().map(String::as_str)
    }

    /// The ids of the inputs of a port that takes many.
    pub fn inputs(&self, port: &str) -> &[String] {
        self.artifact.manifest().made_by.inputs.get(port).map_or(&[], Vec::as_slice)
    }

    /// A value of its stage's configuration.
    pub fn config(&self, pointer: &str) -> Option<&Value> {
        self.artifact.manifest().made_by.config.pointer(pointer)
    }

    /// The events of its log; a line that was cut off is left out.
    pub fn events(&self) -> impl Iterator<Item = Value> {
        events(self.artifact.path())
    }

    /// What a student of generated images was trained on; none for other classifiers, and for samples of sources that this
    /// program does not know.
    pub fn lesson(&self) -> Option<Lesson> {
        let source = self.config("/source")?;
        let source = match source.get("sources").and_then(Value::as_array) {
            Some(several) => several.first()?,
            None => source,
        };
        let source: SourceConfig = serde_json::from_value(source.clone()).ok()?;
        let number = |pointer: &str| self.config(pointer).and_then(Value::as_u64);
        Some(Lesson {
            generator: self.inputs("generators").get(source.generator)?.clone(),
            source,
            period: number("/recycle/period"),
            labels: match self.config("/learner/distill") {
                None | Some(Value::Null) => Labels::Hard,
                Some(_) => Labels::Soft,
            },
            per_class: number("/per_class")?,
            epochs: number("/learner/epochs").unwrap_or(0),
        })
    }
}

impl Begun {
    /// How far it has come, for people.
    pub fn place(&self) -> String {
        let told = |event: &Value| {
            let number = |key: &str| event.get(key).and_then(Value::as_f64);
            let place = ["epoch", "step"].iter().find_map(|key| Some(format!("{key} {}", number(key)?)))?;
            let val = number("val_accuracy").map(|v| format!(", validation accuracy {:.2} %", 100.0 * v));
            Some(place + &val.unwrap_or_default())
        };
        self.events.iter().rev().find_map(told).unwrap_or_else(|| "nothing told yet".into())
    }
}

impl Lesson {
    /// The deviation, where it is one for all classes.
    pub fn std(&self) -> Option<StdRange> {
        match &self.source.std {
            ClassStds::All(std) => Some(*std),
            ClassStds::PerClass { .. } => None,
        }
    }

    /// The threshold, where it is one for all classes; `None` within when nothing is filtered.
    pub fn threshold(&self) -> Option<Option<f64>> {
        match &self.source.filter {
            None | Some(FilterRule { accept: Accept::Any, .. }) => Some(None),
            Some(FilterRule { threshold: Thresholds::All(t), .. }) => Some(Some(*t)),
            Some(_) => None,
        }
    }
}

/// Folders in `dir`, sorted.
pub(super) fn folders(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir());
    let mut names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn events(dir: &Path) -> impl Iterator<Item = Value> + use<> {
    let text = fs::read_to_string(dir.join(LOG_FILE)).unwrap_or_default();
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    lines.into_iter()
}
