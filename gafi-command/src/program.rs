//! What is started: a program, its arguments, and how long it may take.

use std::path::Path;
use std::time::Duration;

use gafi_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// A program and its arguments. It runs in the current folder of whoever starts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// The program and its arguments; `{artifact}` in one of them stands for the folder of the artifact.
    pub program: Vec<String>,
    /// Seconds that the program may take to say hello, and for each answer; at least 1.
    #[serde(default = "ten_minutes")]
    pub timeout_s: u64,
}

fn ten_minutes() -> u64 {
    600
}

impl Program {
    /// A program and its arguments, with ten minutes for each answer.
    pub fn new(program: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { program: program.into_iter().map(Into::into).collect(), timeout_s: ten_minutes() }
    }

    /// Whether it can be started at all.
    ///
    /// # Errors
    /// [`Error::Config`] without a program, or for a timeout of 0.
    pub fn check(&self) -> Result<()> {
        if self.program.first().is_none_or(String::is_empty) {
            return Err(Error::config("program", format!("{:?}", self.program), "a program and its arguments"));
        }
        if self.timeout_s == 0 {
            return Err(Error::config("timeout_s", 0, "at least 1 second"));
        }
        Ok(())
    }

    /// What it is called in errors: the command line.
    pub(crate) fn name(&self) -> String {
        self.program.join(" ")
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s)
    }

    /// The command line with the artifact's folder filled in.
    pub(crate) fn arguments(&self, artifact: Option<&Path>) -> Vec<String> {
        let folder = artifact.map(|path| path.display().to_string());
        let fill = |text: &String| folder.as_ref().map_or_else(|| text.clone(), |f| text.replace("{artifact}", f));
        self.program.iter().map(fill).collect()
    }
}
