//! Exit codes, and errors with their causes on stderr.

use std::process::ExitCode;

use gafi_core::printable_lines;
use gafi_pipeline::Usage;

/// Longest message in characters: twenty lines of a program's output and more.
const LONGEST: usize = 8000;

/// The exit code of an error: 2 for wrong usage or configuration, 130 for an interrupt, else 1.
pub fn code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<Usage>() {
            return 2;
        }
        if let Some(e) = cause.downcast_ref::<gafi_core::Error>() {
            match e {
                gafi_core::Error::Interrupted => return 130,
                e if e.is_usage() => return 2,
                _ => {}
            }
        }
    }
    1
}

/// Prints `error` with its causes, as text or as a JSON `record`, and returns its exit code.
#[expect(clippy::print_stderr, reason = "this is where the program prints for its user")]
pub(crate) fn report(error: &anyhow::Error, record: bool) -> ExitCode {
    let mut causes = Vec::new();
    let message = printable_lines(error, LONGEST);
    let mut last = message.clone();
    for cause in error.chain().skip(1) {
        let text = printable_lines(cause, LONGEST);
        // Skip a cause that its parent already quotes.
        if !last.contains(&text) {
            causes.push(text.clone());
        }
        last = text;
    }
    let occupied = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(gafi_core::Error::Occupied { .. }))
    };
    let hint = if error.chain().any(occupied) { "--force overwrites it" } else { "" };
    let code = code(error);
    if record {
        tracing::error!(code, because = causes.join("; "), hint, "{message}");
    } else {
        eprintln!("error: {message}");
        causes.iter().for_each(|cause| eprintln!("  because: {cause}"));
        if !hint.is_empty() {
            eprintln!("  hint: {hint}");
        }
    }
    ExitCode::from(code)
}
