//! The error of this crate: what a program should have done, what it did, and the end of its standard error.

use gafi_core::{Error, printable};

/// A program broke the protocol of `docs/command-protocol.md`: it crashed, hung or gave a wrong answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {}, found {}{}", printable(expected), printable(found), stderr_text(stderr))]
#[non_exhaustive]
pub struct Failure {
    /// The command line.
    pub program: String,
    /// What was requested, as in "5 samples of class 1".
    pub request: String,
    /// What the program should have done.
    pub expected: String,
    /// What it did.
    pub found: String,
    /// The last lines of its standard error, at most 20.
    pub stderr: Vec<String>,
}

fn stderr_text(lines: &[String]) -> String {
    if lines.is_empty() {
        return "; its standard error is empty".into();
    }
    lines
        .iter()
        .fold("; the last lines of its standard error:".into(), |text, line| format!("{text}\n    {}", printable(line)))
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let context = format!("program `{}`: the request for {} failed", failure.program, failure.request);
        Self::other(context)(failure)
    }
}

/// A wrong answer, before it becomes a [`Failure`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) expected: String,
    pub(crate) found: String,
}

impl Mismatch {
    pub(crate) fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { expected: expected.into(), found: found.into() }
    }
}
