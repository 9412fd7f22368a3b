//! The training of a student on generated images under a setting.

use std::num::NonZeroU64;

use anyhow::Result;
use gafi_core::{Artifact, ClassTally, Inputs, LearnerSpec, SourceSpec, Stream, TRIAL_FILE, TrialRecord, ValScore};
use gafi_filter::{Accept, Attempts, FilterRule};
use gafi_nn::ClassifierConfig;
use gafi_recycle::Recycle;

use crate::config::PipelineConfig;
use crate::record::ArtifactRef;
use crate::runner::{StageRunner, Task};
use crate::schedule::{RowTemplate, student_seed};
use crate::setting::{Infeasible, Setting};
use crate::source::{GafiSource, MixedSource, Source};

/// What all students of a run share.
pub(crate) struct TrialContext<'a> {
    pub(crate) config: &'a PipelineConfig,
    pub(crate) generators: Vec<Artifact>,
    pub(crate) teacher: Artifact,
    /// The images used to choose among students.
    pub(crate) val: Artifact,
    /// The images on which settings are screened, if any is.
    pub(crate) screen: Option<Artifact>,
    /// Which repeat a student is, from 0 for the row itself; see `student_seeds`.
    pub(crate) training: u32,
    /// Number of classes.
    pub(crate) classes: usize,
    /// Images of each class in a set of the usual size.
    pub(crate) per_class: u64,
}

/// A row that is ready to be trained.
pub(crate) struct ReadyRow<'a> {
    pub(crate) template: &'a RowTemplate,
    /// The setting of each generator, normalised as in [`TrialContext::normalized`].
    pub(crate) settings: Vec<Setting>,
}

impl ReadyRow<'_> {
    /// The generator of the first setting.
    pub(crate) fn generator(&self) -> usize {
        self.template.chosen_by[0].generator
    }
}

/// A trained student.
#[derive(Debug, Clone)]
pub(crate) struct Student {
    /// Its setting.
    pub(crate) setting: Setting,
    /// Its classifier.
    pub(crate) artifact: ArtifactRef,
    /// Validation score of the epoch that was kept.
    pub(crate) val: ValScore,
    /// Epochs trained.
    pub(crate) epochs: u64,
    /// Samples drawn, accepted and backfilled, of all classes.
    pub(crate) tally: Option<ClassTally>,
}

/// A student, or why a class ran out of samples.
pub(crate) type TrialResult = std::result::Result<Student, Infeasible>;

impl TrialContext<'_> {
    /// The source of samples under a setting.
    pub(crate) fn source(&self, generator: usize, setting: &Setting) -> GafiSource {
        let keep_probabilities = setting.distill.is_some();
        let base = &self.config.search.filter;
        let per_set = (base.attempts == Attempts::Rounds).then(|| self.images(setting));
        let base = FilterRule { keep_probabilities, per_set, ..base.clone() };
        let filter = match setting.threshold {
            Some(threshold) => Some(FilterRule { threshold, ..base }),
            // Nothing is rejected, but soft labels are the teacher's probabilities.
            None if keep_probabilities => Some(FilterRule { accept: Accept::Any, threshold: 0.0, ..base }),
            None => None,
        };
        let seed = self.seeds().child("latents").seed();
        GafiSource { generator, std: setting.std, filter, ..GafiSource::plain(setting.checkpoint, seed) }
    }

    fn seeds(&self) -> Stream {
        Stream::new(self.config.seed)
    }

    /// The training of a student of one generator.
    fn single(&self, name: &str, generator: usize, setting: &Setting) -> Result<Task> {
        // The generator is the first of its port whatever its number, so that equal trials have equal fingerprints.
        let source = Source::Gafi(GafiSource { generator: 0, ..self.source(generator, setting) });
        let inputs = Inputs::new().with("generators", &self.generators[generator]);
        self.task(format!("{name} ({setting})"), source.to_spec()?, inputs, setting, self.images(setting))
    }

    /// The training of a student of the first generators, each under its own setting; renewal, labels and length are those of
    /// the first setting. Generators have equal shares of a set or, with `turns`, take turns of as many images as a set has: the set
    /// of epoch e, from 0, is of generator e mod N, the order that the released program intends (it stops at the first renewal).
    fn mixed(&self, row: &ReadyRow) -> Result<Task> {
        let settings = &row.settings;
        let turns = row.template.turns;
        let turn = if turns { self.images(&settings[0]) } else { 1 };
        let turn = NonZeroU64::new(turn).unwrap_or(NonZeroU64::MIN);
        let source = |(i, setting)| {
            let mut source = self.source(i, setting);
            // Each generator's part of a set has its own rounds.
            if let Some(per_set) = source.filter.as_mut().and_then(|rule| rule.per_set.as_mut()).filter(|_| !turns) {
                *per_set = (*per_set / settings.len() as u64).max(1);
            }
            source
        };
        let sources = settings.iter().enumerate().map(source).collect();
        let source = Source::Mixed(MixedSource { sources, turn });
        let generators = self.generators.iter().take(settings.len());
        let inputs = generators.fold(Inputs::new(), |inputs, generator| inputs.with("generators", generator));
        let name = format!("{} ({} generators)", row.template.name, settings.len());
        self.task(name, source.to_spec()?, inputs, &settings[0], self.set_size(row))
    }

    fn task(
        &self,
        name: String,
        source: SourceSpec,
        inputs: Inputs,
        setting: &Setting,
        per_class: u64,
    ) -> Result<Task> {
        let stage = Recycle {
            source,
            per_class,
            recycle: setting.recycle,
            learner: LearnerSpec::of(&learner(&self.config.student, setting))?,
            seed: student_seed(&self.seeds(), self.training),
        };
        let mut inputs = inputs.with("val", &self.val);
        if setting.threshold.is_some() || setting.distill.is_some() {
            inputs = inputs.with("teacher", &self.teacher);
        }
        Ok(Task { name, stage: Box::new(stage), inputs })
    }

    /// Images of each class in the set of a row, of which its generators have equal shares unless they take turns.
    pub(crate) fn set_size(&self, row: &ReadyRow) -> u64 {
        let usual = self.images(&row.settings[0]);
        if row.template.turns { usual } else { in_equal_shares(usual, row.settings.len()) }
    }

    /// Images of each class in a set under `setting`.
    fn images(&self, setting: &Setting) -> u64 {
        self.per_class * u64::from(setting.times)
    }

    /// A period that the student's epochs don't reach means no renewal. It is written as `None`, so that equal trials are equal.
    pub(crate) fn normalized(&self, setting: Setting) -> Setting {
        let epochs = setting.epochs.unwrap_or(self.config.student.epochs);
        Setting { recycle: setting.recycle.filter(|renewal| renewal.period < epochs), ..setting }
    }

    /// Trains a student of one generator under each setting, in order; each comes with a name for display.
    ///
    /// # Errors
    /// The first error of a stage other than an exhausted class.
    pub(crate) fn train(
        &self,
        runner: &mut StageRunner,
        generator: usize,
        trials: impl IntoIterator<Item = (String, Setting)>,
    ) -> Result<Vec<TrialResult>> {
        let trials = trials.into_iter().map(|(name, setting)| (name, self.normalized(setting)));
        let (names, settings): (Vec<_>, Vec<_>) = trials.unzip();
        let tasks = names.iter().zip(&settings).map(|(name, setting)| self.single(name, generator, setting));
        let artifacts = runner.try_all(tasks.collect::<Result<_>>()?)?;
        settings.into_iter().zip(artifacts).map(|(setting, result)| student(runner, setting, result)).collect()
    }

    /// Trains the student of each of `rows`, which learn from the first generators together.
    ///
    /// # Errors
    /// As [`TrialContext::train`].
    pub(crate) fn train_mixed(&self, runner: &mut StageRunner, rows: &[ReadyRow]) -> Result<Vec<TrialResult>> {
        let tasks = rows.iter().map(|row| self.mixed(row)).collect::<Result<_>>()?;
        let artifacts = runner.try_all(tasks)?;
        let first = rows.iter().map(|row| row.settings[0].clone());
        first.zip(artifacts).map(|(setting, result)| student(runner, setting, result)).collect()
    }
}

/// The largest set of at most `usual` images of each class that `generators` can share equally, as in the released program.
fn in_equal_shares(usual: u64, generators: usize) -> u64 {
    let generators = generators.max(1) as u64;
    (usual / generators).max(1) * generators
}

/// The training of a student: shorter than `student` if the setting says so, with the learning-rate schedule scaled along.
fn learner(student: &ClassifierConfig, setting: &Setting) -> ClassifierConfig {
    let student = ClassifierConfig { distill: setting.distill, ..student.clone() };
    match setting.epochs {
        Some(epochs) => student.rescaled(epochs),
        None => student,
    }
}

fn student(runner: &StageRunner, setting: Setting, result: Result<Artifact>) -> Result<TrialResult> {
    match result {
        Ok(artifact) => {
            let TrialRecord { val, epochs, tally, .. } = artifact.read_json(TRIAL_FILE)?;
            let (epochs, tally) = (epochs.len() as u64, tally.map(|tally| tally.total()));
            Ok(Ok(Student { setting, artifact: runner.link(&artifact), val, epochs, tally }))
        }
        Err(error) => Ok(Err(infeasible(runner, setting, &error))),
    }
}

/// Logs that a class ran out of samples under `setting`.
pub(crate) fn infeasible(runner: &StageRunner, setting: Setting, error: &anyhow::Error) -> Infeasible {
    runner.remark(&format!("infeasible, continuing without it: {error:#}"));
    Infeasible { setting, why: error.root_cause().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generators_share_a_set_equally() {
        // The released program's class_samples // num_gen, for Fashion-MNIST and CIFAR-10.
        assert_eq!((in_equal_shares(5000, 6), in_equal_shares(4000, 3)), (6 * 833, 3 * 1333));
        assert_eq!((in_equal_shares(7, 1), in_equal_shares(2, 3)), (7, 3));
    }

    #[test]
    fn a_short_student_has_the_learning_rates_of_a_long_one() {
        let paper = ClassifierConfig::default();
        let at = Setting::plain(1);
        assert_eq!(learner(&paper, &at), paper);
        let short = learner(&paper, &Setting { epochs: Some(10), ..at });
        let rate = |config: &ClassifierConfig, epoch| config.schedule().lr(epoch, 0, 1);
        for epoch in 0..10 {
            assert_eq!(rate(&short, epoch), rate(&paper, 10 * epoch), "epoch {epoch}");
        }
    }
}
