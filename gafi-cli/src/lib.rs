//! GaFi on the command line. The stages, the pipeline and the report are libraries; this crate holds the verbs.
//!
//! To build a program with additional stages or networks, add them to the registry. It then has every verb, and one for each
//! new stage, here `program invert --dataset DIR --set white=255 --out DIR`:
//!
//! ```no_run
//! use gafi_cli::{Registry, StageKind};
//! use gafi_core::{
//!     ArtifactWriter, Batch, Context, Dataset, DatasetWriter, Inputs, Kind, Port, Result, Rows as _, Stage, StageInfo,
//! };
//! use serde::{Deserialize, Serialize};
//! use serde_json::{Value, json};
//!
//! /// Turns every image into its negative. The fields are the configuration.
//! #[derive(Debug, Serialize, Deserialize)]
//! #[serde(deny_unknown_fields, default)]
//! struct Invert {
//!     white: u8,
//! }
//!
//! impl Default for Invert {
//!     fn default() -> Self {
//!         Self { white: 255 }
//!     }
//! }
//!
//! impl Stage for Invert {
//!     fn info(&self) -> StageInfo {
//!         let ports = const { &[Port::required("dataset", Kind::Dataset)] };
//!         StageInfo { name: "invert", revision: 1, ports, output: Kind::Dataset }
//!     }
//!     fn config(&self) -> Value {
//!         json!(self)
//!     }
//!     fn check(&self, _: &Inputs) -> Result<()> {
//!         Ok(())
//!     }
//!     fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
//!         let dataset = Dataset::open(inputs.require("dataset")?)?;
//!         // An interrupted run resumes after the batches that its complete shards hold.
//!         let (mut writer, done) = DatasetWriter::begin(out, dataset.info().clone())?;
//!         let done = done.and_then(|batches| batches.as_u64()).unwrap_or(0);
//!         for (n, batch) in (1..).zip(dataset.batches()).skip(done as usize) {
//!             cx.checkpoint()?;
//!             let Batch { labels, images, ids, .. } = batch?;
//!             let images = images.iter().map(|pixel| self.white.saturating_sub(*pixel)).collect();
//!             // No confidence or probabilities: the teacher judged another image.
//!             writer.push(&Batch { labels, images, ids, ..Batch::default() }, json!(n))?;
//!         }
//!         writer.finish().map(drop)
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     gafi_cli::run(Registry::standard().with_stage(StageKind::of::<Invert>("Invert every image")))
//! }
//! ```

use std::ffi::{OsStr, OsString};

use tracing_subscriber::EnvFilter;

mod chain;
mod commands;
mod configuration;
mod event_file;
mod exit;
mod import_table;
mod onnx;
mod options;
mod predictions;
mod progress;
mod registry;
mod run_folder;
mod schema;
mod session;
mod signals;
mod starter;
mod stdout;
mod summary;
mod verbs;
mod watch;

pub use exit::code;
pub use gafi_pipeline::{Infeasible, Usage};
pub use registry::{Registry, StageKind};

/// Runs the verb that the process's arguments name, and returns the exit code that `gafi-cli --help` lists.
pub fn run(registry: Registry) -> std::process::ExitCode {
    std::process::ExitCode::from(run_from(registry, std::env::args_os()))
}

/// Like [`run`], with `args` instead of the process's arguments; the first is the program's name. For a program that
/// another process hosts, such as a Python interpreter. It handles signals for the rest of the process.
pub fn run_from(registry: Registry, args: impl IntoIterator<Item = OsString>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    let program = args.first().cloned().unwrap_or_default();
    let (options, call) = match verbs::parse(&registry, args) {
        Ok(parsed) => parsed,
        Err(error) => {
            // A closed pipe is no reason to fail.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(exit::USAGE);
        }
    };
    log_to_stderr(&options);
    let (done, resume) = match signals::Signals::catch(&registry.stop()) {
        Ok(signals) => (call_verb(registry, &options, &call, &program), signals.is_batch_stop()),
        Err(error) => (Err(error), false),
    };
    match done {
        Ok(()) => 0,
        Err(error) => exit::report(&error, resume, options.json_log()),
    }
}

/// Runs a verb inside a program that keeps running: `args` are the words after the program's name. Unlike [`run`], it
/// returns the error and catches no signals; set [`Registry::stop`] to stop it at the next safe point. Progress goes to
/// standard error and results to standard output, as from the command line.
///
/// # Errors
/// [`Usage`] for arguments that do not parse (and for `--help`, whose text is the message); those of the verb. [`code`]
/// classifies them.
pub fn call(registry: Registry, args: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    let args = std::iter::once("gafi-cli".into()).chain(args).collect();
    let (options, call) = verbs::parse(&registry, args).map_err(|error| Usage(error.to_string()))?;
    call_verb(registry, &options, &call, OsStr::new(""))
}

fn call_verb(
    registry: Registry,
    options: &options::GlobalArgs,
    call: &verbs::Call,
    program: &OsStr,
) -> anyhow::Result<()> {
    call.run(&session::Session::new(registry, options, call.jobs(), program)?)
}

fn log_to_stderr(options: &options::GlobalArgs) {
    let level = match options.verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false);
    // A program that embeds this one may have set its own subscriber, which is fine.
    let _ = if options.json_log() {
        let filter = format!("{level},{}=info", progress::TARGET);
        subscriber.json().flatten_event(true).with_env_filter(EnvFilter::new(filter)).try_init()
    } else {
        subscriber.with_max_level(level).try_init()
    };
}

// Compiles and runs the examples of these pages as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct ReadMe;

#[cfg(doctest)]
#[doc = include_str!("../../docs/howto.md")]
struct HowTo;
