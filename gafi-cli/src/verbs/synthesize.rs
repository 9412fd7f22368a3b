//! `synthesize`: the dataset of a finished run's best row, of any size.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use gafi_core::{Inputs, SourceSpec};
use serde_json::Value;

use super::{OutArgs, print_config};
use crate::session::Session;
use gafi_pipeline::{Collect, Labels, RunRecord, Usage};

/// Make the dataset of a finished run's best row: its generator, std and threshold
#[derive(Debug, Args)]
pub(crate) struct SynthesizeArgs {
    /// Folder of a finished pipeline run
    run: PathBuf,
    /// The row of the results table to reproduce; a row with soft labels adds the teacher's probabilities [default: the best on
    /// the validation split, of the rows with hard labels]
    #[arg(long, value_name = "NAME")]
    row: Option<String>,
    /// Samples of each class [default: as many as the row's student trained on at a time]
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
    record.verify_links(dir)?;
    let row = match args.row.as_deref() {
        Some(name) => record.row(name).ok_or_else(|| {
            let rows: Vec<&str> = record.rows.iter().map(|r| r.name.as_str()).collect();
            Usage(format!("no row {name:?} in {}; there are {}", dir.display(), rows.join(", ")))
        })?,
        None => {
            record.best(Some(Labels::Hard)).with_context(|| format!("{}: no row has hard labels", dir.display()))?
        }
    };
    let name = &row.name;
    let student = row.artifact.open(dir)?;

    let made_by = &student.manifest().made_by;
    let source = made_by.config.get("source").cloned().context("the student's manifest names no source")?;
    let mut source: SourceSpec = serde_json::from_value(source)?;
    if let Some(seed) = args.seed {
        reseed(&mut source, seed);
    }
    let mut inputs = Inputs::new();
    let used = made_by.inputs.iter().filter(|(port, _)| *port != "val");
    for (port, id) in used.flat_map(|(port, ids)| ids.iter().map(move |id| (port, id))) {
        let link = record.links().find(|link| link.id == *id);
        let link =
            link.with_context(|| format!("{}: run.json doesn't name the {port} of row {name}", dir.display()))?;
        inputs = inputs.with(port, &link.open(dir)?);
    }
    let stage = Collect { source, per_class: args.per_class.unwrap_or(row.per_class) };
    if args.dry_run {
        gafi_core::check_inputs(&stage, &inputs)?;
        return print_config(&gafi_core::Stage::config(&stage), session.json);
    }
    if !session.json {
        session.log(&format!("row {name}: {:.2} % on the validation split", 100.0 * row.val.accuracy()));
    }
    let outcome = session.execute(&stage, &inputs, args.out.out.as_ref().context("--out is missing")?)?;
    session.report(&[outcome])
}

/// Gives a source, or each of several that it mixes, another seed of latents.
fn reseed(source: &mut SourceSpec, seed: u64) {
    match source.options.get_mut("sources").and_then(Value::as_array_mut) {
        Some(several) => several.iter_mut().for_each(|source| source["seed"] = seed.into()),
        None => drop(source.options.insert("seed".into(), seed.into())),
    }
}
