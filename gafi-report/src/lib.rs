//! `report`: what a run of the pipeline came to, as one page that needs nothing else. Facts are gathered first (`gather`, `facts`,
//! `curves`, and `samples`, the only part that runs networks); `page` and `plots` put them into HTML and compute nothing.
//!
//! Of the test split nothing is shown but figures that are in the run's records.

mod curves;
mod facts;
mod gather;
mod page;
mod pictures;
mod plots;
mod samples;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use gafi_core::{Context, Error, MANIFEST_FILE, write_atomic};

use gafi_pipeline::Usage;
pub use gather::Run;

/// What may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Draw samples: opens generator and teacher, takes up to a minute.
    pub samples: bool,
    /// Show real training images beside samples.
    pub real: bool,
    /// Replace a file that is no report.
    pub force: bool,
}

impl Default for Options {
    /// Everything, replacing nothing but reports.
    fn default() -> Self {
        Self { samples: true, real: true, force: false }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Runs that it is about.
    pub runs: usize,
    /// Of them, those that have ended.
    pub ended: usize,
    /// Length of the file.
    pub bytes: usize,
}

/// All that the page tells.
struct Report {
    runs: Vec<Run>,
    groups: Vec<facts::Group>,
    /// Samples of the first run that has some, or why there are none.
    samples: Result<samples::Samples, String>,
    /// Names of the classes.
    classes: Vec<String>,
}

impl Report {
    fn title(&self) -> String {
        let mut sets: Vec<String> = self.runs.iter().map(Run::set).collect();
        sets.dedup();
        sets.join(", ")
    }

    fn real_images(&self) -> usize {
        let neighbours = self.samples.as_ref().ok().and_then(|s| s.neighbours.as_ref());
        neighbours.map_or(0, |n| n.found.iter().map(|of| of.real.len()).sum())
    }
}

/// Writes the report about `runs` to `output`: folders of `gafi-cli pipeline`, finished or not, or folders of such folders. Runs
/// on the same images under the same protocol are averaged.
///
/// # Errors
/// [`Usage`] when a folder holds no run, or `output` is a file that is no report; [`Error::Interrupted`]. What a run lacks, or
/// what is damaged in it, is no error: the page says so.
pub fn write(runs: &[PathBuf], output: &Path, options: Options, cx: &Context) -> Result<Written> {
    let folders = runs.iter().map(|path| find(path)).collect::<Result<Vec<_>>>()?.concat();
    if !options.force && !replaceable(output) {
        return Err(Usage(format!("{} is there and no report; --force replaces it", output.display())).into());
    }
    let runs: Vec<Run> = folders.iter().map(|folder| Run::read(folder)).collect();
    let classes = runs.iter().map(Run::classes).find(|c| !c.is_empty()).unwrap_or_default();
    let report = Report { groups: facts::groups(&runs), samples: drawn(&runs, options, cx)?, runs, classes };
    let page = page::render(&report)?;
    write_atomic(output, page.as_bytes())?;
    let ended = report.runs.iter().filter(|r| r.results.is_some()).count();
    Ok(Written { runs: report.runs.len(), ended, bytes: page.len() })
}

/// Samples of the first run that has any. That a network cannot be opened is told on the page, a wish to stop is not.
fn drawn(runs: &[Run], options: Options, cx: &Context) -> Result<Result<samples::Samples, String>> {
    if !options.samples {
        return Ok(Err("left out, as --no-samples says".into()));
    }
    let mut why = "there is no run".to_string();
    for run in runs {
        match samples::draw(run, options.real, cx) {
            Ok(samples) => return Ok(Ok(samples)),
            Err(e) if e.chain().any(|c| matches!(c.downcast_ref(), Some(Error::Interrupted))) => return Err(e),
            Err(e) => why = format!("{e:#}"),
        }
    }
    Ok(Err(why))
}

/// The run in `path`, or the runs in its folders.
fn find(path: &Path) -> Result<Vec<PathBuf>> {
    if is_run(path) {
        return Ok(vec![path.into()]);
    }
    let inside: Vec<_> = gather::folders(path).iter().map(|name| path.join(name)).filter(|dir| is_run(dir)).collect();
    if inside.is_empty() {
        let why = if path.join(MANIFEST_FILE).exists() { ": it is an artifact, of which `inspect` tells" } else { "" };
        return Err(Usage(format!("{}: expected the folder of a run of the pipeline{why}", path.display())).into());
    }
    Ok(inside)
}

/// Whether there are results in it, or artifacts, whole or begun.
fn is_run(dir: &Path) -> bool {
    let artifact = |name: &String| name.ends_with(".partial") || dir.join(name).join(MANIFEST_FILE).is_file();
    !dir.join(MANIFEST_FILE).exists()
        && (dir.join("results.json").is_file() || gather::folders(dir).iter().any(artifact))
}

/// Whether nothing is there, or an earlier report.
fn replaceable(output: &Path) -> bool {
    match fs::read(output) {
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
        Ok(bytes) => {
            let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).into_owned();
            head.contains(&format!("content=\"{}\"", page::GENERATOR))
        }
    }
}
