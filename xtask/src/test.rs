//! Every check there is, the cheapest first: `cargo xtask test` here and in CI, so that neither knows more than the other.
//!
//! One profile, and the features of a plain `cargo build`, with ONNX, whose runtime a build of the workspace compiles anyway: candle
//! is compiled once to run and once more as the bare metadata that clippy and rustdoc read.

use std::{
    env, fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::{browser, layering, python, reproduce, shell, tidy};

/// The program with what only a feature brings; without it, steps that run the program compile it once more, and nothing else.
const ONNX: &str = "--features=gafi-cli/onnx";

/// What `cargo xtask test` was asked to do.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Only these steps, in their own order
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STEP")]
    only: Vec<Step>,
    /// Also what needs NVIDIA's compiler, but no GPU: lints with the feature `cuda`, the kernels' syntax and their emulation
    #[arg(long)]
    cuda: bool,
    /// Also exports, event files and schemas, read by the Python libraries they are for, in a virtual environment with PyTorch
    /// (gigabytes, if it is not installed already)
    #[arg(long)]
    interop: bool,
    /// Also the report, looked at in headless Chromium, which must be installed (Debian: chromium)
    #[arg(long)]
    browser: bool,
    /// Without these steps
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STEP")]
    skip: Vec<Step>,
}

/// One check. The order here is the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// The code is formatted
    Fmt,
    /// House rules that no other tool knows: headers, prints, unsafe, notes to self, links
    Tidy,
    /// Who depends on whom
    Layering,
    /// Licences and advisories, where cargo-deny is installed
    Deny,
    /// Lints, as errors
    Clippy,
    /// The documentation builds without a warning
    Docs,
    /// The book of `docs/`, where mdbook is installed
    Book,
    /// Everything that the tests run is compiled
    Build,
    /// Unit, property, golden and end-to-end tests, doc tests and the Python of docs/format.md
    Tests,
    /// `cargo xtask reproduce` at scale smoke, on the built-in set, from nothing to its table
    Reproduce,
    /// The CUDA parts, where nvcc is installed (with --cuda)
    Cuda,
    /// What `export`, `tensorboard` and `schema` write, read by the libraries that it is for (with --interop)
    Interop,
    /// The report in headless Chromium: no error, the slider, phone and desktop, light and dark (with --browser)
    Browser,
}

/// What a step that did not fail has to say.
enum Done {
    Passed,
    Skipped(String),
}

impl Step {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn run(self) -> Result<Done> {
        let locked = |args: &[&str]| shell::run(shell::cargo().args(args)).map(|()| Done::Passed);
        match self {
            Self::Fmt => locked(&["fmt", "--all", "--check"]),
            Self::Tidy => tidy::check().map(|()| Done::Passed),
            Self::Layering => layering::check().map(|()| Done::Passed),
            Self::Deny if shell::exists("cargo-deny", "--version") => locked(&["deny", "check"]),
            Self::Deny => Ok(Done::Skipped("cargo-deny is not installed".into())),
            Self::Clippy => locked(&["clippy", "--workspace", ONNX, "--all-targets", "--", "-D", "warnings"]),
            Self::Docs => {
                let mut docs = shell::cargo();
                docs.args(["doc", "--workspace", "--no-deps", "--document-private-items"]);
                shell::run(docs.env("RUSTDOCFLAGS", "-D warnings")).map(|()| Done::Passed)
            }
            Self::Book if shell::exists("mdbook", "--version") => {
                shell::run(Command::new("mdbook").current_dir(shell::root()).args(["build", "docs"]))
                    .map(|()| Done::Passed)
            }
            Self::Book => Ok(Done::Skipped("mdbook is not installed".into())),
            Self::Build => locked(&["test", "--workspace", ONNX, "--no-run"]),
            Self::Tests => tests(),
            Self::Reproduce => reproduce(),
            Self::Cuda if shell::exists("nvcc", "--version") => cuda(),
            Self::Cuda => Ok(Done::Skipped("nvcc is not installed: nothing of CUDA was compiled".into())),
            Self::Interop => interop(),
            Self::Browser => browser::check(&target()?).map(|()| Done::Passed),
        }
    }
}

impl Test {
    /// Runs the steps; the first that fails ends it.
    pub(crate) fn run(&self) -> Result<()> {
        let begin = Instant::now();
        let mut told: Vec<(Step, Done, Duration)> = Vec::new();
        for step in Step::value_variants() {
            let usual = match step {
                Step::Cuda => self.cuda,
                Step::Interop => self.interop,
                Step::Browser => self.browser,
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
                Done::Passed => println!("   ok, {}", seconds(wall)),
                Done::Skipped(why) => println!("   skipped: {why}"),
            }
            told.push((*step, done, wall));
        }
        if told.is_empty() {
            bail!("no step is left to run");
        }
        println!("\n{:<10} {:>9}", "step", "wall");
        for (step, done, wall) in &told {
            let note = match done {
                Done::Passed => String::new(),
                Done::Skipped(why) => format!("  skipped: {why}"),
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

/// `cargo test`, with a Python for the tests that read artifacts from outside.
fn tests() -> Result<Done> {
    let mut tests = shell::cargo();
    // All that fails is told, not only the first crate's.
    tests.args(["test", "--workspace", ONNX, "--no-fail-fast"]);
    if env::var_os("GAFI_TEST_PYTHON").is_none() {
        match python::FORMAT.find(&target()?) {
            Ok(python) => {
                tests.env("GAFI_TEST_PYTHON", python);
            }
            Err(why) if shell::in_ci() => return Err(why.context("the Python of docs/format.md must run in CI")),
            Err(why) => println!("   the Python of docs/format.md does not run: {why:#}"),
        }
    }
    shell::run(&mut tests).map(|()| Done::Passed)
}

/// The smallest table there is, in a folder that is made anew.
fn reproduce() -> Result<Done> {
    let folder = target()?.join("reproduce-smoke");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    reproduce::smoke(&folder)?;
    Ok(Done::Passed)
}

/// Lints with the feature `cuda`, tests of GPUs included; the kernels through nvcc; the kernels emulated on the CPU.
fn cuda() -> Result<Done> {
    let mut clippy = shell::cargo();
    clippy.args(["clippy", "-p", "gafi-kernels", "-p", "gafi-nn", "-p", "gafi-gan", "-p", "gafi-cli"]);
    clippy.args(["--features", "gafi-cli/cuda", "--all-targets", "--", "-D", "warnings"]);
    // candle-kernels asks nvidia-smi for it otherwise.
    if env::var_os("CUDA_COMPUTE_CAP").is_none() && !shell::exists("nvidia-smi", "-L") {
        clippy.env("CUDA_COMPUTE_CAP", "90");
    }
    shell::run(&mut clippy)?;
    let ptx = target()?.join("kernels.ptx");
    let mut nvcc = Command::new("nvcc");
    nvcc.current_dir(shell::root()).args(["--ptx", "-std=c++17", "-Werror", "all-warnings", "-o"]).arg(ptx);
    shell::run(nvcc.arg("gafi-kernels/src/cuda/kernels/all.cu"))?;
    shell::run(shell::cargo().args(["test", "-p", "gafi-kernels", "--lib", "cuda::tests"])).map(|()| Done::Passed)
}

/// Exports, event files and schemas, read by the libraries that other people read them with.
fn interop() -> Result<Done> {
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
    shell::run(&mut schemas).map(|()| Done::Passed)
}

/// Where cargo builds.
fn target() -> Result<PathBuf> {
    let metadata = shell::output(shell::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("what `cargo metadata` wrote")?;
    let target = metadata["target_directory"].as_str().context("`cargo metadata` names no target directory")?;
    Ok(target.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_that_leaves_nothing_is_an_error() {
        let nothing =
            Test { only: vec![Step::Fmt], skip: vec![Step::Fmt], cuda: false, interop: false, browser: false };
        assert!(nothing.run().unwrap_err().to_string().contains("no step"));
    }

    #[test]
    fn the_cheap_steps_come_first() {
        let names: Vec<_> = Step::value_variants().iter().map(|step| step.name()).collect();
        assert_eq!(
            names,
            [
                "fmt",
                "tidy",
                "layering",
                "deny",
                "clippy",
                "docs",
                "book",
                "build",
                "tests",
                "reproduce",
                "cuda",
                "interop",
                "browser"
            ]
        );
    }
}
