//! Errors that are the caller's to fix.

/// Wrong usage or configuration, as opposed to a run that failed. A command line exits with code 2 for it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);
