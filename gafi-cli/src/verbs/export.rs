//! `export`: a dataset out, for other people's training scripts.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command, value_parser};
use gafi_data::{ExportFormat, ExportOptions};
use serde_json::json;

use super::open;
use crate::session::Session;
use crate::stdout;
use gafi_pipeline::Usage;

pub(super) fn command() -> Command {
    let path = |name: &'static str| Arg::new(name).required(true).value_parser(value_parser!(PathBuf));
    Command::new("export")
        .about("Write a dataset in a format of other programs: a folder of data files with a dataset card (README.md)")
        .arg(path("dataset").value_name("DATASET").help("The dataset"))
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .required(true)
                .value_parser(PossibleValuesParser::new(ExportFormat::ALL.map(ExportFormat::name)))
                .help("How images and labels are stored"),
        )
        .arg(
            path("out")
                .long("out")
                .short('o')
                .value_name("PATH")
                .help("Folder of the result; if it is there already, --force replaces it when it is an earlier export"),
        )
        .arg(Arg::new("name").long("name").value_name("NAME").help("What the card calls the dataset"))
        .arg(
            Arg::new("license")
                .long("license")
                .value_name("ID")
                .help("Licence on the card, an identifier of the hub (cc0-1.0); unspecified when absent"),
        )
        .arg(
            Arg::new("file-size")
                .long("file-size")
                .value_name("MIB")
                .value_parser(value_parser!(u64).range(1..=1 << 20))
                .default_value("256")
                .help("parquet, webdataset: begin a further file after so many MiB"),
        )
}

pub(super) fn run(session: &Session, options: &ArgMatches) -> Result<()> {
    let begun = Instant::now();
    let path = |name: &str| options.get_one::<PathBuf>(name).with_context(|| format!("{name} is missing"));
    let (dataset, out) = (path("dataset")?, path("out")?);
    let text = |name: &str| options.get_one::<String>(name).cloned();
    let format: ExportFormat = text("format").context("--format is missing")?.parse().map_err(Usage)?;
    let mut card = ExportOptions::default();
    card.name = text("name");
    card.license = text("license");
    if let Some(mib) = options.get_one::<u64>("file-size") {
        card.file_bytes = mib << 20;
    }
    let artifact = open(dataset)?;
    let done = gafi_data::export_dataset(&artifact, format, &card, out, &session.cx)?;
    let wall = begun.elapsed().as_secs_f64();
    if session.json {
        stdout::line(json!({
            "export": out, "format": format.name(), "dataset": dataset, "id": artifact.id(),
            "rows": done.rows, "classes": done.classes, "wall_s": wall,
        }))?;
    } else {
        let (rows, classes) = (done.rows, done.classes);
        session.log(&format!("{format} {}: {rows} images of {classes} classes ({wall:.1} s)", out.display()));
    }
    Ok(())
}
