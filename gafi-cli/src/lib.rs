//! GaFi on the command line. The stages, the pipeline and the report are libraries; this crate holds the verbs.
//!
//! To build a program with additional stages or networks, add them to the registry; it then has every verb:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     gafi_cli::run(gafi_cli::Registry::standard())
//! }
//! ```

use tracing_subscriber::EnvFilter;

mod chain;
mod commands;
mod configuration;
mod event_file;
mod exit;
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
pub use gafi_pipeline::Usage;
pub use registry::{Registry, StageKind};

/// Runs the verb that the process's arguments name, and returns the exit code that `gafi-cli --help` lists.
pub fn run(registry: Registry) -> std::process::ExitCode {
    let (options, call) = verbs::parse(&registry);
    let level = match options.verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false);
    // An embedding program may have set its own subscriber: that is no reason to fail.
    let _ = if options.json_log() {
        let filter = format!("{level},{}=info", progress::TARGET);
        subscriber.json().flatten_event(true).with_env_filter(EnvFilter::new(filter)).try_init()
    } else {
        subscriber.with_max_level(level).try_init()
    };
    let run = |registry| session::Session::new(registry, &options, call.jobs()).and_then(|session| call.run(&session));
    let (done, resume) = match signals::Signals::catch(&registry.stop()) {
        Ok(signals) => (run(registry), signals.is_batch_stop()),
        Err(error) => (Err(error), false),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => exit::report(&error, resume, options.json_log()),
    }
}

// Compiles and runs the README's examples as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct ReadMe;
