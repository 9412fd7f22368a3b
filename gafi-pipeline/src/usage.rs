//! The error for a call that the user has to correct.

/// A wrong call or configuration, as opposed to a run that failed. Command lines exit with code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);
