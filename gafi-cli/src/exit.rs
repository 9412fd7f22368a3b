//! Exit codes, and errors with their causes on stderr.

use gafi_core::printable_lines;
use gafi_pipeline::{Infeasible, Usage};

/// Longest message in characters: twenty lines of a program's output and more.
const LONGEST: usize = 8000;

const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
const EXHAUSTED: u8 = 3;
/// `EX_TEMPFAIL` of sysexits.h.
const RESUME: u8 = 75;
pub(crate) const INTERRUPTED: u8 = 130;

/// Every exit code, for `gafi-cli --help`.
pub(crate) const HELP: &str = "\
Exit codes:
    0  success
    1  the run failed
    2  wrong usage or configuration
    3  a class is exhausted: too few of its samples pass the filter
   75  run the same command again to resume: TERM, USR1, USR2 or HUP stopped the run at a safe
       point, or another process writes the same artifact or run and --wait is off
  130  interrupted by Ctrl-C; the same command resumes. A second Ctrl-C ends it at once";

/// The exit code of an error, as `gafi-cli --help` lists them; 130 for any [`gafi_core::Error::Interrupted`].
pub fn code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<Usage>() {
            return USAGE;
        }
        // No setting of a search has enough samples of every class.
        if cause.is::<Infeasible>() {
            return EXHAUSTED;
        }
        match cause.downcast_ref::<gafi_core::Error>() {
            Some(gafi_core::Error::Interrupted) => return INTERRUPTED,
            Some(gafi_core::Error::Locked { .. }) => return RESUME,
            Some(gafi_core::Error::Exhausted(_)) => return EXHAUSTED,
            Some(e) if e.is_usage() => return USAGE,
            _ => {}
        }
    }
    FAILED
}

/// Prints `error` with its causes, as text or as a JSON `record`, and returns its exit code. `resume`: a batch system requested
/// the stop, if there was one.
#[expect(clippy::print_stderr, reason = "this is where the program prints for its user")]
pub(crate) fn report(error: &anyhow::Error, resume: bool, record: bool) -> u8 {
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
    let code = match code(error) {
        INTERRUPTED if resume => RESUME,
        code => code,
    };
    let hint = error.chain().find_map(|cause| match cause.downcast_ref::<gafi_core::Error>()? {
        gafi_core::Error::Occupied { .. } => Some("--force overwrites it"),
        gafi_core::Error::Locked { .. } => Some("--wait waits for it"),
        _ => None,
    });
    let hint = hint.unwrap_or_default();
    if record {
        tracing::error!(code, because = causes.join("; "), hint, "{message}");
    } else {
        eprintln!("error: {message}");
        causes.iter().for_each(|cause| eprintln!("  because: {}", cause.replace('\n', "\n           ")));
        if !hint.is_empty() {
            eprintln!("  hint: {hint}");
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use gafi_pipeline::Setting;

    use super::*;

    #[test]
    fn a_search_without_a_feasible_setting_is_an_exhausted_class() {
        let infeasible = Infeasible { setting: Setting::plain(1), why: "class 1 is exhausted".into() };
        assert_eq!(code(&anyhow::Error::from(infeasible).context("every setting is infeasible")), EXHAUSTED);
        assert_eq!(code(&anyhow::anyhow!("something else")), FAILED);
    }
}
