//! `report`: runs of the pipeline as an HTML page, a table or a picture.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use gafi_core::write_atomic;
use gafi_pipeline::Usage;
use gafi_report::{self as report, Options, Run};
use serde_json::json;

use crate::session::Session;
use crate::stdout;

/// Report on runs, finished or not: an HTML page with results, search, samples and inputs, a table, or a picture
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Folders of runs, or folders that hold runs; runs that differ only in their seed are averaged, and no seed may occur twice
    #[arg(required = true)]
    run: Vec<PathBuf>,
    /// html: a self-contained page; markdown, json: the results table; png: real images, raw samples and kept samples of the first RUN
    #[arg(long, value_enum, default_value_t = Format::Html)]
    format: Format,
    /// File to write [default: report.html or picture.png in the first RUN; standard output for tables]; --force overwrites
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A fact to print above the table, such as hardware="2 cores"; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    meta: Vec<String>,
    /// Leave samples out of the page, so that no network has to run
    #[arg(long)]
    no_samples: bool,
    /// Leave real images out of the page, for data that must not be shared
    #[arg(long)]
    no_real: bool,
}

/// The formats of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Html,
    Markdown,
    Json,
    Png,
}

pub(super) fn run(session: &Session, args: &ReportArgs) -> Result<()> {
    let begun = Instant::now();
    let runs = report::open(&args.run)?;
    let default = |name: &str| args.output.clone().unwrap_or_else(|| args.run[0].join(name));
    let output = match args.format {
        Format::Html => {
            let output = default("report.html");
            let options = Options { samples: !args.no_samples, real: !args.no_real, force: session.cx.force };
            report::write(&runs, &output, options, &session.cx)?;
            output
        }
        Format::Png => {
            let output = default("picture.png");
            report::picture(&runs[0], &output, &session.cx)?;
            output
        }
        Format::Markdown => return table(session, args, &runs, report::Format::Markdown),
        Format::Json => return table(session, args, &runs, report::Format::Json),
    };
    let wall = begun.elapsed().as_secs_f64();
    let bytes = output.metadata().map_or(0, |found| found.len());
    let finished = runs.iter().filter(|run| run.is_finished()).count();
    if session.json {
        return stdout::line(json!({
            "report": output, "runs": runs.len(), "finished": finished, "bytes": bytes, "wall_s": wall,
        }));
    }
    let count = |state: &str| runs.iter().filter(|run| run.state() == state).count();
    let states = ["failed", "in progress", "not started"].map(|state| (count(state), state));
    let state: String = states.iter().filter(|(n, _)| *n > 0).map(|(n, state)| format!(", {n} {state}")).collect();
    let n = if runs.len() == 1 { "1 run".into() } else { format!("{} runs", runs.len()) };
    session.log(&format!("{}: {n}{state}, {} KiB ({wall:.1} s)", output.display(), bytes >> 10));
    Ok(())
}

fn table(session: &Session, args: &ReportArgs, runs: &[Run], format: report::Format) -> Result<()> {
    let fact = |text: &String| {
        let fact = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        fact.ok_or_else(|| Usage(format!("--meta {text}: expected KEY=VALUE")))
    };
    let meta = args.meta.iter().map(fact).collect::<Result<Vec<_>, _>>()?;
    let text = report::table(runs, format, &meta)?;
    match &args.output {
        Some(output) => write(session, output, &text),
        None => stdout::text(&text),
    }
}

fn write(session: &Session, output: &Path, text: &str) -> Result<()> {
    let allowed = session.cx.force || !output.exists();
    ensure!(allowed, Usage(format!("{} exists; --force overwrites it", output.display())));
    write_atomic(output, text.as_bytes())?;
    session.log(&format!("{}: {} KiB", output.display(), text.len().div_ceil(1024)));
    Ok(())
}
