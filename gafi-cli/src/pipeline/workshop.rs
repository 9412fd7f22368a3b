//! Runs stages into the pipeline's folder, side by side where they do not need each other, and keeps the books.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use gafi_core::{Artifact, Error, Inputs, Outcome, Stage, TRIAL, TrialRecord, execute, provenance};
use serde::{Deserialize, Serialize};

use crate::session::Session;

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

/// What one stage took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageTime {
    /// For people.
    pub name: String,
    /// Seconds in this call.
    pub wall_s: f64,
    /// Whether its artifact was there already.
    pub cached: bool,
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
    pub(super) fn try_all(&mut self, tasks: Vec<Task>) -> Result<Vec<Result<Artifact>>> {
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
}

/// Tells a class that could not be filled, which is the setting's fault, from errors that end a run.
pub(super) fn possible<T>(made: Result<T>) -> Result<Result<T>> {
    match made {
        Err(error) if !matches!(error.downcast_ref(), Some(Error::Exhausted { .. })) => Err(error),
        made => Ok(made),
    }
}
