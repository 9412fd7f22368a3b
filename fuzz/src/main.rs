//! Runs the fuzz targets on the stable toolchain: a seeded loop of mutations in child processes with a memory limit.
//!
//! Case `i` of a target depends only on the seed and `i`, so an input that aborts or hangs a child can be recreated
//! from its number. Mutations are not guided by coverage; for that, use `libfuzzer/`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod child;

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use gafi_fuzz::{TARGETS, Target, named};
use tempfile::TempDir;

use child::{PROGRESS, Work, input, start};

/// Fuzz everything that GaFi reads
#[derive(Debug, Parser)]
#[command(name = "gafi-fuzz")]
struct Args {
    /// Only these targets
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    target: Vec<String>,
    /// Cases of each target; slow targets run a fraction
    #[arg(long, default_value_t = 2000, value_name = "N")]
    cases: u64,
    /// End each target after this many seconds
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// Seed of the mutations
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The first case
    #[arg(long, default_value_t = 0, value_name = "N")]
    from: u64,
    /// Targets that run at the same time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Limit of a child's address space
    #[arg(long, default_value_t = 2048, value_name = "MIB")]
    memory: u64,
    /// Seconds that a case may take
    #[arg(long, default_value_t = 10, value_name = "S")]
    hang: u64,
    /// Folder for inputs that made a target fail
    #[arg(long, default_value = "fuzz/failures", value_name = "FOLDER")]
    failures: PathBuf,
    /// Run one file on the target, in this process, and print the errors that readers return
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Write the inputs that are mutated to FOLDER/TARGET, as a first corpus for libFuzzer
    #[arg(long, value_name = "FOLDER")]
    write_seeds: Option<PathBuf>,
    /// Run a target in this process, in the folder for temporary files: what the driver calls
    #[arg(long, hide = true)]
    child: bool,
}

/// Seconds that a child may take to prepare its seeds.
const PREPARATION: u64 = 300;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let known = || TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
    let find = |name: &String| named(name).with_context(|| format!("no target {name:?}; there are {}", known()));
    let chosen = args.target.iter().map(find).collect::<Result<Vec<_>>>()?;
    let targets = if chosen.is_empty() { TARGETS.iter().collect() } else { chosen };
    if let Some(file) = &args.replay {
        let [target] = targets[..] else { bail!("--replay runs one --target") };
        gafi_fuzz::print_errors();
        (target.run)(&fs::read(file).with_context(|| format!("reading {}", file.display()))?);
        return Ok(true);
    }
    if let Some(folder) = &args.write_seeds {
        for target in targets {
            let folder = folder.join(target.name);
            fs::create_dir_all(&folder)?;
            for (number, seed) in start(target).iter().enumerate() {
                fs::write(folder.join(number.to_string()), seed)?;
            }
        }
        return Ok(true);
    }
    let work = |target: &'static Target| Work {
        target,
        seed: args.seed,
        from: args.from,
        cases: args.cases.div_ceil(target.every),
        time: args.seconds.map(Duration::from_secs),
    };
    if args.child {
        return Ok(child::run(&work(targets[0])));
    }
    let started = Instant::now();
    let waiting = Mutex::new(targets.into_iter());
    let (cases, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    println!("{:<20} {:>10} {:>9}", "target", "cases", "cases/s");
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                // The lock is released before the target runs.
                while let Some(target) = { waiting.lock().ok().and_then(|mut targets| targets.next()) } {
                    let (done, failure) =
                        watch(args, &work(target)).unwrap_or_else(|error| (0, Some(format!("{error:#}"))));
                    cases.fetch_add(done, Ordering::Relaxed);
                    if let Some(failure) = failure {
                        failed.fetch_add(1, Ordering::Relaxed);
                        println!("{:<20} {done:>10} FAILED: {failure}", target.name);
                    }
                }
            });
        }
    });
    let (cases, failed, seconds) = (cases.into_inner(), failed.into_inner(), started.elapsed().as_secs_f64());
    println!("{:<20} {cases:>10} {:>9.0}, {seconds:.0} s, {failed} targets failed", "all", cases as f64 / seconds);
    Ok(failed == 0)
}

/// Runs `work` in a child. Returns the number of cases, and what made it fail.
fn watch(args: &Args, work: &Work) -> Result<(u64, Option<String>)> {
    let memory = Path::new("/dev/shm");
    let folder =
        if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.context("a temporary folder")?;
    let stderr = fs::File::create(folder.path().join("stderr"))?;
    // `ulimit` bounds address space, so an allocation without bounds fails at once instead of filling the machine.
    let mut command = Command::new("sh");
    let script = format!("ulimit -v {} && exec \"$@\"", args.memory << 10);
    command.args(["-c", &script, "sh"]).arg(std::env::current_exe()?).args(["--child", "--target", work.target.name]);
    for (option, value) in [("--cases", args.cases), ("--seed", work.seed), ("--from", work.from)] {
        command.arg(option).arg(value.to_string());
    }
    if let Some(time) = work.time {
        command.arg("--seconds").arg(time.as_secs().to_string());
    }
    for variable in ["TMPDIR", "HOME", "XDG_DATA_HOME"] {
        command.env(variable, folder.path());
    }
    command.env("RAYON_NUM_THREADS", "1").env("CANDLE_NUM_THREADS", "1").env("MALLOC_ARENA_MAX", "2");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn()?;
    let place = || {
        fs::read(folder.path().join(PROGRESS)).ok().and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)))
    };
    let (mut last, mut begun, mut moved) = (None, None, Instant::now());
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        let now = place();
        if now != last {
            begun = begun.or_else(|| Some(Instant::now()));
            (last, moved) = (now, Instant::now());
        }
        if moved.elapsed().as_secs() > if last.is_some() { args.hang } else { PREPARATION } {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut printed = String::new();
    fs::File::open(folder.path().join("stderr"))?.take(4096).read_to_string(&mut printed).ok();
    let done = place().map_or(0, |at| at - work.from);
    if status.is_some_and(|status| status.success()) {
        let rate = done as f64 / begun.map_or(1.0, |begun: Instant| begun.elapsed().as_secs_f64().max(0.02));
        println!("{:<20} {done:>10} {rate:>9.0}", work.target.name);
        // Libraries print nothing.
        return Ok((done, (!printed.is_empty()).then(|| format!("it printed {printed:?}"))));
    }
    let how = status.map_or_else(|| format!("no end within {} s", args.hang), |status| status.to_string());
    let Some(at) = place() else { return Ok((0, Some(format!("{how} before the first case: {}", printed.trim())))) };
    // The seeds of some targets are written in this process too.
    let bytes = input(work, &start(work.target), at);
    fs::create_dir_all(&args.failures)?;
    let file = args.failures.join(format!("{}-{}-{at}", work.target.name, work.seed));
    fs::write(&file, bytes)?;
    Ok((done, Some(format!("{how}: {}\n    case {at}, saved as {}", printed.trim(), file.display()))))
}
