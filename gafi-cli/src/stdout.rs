//! Standard output, for results only. A closed pipe (`| head`) is not an error: the rest is dropped. Control characters, which can only
//! come from files, are escaped.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _, stdout};

use anyhow::{Context as _, Result};
use gafi_core::printable_lines;

/// Writes `text`, which must contain its newlines.
///
/// # Errors
/// Any failure but a closed pipe.
pub(crate) fn text(text: impl Display) -> Result<()> {
    let mut out = stdout().lock();
    match write!(out, "{}", printable_lines(text, usize::MAX)).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("writing to standard output"),
        _ => Ok(()),
    }
}

/// Writes `record` and a newline; see [`text`].
pub(crate) fn line(record: impl Display) -> Result<()> {
    text(format_args!("{record}\n"))
}
