//! `cargo xtask test`: every check, cheapest first, the same on every machine and in CI.
//!
//! All steps use one profile and one set of features, so that Candle is compiled once to run and once as metadata for clippy and
//! rustdoc. The feature `onnx` is on: a build of the workspace compiles its runtime anyway. `candle-nn` is on so that its
//! code is checked.

use std::{
    env, fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::{browser, cuda, layering, package, python, reproduce, shell, slurm, storm, supply, tidy};

/// Features of every step. A step without them would compile the program a second time.
pub(crate) const FEATURES: &str = "--features=gafi-cli/onnx,gafi-gan/candle-nn";

#[derive(Debug, Args)]
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
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn run(self) -> Result<Outcome> {
        let locked = |args: &[&str]| shell::run(shell::cargo().args(args)).map(|()| Outcome::Passed);
        match self {
            Self::Fmt => locked(&["fmt", "--all", "--check"]),
            Self::Tidy => tidy::check().map(|()| Outcome::Passed),
            Self::Layering => layering::check().map(|()| Outcome::Passed),
            Self::Supply => supply::check().map(|()| Outcome::Passed),
            Self::Advisories => advisories(),
            Self::Clippy => clippy(),
            Self::Package => package::check(&target()?, FEATURES).map(|()| Outcome::Passed),
            Self::Docs => {
                let mut docs = shell::cargo();
                docs.args(["doc", "--workspace", "--no-deps", "--document-private-items"]);
                shell::run(docs.env("RUSTDOCFLAGS", "-D warnings")).map(|()| Outcome::Passed)
            }
            Self::Book if shell::exists("mdbook", "--version") => {
                shell::run(Command::new("mdbook").current_dir(shell::root()).args(["build", "docs"]))
                    .map(|()| Outcome::Passed)
            }
            Self::Book => Ok(Outcome::Skipped("mdbook is not installed".into())),
            Self::Build => locked(&["test", "--workspace", FEATURES, "--no-run"]),
            Self::Tests => tests(),
            Self::Fuzz => {
                locked(&["run", "--package", "gafi-fuzz", "--", "--cases", "2000", "--jobs", "2", "--hang", "60"])
            }
            Self::Reproduce => reproduce(),
            Self::Cuda => cuda::check(&target()?).map(|()| Outcome::Passed),
            Self::Interop => interop(),
            Self::Candle => candle(),
            Self::Python => python::test_package(&target()?).map(|()| Outcome::Passed),
            Self::Real => real(),
            Self::Browser => browser::check(&target()?).map(|()| Outcome::Passed),
            Self::Slurm => match slurm::missing() {
                Some(why) => Ok(Outcome::Skipped(why)),
                None => {
                    build_cli()?;
                    slurm::check(&target()?).map(|()| Outcome::Passed)
                }
            },
            Self::Storm => {
                build_cli()?;
                storm::check(&target()?).map(|()| Outcome::Passed)
            }
        }
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
            println!("== {}", step.name());
            let begin = Instant::now();
            let done = step.run();
            let wall = begin.elapsed();
            let done = done.with_context(|| format!("step `{}` failed after {}", step.name(), seconds(wall)))?;
            match &done {
                Outcome::Passed => println!("   ok, {}", seconds(wall)),
                Outcome::Skipped(why) => println!("   skipped: {why}"),
            }
            finished.push((*step, done, wall));
        }
        if finished.is_empty() {
            bail!("no step to run: --only and --skip exclude all of them");
        }
        println!("\n{:<10} {:>9}", "step", "wall");
        for (step, done, wall) in &finished {
            let note = match done {
                Outcome::Passed => String::new(),
                Outcome::Skipped(why) => format!("  skipped: {why}"),
            };
            println!("{:<10} {:>9}{note}", step.name(), seconds(*wall));
        }
        println!("{:<10} {:>9}", "all", seconds(begin.elapsed()));
        Ok(())
    }
}

fn seconds(wall: Duration) -> String {
    format!("{:.1} s", wall.as_secs_f64())
}

/// `cargo deny check advisories`. Skipped, not failed, where the database cannot be downloaded.
fn advisories() -> Result<Outcome> {
    if !shell::exists("cargo-deny", "--version") {
        return Ok(Outcome::Skipped("cargo-deny is not installed".into()));
    }
    if shell::run(shell::cargo().args(["deny", "fetch", "db"])).is_err() {
        return Ok(Outcome::Skipped("the database of advisories cannot be downloaded".into()));
    }
    shell::run(shell::cargo().args(["deny", "check", "advisories"])).map(|()| Outcome::Passed)
}

/// `cargo test`, with a Python for the tests that read artifacts with it.
fn tests() -> Result<Outcome> {
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
    shell::run(&mut tests).map(|()| Outcome::Passed)
}

/// Lints everything, and the technique crates once more without features, as they are built for other programs.
fn clippy() -> Result<Outcome> {
    let locked = |args: &[&str]| shell::run(shell::cargo().args(["clippy"]).args(args).args(["--", "-D", "warnings"]));
    locked(&["--workspace", FEATURES, "--all-targets"])?;
    for technique in ["gafi-filter", "gafi-expand", "gafi-recycle"] {
        locked(&["--package", technique, "--no-default-features", "--lib"])?;
    }
    Ok(Outcome::Passed)
}

/// `reproduce` at scale smoke, in an empty folder.
fn reproduce() -> Result<Outcome> {
    let folder = target()?.join("reproduce-smoke");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    reproduce::smoke(&folder)?;
    Ok(Outcome::Passed)
}

/// Reads exports, event files and schemas with the libraries they are for.
fn interop() -> Result<Outcome> {
    let target = target()?;
    let python = match env::var_os("GAFI_INTEROP_PYTHON") {
        Some(python) => python.into(),
        None => python::INTEROP.find(&target)?,
    };
    shell::run(shell::cargo().args(["build", "-p", "gafi-cli"]))?;
    let program = target.join("debug").join(format!("gafi-cli{}", env::consts::EXE_SUFFIX));
    let tests = shell::root().join("gafi-cli/tests/interop");
    let mut exports = Command::new(&python);
    exports.arg(tests.join("interop.py")).arg(&program).arg(shell::root()).arg(target.join("interop"));
    shell::run(&mut exports)?;
    let mut events = Command::new(&python);
    events.arg(tests.join("events.py")).arg(&program).arg(target.join("interop-events"));
    shell::run(&mut events)?;
    let mut schemas = Command::new(&python);
    schemas.arg(tests.join("schemas.py")).arg(&program).arg(shell::root()).arg(target.join("interop-schemas"));
    shell::run(&mut schemas).map(|()| Outcome::Passed)
}

/// Runs `examples/candle` on drawn shapes. The weights that it saves and loads must classify more than a quarter of its training images; by
/// chance it is a tenth.
fn candle() -> Result<Outcome> {
    build_cli()?;
    let target = target()?;
    let folder = target.join("candle-example");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    let mut import = Command::new(target.join("debug").join(format!("gafi-cli{}", env::consts::EXE_SUFFIX)));
    import.args(["import", "shapes", "--size", "16", "--out"]).arg(folder.join("data"));
    shell::run(&mut import)?;
    let mut example = shell::cargo();
    example.current_dir(shell::root().join("examples/candle")).args(["run", "--quiet", "--target-dir"]);
    // A folder of its own: other features and profiles.
    example.arg(target.join("candle")).arg("--").args([folder.join("data/train"), folder.join("weights.safetensors")]);
    let printed = shell::output(&mut example)?;
    let numbers: Vec<f64> = printed.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [correct, all] if correct > 0.25 * all => Ok(Outcome::Passed),
        _ => bail!("expected more than a quarter of the images to be classified correctly, found: {printed}"),
    }
}

/// The ignored tests of gafi-data, which fail when a set is missing.
fn real() -> Result<Outcome> {
    let mut tests = shell::cargo();
    tests.args(["test", "-p", "gafi-data", "--test", "real", "--", "--ignored"]);
    if env::var_os("GAFI_TEST_CIFAR10").is_none() {
        println!("   CIFAR-10 is skipped: GAFI_TEST_CIFAR10 is not set");
        tests.args(["--skip", "cifar10"]);
    }
    shell::run(&mut tests).map(|()| Outcome::Passed)
}

/// Builds `gafi-cli` with the features of the tests.
fn build_cli() -> Result<()> {
    shell::run(shell::cargo().args(["build", "--package", "gafi-cli", FEATURES]))
}

/// Cargo's target folder.
pub(crate) fn target() -> Result<PathBuf> {
    let metadata = shell::output(shell::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("parsing the output of `cargo metadata`")?;
    let target = metadata["target_directory"].as_str().context("`cargo metadata` names no target directory")?;
    Ok(target.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selecting_no_step_is_an_error() {
        let nothing = Test {
            only: vec![Step::Fmt],
            skip: vec![Step::Fmt],
            cuda: false,
            interop: false,
            candle: false,
            python: false,
            real: false,
            browser: false,
            slurm: false,
            storm: false,
        };
        assert!(nothing.run().unwrap_err().to_string().contains("no step"));
    }

    #[test]
    fn cheap_steps_run_first() {
        let names: Vec<_> = Step::value_variants().iter().map(|step| step.name()).collect();
        assert_eq!(
            names,
            [
                "fmt",
                "tidy",
                "layering",
                "supply",
                "advisories",
                "clippy",
                "package",
                "docs",
                "book",
                "build",
                "tests",
                "fuzz",
                "reproduce",
                "cuda",
                "interop",
                "candle",
                "python",
                "real",
                "browser",
                "slurm",
                "storm"
            ]
        );
    }
}
