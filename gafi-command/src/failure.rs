//! The one error of this crate: what a program should have done, what it did, and the last that it said.

use gafi_core::Error;

/// A program did not do as `docs/command-protocol.md` says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}{}", last_lines(stderr))]
pub struct Failure {
    /// Its command line.
    pub program: String,
    /// What it was asked for.
    pub asked: String,
    /// What it should have done.
    pub expected: String,
    /// What it did.
    pub found: String,
    /// The last lines of its standard error.
    pub stderr: Vec<String>,
}

fn last_lines(lines: &[String]) -> String {
    if lines.is_empty() {
        return "; it said nothing on standard error".into();
    }
    lines.iter().fold("; the last it said on standard error:".into(), |text, line| format!("{text}\n    {line}"))
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let context = format!("asking the program `{}` for {}", failure.program, failure.asked);
        Self::other(context)(failure)
    }
}

/// An answer that is not as it should be.
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
