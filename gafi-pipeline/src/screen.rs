//! Screens settings without training, by closed-form classifiers on samples of each.

use anyhow::{Context as _, Result};
use gafi_audit::{PROBE_FILE, Probe, ProbeRecord};
use gafi_core::Inputs;

use crate::record::Screened;
use crate::runner::{StageRunner, Task};
use crate::schedule::screened_per_class;
use crate::setting::{Infeasible, Setting};
use crate::source::{GafiSource, Source};
use crate::trial::{TrialContext, infeasible};

/// Scores each of `settings`, in order: a closed-form classifier ([`gafi_audit::RidgeClassifier`]) is fitted to its samples and
/// evaluated on the real images of split `screen`, which neither GAN nor students see.
///
/// # Errors
/// The first error of a stage other than an exhausted class.
pub(crate) fn screen(
    runner: &mut StageRunner,
    context: &TrialContext,
    generator: usize,
    name: &str,
    settings: &[Setting],
) -> Result<Vec<Result<Screened, Infeasible>>> {
    let screen = context.screen.as_ref().context("the schedule imports no images to screen on")?;
    let per_class = screened_per_class(context.per_class, context.classes) as usize;
    let tasks = settings.iter().map(|setting| {
        // The first of its port, like a student's generator.
        let source = Source::Gafi(GafiSource { generator: 0, ..context.source(generator, setting) });
        let stage = Probe { source: source.to_spec()?, per_class, ..Probe::default() };
        let generator = &context.generators[generator];
        let inputs = Inputs::new().with("generators", generator).with("teacher", &context.teacher);
        let name = format!("{name}, closed form ({})", setting.samples());
        Ok(Task { name, stage: Box::new(stage), inputs: inputs.with("real", screen) })
    });
    let artifacts = runner.try_all(tasks.collect::<Result<_>>()?)?;
    let screened = settings.iter().zip(artifacts).map(|(setting, artifact)| match artifact {
        Ok(artifact) => {
            let accuracy = artifact.read_json::<ProbeRecord>(PROBE_FILE)?.accuracy;
            Ok(Ok(Screened { setting: setting.clone(), accuracy }))
        }
        Err(error) => Ok(Err(infeasible(runner, setting.clone(), &error))),
    });
    screened.collect()
}
