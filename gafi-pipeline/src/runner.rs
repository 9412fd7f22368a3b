//! Runs stages into the folder of a run, concurrently where they don't need each other, and writes the record as they finish.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use gafi_core::{Artifact, Context, Error, Inputs, Kind, Outcome, Stage, TRIAL_FILE, TrialRecord, execute, provenance};

use crate::host::Host;
use crate::record::{ArtifactRef, Cost, RunRecord, StageTime, Status, Timings};
use crate::run_folder::RunFolder;

/// A stage to run.
pub(crate) struct Task {
    /// Its name, for display.
    pub(crate) name: String,
    /// The stage.
    pub(crate) stage: Box<dyn Stage + Send + Sync>,
    /// Its inputs.
    pub(crate) inputs: Inputs,
}

/// Runs stages into one run's folder.
pub(crate) struct StageRunner<'a> {
    pub(crate) host: &'a Host,
    /// The run's folder.
    pub(crate) dir: &'a Path,
    /// The record, as far as the run has come.
    pub(crate) record: RunRecord,
    folder: RunFolder,
    times: Vec<StageTime>,
    // Epochs of each classifier, by folder: equal settings share one.
    trained: BTreeMap<PathBuf, u64>,
    // Artifacts of this call: `force` replaces each once, not each time that it is needed.
    fresh: BTreeSet<PathBuf>,
    start: Instant,
}

impl<'a> StageRunner<'a> {
    /// Moves the records of another configuration to `superseded`, and starts `record`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn new(host: &'a Host, dir: &'a Path, folder: RunFolder, record: RunRecord) -> Result<Self> {
        folder.supersede(&record.config_hash)?;
        let runner = Self {
            host,
            dir,
            record,
            folder,
            times: Vec::new(),
            trained: BTreeMap::new(),
            fresh: BTreeSet::new(),
            start: Instant::now(),
        };
        runner.folder.write_record(&runner.record)?;
        Ok(runner)
    }

    /// Writes the record and the wall times.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn save(&mut self) -> Result<()> {
        self.record.cost = Cost { trainings: self.trained.len(), epochs: self.trained.values().sum() };
        self.folder.write_record(&self.record)?;
        self.folder.write_timings(&Timings {
            config_hash: self.record.config_hash.clone(),
            wall_s: self.wall_s(),
            stages: self.times.clone(),
        })
    }

    /// Records how the run ended, and returns its record.
    ///
    /// # Errors
    /// The run's own error; when a file cannot be written.
    pub(crate) fn finish(mut self, run: Result<()>) -> Result<RunRecord> {
        self.record.status = match &run {
            Ok(()) => Status::Finished,
            Err(error) => Status::Failed { error: format!("{error:#}") },
        };
        let saved = self.save();
        run.and(saved).map(|()| self.record)
    }

    /// A reference to an artifact, for the record.
    pub(crate) fn link(&self, artifact: &Artifact) -> ArtifactRef {
        ArtifactRef::new(artifact, self.dir)
    }

    fn wall_s(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Runs one stage.
    ///
    /// # Errors
    /// The stage's error, with its name.
    pub(crate) fn run(&mut self, name: &str, stage: &dyn Stage, inputs: &Inputs) -> Result<Artifact> {
        let dest = artifact_folder(self.dir, stage, inputs);
        let outcome = self.execute(name, stage, inputs, &dest, self.host.cx())?;
        self.account(name, outcome)
    }

    /// Runs independent stages, as many at the same time as the host has jobs, on its devices in turn. The artifacts don't depend
    /// on that.
    ///
    /// # Errors
    /// The error of the first stage that failed, with its name. After it, no further stage starts.
    pub(crate) fn run_all(&mut self, tasks: Vec<Task>) -> Result<Vec<Artifact>> {
        self.try_all(tasks)?.into_iter().collect()
    }

    /// As [`StageRunner::run_all`], except that a stage whose source exhausts a class returns that error, and the others still run.
    ///
    /// # Errors
    /// The first other error.
    pub(crate) fn try_all(&mut self, tasks: Vec<Task>) -> Result<Vec<Result<Artifact>>> {
        let dest = |task: &Task| artifact_folder(self.dir, &*task.stage, &task.inputs);
        let dests: Vec<PathBuf> = tasks.iter().map(dest).collect();
        // Equal stages run once; the duplicates reuse the artifact.
        let exists = |dest: &PathBuf| dest.exists() && !self.context(self.host.cx(), dest).force;
        let is_new = |&i: &usize| !exists(&dests[i]) && !dests[..i].contains(&dests[i]);
        let new: Vec<usize> = (0..tasks.len()).filter(is_new).collect();
        let mut finished = self.run_concurrently(&tasks, &dests, &new)?;
        let mut artifacts = Vec::new();
        for (i, Task { name, stage, inputs }) in tasks.iter().enumerate() {
            artifacts.push(match finished.remove(&i) {
                Some(Ok(outcome)) => Ok(self.account(name, outcome)?),
                Some(Err(exhausted)) => Err(exhausted),
                None => separate_exhaustion(self.run(name, &**stage, inputs))?,
            });
        }
        Ok(artifacts)
    }

    /// Runs the tasks numbered `open` concurrently, except a last one that would run alone: the caller runs that one.
    fn run_concurrently(
        &self,
        tasks: &[Task],
        dests: &[PathBuf],
        mut open: &[usize],
    ) -> Result<BTreeMap<usize, Result<Outcome>>> {
        let mut finished = BTreeMap::new();
        while self.host.jobs().min(open.len()) > 1 {
            let jobs = self.host.jobs().min(open.len());
            // Stages of one kind take equally long. So each worker gets as many of them, and the remainder runs afterwards with
            // all threads. Several devices share no threads, so this does not apply to them.
            let alike = open.iter().all(|&i| tasks[i].stage.info().name == tasks[open[0]].stage.info().name);
            let left_over = if alike && self.host.devices() == 1 { open.len() % jobs } else { 0 };
            let (now, later) = open.split_at(open.len() - left_over);
            finished.extend(self.run_in_jobs(tasks, dests, now, jobs)?);
            open = later;
        }
        Ok(finished)
    }

    /// Runs the tasks numbered `these` in `jobs` workers, which share the threads and take the devices in turn.
    fn run_in_jobs(
        &self,
        tasks: &[Task],
        dests: &[PathBuf],
        these: &[usize],
        jobs: usize,
    ) -> Result<BTreeMap<usize, Result<Outcome>>> {
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let finished = Mutex::new(BTreeMap::new());
        let threads = (rayon::current_num_threads() / jobs).max(1);
        let work = |job: usize| -> Result<()> {
            let (_, cx) = self.host.of_job(job);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            while !failed.load(Ordering::Relaxed)
                && let Some(&i) = these.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let Task { name, stage, inputs } = &tasks[i];
                let outcome = pool.install(|| self.execute(name, &**stage, inputs, &dests[i], cx));
                let outcome = separate_exhaustion(outcome);
                failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                finished.lock().unwrap_or_else(PoisonError::into_inner).insert(i, outcome);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let work = &work;
            let workers: Vec<_> = (0..jobs).map(|job| scope.spawn(move || work(job))).collect();
            workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        let finished = finished.into_inner().unwrap_or_else(PoisonError::into_inner);
        finished.into_iter().map(|(i, outcome)| Ok((i, outcome?))).collect()
    }

    /// `cx` for the stage that writes `dest`, without `force` if this call has already produced that artifact.
    fn context(&self, cx: &Context, dest: &Path) -> Context {
        Context { force: cx.force && !self.fresh.contains(dest), ..cx.clone() }
    }

    /// Executes one stage on the device of `cx`, and logs its time.
    fn execute(&self, name: &str, stage: &dyn Stage, inputs: &Inputs, dest: &Path, cx: &Context) -> Result<Outcome> {
        let (outcome, line) = execute_named(name, stage, inputs, dest, &self.context(cx, dest))?;
        self.host.log(&format!("{:7.1} s  {line}", self.wall_s()));
        Ok(outcome)
    }

    /// Logs text below the lines of the stages.
    pub(crate) fn remark(&self, text: &str) {
        text.lines().for_each(|line| self.host.log(&format!("           {line}")));
    }

    fn account(&mut self, name: &str, outcome: Outcome) -> Result<Artifact> {
        let Outcome { artifact, cached, wall, .. } = outcome;
        self.times.push(StageTime { name: name.into(), wall_s: wall.as_secs_f64(), cached });
        self.fresh.insert(artifact.path().into());
        if artifact.kind() == Kind::Classifier {
            let epochs = artifact.read_json::<TrialRecord>(TRIAL_FILE)?.epochs.len() as u64;
            self.trained.insert(artifact.path().into(), epochs);
        }
        Ok(artifact)
    }
}

/// Executes a stage, and returns its outcome with a line for the log. An error names the stage.
pub(crate) fn execute_named(
    name: &str,
    stage: &dyn Stage,
    inputs: &Inputs,
    dest: &Path,
    cx: &Context,
) -> Result<(Outcome, String)> {
    let outcome = execute(stage, inputs, dest, cx).with_context(|| format!("{name} failed"))?;
    let how = if outcome.cached { "reused".into() } else { format!("{:.1} s", outcome.wall.as_secs_f64()) };
    Ok((outcome, format!("{name}: {how}")))
}

/// The folder of a stage's artifact in the run's folder `dir`, `NAME-FINGERPRINT`. A change of the configuration gives new
/// folders to the artifacts that it affects, and keeps the others.
pub(crate) fn artifact_folder(dir: &Path, stage: &dyn Stage, inputs: &Inputs) -> PathBuf {
    let fingerprint = provenance(stage, inputs).fingerprint();
    dir.join(format!("{}-{}", stage.info().name, &fingerprint[..FINGERPRINT_DIGITS]))
}

/// Digits of a fingerprint that name an artifact's folder.
pub(crate) const FINGERPRINT_DIGITS: usize = 12;

/// Separates an exhausted class, which makes a setting infeasible, from errors that end a run.
fn separate_exhaustion<T>(result: Result<T>) -> Result<Result<T>> {
    match result {
        Err(error) if !matches!(error.downcast_ref(), Some(Error::Exhausted(_))) => Err(error),
        result => Ok(result),
    }
}
