//! `report`: one page about a run.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::json;

use crate::session::Session;
use crate::stdout;
use gafi_report::{self as report, Options};

pub(super) fn command() -> Command {
    Command::new("report")
        .about("Write one self-contained HTML page about runs of the pipeline, finished or not: results, search, samples, inputs")
        .arg(
            Arg::new("run")
                .value_name("RUN")
                .required(true)
                .action(ArgAction::Append)
                .value_parser(value_parser!(PathBuf))
                .help("Folders of runs, or of folders of runs; runs of several seeds are averaged"),
        )
        .arg(
            Arg::new("output")
                .long("output")
                .short('o')
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("The page [default: report.html in the first RUN]; an earlier report is replaced, another file with --force"),
        )
        .arg(
            Arg::new("no-samples")
                .long("no-samples")
                .action(ArgAction::SetTrue)
                .help("Only what is in the records: opens no network, shows no pictures"),
        )
        .arg(
            Arg::new("no-real")
                .long("no-real")
                .action(ArgAction::SetTrue)
                .help("No pictures of real images, for data that may not be passed on"),
        )
}

pub(super) fn run(session: &Session, options: &ArgMatches) -> Result<()> {
    let begun = Instant::now();
    let runs: Vec<PathBuf> = options.get_many("run").into_iter().flatten().cloned().collect();
    let output = options.get_one("output").cloned();
    let output: PathBuf = output.or_else(|| Some(runs.first()?.join("report.html"))).unwrap_or_default();
    let choices = Options {
        samples: !options.get_flag("no-samples"),
        real: !options.get_flag("no-real"),
        force: session.cx.force,
    };
    let written = report::write(&runs, &output, choices, &session.cx)?;
    let wall = begun.elapsed().as_secs_f64();
    if session.json {
        stdout::line(json!({
            "report": output, "runs": written.runs, "ended": written.ended, "bytes": written.bytes, "wall_s": wall,
        }))?;
    } else {
        let state = if written.ended < written.runs { ", some in progress" } else { "" };
        session.log(&format!(
            "{}: {} runs{state}, {} KiB ({wall:.1} s)",
            output.display(),
            written.runs,
            written.bytes >> 10
        ));
    }
    Ok(())
}
