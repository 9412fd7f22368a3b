//! GaFi on the command line: glue only. The stages are in their own crates; here are the verbs, the configuration, the
//! search over checkpoint, expansion and threshold, and the report.
//!
//! A program with stages or networks of its own adds them to the registry and has every verb:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     gafi_cli::run(gafi_cli::Registry::standard())
//! }
//! ```

use tracing_subscriber::EnvFilter;

mod chain;
mod event_file;
mod exit;
mod onnx;
mod predictions;
mod progress;
mod registry;
mod run_folder;
mod schema;
mod session;
mod starter;
mod stdout;
mod summary;
mod verbs;
mod watch;

pub use exit::code;
pub use gafi_pipeline::Usage;
pub use registry::{Registry, StageKind};

/// Parses the process's arguments, runs the verb, and gives the exit code: 0 done, 1 the run failed, 2 wrong usage or
/// configuration, 130 interrupted.
pub fn run(registry: Registry) -> std::process::ExitCode {
    let matches = verbs::command(&registry).get_matches();
    let level = match matches.get_count("verbose") {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    let records = session::records(&matches);
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false);
    // A second subscriber (in a program that set its own) is no reason to fail.
    let _ = if records {
        let filter = format!("{level},{}=info", progress::TOLD);
        subscriber.json().flatten_event(true).with_env_filter(EnvFilter::new(filter)).try_init()
    } else {
        subscriber.with_max_level(level).try_init()
    };
    let done = session::Session::new(registry, &matches).and_then(|session| verbs::run(&session, &matches));
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => exit::report(&error, records),
    }
}

// The examples of the README are compiled and run like those of the crates.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct ReadMe;
