//! Runs stages into the pipeline's folder, side by side where they do not need each other, and keeps the books.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use gafi_core::{Artifact, Context, Error, Inputs, Outcome, Stage, TRIAL_FILE, TrialRecord, execute, provenance};
use serde::{Deserialize, Serialize};

use crate::host::Host;

/// A stage to run, its inputs, and its name for people.
pub(crate) type Task = (String, Box<dyn Stage + Send + Sync>, Inputs);

/// Runs stages into one folder and keeps the books.
pub(crate) struct Workshop<'a> {
    /// The program.
    pub(crate) host: &'a Host,
    /// The pipeline's folder.
    pub(crate) dir: &'a Path,
    /// Every stage run so far.
    pub(crate) stages: Vec<StageTime>,
    // Folder of each classifier, and the epochs it was trained for.
    trained: BTreeMap<PathBuf, u64>,
    // What this call has made: --force asks for each artifact once more, not for each time that it is wanted.
    fresh: BTreeSet<PathBuf>,
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
    pub(crate) fn new(host: &'a Host, dir: &'a Path) -> Self {
        let (trained, fresh) = (BTreeMap::new(), BTreeSet::new());
        Self { host, dir, stages: Vec::new(), trained, fresh, begun: Instant::now() }
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
        self.dir.join(format!("{}-{}", stage.info().name, &fingerprint[..12]))
    }

    /// Runs one stage.
    ///
    /// # Errors
    /// What the stage says, with its name before it.
    pub(crate) fn run(&mut self, name: &str, stage: &dyn Stage, inputs: &Inputs) -> Result<Artifact> {
        let dest = self.dest(stage, inputs);
        let outcome = execute(stage, inputs, &dest, &self.context(self.host.cx(), &dest));
        let outcome = outcome.map_err(|e| anyhow::Error::from(e).context(format!("{name} failed")))?;
        self.say(name, &outcome);
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
    pub(crate) fn try_all(&mut self, tasks: Vec<Task>) -> Result<Vec<Result<Artifact>>> {
        let dests: Vec<PathBuf> = tasks.iter().map(|(_, stage, inputs)| self.dest(&**stage, inputs)).collect();
        // Equal ones are made once, and the others then find it there.
        let there = |dest: &PathBuf| dest.exists() && !self.context(self.host.cx(), dest).force;
        let new = |&i: &usize| !there(&dests[i]) && !dests[..i].contains(&dests[i]);
        let mut made = self.side_by_side(&tasks, &dests, &(0..tasks.len()).filter(new).collect::<Vec<_>>())?;
        let mut artifacts = Vec::new();
        for (i, (name, stage, inputs)) in tasks.iter().enumerate() {
            artifacts.push(match made.remove(&i) {
                Some(Ok(outcome)) => Ok(self.note(name, outcome)?),
                Some(Err(impossible)) => Err(impossible),
                None => possible(self.run(name, &**stage, inputs))?,
            });
        }
        Ok(artifacts)
    }

    /// Runs these of `tasks` side by side; not the last, where it would run alone.
    fn side_by_side(
        &self,
        tasks: &[Task],
        dests: &[PathBuf],
        mut open: &[usize],
    ) -> Result<BTreeMap<usize, Result<Outcome>>> {
        let mut made = BTreeMap::new();
        while self.host.jobs().min(open.len()) > 1 {
            let jobs = self.host.jobs().min(open.len());
            // Of stages of one kind, which take about as long, those that are left over when each job has had as many share all
            // threads afterwards. Devices share nothing.
            let alike = open.iter().all(|&task| tasks[task].1.info().name == tasks[open[0]].1.info().name);
            let left_over = if alike && self.host.devices() == 1 { open.len() % jobs } else { 0 };
            let (now, later) = open.split_at(open.len() - left_over);
            made.extend(self.in_jobs(tasks, dests, now, jobs)?);
            open = later;
        }
        Ok(made)
    }

    /// Runs these of `tasks` in so many jobs, which share the threads and have the devices in turn.
    fn in_jobs(
        &self,
        tasks: &[Task],
        dests: &[PathBuf],
        these: &[usize],
        jobs: usize,
    ) -> Result<Vec<(usize, Result<Outcome>)>> {
        let (next, failed, made) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(Vec::new()));
        let threads = (rayon::current_num_threads() / jobs).max(1);
        let work = |job: usize| -> Result<()> {
            let (_, cx) = self.host.of_job(job);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            while !failed.load(Ordering::Relaxed)
                && let Some(&task) = these.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let (name, stage, inputs) = &tasks[task];
                let cx = self.context(cx, &dests[task]);
                let outcome = pool.install(|| execute(&**stage, inputs, &dests[task], &cx));
                if let Ok(outcome) = &outcome {
                    self.say(name, outcome);
                }
                let outcome = outcome.map_err(|e| anyhow::Error::from(e).context(format!("{name} failed")));
                let outcome = possible(outcome);
                failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                made.lock().unwrap_or_else(PoisonError::into_inner).push((task, outcome));
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let work = &work;
            let workers: Vec<_> = (0..jobs).map(|job| scope.spawn(move || work(job))).collect();
            workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
        made.sort_unstable_by_key(|(task, _)| *task);
        made.into_iter().map(|(task, outcome)| Ok((task, outcome?))).collect()
    }

    /// `cx` for the stage that makes `dest`.
    fn context(&self, cx: &Context, dest: &Path) -> Context {
        Context { force: cx.force && !self.fresh.contains(dest), ..cx.clone() }
    }

    /// Tells that a stage is done.
    fn say(&self, name: &str, outcome: &Outcome) {
        let how = if outcome.cached { "there already".into() } else { format!("{:.1} s", outcome.wall.as_secs_f64()) };
        self.host.log(&format!("{:7.1} s  {name}: {how}", self.wall_s()));
    }

    /// Writes down a stage that was run.
    fn note(&mut self, name: &str, outcome: Outcome) -> Result<Artifact> {
        self.stages.push(StageTime { name: name.into(), wall_s: outcome.wall.as_secs_f64(), cached: outcome.cached });
        let artifact = outcome.artifact;
        self.fresh.insert(artifact.path().into());
        if artifact.kind() == gafi_core::Kind::Classifier {
            let epochs = artifact.read_json::<TrialRecord>(TRIAL_FILE)?.epochs.len() as u64;
            self.trained.insert(artifact.path().into(), epochs);
        }
        Ok(artifact)
    }
}

/// Tells a class that could not be filled, which is the setting's fault, from errors that end a run.
pub(crate) fn possible<T>(made: Result<T>) -> Result<Result<T>> {
    match made {
        Err(error) if !matches!(error.downcast_ref(), Some(Error::Exhausted { .. })) => Err(error),
        made => Ok(made),
    }
}
