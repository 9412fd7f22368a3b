//! Rows trained again with other student seeds, which show how much the randomness of a student's training alone changes a result.

use anyhow::{Context as _, Result};
use gafi_core::{Inputs, Stream, TRIAL_FILE, TrialRecord};
use gafi_nn::TrainClassifier;

use crate::record::{ArtifactRef, Repeat};
use crate::runner::StageRunner;
use crate::schedule::{Job, Work, student_seed};
use crate::trial::TrialContext;

/// Trains and records the repeats among `jobs`. A row that is infeasible has none.
///
/// # Errors
/// The first error of a stage.
pub(crate) fn train_repeats(runner: &mut StageRunner, context: &mut TrialContext, jobs: &[Job]) -> Result<()> {
    let repeats = jobs.iter().filter_map(|job| match &job.work {
        Work::Repeat { of, number } => Some((of, *number)),
        _ => None,
    });
    for (of, number) in repeats {
        let name = format!("{of}, training {}", number + 1);
        let repeat = |artifact, val| Repeat { number, artifact, val, test: None };
        if let Some(at) = runner.record.rows.iter().position(|row| row.name == *of) {
            context.training = number;
            let setting = runner.record.rows[at].setting().clone();
            let students = context.train(runner, 0, [(name, setting)])?;
            let students = students.into_iter().flatten().map(|student| repeat(student.artifact, student.val));
            runner.record.rows[at].repeats.extend(students);
        } else if let Some(at) = runner.record.roles.references.iter().position(|found| found.name == *of) {
            let (artifact, val) = train_reference(runner, context, jobs, of, &name, number)?;
            runner.record.roles.references[at].repeats.push(repeat(artifact, val));
        }
        runner.save()?;
    }
    Ok(())
}

fn train_reference(
    runner: &mut StageRunner,
    context: &TrialContext,
    jobs: &[Job],
    of: &str,
    name: &str,
    number: u32,
) -> Result<(ArtifactRef, gafi_core::ValScore)> {
    let spec = jobs.iter().find_map(|job| match &job.work {
        Work::Reference(spec) if spec.name == of => Some(spec),
        _ => None,
    });
    let training = spec.context("the schedule does not have this reference")?.training.clone();
    let seed = student_seed(&Stream::new(context.config.seed), number);
    let roles = &runner.record.roles;
    let open = |link: &Option<ArtifactRef>| link.as_ref().context("the images are not imported")?.open(runner.dir);
    let inputs = Inputs::new().with("train", &open(&roles.train)?).with("val", &open(&roles.val)?);
    let artifact = runner.run(name, &TrainClassifier { seed, ..training }, &inputs)?;
    let val = artifact.read_json::<TrialRecord>(TRIAL_FILE)?.val;
    Ok((runner.link(&artifact), val))
}
