//! Runs a single job of a schedule, for clusters that start each job on its own machine.

use std::path::Path;

use anyhow::Result;
use gafi_core::{Artifact, Inputs, Split, Stage};
use gafi_data::Import;
use gafi_gan::TrainGan;

use crate::config::PipelineConfig;
use crate::host::Host;
use crate::preflight::Preflight;
use crate::runner::{artifact_folder, execute_named};
use crate::schedule::{Job, JobInput, Work};
use crate::usage::Usage;

/// Runs the job `id` of the schedule into the run's folder `dir`, after the jobs that it needs: an import, the teacher, a
/// generator or a reference. [`run()`](crate::run()) then finds the artifact and continues from there. Several processes may run
/// jobs of one run at the same time; the run's record is not touched.
///
/// # Errors
/// [`Usage`] when no job has this id, or when it depends on scores (searches, rows) or reads test images; the first error of a check
/// or a stage.
pub fn run_job(host: &Host, config: &PipelineConfig, dir: &Path, id: &str) -> Result<Artifact> {
    let config = &config.resolved();
    let Preflight { import, jobs, .. } = Preflight::run(host, config)?;
    Alone { host, dir, import: &import, jobs: &jobs }.run(id)
}

struct Alone<'a> {
    host: &'a Host,
    dir: &'a Path,
    import: &'a Import,
    jobs: &'a [Job],
}

impl Alone<'_> {
    fn run(&self, id: &str) -> Result<Artifact> {
        let Some((job, stage)) =
            self.jobs.iter().find(|job| job.id == id).and_then(|job| Some((job, self.stage(job)?)))
        else {
            let ids: Vec<&str> =
                self.jobs.iter().filter(|job| self.stage(job).is_some()).map(|job| job.id.as_str()).collect();
            return Err(Usage(format!("expected a job that can run alone ({}), found {id:?}", ids.join(", "))).into());
        };
        let mut inputs = Inputs::new();
        for input in &job.inputs {
            let JobInput::Job(needed) = input else { continue };
            let artifact = self.run(needed)?;
            let port = match self.jobs.iter().find(|job| job.id == *needed).map(|job| &job.work) {
                Some(Work::Import { split: Split::Val, .. }) => "val",
                Some(Work::Teacher(_)) => "teacher",
                _ => "train",
            };
            inputs = inputs.with(port, &artifact);
        }
        let dest = artifact_folder(self.dir, &*stage, &inputs);
        let (outcome, line) = execute_named(id, &*stage, &inputs, &dest, self.host.cx())?;
        self.host.log(&line);
        Ok(outcome.artifact)
    }

    /// The stage of a job that depends on no score, before the test.
    fn stage(&self, job: &Job) -> Option<Box<dyn Stage>> {
        match &job.work {
            Work::Import { split, .. } => {
                (*split != Split::Test).then(|| -> Box<dyn Stage> { Box::new(self.import.with_split(*split)) })
            }
            Work::Teacher(spec) | Work::Reference(spec) => Some(Box::new(spec.training.clone())),
            Work::Generator { config, .. } => {
                Some(Box::new(TrainGan { config: (**config).clone(), device: self.host.device().clone() }))
            }
            Work::SearchStep(_) | Work::Row(_) | Work::Repeat { .. } | Work::Test { .. } => None,
        }
    }
}
