//! One trial: a student trained on generated images under a setting.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use gafi_core::{Artifact, Error, Inputs, Outcome, Stage, TRIAL, TrialRecord, ValScore, execute, provenance};
use gafi_expand::{ClassStds, StdRange};
use gafi_filter::{Accept, FilterRule, Quota, Thresholds};
use gafi_nn::{ClassifierConfig, Distill};
use gafi_recycle::{GENERATORS, Recycle, Renewal};
use serde::{Deserialize, Serialize};

use super::calibrate::PerClass;
use super::config::{Labels, PipelineConfig};
use super::report::StageTime;
use crate::session::Session;
use crate::source::{MixedConfig, SourceConfig};

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
    /// Soft labels, and how much they count; none: hard ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill: Option<Distill>,
    /// The set, as a multiple of the usual one.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u32,
    /// Deviations and thresholds of each class in place of the common ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_class: Option<PerClass>,
    /// How the teacher's confidences should be distributed; none: as they come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// The student's epochs; none: all of its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
}

fn once() -> u32 {
    1
}

fn is_once(times: &u32) -> bool {
    *times == 1
}

impl Setting {
    /// Samples of `checkpoint` as they come, a set that stays, hard labels, full length.
    pub fn plain(checkpoint: u64) -> Self {
        let std = StdRange::default();
        let (per_class, quota) = (None, None);
        Self {
            checkpoint,
            std,
            threshold: None,
            recycle: None,
            distill: None,
            times: 1,
            per_class,
            quota,
            epochs: None,
        }
    }

    /// What the student is told about an image.
    pub fn labels(&self) -> Labels {
        if self.distill.is_some() { Labels::Soft } else { Labels::Hard }
    }
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "checkpoint {}, std {}", self.checkpoint, self.std)?;
        match self.threshold {
            Some(t) => write!(f, ", filter > {t:.2}")?,
            None => write!(f, ", unfiltered")?,
        }
        match &self.recycle {
            Some(r) if r.factor < 1.0 => write!(f, ", {:.0} % renewed every {} epochs", 100.0 * r.factor, r.period)?,
            Some(r) => write!(f, ", renewed every {} epochs", r.period)?,
            None => write!(f, ", never renewed")?,
        }
        if self.distill.is_some() {
            write!(f, ", soft labels")?;
        }
        if self.times > 1 {
            write!(f, ", {} times the images", self.times)?;
        }
        if self.per_class.is_some() {
            write!(f, ", set for each class")?;
        }
        if self.quota.is_some() {
            write!(f, ", as confident as real ones")?;
        }
        self.epochs.map_or(Ok(()), |epochs| write!(f, ", {epochs} epochs"))
    }
}

/// A stage to run, its inputs, and its name for people.
pub(crate) type Task = (String, Box<dyn Stage + Send + Sync>, Inputs);

/// Runs stages into one folder and keeps the books.
pub(crate) struct Workshop<'a> {
    /// The program.
    pub(crate) session: &'a Session,
    /// The pipeline's folder.
    pub(crate) dir: &'a Path,
    /// Every stage run so far.
    pub(crate) stages: Vec<StageTime>,
    // Folder of each classifier, and the epochs it was trained for.
    trained: BTreeMap<PathBuf, u64>,
    begun: Instant,
}

/// What every student of a pipeline shares.
pub(crate) struct Classroom<'a> {
    /// The configuration.
    pub(crate) config: &'a PipelineConfig,
    /// The generators.
    pub(crate) generators: &'a [Artifact],
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

impl Classroom<'_> {
    /// How a trial's samples are made.
    pub(super) fn source(&self, generator: usize, setting: &Setting) -> SourceConfig {
        let keep_probabilities = setting.distill.is_some();
        let base = FilterRule { keep_probabilities, ..self.config.search.filter.clone() };
        let base = FilterRule { quota: setting.quota.clone().or(base.quota.clone()), ..base };
        let filter = match (&setting.per_class, setting.threshold) {
            (Some(each), Some(_)) => {
                Some(FilterRule { threshold: Thresholds::PerClass(each.thresholds.clone()), ..base })
            }
            (None, Some(threshold)) => Some(FilterRule { threshold: threshold.into(), ..base }),
            // Nothing is rejected, but the teacher has to look: its probabilities are the labels.
            (_, None) if keep_probabilities => Some(FilterRule { accept: Accept::Any, threshold: 0.0.into(), ..base }),
            (_, None) => None,
        };
        SourceConfig {
            generator: GENERATORS[generator].into(),
            std: setting
                .per_class
                .as_ref()
                .map_or(setting.std.into(), |each| ClassStds::PerClass { per_class: each.stds.clone() }),
            filter,
            ..SourceConfig::plain(setting.checkpoint, self.latent_seed)
        }
    }

    /// The training of a student on samples of one generator.
    fn trial(&self, name: &str, generator: usize, setting: &Setting) -> Result<Task> {
        // One generator is always plugged into the first port: equal trials are one.
        let source = SourceConfig { generator: GENERATORS[0].into(), ..self.source(generator, setting) };
        let inputs = Inputs::new().with(GENERATORS[0], &self.generators[generator]);
        self.training(format!("{name} ({setting})"), serde_json::to_value(source)?, inputs, setting)
    }

    /// The training of a student on samples of several generators, each under its own setting; recycling, labels and length
    /// are those of the first. In equal shares, or, with `turns`, one generator after the other.
    fn mixed(&self, name: &str, settings: &[Setting], turns: bool) -> Result<Task> {
        let turn = if turns { self.images(&settings[0]) } else { 1 };
        let sources = settings.iter().enumerate().map(|(i, setting)| self.source(i, setting)).collect();
        let turn = NonZeroU64::new(turn).unwrap_or(NonZeroU64::MIN);
        let source = MixedConfig { kind: "gafi-mixed".into(), sources, turn };
        let inputs = GENERATORS.iter().zip(self.generators).take(settings.len());
        let inputs = inputs.fold(Inputs::new(), |inputs, (port, generator)| inputs.with(port, generator));
        self.training(
            format!("{name} ({} generators)", settings.len()),
            serde_json::to_value(source)?,
            inputs,
            &settings[0],
        )
    }

    /// Images of each class in a trial's set.
    pub(crate) fn images(&self, setting: &Setting) -> u64 {
        self.per_class * u64::from(setting.times)
    }

    /// A trial's epochs.
    fn epochs(&self, setting: &Setting) -> u32 {
        setting.epochs.unwrap_or(self.config.student.epochs)
    }

    fn training(&self, name: String, source: serde_json::Value, inputs: Inputs, setting: &Setting) -> Result<Task> {
        let epochs = self.epochs(setting);
        let learner = ClassifierConfig { epochs, distill: setting.distill, ..self.config.student.clone() };
        let stage = Recycle {
            source,
            per_class: self.images(setting),
            recycle: setting.recycle,
            learner: serde_json::to_value(&learner)?,
            seed: self.student_seed,
        };
        let mut inputs = inputs.with("val", self.val);
        if setting.threshold.is_some() || setting.distill.is_some() {
            inputs = inputs.with("teacher", self.teacher);
        }
        Ok((name, Box::new(stage), inputs))
    }

    /// A renewal that comes after the last epoch never comes: said once, so that equal trials are one.
    fn normal(&self, setting: Setting) -> Setting {
        let recycle = setting.recycle.filter(|r| r.period < self.epochs(&setting));
        Setting { recycle, ..setting }
    }
}

impl<'a> Workshop<'a> {
    /// An empty one.
    pub(crate) fn new(session: &'a Session, dir: &'a Path) -> Self {
        Self { session, dir, stages: Vec::new(), trained: BTreeMap::new(), begun: Instant::now() }
    }

    /// Seconds since it was opened.
    pub(crate) fn wall_s(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Classifiers that were trained, or found trained, and the epochs of all of them: equal settings share one.
    pub(crate) fn trained(&self) -> (usize, u64) {
        (self.trained.len(), self.trained.values().sum())
    }

    /// Where `stage` is made: `NAME-FINGERPRINT`, so that a change of the configuration makes again what it touches and nothing
    /// else, and keeps the rest.
    fn dest(&self, stage: &dyn Stage, inputs: &Inputs) -> PathBuf {
        let fingerprint = provenance(stage, inputs).fingerprint();
        self.dir.join(format!("{}-{}", stage.name(), &fingerprint[..12]))
    }

    /// Runs one stage.
    ///
    /// # Errors
    /// What the stage says, with its name before it.
    pub(crate) fn run(&mut self, name: &str, stage: &dyn Stage, inputs: &Inputs) -> Result<Artifact> {
        let dest = self.dest(stage, inputs);
        let outcome = self.session.execute(stage, inputs, &dest).map_err(|e| e.context(format!("{name} failed")))?;
        self.note(name, outcome)
    }

    /// Runs stages that do not need each other, as many side by side as the session has jobs, on its devices in turn. What they
    /// make does not depend on that, nor do the books.
    ///
    /// # Errors
    /// What the first stage that failed says, with its name before it. No further one is begun then.
    pub(crate) fn run_all(&mut self, tasks: Vec<Task>) -> Result<Vec<Artifact>> {
        self.try_all(tasks)?.into_iter().collect()
    }

    /// The same where what is asked for may turn out impossible: in the place of such a stage's artifact is why, and the others
    /// are run.
    ///
    /// # Errors
    /// What the first stage says that failed for another reason.
    fn try_all(&mut self, tasks: Vec<Task>) -> Result<Vec<Result<Artifact>>> {
        let jobs = self.session.jobs.min(tasks.len());
        if jobs <= 1 {
            return tasks.iter().map(|(name, stage, inputs)| possible(self.run(name, &**stage, inputs))).collect();
        }
        let dests: Vec<PathBuf> = tasks.iter().map(|(_, stage, inputs)| self.dest(&**stage, inputs)).collect();
        // Equal ones are made once; the others then find it there.
        let firsts: Vec<usize> = (0..tasks.len()).filter(|&i| !dests[..i].contains(&dests[i])).collect();
        let outcomes: Vec<Mutex<Option<Result<Result<Outcome>>>>> = tasks.iter().map(|_| Mutex::new(None)).collect();
        let (next, failed, session) = (AtomicUsize::new(0), AtomicBool::new(false), self.session);
        let threads = (rayon::current_num_threads() / jobs).max(1);
        let work = &|job: usize| -> Result<()> {
            let (_, cx) = session.of_job(job);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            while !failed.load(Ordering::Relaxed)
                && let Some(&task) = firsts.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let (name, stage, inputs) = &tasks[task];
                let made = pool.install(|| execute(&**stage, inputs, &dests[task], cx));
                let made = made.map_err(|e| anyhow::Error::from(e).context(format!("{name} failed")));
                let made = possible(made);
                failed.fetch_or(made.is_err(), Ordering::Relaxed);
                *outcomes[task].lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs).map(|job| scope.spawn(move || work(job))).collect();
            workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        let mut artifacts = Vec::new();
        let mut made: Vec<_> =
            outcomes.into_iter().map(|o| o.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
        let first = made.iter().position(|o| matches!(o, Some(Err(_))));
        if let Some(Err(error)) = first.and_then(|i| made[i].take()) {
            return Err(error);
        }
        for ((name, stage, inputs), made) in tasks.iter().zip(made) {
            artifacts.push(match made {
                Some(made) => match made? {
                    Ok(outcome) => Ok(self.note(name, outcome)?),
                    Err(impossible) => Err(impossible),
                },
                None => possible(self.run(name, &**stage, inputs))?,
            });
        }
        Ok(artifacts)
    }

    /// Writes down a stage that was run.
    fn note(&mut self, name: &str, outcome: Outcome) -> Result<Artifact> {
        let how = if outcome.cached { "there already".into() } else { format!("{:.1} s", outcome.wall.as_secs_f64()) };
        self.session.bars.say(&format!("{:7.1} s  {name}: {how}", self.wall_s()));
        self.stages.push(StageTime { name: name.into(), wall_s: outcome.wall.as_secs_f64(), cached: outcome.cached });
        let artifact = outcome.artifact;
        if artifact.kind() == gafi_core::Kind::Classifier {
            let epochs = artifact.read_json::<TrialRecord>(TRIAL)?.epochs.len() as u64;
            self.trained.insert(artifact.path().into(), epochs);
        }
        Ok(artifact)
    }

    /// Trains a student of one generator under each setting, in that order.
    ///
    /// # Errors
    /// What the stages say, but for a class that cannot be filled under a setting.
    pub(crate) fn students(
        &mut self,
        class: &Classroom,
        generator: usize,
        trials: impl IntoIterator<Item = (String, Setting)>,
    ) -> Result<Vec<Attempt>> {
        let trials = trials.into_iter().map(|(name, setting)| (name, class.normal(setting)));
        let (names, settings): (Vec<_>, Vec<_>) = trials.unzip();
        let tasks = names.iter().zip(&settings).map(|(n, s)| class.trial(n, generator, s)).collect::<Result<_>>()?;
        let artifacts = self.try_all(tasks)?;
        settings.into_iter().zip(artifacts).map(|(setting, artifact)| self.attempt(setting, 1, artifact)).collect()
    }

    /// Trains a student of all generators under a setting each, in equal shares and in turns.
    ///
    /// # Errors
    /// What the stages say, but for a class that cannot be filled.
    pub(crate) fn students_of_all(&mut self, class: &Classroom, settings: Vec<Setting>) -> Result<Vec<Attempt>> {
        let settings: Vec<_> = settings.into_iter().map(|s| class.normal(s)).collect();
        let tasks =
            vec![class.mixed("gafi-multi", &settings, false)?, class.mixed("gafi-multi-turns", &settings, true)?];
        let artifacts = self.try_all(tasks)?;
        artifacts.into_iter().map(|made| self.attempt(settings[0].clone(), settings.len(), made)).collect()
    }

    fn attempt(&self, setting: Setting, generators: usize, made: Result<Artifact>) -> Result<Attempt> {
        Ok(match made {
            Ok(artifact) => Ok(Student::new(setting, generators, artifact)?),
            Err(error) => {
                self.session.bars.say(&format!("           {error:#}; going on without it"));
                Err(Impossible::new(setting, &error))
            }
        })
    }
}

/// Tells a class that could not be filled, which is the setting's fault, from errors that end a run.
fn possible<T>(made: Result<T>) -> Result<Result<T>> {
    match made {
        Err(error) if !matches!(error.downcast_ref(), Some(Error::Exhausted { .. })) => Err(error),
        made => Ok(made),
    }
}

/// `made` with `setting` for a reason, where a class could not be filled under it.
pub(super) fn under<T>(setting: &Setting, made: Result<T>) -> Result<T> {
    possible(made)?.map_err(|error| Impossible::new(setting.clone(), &error).into())
}

/// A student, or why there is none.
pub(crate) type Attempt = std::result::Result<Student, Impossible>;

/// A setting under which a class cannot be filled: too few samples pass.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("{setting}: {why}")]
pub struct Impossible {
    /// What was tried.
    pub setting: Setting,
    /// Which class, and how many samples there were.
    pub why: String,
}

impl Impossible {
    fn new(setting: Setting, error: &anyhow::Error) -> Self {
        Self { setting, why: error.root_cause().to_string() }
    }
}

/// A trained student.
#[derive(Debug, Clone)]
pub struct Student {
    /// What was tried, on the first generator where there are several.
    pub setting: Setting,
    /// Generators.
    pub generators: usize,
    /// The classifier artifact.
    pub artifact: Artifact,
    /// Its score.
    pub val: ValScore,
}

impl Student {
    fn new(setting: Setting, generators: usize, artifact: Artifact) -> Result<Self> {
        let val = artifact.read_json::<TrialRecord>(TRIAL)?.val;
        Ok(Self { setting, generators, artifact, val })
    }
}

/// The name of an artifact's folder.
pub(super) fn folder(artifact: &Artifact) -> String {
    artifact.path().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}
