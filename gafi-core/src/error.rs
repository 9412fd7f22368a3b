//! The errors of this crate: each says what was expected, what was found, and where.

use std::path::{Path, PathBuf};

use crate::exhausted::Exhausted;
use crate::text::printable;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of files, artifacts, datasets, stages or networks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An I/O error on a path.
    #[error("cannot {action} {}: {}", printable(path.display()), printable(source))]
    Io {
        /// The attempted action, a verb: "read", "create".
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file has the wrong content.
    #[error("{}: {}: expected {}, found {}", printable(path.display()), printable(place), printable(expected), printable(found))]
    Format {
        /// The file.
        path: PathBuf,
        /// The place in it: "row 17", "labels", "header".
        place: String,
        /// The expected content.
        expected: String,
        /// The content found.
        found: String,
    },
    /// A folder is not an artifact.
    #[error("{}: not an artifact: {}", printable(path.display()), printable(why))]
    NoArtifact {
        /// The folder.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// An input does not fit a stage.
    #[error("stage {}: {port}: expected {}, found {}", printable(stage), printable(expected), printable(found))]
    Input {
        /// The stage.
        stage: String,
        /// The port.
        port: String,
        /// The expected input.
        expected: String,
        /// The input found.
        found: String,
    },
    /// A configuration value is out of its range.
    #[error("{} = {}: expected {}", printable(key), printable(value), printable(expected))]
    Config {
        /// The key, dotted: "filter.threshold".
        key: String,
        /// The value found.
        value: String,
        /// The allowed values.
        expected: String,
    },
    /// The destination is occupied.
    #[error("{}: holds another result ({}); remove it, choose another folder, or force a replacement", printable(path.display()), printable(found))]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What occupies it.
        found: String,
    },
    /// Another process writes the same destination.
    #[error("{}: {} is writing it (lock {})", printable(path.display()), printable(owner.as_deref().unwrap_or("another process")), printable(lock.display()))]
    Locked {
        /// The destination.
        path: PathBuf,
        /// Its lock file.
        lock: PathBuf,
        /// The other process: "process 4021 on node7, job 1189"; `None` when unknown.
        owner: Option<String>,
    },
    /// Classes have too few samples.
    #[error(transparent)]
    Exhausted(Box<Exhausted>),
    /// A training value is not finite.
    #[error("step {step}: {term} is {value}; training has diverged (a lower learning rate may help)")]
    NonFinite {
        /// Optimiser step, from 0.
        step: u64,
        /// Which loss or tensor.
        term: String,
        /// Its value.
        value: f64,
    },
    /// A stop was requested. Finished work is kept, and the same call resumes.
    #[error("interrupted; run the same command again to resume")]
    Interrupted,
    /// No loader is registered under a name.
    #[error("no {what} named \"{}\" is registered; known: {}", printable(name), printable(known))]
    UnknownArchitecture {
        /// "scorer", "generator", "learner" or "source".
        what: &'static str,
        /// The name in the manifest or configuration.
        name: String,
        /// The registered names.
        known: String,
    },
    /// Opening an artifact would start a program, and the caller has not allowed it.
    #[error(
        "{}: opening it starts the program `{}`, which is not allowed",
        printable(path.display()),
        printable(program)
    )]
    NotAllowed {
        /// The artifact.
        path: PathBuf,
        /// The program's command line.
        program: String,
    },
    /// Any other failure, such as one inside an implementation of a trait.
    #[error("{}", printable(context))]
    Other {
        /// What failed.
        context: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Wraps an I/O error with the attempted action and the path.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// A file with the wrong content.
    pub fn format(
        path: impl AsRef<Path>,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        let path = path.as_ref().to_path_buf();
        Self::Format { path, place: place.into(), expected: expected.into(), found: found.into() }
    }

    /// An input that does not fit a stage.
    pub fn input(
        stage: impl Into<String>,
        port: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Input { stage: stage.into(), port: port.into(), expected: expected.into(), found: found.into() }
    }

    /// A configuration value out of its range.
    pub fn config(key: impl Into<String>, value: impl std::fmt::Display, expected: impl Into<String>) -> Self {
        Self::Config { key: key.into(), value: value.to_string(), expected: expected.into() }
    }

    /// Wraps another error with what failed.
    pub fn other<E>(context: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let context = context.into();
        move |source| Self::Other { context, source: source.into() }
    }

    /// Whether the request was wrong (exit code 2), rather than the run having failed (exit code 1).
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Config { .. }
                | Self::Input { .. }
                | Self::Occupied { .. }
                | Self::UnknownArchitecture { .. }
                | Self::NotAllowed { .. }
        )
    }
}

/// Checks a count in a configuration that has no upper bound.
///
/// # Errors
/// [`Error::Config`] when `value` is below 1.
pub fn check_positive<N: PartialOrd + From<u8> + std::fmt::Display>(key: &str, value: N) -> Result<()> {
    if value >= N::from(1) { Ok(()) } else { Err(Error::config(key, value, "at least 1")) }
}

/// Checks a count in a configuration.
///
/// # Errors
/// [`Error::Config`] unless `value` is from 1 to `max`.
pub fn check_count<N: PartialOrd + From<u8> + std::fmt::Display>(key: &str, value: N, max: N) -> Result<()> {
    if value >= N::from(1) && value <= max { Ok(()) } else { Err(Error::config(key, value, format!("1 to {max}"))) }
}
