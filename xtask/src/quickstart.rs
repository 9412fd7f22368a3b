//! `cargo xtask quickstart`: builds `gafi-cli` and runs its verb `quickstart`.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::shell;

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Quickstart {
    /// Options of `gafi-cli quickstart`, such as --out DIR or --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
    options: Vec<OsString>,
}

impl Quickstart {
    /// Builds and runs; the exit code is that of `gafi-cli`.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        println!("Building gafi-cli (minutes the first time, seconds when nothing changed) ...");
        let mut program = Command::new(build(&[])?);
        program.arg("quickstart").args(&self.options);
        replace(program)
    }
}

/// Builds `gafi-cli` with extra cargo options, and returns its path.
pub(crate) fn build(options: &[&str]) -> Result<PathBuf> {
    let mut build = shell::cargo();
    build.args(["build", "--package", "gafi-cli", "--bin", "gafi-cli"]).args(options);
    let messages = shell::output(build.args(["--message-format", "json-render-diagnostics"]))?;
    executable(&messages).context("cargo built gafi-cli but did not name its path")
}

/// The path of `gafi-cli` in cargo's messages, one JSON object per line.
fn executable(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = messages.filter(|message| message["target"]["name"] == "gafi-cli");
    programs.find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// Replaces this process, so that signals, terminal and exit code are those of `command`.
#[cfg(unix)]
fn replace(mut command: Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt as _;
    bail!(anyhow::Error::new(command.exec()).context(format!("cannot start {}", command.get_program().display())))
}

/// Runs `command` and returns its exit code.
#[cfg(not(unix))]
fn replace(mut command: Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    match status.code().map(u8::try_from) {
        Some(Ok(code)) => Ok(code.into()),
        _ => bail!("gafi-cli ended with {status}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn the_program_is_found_in_cargos_messages() {
        let messages = "\
{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"gafi_cli\"},\"executable\":null}
not json
{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"gafi-cli\"},\"executable\":\"/t/debug/gafi-cli\"}
{\"reason\":\"build-finished\",\"success\":true}
";
        assert_eq!(executable(messages), Some("/t/debug/gafi-cli".into()));
        assert_eq!(executable("{\"reason\":\"build-finished\"}"), None);
    }

    #[test]
    fn options_reach_the_program() {
        #[derive(clap::Parser)]
        #[command(disable_help_flag = true)]
        struct Alone {
            #[command(flatten)]
            quickstart: Quickstart,
        }
        let parsed = Alone::parse_from(["quickstart", "--out", "a b", "--help"]);
        assert_eq!(parsed.quickstart.options, ["--out", "a b", "--help"]);
    }
}
