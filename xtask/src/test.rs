//! `cargo xtask test`: every check, cheapest first, the same on every machine and in CI.
//!
//! All steps use one profile and one set of features, so that Candle is compiled once to run and once as metadata for clippy and
//! rustdoc. The feature `onnx` is on: a build of the workspace compiles its runtime anyway. `candle-nn` is on so that its
//! code is checked.

use std::{
    env,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::{
    browser, cuda, layering, package, python, quickstart, reproduce,
    shell::{self, word},
    slurm, storm, supply, tidy,
};

/// Features of every step. A step without them would compile the program a second time.
pub(crate) const FEATURES: &str = "--features=gafi-cli/onnx,gafi-gan/candle-nn";

#[derive(Debug, Default, Args)]
pub(crate) struct Test {
    /// Run only these steps
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STEP")]
    only: Vec<Step>,
    /// Also check the CUDA code, without a GPU: lints, kernels for every architecture, symbols, cuDNN's plans for every preset.
    /// Downloads 1.3 GB
    #[arg(long)]
    cuda: bool,
    /// Also read exports, event files and schemas with the Python libraries they are for, in a virtual environment with PyTorch
    /// (gigabytes, unless installed)
    #[arg(long)]
    interop: bool,
    /// Also run examples/candle, a program on candle-nn and candle-datasets (builds their many dependencies)
    #[arg(long)]
    candle: bool,
    /// Also build the Python package, install it into a virtual environment and run its tests, with PyTorch (gigabytes, unless
    /// installed)
    #[arg(long)]
    python: bool,
    /// Also import complete real sets that must be on this machine: Fashion-MNIST, and CIFAR-10 if GAFI_TEST_CIFAR10 names the
    /// folder of its parquet files
    #[arg(long)]
    real: bool,
    /// Also test the report in headless Chromium, which must be installed (Debian: chromium)
    #[arg(long)]
    browser: bool,
    /// Also run the scripts of docs/cluster.md on a two-node Slurm cluster on this machine, while jobs are stopped and killed
    /// (needs root and Slurm)
    #[arg(long)]
    slurm: bool,
    /// Also kill runs of the pipeline at random moments, a hundred times, and compare what they resume to (minutes)
    #[arg(long)]
    storm: bool,
    /// Skip these steps
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STEP")]
    skip: Vec<Step>,
}

/// The checks, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Formatting
    Fmt,
    /// House rules that no other tool checks: headers, phrases, prints, unsafe code, TODOs, links
    Tidy,
    /// Dependencies between crates
    Layering,
    /// Licences, sources and banned packages of all dependencies
    Supply,
    /// Known vulnerabilities, if cargo-deny is installed and its database within reach
    Advisories,
    /// Lints as errors
    Clippy,
    /// The packages for crates.io: metadata, files, and that they compile
    Package,
    /// The API documentation builds without warnings
    Docs,
    /// The book of docs/, if mdbook is installed
    Book,
    /// Compile everything that the tests run
    Build,
    /// Unit, property, golden, end-to-end and doc tests, and the Python of docs/format.md
    Tests,
    /// Every fuzz target: the corpus, and a fixed number of mutations
    Fuzz,
    /// `cargo xtask reproduce` at scale smoke, from nothing to its table
    Reproduce,
    /// The CUDA code: lints, kernels, symbols, cuDNN's plans (with --cuda)
    Cuda,
    /// Output of `export`, `tensorboard` and `schema`, read by the libraries it is for (with --interop)
    Interop,
    /// A program on candle-nn and candle-datasets trains on a dataset (with --candle)
    Candle,
    /// The Python package: built, installed, tested (with --python)
    Python,
    /// Imports of complete real sets have the published statistics (with --real)
    Real,
    /// The report in headless Chromium: errors, slider, widths, colour schemes (with --browser)
    Browser,
    /// The scripts of docs/cluster.md on a two-node Slurm cluster, while jobs are stopped and killed (with --slurm)
    Slurm,
    /// Runs killed at random moments end with the bytes of an uninterrupted one, and two writers do not collide (with --storm)
    Storm,
}

/// The result of a step that did not fail.
enum Outcome {
    Passed,
    Skipped(String),
}

impl Step {
    fn run(self) -> Result<Outcome> {
        let cargo = |args: &[&str]| shell::run(shell::cargo().args(args));
        let skipped = |why: &str| Ok(Outcome::Skipped(why.into()));
        let done = match self {
            Self::Fmt => cargo(&["fmt", "--all", "--check"]),
            Self::Tidy => tidy::check(),
            Self::Layering => layering::check(),
            Self::Supply => supply::check(),
            Self::Advisories => {
                if !shell::exists("cargo-deny", "--version") {
                    return skipped("cargo-deny is not installed");
                }
                // Skipped, not failed, where the database is out of reach.
                if cargo(&["deny", "fetch", "db"]).is_err() {
                    return skipped("the database of advisories cannot be downloaded");
                }
                cargo(&["deny", "check", "advisories"])
            }
            Self::Clippy => clippy(),
            Self::Package => package::check(&target()?, FEATURES),
            Self::Docs => {
                let mut docs = shell::cargo();
                docs.args(["doc", "--workspace", "--no-deps", "--document-private-items"]);
                shell::run(docs.env("RUSTDOCFLAGS", "-D warnings"))
            }
            Self::Book if !shell::exists("mdbook", "--version") => return skipped("mdbook is not installed"),
            Self::Book => shell::run(Command::new("mdbook").current_dir(shell::root()).args(["build", "docs"])),
            Self::Build => cargo(&["test", "--workspace", FEATURES, "--no-run"]),
            Self::Tests => tests(),
            Self::Fuzz => {
                cargo(&["run", "--package", "gafi-fuzz", "--", "--cases", "2000", "--jobs", "2", "--hang", "60"])
            }
            Self::Reproduce => reproduce(),
            Self::Cuda => cuda::check(&target()?),
            Self::Interop => interop(),
            Self::Candle => candle(),
            Self::Python => python::test_package(&target()?),
            Self::Real => real(),
            Self::Browser => browser::check(&target()?, &program()?),
            Self::Slurm => match slurm::missing() {
                Some(why) => return skipped(&why),
                None => slurm::check(&program()?),
            },
            Self::Storm => storm::check(&program()?),
        };
        done.map(|()| Outcome::Passed)
    }
}

impl Test {
    /// Runs the steps until one fails.
    pub(crate) fn run(&self) -> Result<()> {
        let begin = Instant::now();
        let mut finished: Vec<(Step, Outcome, Duration)> = Vec::new();
        for step in Step::value_variants() {
            let usual = match step {
                Step::Cuda => self.cuda,
                Step::Interop => self.interop,
                Step::Candle => self.candle,
                Step::Python => self.python,
                Step::Real => self.real,
                Step::Browser => self.browser,
                Step::Slurm => self.slurm,
                Step::Storm => self.storm,
                _ => true,
            };
            let chosen = if self.only.is_empty() { usual } else { self.only.contains(step) };
            if !chosen || self.skip.contains(step) {
                continue;
            }
            println!("== {}", word(*step));
            let begin = Instant::now();
            let done = step.run();
            let wall = begin.elapsed();
            let done = done.with_context(|| format!("step `{}` failed after {}", word(*step), seconds(wall)))?;
            match &done {
                Outcome::Passed => println!("   ok, {}", seconds(wall)),
                Outcome::Skipped(why) => println!("   skipped: {why}"),
            }
            finished.push((*step, done, wall));
        }
        ensure!(!finished.is_empty(), "no step to run: --only and --skip exclude all of them");
        println!("\n{:<10} {:>9}", "step", "wall");
        for (step, done, wall) in &finished {
            let note = match done {
                Outcome::Passed => String::new(),
                Outcome::Skipped(why) => format!("  skipped: {why}"),
            };
            println!("{:<10} {:>9}{note}", word(*step), seconds(*wall));
        }
        println!("{:<10} {:>9}", "all", seconds(begin.elapsed()));
        Ok(())
    }
}

fn seconds(wall: Duration) -> String {
    format!("{:.1} s", wall.as_secs_f64())
}

/// `cargo test`, with a Python for the tests that read artifacts with it.
fn tests() -> Result<()> {
    let mut tests = shell::cargo();
    // Without this, only the first failing crate is reported.
    tests.args(["test", "--workspace", FEATURES, "--no-fail-fast"]);
    if env::var_os("GAFI_TEST_PYTHON").is_none() {
        match python::FORMAT.find(&target()?) {
            Ok(python) => {
                tests.env("GAFI_TEST_PYTHON", python);
            }
            Err(why) if shell::in_ci() => return Err(why.context("the Python of docs/format.md must run in CI")),
            Err(why) => println!("   the Python of docs/format.md does not run: {why:#}"),
        }
    }
    shell::run(&mut tests)
}

/// Lints everything, and the technique crates once more without features, as they are built for other programs.
fn clippy() -> Result<()> {
    let lint = |args: &[&str]| shell::run(shell::cargo().args(["clippy"]).args(args).args(["--", "-D", "warnings"]));
    lint(&["--workspace", FEATURES, "--all-targets"])?;
    for technique in ["gafi-filter", "gafi-expand", "gafi-recycle"] {
        lint(&["--package", technique, "--no-default-features", "--lib"])?;
    }
    Ok(())
}

/// `reproduce` at scale smoke, in an empty folder.
fn reproduce() -> Result<()> {
    let folder = target()?.join("reproduce-smoke");
    shell::empty_folder(&folder)?;
    reproduce::smoke(&folder)
}

/// Reads exports, event files and schemas with the libraries they are for.
fn interop() -> Result<()> {
    let target = target()?;
    let python = match env::var_os("GAFI_INTEROP_PYTHON") {
        Some(python) => python.into(),
        None => python::INTEROP.find(&target)?,
    };
    let program = program()?;
    let tests = shell::root().join("gafi-cli/tests/interop");
    let run = |script: &str, folders: &[PathBuf]| {
        shell::run(Command::new(&python).arg(tests.join(script)).arg(&program).args(folders))
    };
    run("interop.py", &[shell::root(), target.join("interop")])?;
    run("events.py", &[target.join("interop-events")])?;
    run("schemas.py", &[shell::root(), target.join("interop-schemas")])
}

/// Runs `examples/candle` on drawn shapes. The weights that it saves and loads must classify more than a quarter of its training images; by
/// chance it is a tenth.
fn candle() -> Result<()> {
    let target = target()?;
    let folder = target.join("candle-example");
    shell::empty_folder(&folder)?;
    let mut import = Command::new(program()?);
    import.args(["import", "shapes", "--size", "16", "--out"]).arg(folder.join("data"));
    shell::run(&mut import)?;
    let mut example = shell::cargo();
    example.current_dir(shell::root().join("examples/candle")).args(["run", "--quiet", "--target-dir"]);
    // A folder of its own: other features and profiles.
    example.arg(target.join("candle")).arg("--").args([folder.join("data/train"), folder.join("weights.safetensors")]);
    let printed = shell::output(&mut example)?;
    let numbers: Vec<f64> = printed.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [correct, all] if correct > 0.25 * all => Ok(()),
        _ => bail!("expected more than a quarter of the images to be classified correctly, found: {printed}"),
    }
}

/// The ignored tests of gafi-data, which fail when a set is missing.
fn real() -> Result<()> {
    let mut tests = shell::cargo();
    tests.args(["test", "-p", "gafi-data", "--test", "real", "--", "--ignored"]);
    if env::var_os("GAFI_TEST_CIFAR10").is_none() {
        println!("   CIFAR-10 is skipped: GAFI_TEST_CIFAR10 is not set");
        tests.args(["--skip", "cifar10"]);
    }
    shell::run(&mut tests)
}

/// The path of `gafi-cli`, built with the features of the tests.
fn program() -> Result<PathBuf> {
    quickstart::build(&[FEATURES])
}

/// Cargo's target folder.
pub(crate) fn target() -> Result<PathBuf> {
    let metadata = shell::metadata(&["--no-deps"])?;
    let target = metadata["target_directory"].as_str().context("`cargo metadata` names no target directory")?;
    Ok(target.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selecting_no_step_is_an_error() {
        let nothing = Test { only: vec![Step::Fmt], skip: vec![Step::Fmt], ..Test::default() };
        assert!(nothing.run().unwrap_err().to_string().contains("no step"));
    }

    #[test]
    fn cheap_steps_run_first() {
        let names: Vec<_> = Step::value_variants().iter().map(|step| word(*step)).collect();
        let usual = "fmt tidy layering supply advisories clippy package docs book build tests fuzz reproduce";
        let opt_in = "cuda interop candle python real browser slurm storm";
        assert_eq!(names.join(" "), format!("{usual} {opt_in}"));
    }
}
