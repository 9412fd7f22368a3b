//! `synthesize`: the data set that a run of the pipeline has found to be the best, of any size.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Arg, ArgMatches, Command, value_parser};
use gafi_core::{Inputs, SourceSpec};
use serde_json::Value;

use super::{out_arg, print_config};
use crate::session::Session;
use gafi_pipeline::Collect;
use gafi_pipeline::Labels;
use gafi_pipeline::Usage;
use gafi_report::Run;

pub(super) fn command() -> Command {
    Command::new("synthesize")
        .about(
            "Make the data set that a finished run of the pipeline found best: its generator, deviation and threshold",
        )
        .arg(
            Arg::new("run")
                .value_name("RUN")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Folder of a finished run"),
        )
        .arg(Arg::new("row").long("row").value_name("NAME").help(
            "The row of its table whose samples are wanted; of a row with soft labels the teacher's probabilities come along \
             [default: of the rows with hard labels the one that did best on the split that chose]",
        ))
        .arg(
            Arg::new("per-class")
                .long("per-class")
                .value_name("N")
                .value_parser(value_parser!(u64))
                .help("Samples of each class [default: as many as the row's student had at a time]"),
        )
        .arg(Arg::new("seed").long("seed").value_name("N").value_parser(value_parser!(u64)).help(
            "Seed of the latents [default: the run's, so that the samples are those that its students saw first]",
        ))
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .action(clap::ArgAction::SetTrue)
                .help("Print the configuration of the stage, do nothing"),
        )
        .arg(out_arg())
}

pub(super) fn run(session: &Session, options: &ArgMatches) -> Result<()> {
    let dir = options.get_one::<PathBuf>("run").context("RUN is missing")?;
    let run = Run::read(dir);
    let results = run
        .results
        .as_ref()
        .with_context(|| format!("{}: expected a finished run, with results.json", dir.display()))?;
    let row = match options.get_one::<String>("row") {
        Some(name) => run.row(name).ok_or_else(|| {
            let rows: Vec<&str> = results.rows.iter().map(|r| r.name.as_str()).collect();
            Usage(format!("no row {name:?} in {}; there are {}", dir.display(), rows.join(", ")))
        })?,
        None => {
            results.best(Some(Labels::Hard)).with_context(|| format!("{}: no row has hard labels", dir.display()))?
        }
    };
    let name = &row.name;
    let student = run
        .student(row)
        .with_context(|| format!("{}: the student {} of row {name} is gone", dir.display(), row.artifact))?;

    let made_by = &student.artifact.manifest().made_by;
    let source = made_by.config.get("source").cloned().context("the student's manifest names no source")?;
    let mut source: SourceSpec = serde_json::from_value(source)?;
    if let Some(&seed) = options.get_one::<u64>("seed") {
        reseed(&mut source, seed);
    }
    let mut inputs = Inputs::new();
    let used = made_by.inputs.iter().filter(|(port, _)| *port != "val");
    for (port, id) in used.flat_map(|(port, ids)| ids.iter().map(move |id| (port, id))) {
        let input = run.of_id(id).with_context(|| format!("{}: the {port} of row {name} is gone", dir.display()))?;
        inputs = inputs.with(port, &input.artifact);
    }
    let stage = Collect { source, per_class: options.get_one("per-class").copied().unwrap_or(row.per_class) };
    if options.get_flag("dry-run") {
        gafi_core::check_inputs(&stage, &inputs)?;
        return print_config(&gafi_core::Stage::config(&stage), session.json);
    }
    if !session.json {
        session.log(&format!("row {name}: {:.2} % on the split that chose", 100.0 * row.val_accuracy));
    }
    let outcome = session.execute(&stage, &inputs, options.get_one::<PathBuf>("out").context("--out is missing")?)?;
    session.tell(&[outcome])?;
    Ok(())
}

/// Gives a source, or each of several that it mixes, another seed of latents.
fn reseed(source: &mut SourceSpec, seed: u64) {
    match source.options.get_mut("sources").and_then(Value::as_array_mut) {
        Some(several) => several.iter_mut().for_each(|source| source["seed"] = seed.into()),
        None => drop(source.options.insert("seed".into(), seed.into())),
    }
}
