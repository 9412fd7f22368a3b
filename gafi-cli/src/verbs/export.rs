//! `export`: writes a dataset for other programs' training scripts.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use gafi_data::{ExportFormat, ExportOptions};
use serde_json::json;

use super::open;
use crate::session::Session;
use crate::stdout;

/// Export a dataset for other programs: a folder of data files with a dataset card (README.md)
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The dataset
    dataset: PathBuf,
    /// How images and labels are stored
    #[arg(long, value_parser = PossibleValuesParser::new(ExportFormat::ALL.map(ExportFormat::name)).try_map(|name| name.parse::<ExportFormat>()))]
    format: ExportFormat,
    /// Folder of the result; --force overwrites an earlier export
    #[arg(long, short, value_name = "PATH")]
    out: PathBuf,
    /// Name of the dataset on the card
    #[arg(long)]
    name: Option<String>,
    /// Licence on the card, by its identifier on the Hugging Face hub, such as cc0-1.0
    #[arg(long, value_name = "ID")]
    license: Option<String>,
    /// parquet, webdataset: start a new file after this many MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    file_size: u64,
}

pub(super) fn run(session: &Session, args: &ExportArgs) -> Result<()> {
    let begun = Instant::now();
    let mut options = ExportOptions::default();
    options.name = args.name.clone();
    options.license = args.license.clone();
    options.file_bytes = args.file_size << 20;
    let artifact = open(&args.dataset)?;
    let done = gafi_data::export_dataset(&artifact, args.format, &options, &args.out, &session.cx)?;
    let wall = begun.elapsed().as_secs_f64();
    if session.json {
        return stdout::line(json!({
            "export": args.out, "format": args.format.name(), "dataset": args.dataset, "id": artifact.id(),
            "rows": done.rows, "classes": done.classes, "wall_s": wall,
        }));
    }
    let format = args.format;
    let out = args.out.display();
    session.log(&format!("{format} {out}: {} images of {} classes ({wall:.1} s)", done.rows, done.classes));
    Ok(())
}
