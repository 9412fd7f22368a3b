//! Standard output, for results only. A closed pipe (`| head`) is no error: the rest is dropped.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _, stdout};

use anyhow::{Context as _, Result};

/// Writes `text`, which must contain its newlines.
///
/// # Errors
/// Any failure but a closed pipe.
pub(crate) fn text(text: impl Display) -> Result<()> {
    let mut out = stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("writing to standard output"),
        _ => Ok(()),
    }
}

/// Writes `record` and a newline; see [`text`].
pub(crate) fn line(record: impl Display) -> Result<()> {
    text(format_args!("{record}\n"))
}
