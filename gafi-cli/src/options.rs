//! Options that every verb shares.

use clap::{Args, ValueEnum};
use gafi_core::BATCH_JOB_VARIABLES;

/// How the log on stderr is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Where networks run: auto, cpu, cuda or cuda:N; with --jobs also a list such as cuda:0,cuda:1
    #[arg(long, global = true, default_value = "auto")]
    pub(crate) device: String,
    /// CPU threads [default: all cores]; results do not depend on it
    #[arg(long, global = true, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Print one machine-readable record on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Rebuild existing results, and overwrite other results in their place
    #[arg(long, global = true)]
    pub(crate) force: bool,
    /// Start the programs that artifacts of kind `command` name, even those that you did not import
    #[arg(long, global = true)]
    pub(crate) allow_commands: bool,
    /// Wait while another process writes the same artifact or run [default: in batch jobs only]; --wait=false exits with 75
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) wait: Option<bool>,
    /// Log more on stderr (-v, -vv)
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Format of the log on stderr; json writes one record per line
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text, hide_possible_values = false)]
    pub(crate) log_format: LogFormat,
}

impl GlobalArgs {
    /// Whether to wait for other processes. A batch job does, because nobody is there to restart it.
    pub(crate) fn waits(&self) -> bool {
        self.wait.unwrap_or_else(|| BATCH_JOB_VARIABLES.iter().any(|name| std::env::var_os(name).is_some()))
    }

    /// Whether stderr carries JSON records.
    pub(crate) fn json_log(&self) -> bool {
        self.log_format == LogFormat::Json
    }
}
