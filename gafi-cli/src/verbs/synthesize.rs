//! `synthesize`: writes the dataset of a finished run's best row, in any size.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use gafi_core::{Inputs, Protocol};
use gafi_pipeline::record::Status;
use gafi_pipeline::{Collect, Labels, RunRecord, Source, Usage};
use gafi_recycle::Recycle;

use super::{OutArgs, run_stage};
use crate::session::Session;

/// Generate a dataset of any size from a finished run's best row: its generator, std and threshold
#[derive(Debug, Args)]
pub(crate) struct SynthesizeArgs {
    /// Folder of a finished pipeline run
    run: PathBuf,
    /// The row of the results table to reproduce; a row with soft labels adds the teacher's probabilities [default: the best on
    /// the validation split, of the rows with hard labels]
    #[arg(long, value_name = "NAME")]
    row: Option<String>,
    /// Samples of each class [default: the size of the set that the row's student trained on]
    #[arg(long, value_name = "N")]
    per_class: Option<u64>,
    /// Seed of the latents [default: the run's, which gives the samples that its student saw first]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print the configuration of stage `collect` and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    out: OutArgs,
}

pub(super) fn run(session: &Session, args: &SynthesizeArgs) -> Result<()> {
    let dir = &args.run;
    let record = RunRecord::read(dir)?;
    ensure!(
        record.status == Status::Finished,
        Usage(format!("{}: the run is not finished; run the same pipeline command again to resume it", dir.display()))
    );
    let row = match args.row.as_deref() {
        Some(name) => record.row(name).ok_or_else(|| {
            let rows: Vec<&str> = record.rows.iter().map(|r| r.name.as_str()).collect();
            Usage(format!("no row {name:?} in {}; it has {}", dir.display(), rows.join(", ")))
        })?,
        None => record
            .best(Some(Labels::Hard))
            .with_context(|| format!("{}: no row has hard labels; choose one with --row", dir.display()))?,
    };
    let student = row.artifact.open(dir)?;
    let made_by = &student.manifest().made_by;
    let Recycle { mut source, .. } = serde_json::from_value(made_by.config.clone())?;
    if let Some(seed) = args.seed {
        source = Source::parse(&source)?.context("the row's source has no seed")?.with_seed(seed).to_spec()?;
    }
    let mut inputs = Inputs::new();
    for (port, ids) in made_by.inputs.iter().filter(|(port, _)| *port != "val") {
        for id in ids {
            let input = record.links().find(|artifact| artifact.id == *id);
            let input =
                input.with_context(|| format!("{}: the record has no {port} of row {}", dir.display(), row.name))?;
            inputs = inputs.with(port, &input.open(dir)?);
        }
    }
    let stage = Collect { source, per_class: args.per_class.unwrap_or(row.per_class) };
    if !session.json && !args.dry_run {
        let split = match record.config.protocol {
            Protocol::Holdout => "validation",
            Protocol::Paper => "test",
        };
        session.log(&format!("row {}: {:.2} % on the {split} split", row.name, 100.0 * row.val.accuracy()));
    }
    run_stage(session, &stage, &inputs, args.dry_run, &args.out)
}
