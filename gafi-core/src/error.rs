//! Everything that can go wrong below the CLI, with what was expected, what was found, and where.

use std::path::{Path, PathBuf};

use crate::spec::ClassId;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the core: files, artifacts, datasets, stages.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something on a path.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, a verb phrase: "read", "create".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {place}: expected {expected}, found {found}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Where in it: "row 17", "labels", "header".
        place: String,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// An artifact is not there, or not whole.
    #[error("{}: no artifact: {why}", path.display())]
    NoArtifact {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// A stage was given something that does not fit it.
    #[error("stage {stage}: {port}: expected {expected}, found {found}")]
    Input {
        /// The stage.
        stage: String,
        /// Which of its inputs.
        port: String,
        /// What it takes.
        expected: String,
        /// What it got.
        found: String,
    },
    /// A configuration value is out of its range.
    #[error("{key} = {value}: expected {expected}")]
    Config {
        /// The key, dotted: "filter.threshold".
        key: String,
        /// The value found.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// The destination holds something else.
    #[error("{}: holds another result (made by {found}); remove it, choose another folder, or pass --force", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What it says it is.
        found: String,
    },
    /// Another process writes the same artifact.
    #[error("{}: another process is writing it (lock {})", path.display(), lock.display())]
    Locked {
        /// The artifact.
        path: PathBuf,
        /// Its lock file.
        lock: PathBuf,
    },
    /// A class could not fill its quota.
    #[error(
        "{class} ({name}) is exhausted: wanted {wanted} samples, accepted {accepted} of {drawn} drawn; what helps is a generator or a \
         teacher that knows the class better, a threshold that is lower, if it is above 0, a higher max_attempts, or on_exhausted = \
         \"backfill\""
    )]
    Exhausted {
        /// The class.
        class: ClassId,
        /// Its name.
        name: String,
        /// Samples asked for.
        wanted: u64,
        /// Samples drawn.
        drawn: u64,
        /// Samples accepted.
        accepted: u64,
    },
    /// Training left the finite numbers.
    #[error("step {step}: {term} is {value}; training has diverged (a lower learning rate may help)")]
    NonFinite {
        /// Optimiser step, from 0.
        step: u64,
        /// Which loss or tensor.
        term: String,
        /// Its value.
        value: f64,
    },
    /// The user, or the system, asked to stop. What was done so far is kept, and the same call goes on from there.
    #[error("interrupted; run the same command again to go on")]
    Interrupted,
    /// No loader is registered for an architecture.
    #[error("no {what} for architecture {name:?}; known: {known}")]
    UnknownArchitecture {
        /// "scorer", "generator", "learner" or "source".
        what: &'static str,
        /// What the manifest or configuration names.
        name: String,
        /// What is registered.
        known: String,
    },
    /// An error from behind one of the traits.
    #[error("{context}")]
    Other {
        /// What was being done.
        context: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Wraps an I/O error with what was tried on which path.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// A file that does not hold what it should.
    pub fn format(
        path: impl AsRef<Path>,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        let path = path.as_ref().to_path_buf();
        Self::Format { path, place: place.into(), expected: expected.into(), found: found.into() }
    }

    /// A configuration value out of its range.
    pub fn config(key: impl Into<String>, value: impl std::fmt::Display, expected: impl Into<String>) -> Self {
        Self::Config { key: key.into(), value: value.to_string(), expected: expected.into() }
    }

    /// Wraps a foreign error with what was being done.
    pub fn other<E>(context: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let context = context.into();
        move |source| Self::Other { context, source: source.into() }
    }

    /// Whether the fault lies in what the user asked for (exit code 2) rather than in the run (exit code 1).
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Config { .. } | Self::Input { .. } | Self::Occupied { .. } | Self::UnknownArchitecture { .. }
        )
    }
}
