//! `cargo xtask test --storm`: runs of preset `smoke` are killed at random moments, a hundred times in all, and resumed.
//!
//! Each run must end with the bytes of an uninterrupted one. Further parts fill the disk repeatedly, and let two processes write
//! one run where `flock` is refused, or through two mounts whose `flock`s do not exclude each other, as on some cluster file
//! systems.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context as _, Result, bail, ensure};

use crate::runs::same;
use crate::shell;

const KILLS: usize = 100;
/// Maximum milliseconds before a process is killed; a whole run takes about ten seconds on two cores.
const LIFE: u64 = 4_000;
/// KiB by which the disk grows after each run that found it full.
const DISK_STEP: u64 = 200;
/// Trials with two writers; in every second one the first writer is killed.
const TRIALS: usize = 10;
/// The moments of the kills follow from this.
const SEED: u64 = 20;

/// Runs the test with `program`, the path of `gafi-cli`.
pub(crate) fn check(program: &Path) -> Result<()> {
    shell::in_temporary_folder("storm", |root| Storm { program: program.into(), root: root.into() }.all())
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
        for part in [Self::full_disk, Self::no_flock, Self::two_mounts] {
            if let Some(why) = part(self, &whole)? {
                println!("   skipped: {why}");
            }
        }
        Ok(())
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

    /// Starts or resumes a run and kills it at a random moment. Returns whether it had finished by then.
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

    /// A run on a disk that fills up repeatedly, and grows by a step each time.
    fn full_disk(&self, whole: &Path) -> Result<Option<String>> {
        let disk = self.root.join("disk");
        fs::create_dir_all(&disk)?;
        let size = |kib: u64| format!("size={kib}k");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size(DISK_STEP), "none"]).arg(&disk).status();
        if !mount.is_ok_and(|status| status.success()) {
            return Ok(Some("a disk that is full, because a tmpfs cannot be mounted (needs root)".into()));
        }
        let run = disk.join("run");
        let log = self.root.join("disk.log");
        let done = (1..).find_map(|step| {
            let kib = step * DISK_STEP;
            let tried = || -> Result<bool> {
                shell::run(Command::new("mount").args(["-o", &format!("remount,{}", size(kib))]).arg(&disk))?;
                let status = self.logged(&run, &log)?.status()?;
                match status.code() {
                    Some(0) if step < 3 => {
                        bail!("the run fit into {kib} KiB, so it filled the disk less than twice; lower DISK_STEP")
                    }
                    Some(0) => Ok(true),
                    Some(1) if step < 1000 => Ok(false),
                    _ => bail!("expected code 1 on a full disk, found {status}; see {}", log.display()),
                }
            };
            match tried() {
                Ok(false) => None,
                Ok(true) => Some(same(whole, &run).map(|()| step - 1)),
                Err(error) => Some(Err(error)),
            }
        });
        shell::run(Command::new("umount").arg(&disk))?;
        let times = done.context("the disk was always full")?.context("on a full disk")?;
        println!("   a disk that was full {times} times: byte-equal");
        Ok(None)
    }

    /// Two processes at one run where the system refuses `flock`, as NFS without a lock daemon does.
    fn no_flock(&self, whole: &Path) -> Result<Option<String>> {
        let source = self.root.join("flock.c");
        let library = self.root.join("flock.so");
        fs::write(&source, "#include <errno.h>\nint flock(int fd, int how) { errno = ENOLCK; return -1; }\n")?;
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
        if !built.is_ok_and(|status| status.success()) {
            return Ok(Some("two writers without flock, because there is no C compiler".into()));
        }
        let run = self.root.join("unlocked");
        self.trials(&[run.clone(), run.clone()], whole, &run, &[("LD_PRELOAD", library.as_os_str())])?;
        println!("   two writers without flock, {TRIALS} trials: byte-equal");
        Ok(None)
    }

    /// Two processes at one run, each through its own mount, where the `flock` of one does not exclude the other.
    fn two_mounts(&self, whole: &Path) -> Result<Option<String>> {
        if !shell::exists("bindfs", "--version") || !Path::new("/dev/fuse").exists() {
            return Ok(Some("two mounts, because bindfs or /dev/fuse is missing (Debian: bindfs)".into()));
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
        let runs = mounts.each_ref().map(|mount| mount.join("run"));
        let done = done.and_then(|()| self.trials(&runs, whole, &shared.join("run"), &[]));
        for mount in mounted {
            shell::run(Command::new("fusermount").arg("-u").arg(mount))?;
        }
        done?;
        println!("   two writers through two mounts, {TRIALS} trials: byte-equal");
        Ok(None)
    }

    /// Lets two processes write `runs`, two names of one folder, whose files lie in `run`.
    fn trials(&self, runs: &[PathBuf; 2], whole: &Path, run: &Path, env: &[(&str, &OsStr)]) -> Result<()> {
        for trial in 0..TRIALS {
            self.two_writers(runs, trial % 2 == 1, env).with_context(|| format!("trial {trial}"))?;
            same(whole, run).with_context(|| format!("trial {trial} of two writers"))?;
            fs::remove_dir_all(run)?;
        }
        Ok(())
    }

    /// Starts two writers of one run, perhaps kills the first, and waits for those that live.
    fn two_writers(&self, runs: &[PathBuf; 2], kill: bool, env: &[(&str, &OsStr)]) -> Result<()> {
        let log = self.root.join("writers.log");
        let mut writers = Vec::new();
        for run in runs {
            let mut writer = self.logged(run, &log)?;
            writer.arg("--wait").env("GAFI_LEASE_SECONDS", "5").envs(env.iter().copied());
            writers.push(writer.spawn().context("cannot start gafi-cli")?);
        }
        if kill {
            thread::sleep(Duration::from_millis(LIFE / 2));
            writers[0].kill()?;
            writers[0].wait()?;
        }
        for (writer, run) in writers.iter_mut().zip(runs).skip(usize::from(kill)) {
            let status = writer.wait()?;
            let folder = run.display();
            ensure!(status.success(), "the writer of {folder} failed ({status}); see {}", log.display());
        }
        Ok(())
    }

    /// `gafi-cli pipeline --preset smoke`, its messages appended to a file beside the run.
    fn pipeline(&self, run: &Path) -> Result<Command> {
        self.logged(run, &run.with_extension("log"))
    }

    fn logged(&self, run: &Path, log: &Path) -> Result<Command> {
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
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
