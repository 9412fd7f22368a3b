//! `evaluate --predictions`: a student that was trained elsewhere, by what it predicted.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Arg, ArgMatches, Command, value_parser};
use gafi_core::Inputs;

use super::{artifact, print_config};
use crate::predictions::EvaluatePredictions;
use crate::session::Session;
use gafi_core::Stage as _;

/// Adds the option to the verb of stage `evaluate`, and leaves every other verb as it is.
pub(super) fn extend(command: Command) -> Command {
    if command.get_name() != "evaluate" {
        return command;
    }
    command.mut_arg("classifier", |port| port.required(false).required_unless_present("predictions")).arg(
        Arg::new("predictions")
            .long("predictions")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .conflicts_with_all(["classifier", "config", "set", "seed"])
            .help(
                "In the place of a classifier: what one predicted for each row, in their order. A .npy of labels (n) or \
                 probabilities (n, classes), or a CSV with a header: column `label`, or a column for each class",
            ),
    )
}

pub(super) fn is_asked(options: &ArgMatches) -> bool {
    // A program may have replaced the stage by one of its own, without the option.
    options.try_contains_id("predictions").unwrap_or(false)
}

pub(super) fn run(session: &Session, options: &ArgMatches) -> Result<()> {
    let file = options.get_one::<PathBuf>("predictions").context("--predictions is missing")?;
    let dataset = artifact(options, "dataset")?.context("--dataset is missing")?;
    let (stage, inputs) = (EvaluatePredictions::new(file)?, Inputs::new().with("dataset", &dataset));
    if options.get_flag("dry-run") {
        gafi_core::check_inputs(&stage, &inputs)?;
        return print_config(&stage.config(), session.json);
    }
    let out = options.get_one::<PathBuf>("out").context("--out is missing")?;
    let outcome = session.execute(&stage, &inputs, out)?;
    session.tell(&[outcome])?;
    Ok(())
}
