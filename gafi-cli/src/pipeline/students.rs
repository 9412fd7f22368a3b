//! One trial: a student trained on generated images under a setting.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use gafi_core::{Artifact, Inputs, Stage, TRIAL, TrialRecord, ValScore, provenance};
use gafi_expand::StdRange;
use gafi_filter::FilterRule;
use gafi_recycle::{Recycle, Renewal};
use serde::{Deserialize, Serialize};

use super::config::PipelineConfig;
use super::report::StageTime;
use crate::session::Session;
use crate::source::SourceConfig;

/// What a trial tries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The generator's checkpoint, in steps.
    pub checkpoint: u64,
    /// Standard deviation of the latents.
    pub std: StdRange,
    /// The teacher's threshold; none: unfiltered.
    pub threshold: Option<f64>,
    /// How the set is renewed; none: never.
    pub recycle: Option<Renewal>,
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "checkpoint {}, std {}", self.checkpoint, self.std)?;
        match self.threshold {
            Some(t) => write!(f, ", filter > {t:.2}")?,
            None => write!(f, ", unfiltered")?,
        }
        match &self.recycle {
            Some(r) if r.factor < 1.0 => write!(f, ", {:.0} % renewed every {} epochs", 100.0 * r.factor, r.period),
            Some(r) => write!(f, ", renewed every {} epochs", r.period),
            None => write!(f, ", never renewed"),
        }
    }
}

/// A trained student.
#[derive(Debug, Clone)]
pub struct Student {
    /// What was tried.
    pub setting: Setting,
    /// The classifier artifact.
    pub artifact: Artifact,
    /// Its score.
    pub val: ValScore,
}

/// Runs stages into one folder and keeps the books.
pub(crate) struct Workshop<'a> {
    /// The program.
    pub(crate) session: &'a Session,
    /// The pipeline's folder.
    pub(crate) dir: &'a Path,
    /// Every stage run so far.
    pub(crate) stages: Vec<StageTime>,
    trained: BTreeSet<PathBuf>,
    begun: Instant,
}

/// What every student of a pipeline shares.
pub(crate) struct Classroom<'a> {
    /// The configuration.
    pub(crate) config: &'a PipelineConfig,
    /// The generator.
    pub(crate) generator: &'a Artifact,
    /// The teacher.
    pub(crate) teacher: &'a Artifact,
    /// Validation images.
    pub(crate) val: &'a Artifact,
    /// Images of each class.
    pub(crate) per_class: u64,
    /// Seed of the students' initialisation, order and augmentation: the same for all, so that settings differ in nothing else.
    pub(crate) student_seed: u64,
    /// Seed of the latents, the same for all as well.
    pub(crate) latent_seed: u64,
}

impl<'a> Workshop<'a> {
    /// An empty one.
    pub(crate) fn new(session: &'a Session, dir: &'a Path) -> Self {
        Self { session, dir, stages: Vec::new(), trained: BTreeSet::new(), begun: Instant::now() }
    }

    /// Seconds since it was opened.
    pub(crate) fn wall_s(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Classifiers that were trained, or found trained: equal settings share one.
    pub(crate) fn trainings(&self) -> usize {
        self.trained.len()
    }

    /// Runs `stage` into `NAME-FINGERPRINT`, so that a change of the configuration makes again what it touches and nothing
    /// else, and keeps the rest. `name` is for people.
    ///
    /// # Errors
    /// What the stage says, with `name` before it.
    pub(crate) fn run(&mut self, name: &str, stage: &dyn Stage, inputs: &Inputs) -> Result<Artifact> {
        let fingerprint = provenance(stage, inputs).fingerprint();
        let dest = self.dir.join(format!("{}-{}", stage.name(), &fingerprint[..12]));
        let outcome = self.session.execute(stage, inputs, &dest).map_err(|e| e.context(format!("{name} failed")))?;
        let how = if outcome.cached { "there already".into() } else { format!("{:.1} s", outcome.wall.as_secs_f64()) };
        self.session.bars.say(&format!("{:7.1} s  {name}: {how}", self.wall_s()));
        self.note(name, outcome.wall.as_secs_f64(), outcome.cached);
        if outcome.artifact.kind() == gafi_core::Kind::Classifier {
            self.trained.insert(dest);
        }
        Ok(outcome.artifact)
    }

    /// Writes down a stage.
    pub(crate) fn note(&mut self, name: &str, wall_s: f64, cached: bool) {
        self.stages.push(StageTime { name: name.into(), wall_s, cached });
    }

    /// Trains a student under `setting`.
    ///
    /// # Errors
    /// What the stage says.
    pub(crate) fn student(&mut self, name: &str, class: &Classroom, setting: Setting) -> Result<Student> {
        let filter =
            setting.threshold.map(|t| FilterRule { threshold: t.into(), ..class.config.search.filter.clone() });
        // A renewal that comes after the last epoch never comes: said once, so that equal trials are one.
        let recycle = setting.recycle.filter(|r| r.period < class.config.student.epochs);
        let source =
            SourceConfig { std: setting.std, filter, ..SourceConfig::plain(setting.checkpoint, class.latent_seed) };
        let stage = Recycle {
            source: serde_json::to_value(&source)?,
            per_class: class.per_class,
            recycle,
            learner: serde_json::to_value(&class.config.student)?,
            seed: class.student_seed,
        };
        let mut inputs = Inputs::new().with("generator", class.generator).with("val", class.val);
        if setting.threshold.is_some() {
            inputs = inputs.with("teacher", class.teacher);
        }
        let setting = Setting { recycle, ..setting };
        let artifact = self.run(&format!("{name} ({setting})"), &stage, &inputs)?;
        let record: TrialRecord = artifact.read_json(TRIAL)?;
        Ok(Student { setting, artifact, val: record.val })
    }
}
