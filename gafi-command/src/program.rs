//! The program to start: its command line and its timeout.

use std::path::Path;
use std::time::Duration;

use gafi_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// A program, its arguments and its timeout. It runs in the current folder of the process that starts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Program {
    /// The program and its arguments; `{artifact}` in one of them becomes the folder of the artifact.
    pub program: Vec<String>,
    /// Timeout in seconds of the hello message and of each answer; at least 1, 600 when absent.
    #[serde(default = "ten_minutes")]
    pub timeout_s: u64,
}

fn ten_minutes() -> u64 {
    600
}

impl Program {
    /// A program and its arguments, with a timeout of ten minutes.
    pub fn new(program: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { program: program.into_iter().map(Into::into).collect(), timeout_s: ten_minutes() }
    }

    /// Sets the timeout of each answer.
    pub fn with_timeout_s(mut self, seconds: u64) -> Self {
        self.timeout_s = seconds;
        self
    }

    /// Whether the program can be started.
    ///
    /// # Errors
    /// [`Error::Config`] without a program, or for a timeout of 0.
    pub fn check(&self) -> Result<()> {
        check_arguments(&self.program)?;
        if self.timeout_s == 0 {
            return Err(Error::config("timeout_s", 0, "at least 1 second"));
        }
        Ok(())
    }

    /// The command line, which names the program in errors.
    pub(crate) fn name(&self) -> String {
        self.program.join(" ")
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s)
    }

    /// The command line with the artifact's folder filled in.
    pub(crate) fn arguments(&self, artifact: Option<&Path>) -> Vec<String> {
        fill(&self.program, artifact.map(|folder| ("artifact", folder)))
    }
}

/// Whether a command line names a program.
pub(crate) fn check_arguments(program: &[String]) -> Result<()> {
    if program.first().is_none_or(String::is_empty) {
        return Err(Error::config("program", format!("{program:?}"), "a program and its arguments"));
    }
    Ok(())
}

/// Replaces `{name}` in every argument with the path of that name.
pub(crate) fn fill<'a>(arguments: &[String], folders: impl IntoIterator<Item = (&'a str, &'a Path)>) -> Vec<String> {
    let mut filled = arguments.to_vec();
    for (name, path) in folders {
        let placeholder = format!("{{{name}}}");
        let path = path.display().to_string();
        filled.iter_mut().for_each(|argument| *argument = argument.replace(&placeholder, &path));
    }
    filled
}
