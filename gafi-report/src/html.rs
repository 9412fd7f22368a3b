//! The HTML page as a file.

use std::path::Path;

use anyhow::Result;
use gafi_core::{Context, Error, printable_lines, write_atomic};
use gafi_pipeline::Usage;

use crate::facts::groups;
use crate::report::Report;
use crate::run::Run;
use crate::samples::{self, Samples};
use crate::{evaluations, page};

/// Longest reason for missing samples, in characters.
const WHY_LONGEST: usize = 4000;

/// Contents of the page, and whether it may replace a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Show samples. Runs generator and teacher, which takes up to a minute.
    pub samples: bool,
    /// Show real training images beside the samples.
    pub real: bool,
    /// Replace a file that is not a report.
    pub force: bool,
}

impl Default for Options {
    /// With samples and real images; replaces only earlier reports.
    fn default() -> Self {
        Self { samples: true, real: true, force: false }
    }
}

/// Writes the page about `runs` to `path` and returns its size in bytes. Samples are of the first run that has a generator and a
/// teacher; if they cannot be drawn, the page says why.
///
/// # Errors
/// [`Usage`] when `path` is a file that is not a report, or when two runs have the same configuration and seed; when an artifact
/// is damaged or `path` cannot be written; [`Error::Interrupted`].
pub fn write(runs: &[Run], path: &Path, options: Options, cx: &Context) -> Result<usize> {
    if !options.force && !is_replaceable(path) {
        return Err(Usage(format!(
            "{} exists and is not a report; choose another file, or force its replacement",
            path.display()
        ))
        .into());
    }
    let groups = groups(runs)?;
    let evaluations = groups.iter().map(|group| evaluations::read(group, runs)).collect::<Result<_>>()?;
    let classes = runs.first().map(|run| run.record().dataset.classes.clone()).unwrap_or_default();
    let samples = samples(runs, options, cx)?;
    let page = page::render(&Report { runs, groups, evaluations, samples, classes })?;
    write_atomic(path, page.as_bytes())?;
    Ok(page.len())
}

/// Samples of the first run that has some, or why no run has any.
fn samples(runs: &[Run], options: Options, cx: &Context) -> Result<Result<Samples, String>> {
    if !options.samples {
        return Ok(Err("left out by request".into()));
    }
    let mut why = "there are no runs".to_string();
    for run in runs {
        match samples::draw(run, options.real, cx) {
            Ok(samples) => return Ok(Ok(samples)),
            Err(e) if e.chain().any(|c| c.downcast_ref().is_some_and(is_fatal)) => return Err(e),
            Err(e) => {
                why = printable_lines(format!("{e:#}"), WHY_LONGEST);
                cx.progress.log(&format!("{}: no samples: {why}", run.name));
            }
        }
    }
    Ok(Err(why))
}

/// Whether a page without samples would hide the error: an interrupt, or a damaged artifact.
fn is_fatal(error: &Error) -> bool {
    matches!(error, Error::Interrupted | Error::Format { .. } | Error::Io { .. })
}

/// Whether `path` is free, or an earlier report.
fn is_replaceable(path: &Path) -> bool {
    match gafi_core::read_regular(path, u64::MAX) {
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
        Ok(bytes) => {
            let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).into_owned();
            head.contains(&format!("content=\"{}\"", page::GENERATOR))
        }
    }
}
