//! One trial: a student trained on generated images under a setting.

use std::num::NonZeroU64;

use anyhow::{Error, Result};
use gafi_core::{Artifact, Inputs, LearnerSpec, SourceSpec, TRIAL_FILE, TrialRecord, ValScore};
use gafi_filter::{Accept, FilterRule};
use gafi_nn::ClassifierConfig;
use gafi_recycle::{Recycle, Renewal};

use crate::config::PipelineConfig;
use crate::setting::{Infeasible, Setting};
use crate::source::{MixedConfig, SourceConfig};
use crate::workshop::{Task, Workshop};

/// What every student of a pipeline shares.
pub(crate) struct Classroom<'a> {
    /// The configuration.
    pub(crate) config: &'a PipelineConfig,
    /// The generators.
    pub(crate) generators: &'a [Artifact],
    /// The teacher.
    pub(crate) teacher: &'a Artifact,
    /// Real training images.
    pub(crate) train: &'a Artifact,
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
    pub(crate) fn source(&self, generator: usize, setting: &Setting) -> SourceConfig {
        let keep_probabilities = setting.distill.is_some();
        let base = FilterRule { keep_probabilities, ..self.config.search.filter.clone() };
        let filter = match setting.threshold {
            Some(threshold) => Some(FilterRule { threshold: threshold.into(), ..base }),
            // Nothing is rejected, but the teacher has to look: its probabilities are the labels.
            None if keep_probabilities => Some(FilterRule { accept: Accept::Any, threshold: 0.0.into(), ..base }),
            None => None,
        };
        SourceConfig {
            generator,
            std: setting.std.into(),
            filter,
            ..SourceConfig::plain(setting.checkpoint, self.latent_seed)
        }
    }

    /// The training of a student on samples of one generator.
    fn trial(&self, name: &str, generator: usize, setting: &Setting) -> Result<Task> {
        // One generator is always the first of its port, so that equal trials are one.
        let source = SourceConfig { generator: 0, ..self.source(generator, setting) };
        let inputs = Inputs::new().with("generators", &self.generators[generator]);
        self.training(format!("{name} ({setting})"), SourceSpec::of(&source)?, inputs, setting)
    }

    /// The training of a student on samples of several generators, each under its own setting; recycling, labels and length
    /// are those of the first. In equal shares, or, with `turns`, one generator after the other, each for as many images as a set
    /// has.
    fn mixed(&self, name: &str, settings: &[Setting], turns: bool) -> Result<Task> {
        let turn = if turns { self.images(&settings[0]) } else { 1 };
        let sources = settings.iter().enumerate().map(|(i, setting)| self.source(i, setting)).collect();
        let turn = NonZeroU64::new(turn).unwrap_or(NonZeroU64::MIN);
        let source = MixedConfig { kind: "gafi-mixed".into(), sources, turn };
        let generators = self.generators.iter().take(settings.len());
        let inputs = generators.fold(Inputs::new(), |inputs, generator| inputs.with("generators", generator));
        self.training(format!("{name} ({} generators)", settings.len()), SourceSpec::of(&source)?, inputs, &settings[0])
    }

    /// Images of each class in a trial's set.
    pub(crate) fn images(&self, setting: &Setting) -> u64 {
        self.per_class * u64::from(setting.times)
    }

    /// A trial's epochs.
    fn epochs(&self, setting: &Setting) -> u32 {
        setting.epochs.unwrap_or(self.config.student.epochs)
    }

    fn training(&self, name: String, source: SourceSpec, inputs: Inputs, setting: &Setting) -> Result<Task> {
        let learner = learner(&self.config.student, setting);
        let stage = Recycle {
            source,
            per_class: self.images(setting),
            recycle: setting.recycle,
            learner: LearnerSpec::of(&learner)?,
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

    /// Trains a student of one generator under each setting, in that order.
    ///
    /// # Errors
    /// What the stages say, but for a class that cannot be filled under a setting.
    pub(crate) fn students(
        &self,
        shop: &mut Workshop,
        generator: usize,
        trials: impl IntoIterator<Item = (String, Setting)>,
    ) -> Result<Vec<Attempt>> {
        let trials = trials.into_iter().map(|(name, setting)| (name, self.normal(setting)));
        let (names, settings): (Vec<_>, Vec<_>) = trials.unzip();
        let tasks = names.iter().zip(&settings).map(|(n, s)| self.trial(n, generator, s)).collect::<Result<_>>()?;
        let artifacts = shop.try_all(tasks)?;
        settings.into_iter().zip(artifacts).map(|(setting, artifact)| attempt(shop, setting, 1, artifact)).collect()
    }

    /// Trains a student of all generators under a setting each, in equal shares and, where all of them get a turn, in turns. Each
    /// with the name of its row.
    ///
    /// # Errors
    /// What the stages say, but for a class that cannot be filled.
    pub(crate) fn students_of_all(
        &self,
        shop: &mut Workshop,
        settings: Vec<Setting>,
    ) -> Result<Vec<(String, Attempt)>> {
        let settings: Vec<_> = settings.into_iter().map(|s| self.normal(s)).collect();
        let mut ways = vec![("gafi-multi", false)];
        if take_turns(settings.len(), settings[0].recycle, self.epochs(&settings[0])) {
            ways.push(("gafi-multi-turns", true));
        } else {
            let why = "renewals are too few for each generator to have a turn";
            shop.host.log(&format!("           gafi-multi-turns: {why}; going on without it"));
        }
        let tasks = ways.iter().map(|&(name, turns)| self.mixed(name, &settings, turns)).collect::<Result<_>>()?;
        let made = shop.try_all(tasks)?;
        ways.iter()
            .zip(made)
            .map(|((name, _), made)| Ok((name.to_string(), attempt(shop, settings[0].clone(), settings.len(), made)?)))
            .collect()
    }
}

/// How a student under `setting` is trained: as `student`, its rates moved along where it is shorter.
fn learner(student: &ClassifierConfig, setting: &Setting) -> ClassifierConfig {
    let student = ClassifierConfig { distill: setting.distill, ..student.clone() };
    match setting.epochs {
        Some(epochs) => student.rescaled(epochs),
        None => student,
    }
}

/// Whether so many generators all get a turn while a student trains: as many images as a set has, so one renewal of all of it, or
/// several of a part.
pub(crate) fn take_turns(generators: usize, renewal: Option<Renewal>, epochs: u32) -> bool {
    let renewed = |r: Renewal| f64::from(epochs.saturating_sub(1) / r.period.max(1)) * r.factor;
    1.0 + renewal.map_or(0.0, renewed) > generators.saturating_sub(1) as f64
}

fn attempt(shop: &Workshop, setting: Setting, generators: usize, made: Result<Artifact>) -> Result<Attempt> {
    Ok(match made {
        Ok(artifact) => Ok(Student::new(setting, generators, artifact)?),
        Err(error) => Err(going_without(shop, setting, &error)),
    })
}

/// Says that a class cannot be filled under `setting`.
pub(crate) fn going_without(shop: &Workshop, setting: Setting, error: &Error) -> Infeasible {
    shop.host.log(&format!("           {error:#}; going on without it"));
    Infeasible::new(setting, error)
}

/// A student, or why there is none.
pub(crate) type Attempt = std::result::Result<Student, Infeasible>;

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
        let val = artifact.read_json::<TrialRecord>(TRIAL_FILE)?.val;
        Ok(Self { setting, generators, artifact, val })
    }
}

/// The name of an artifact's folder.
pub(crate) fn folder(artifact: &Artifact) -> String {
    artifact.path().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_student_has_the_rates_of_a_long_one() {
        let (paper, at) = (ClassifierConfig::default(), Setting::plain(1));
        assert_eq!(learner(&paper, &at), paper);
        let short = learner(&paper, &Setting { epochs: Some(10), ..at });
        let rates = |config: &ClassifierConfig, epoch| config.schedule().lr(epoch, 0, 1);
        for epoch in 0..10 {
            assert_eq!(rates(&short, epoch), rates(&paper, 10 * epoch), "epoch {epoch}");
        }
    }

    #[test]
    fn turns_are_for_students_that_see_every_generator() {
        let every = |period, factor| Some(Renewal { period, factor });
        assert!(take_turns(6, every(1, 1.0), 100));
        assert!(!take_turns(2, None, 100), "one set, of one generator");
        assert!(take_turns(3, every(1, 1.0), 3) && !take_turns(4, every(1, 1.0), 3));
        // A set and a half: the second generator has half a turn, a third none.
        assert!(take_turns(2, every(1, 0.5), 2) && !take_turns(3, every(1, 0.5), 2));
        assert!(!take_turns(2, every(10, 1.0), 10), "the first renewal would come after the last epoch");
    }
}
