//! Screens settings without training: by classifiers in closed form on samples of each.

use anyhow::{Context as _, Result};
use gafi_audit::{PROBE_FILE, Probe, ProbeRecord};
use gafi_core::Inputs;

use crate::record::Screened;
use crate::runner::{StageRunner, Task};
use crate::schedule::screened_per_class;
use crate::setting::{Infeasible, Setting};
use crate::source::{GafiSource, Source};
use crate::trial::{TrialContext, infeasible};

/// Judges the samples of each of `settings` by a classifier in closed form ([`gafi_audit::RidgeClassifier`]) on the real images of
/// split `screen`, which neither GAN nor students see. In the order of `settings`.
///
/// # Errors
/// The first error of a stage, except that a class runs out of samples.
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
        // The first of its port, as a student's generator.
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
