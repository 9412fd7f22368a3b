//! `report`: one page about runs of the pipeline.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::session::Session;
use crate::stdout;
use gafi_report::{self as report, Options};

/// Write one self-contained HTML page about runs, finished or not: results, search, samples, inputs
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Folders of runs, or folders that hold runs; runs of several seeds are averaged
    #[arg(required = true)]
    run: Vec<PathBuf>,
    /// The page [default: report.html in the first RUN]; --force overwrites a file that is no report
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Leave the samples out, which opens no network
    #[arg(long)]
    no_samples: bool,
    /// Leave real images out, for data that must not be shared
    #[arg(long)]
    no_real: bool,
}

pub(super) fn run(session: &Session, args: &ReportArgs) -> Result<()> {
    let begun = Instant::now();
    let output = args.output.clone().unwrap_or_else(|| args.run[0].join("report.html"));
    let options = Options { samples: !args.no_samples, real: !args.no_real, force: session.cx.force };
    let written = report::write(&args.run, &output, options, &session.cx)?;
    let wall = begun.elapsed().as_secs_f64();
    if session.json {
        return stdout::line(json!({
            "report": output, "runs": written.runs, "ended": written.ended, "bytes": written.bytes, "wall_s": wall,
        }));
    }
    let state = if written.ended < written.runs { ", some in progress" } else { "" };
    let size = written.bytes >> 10;
    session.log(&format!("{}: {} runs{state}, {size} KiB ({wall:.1} s)", output.display(), written.runs));
    Ok(())
}
