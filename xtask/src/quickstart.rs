//! `cargo xtask quickstart`: builds `gafi-cli` and runs its verb `quickstart`.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

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
    let built = shell::build(&mut build)?.pop();
    built.map(|built| built.path).context("cargo built gafi-cli but did not name its path")
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
