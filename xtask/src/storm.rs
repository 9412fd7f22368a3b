//! `cargo xtask test --storm`: runs of preset `smoke` are killed at random moments, a hundred times in all, and resumed.
//!
//! Each run must end with the bytes of one that nothing stopped. A second part lets two processes write one run through two
//! mounts whose locks do not see each other, as on some cluster file systems.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use anyhow::{Context as _, Result, bail};

use crate::runs::same;
use crate::shell;

const KILLS: usize = 100;
/// A process lives for at most this long before it is killed; a whole run takes about ten seconds on two cores.
const LIFE: u64 = 4_000;
/// Trials with two writers; in every second one the first writer is killed.
const TRIALS: usize = 10;
/// The moments of the kills follow from this.
const SEED: u64 = 20;

/// Runs the test with the programs in `target`, the folder of a finished build.
pub(crate) fn check(target: &Path) -> Result<()> {
    let root = env::temp_dir().join(format!("gafi-storm-{}", std::process::id()));
    fs::create_dir_all(&root)?;
    let storm = Storm { program: target.join("debug/gafi-cli"), root: root.clone() };
    storm.all().with_context(|| format!("its runs are in {}", root.display()))?;
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))
}

struct Storm {
    program: PathBuf,
    root: PathBuf,
}

impl Storm {
    fn all(&self) -> Result<()> {
        let whole = self.root.join("whole");
        shell::run(&mut self.pipeline(&whole)?)?;
        self.kills(&whole)?;
        self.two_mounts(&whole)
    }

    fn kills(&self, whole: &Path) -> Result<()> {
        let (mut kills, mut runs, mut state) = (0, 0, SEED);
        while kills < KILLS {
            let run = self.root.join("killed");
            let before = kills;
            while !self.lives(&run, &mut state)? {
                kills += 1;
            }
            same(whole, &run).with_context(|| format!("run {runs}, killed {} times", kills - before))?;
            fs::remove_dir_all(&run)?;
            runs += 1;
        }
        println!("   {runs} runs, killed {kills} times in all: byte-equal");
        Ok(())
    }

    /// Starts or resumes a run and kills it at a random moment. Whether it had finished by then.
    fn lives(&self, run: &Path, state: &mut u64) -> Result<bool> {
        let mut child = self.pipeline(run)?.spawn().context("cannot start gafi-cli")?;
        thread::sleep(Duration::from_millis(random(state) % LIFE));
        child.kill()?;
        let status = child.wait()?;
        match status.code() {
            Some(0) => Ok(true),
            None => Ok(false),
            Some(code) => bail!("a resumed run ended with code {code}; see {}", run.with_extension("log").display()),
        }
    }

    /// Two processes at one run, each through a mount of its own, where `flock` of one does not hold back the other.
    fn two_mounts(&self, whole: &Path) -> Result<()> {
        if !shell::exists("bindfs", "--version") || !Path::new("/dev/fuse").exists() {
            println!(
                "   skipped: two writers through two mounts, because bindfs or /dev/fuse is missing (Debian: bindfs)"
            );
            return Ok(());
        }
        let shared = self.root.join("shared");
        let mounts = ["one", "two"].map(|name| self.root.join(name));
        for folder in mounts.iter().chain([&shared]) {
            fs::create_dir_all(folder)?;
        }
        let mut mounted = Vec::new();
        let done = mounts.iter().try_for_each(|mount| {
            shell::run(Command::new("bindfs").arg(&shared).arg(mount))?;
            mounted.push(mount);
            Ok(())
        });
        let done = done.and_then(|()| self.trials(&mounts, whole, &shared));
        for mount in mounted {
            shell::run(Command::new("fusermount").arg("-u").arg(mount))?;
        }
        done
    }

    fn trials(&self, mounts: &[PathBuf], whole: &Path, shared: &Path) -> Result<()> {
        for trial in 0..TRIALS {
            self.two_writers(mounts, trial % 2 == 1).with_context(|| format!("trial {trial}"))?;
            same(whole, &shared.join("run")).with_context(|| format!("trial {trial} of two writers"))?;
            fs::remove_dir_all(shared.join("run"))?;
        }
        println!("   {TRIALS} times two writers through two mounts: byte-equal");
        Ok(())
    }

    /// Starts two writers of one run, perhaps kills the first, and waits for those that live.
    fn two_writers(&self, mounts: &[PathBuf], kill: bool) -> Result<()> {
        let mut writers = Vec::new();
        for mount in mounts {
            let mut writer = self.pipeline(&mount.join("run"))?;
            writers.push(writer.arg("--wait").env("GAFI_LEASE_SECONDS", "5").spawn()?);
        }
        if kill {
            thread::sleep(Duration::from_millis(LIFE / 2));
            writers[0].kill()?;
            writers[0].wait()?;
        }
        for (writer, mount) in writers.iter_mut().zip(mounts).skip(usize::from(kill)) {
            let status = writer.wait()?;
            if !status.success() {
                bail!("the writer at {} failed ({status}); see {}", mount.display(), mount.join("run.log").display());
            }
        }
        Ok(())
    }

    /// `gafi-cli pipeline --preset smoke`, its messages appended to a file beside the run.
    fn pipeline(&self, run: &Path) -> Result<Command> {
        let log = fs::OpenOptions::new().create(true).append(true).open(run.with_extension("log"))?;
        let mut command = Command::new(&self.program);
        command.args(["pipeline", "--preset", "smoke", "--out"]).arg(run).stdout(Stdio::null()).stderr(log);
        Ok(command)
    }
}

/// The next number of a splitmix64 sequence.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
