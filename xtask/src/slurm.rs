//! `cargo xtask test --slurm`: the scripts of `docs/cluster.md` on a two-node Slurm cluster on loopback, while jobs are stopped
//! and killed.
//!
//! Each way of stopping a job is tried on a run of preset `smoke`. The run must then finish with the bytes of a run that nothing
//! stopped. It needs root, and Debian's packages slurmctld, slurmd, slurm-client and munge.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context as _, Result, bail, ensure};

use crate::runs::same;
use crate::shell;

/// The page whose scripts are tested.
const PAGE: &str = "docs/cluster.md";
/// What is needed beyond `bash`.
const PROGRAMS: [&str; 6] = ["slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "munged"];
/// Settings that make the test's run last long enough to be stopped in the middle, half a minute on two cores.
const LENGTH: [&str; 4] = ["--set", "gan.length.steps=400", "--set", "student.epochs=6"];
/// A job that takes longer than this is considered hung.
const PATIENCE: Duration = Duration::from_secs(600);

/// Why this machine cannot run the test; `None` if it can.
pub(crate) fn missing() -> Option<String> {
    let find = |program: &&&str| {
        let path = env::var_os("PATH").unwrap_or_default();
        !env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    if let Some(program) = PROGRAMS.iter().find(find) {
        return Some(format!("{program} is not installed (Debian: slurmctld slurmd slurm-client munge)"));
    }
    let id = shell::output(Command::new("id").arg("-u")).unwrap_or_default();
    (id.trim() != "0").then(|| "it starts daemons, so it needs root".into())
}

/// Runs the test with `program`, the path of `gafi-cli`.
pub(crate) fn check(program: &Path) -> Result<()> {
    let bin = program.parent().context("a program without a folder")?;
    shell::in_temporary_folder("slurm", |root| {
        let cluster = Cluster { root: root.into(), bin: bin.into() };
        let tried = cluster.try_all();
        let stopped = cluster.control(&["stop"]);
        tried.and(stopped)
    })
}

/// A way of stopping a job that runs on `node`, and whether Slurm or the script puts it back into the queue.
type Chaos = (&'static str, bool, fn(&Cluster, &Job) -> Result<()>);

const CHAOS: [Chaos; 6] = [
    ("nothing", true, |_, _| Ok(())),
    ("scancel --signal=TERM", true, |cluster, job| cluster.slurm("scancel", &["--signal=TERM", "--batch", &job.id])),
    ("scontrol requeue", true, |cluster, job| cluster.slurm("scontrol", &["requeue", &job.id])),
    ("preemption", true, |cluster, _| {
        let urgent = ["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 2"];
        cluster.slurm("sbatch", &urgent)
    }),
    ("kill -9 of the node's daemon", true, |cluster, job| {
        cluster.control(&["kill-node", &job.node])?;
        thread::sleep(Duration::from_secs(2));
        cluster.control(&["revive-node", &job.node])
    }),
    ("kill -9 of the training", false, |cluster, job| {
        let pattern = format!("gafi-cli pipeline .*{}", job.run.display());
        shell::run(cluster.command("pkill").args(["-9", "-f", &pattern]))
    }),
];

struct Cluster {
    root: PathBuf,
    /// The folder of `gafi-cli`.
    bin: PathBuf,
}

/// A running job.
struct Job {
    id: String,
    node: String,
    run: PathBuf,
}

impl Cluster {
    fn try_all(&self) -> Result<()> {
        let scripts = scripts(&fs::read_to_string(shell::root().join(PAGE))?);
        for name in ["pipeline.sbatch", "seeds.sbatch"] {
            let script = scripts.get(name).with_context(|| format!("{PAGE} has no script {name}"))?;
            fs::write(self.root.join(name), script)?;
        }
        self.control(&["start"])?;
        let local = self.root.join("local");
        for seed in ["0", "1", "2"] {
            let out = local.join(format!("seed-{seed}"));
            let mut run = self.command("gafi-cli");
            run.args(["pipeline", "--preset", "smoke", "--seed", seed]).args(LENGTH).arg("--out").arg(out);
            shell::output(&mut run)?;
        }
        for (at, (name, requeued, chaos)) in CHAOS.iter().enumerate() {
            let run = self.root.join(format!("run-{at}"));
            self.one_job(&run, *requeued, *chaos).with_context(|| format!("after {name}"))?;
            same(&local.join("seed-0"), &run).with_context(|| format!("after {name}"))?;
            println!("   {name}: byte-equal");
        }
        self.time_limit(&local.join("seed-0"))?;
        self.seeds(&local)
    }

    /// Runs `pipeline.sbatch`, stops it in the middle, and waits for its end.
    fn one_job(&self, run: &Path, requeued: bool, chaos: fn(&Self, &Job) -> Result<()>) -> Result<()> {
        let id = self.submit(run, &[])?;
        // Wait until the imports are done and a training is running.
        self.wait("the GAN's training", || Ok(unfinished(run, "train-gan") || run.join("samples.png").exists()))?;
        let node = self.field(&id, "BatchHost")?;
        chaos(self, &Job { id: id.clone(), node, run: run.into() })?;
        if requeued {
            return self.completed(&id);
        }
        // The user submits a killed job again.
        self.wait("the end of the killed job", || Ok(self.field(&id, "JobState")? == "FAILED"))?;
        let code = self.field(&id, "ExitCode")?;
        ensure!(code == "137:0", "expected exit code 137:0 of a killed training, found {code}");
        self.completed(&self.submit(run, &[])?)
    }

    /// A job that its time limit ends at least once. Slurm's limits are whole minutes, so it may happen more often.
    fn time_limit(&self, local: &Path) -> Result<()> {
        let run = self.root.join("run-limit");
        let id = self.submit(&run, &["--time=1", "--signal=B:TERM@45"])?;
        self.completed(&id)?;
        same(local, &run).context("after a time limit")?;
        println!("   a time limit of a minute, {} restarts: byte-equal", self.field(&id, "Restarts")?);
        Ok(())
    }

    /// The array of seeds, with one of them requeued.
    fn seeds(&self, local: &Path) -> Result<()> {
        let runs = self.root.join("runs");
        let mut submit = self.command("sbatch");
        submit.args(["--parsable", "--cpus-per-task=1", "seeds.sbatch"]).arg(&runs);
        let array = shell::output(submit.args(["--preset", "smoke"]).args(LENGTH))?.trim().to_owned();
        self.wait("seed 1", || Ok(unfinished(&runs.join("seed-1"), "train-gan")))?;
        self.slurm("scontrol", &["requeue", &format!("{array}_1")])?;
        for seed in 0..3 {
            self.completed(&format!("{array}_{seed}"))?;
            let name = format!("seed-{seed}");
            same(&local.join(&name), &runs.join(&name)).context("of the array")?;
        }
        println!("   an array of three seeds, one requeued: byte-equal");
        Ok(())
    }

    fn submit(&self, run: &Path, options: &[&str]) -> Result<String> {
        let mut submit = self.command("sbatch");
        submit.arg("--parsable").args(options).args(["pipeline.sbatch", "--preset", "smoke", "--seed", "0"]);
        Ok(shell::output(submit.args(LENGTH).arg("--out").arg(run))?.trim().to_owned())
    }

    /// Waits until a job has completed.
    fn completed(&self, id: &str) -> Result<()> {
        self.wait(&format!("the end of job {id}"), || match self.field(id, "JobState")?.as_str() {
            "COMPLETED" => Ok(true),
            state @ ("FAILED" | "CANCELLED" | "TIMEOUT" | "OUT_OF_MEMORY" | "NODE_FAIL") => {
                bail!("job {id}: expected COMPLETED, found {state}, exit code {}", self.field(id, "ExitCode")?)
            }
            _ => Ok(false),
        })
    }

    /// A field of `scontrol show job`.
    fn field(&self, id: &str, name: &str) -> Result<String> {
        let shown = shell::output(self.command("scontrol").args(["--oneliner", "show", "job", id]))?;
        let value = shown.split_whitespace().find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        Ok(value.unwrap_or_default().to_owned())
    }

    fn wait(&self, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let begin = Instant::now();
        while !done()? {
            ensure!(begin.elapsed() <= PATIENCE, "no sign of {what} within {} s", PATIENCE.as_secs());
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn control(&self, args: &[&str]) -> Result<()> {
        let script = shell::root().join("xtask/slurm/cluster.sh");
        shell::run(self.command("bash").arg(script).args(args))
    }

    fn slurm(&self, program: &str, args: &[&str]) -> Result<()> {
        shell::run(self.command(program).args(args))
    }

    /// A command in the test's folder that finds the cluster and the built program.
    fn command(&self, program: &str) -> Command {
        let found = self.bin.join(program);
        let mut command = Command::new(if found.is_file() { found } else { program.into() });
        command.current_dir(&self.root).env("PATH", shell::search_path(&self.bin));
        command.env("SLURM_TEST_ROOT", &self.root).env("SLURM_CONF", self.root.join("slurm.conf"));
        command
    }
}

/// The scripts of the page, by the name in their second line.
fn scripts(page: &str) -> BTreeMap<String, String> {
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let named = blocks.filter_map(|block| {
        let name = block.strip_prefix("#!/bin/bash\n# ")?.lines().next()?;
        Some((name.to_owned(), block.to_owned()))
    });
    named.collect()
}

/// Whether a stage's artifact is being written in the run's folder.
fn unfinished(run: &Path, stage: &str) -> bool {
    let entries = fs::read_dir(run).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .any(|name| name.starts_with(&format!(".{stage}")) && name.ends_with(".partial"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_both_scripts() {
        let page = fs::read_to_string(shell::root().join(PAGE)).unwrap();
        let names: Vec<_> = scripts(&page).into_keys().collect();
        assert_eq!(names, ["pipeline.sbatch", "seeds.sbatch"]);
    }
}
