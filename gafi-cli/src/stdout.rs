//! Results go to standard output, all of them through here. A reader who has seen enough (`| head`) is no error: whatever else
//! there was to say is not said, and the program ends as it would have.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _, stdout};

use anyhow::{Context as _, Result};

/// Writes `text`, which ends its own lines.
///
/// # Errors
/// When it cannot be written, and not because its reader has gone.
pub(crate) fn text(text: impl Display) -> Result<()> {
    let mut out = stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("writing to standard output"),
        _ => Ok(()),
    }
}

/// Writes `record` and ends the line; see [`text`].
pub(crate) fn line(record: impl Display) -> Result<()> {
    text(format_args!("{record}\n"))
}
