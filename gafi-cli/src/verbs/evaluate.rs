//! `evaluate --predictions`: scores a classifier that was trained elsewhere, by its predictions.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{ArgMatches, Args, Command, FromArgMatches as _};
use gafi_core::Inputs;
use gafi_data::{LabelForm, PredictionOptions};

use super::{OutArgs, open, run_stage};
use crate::predictions::EvaluatePredictions;
use crate::session::Session;

#[derive(Args)]
struct PredictionsArgs {
    /// Instead of --classifier: a file with its prediction for each row, in order. A .npy of labels (n) or scores (n, classes), or a
    /// CSV whose header names a column `label`, or a column of scores for each class
    #[arg(long, value_name = "FILE", conflicts_with_all(["classifier", "config", "set", "seed"]))]
    predictions: Option<PathBuf>,
    /// The column of the predicted labels in a CSV; needed if several columns could hold them
    #[arg(long, value_name = "NAME", requires = "predictions")]
    column: Option<String>,
    /// Whether labels are class names or class numbers; needed if class names are numbers in another order
    #[arg(long, value_name = "FORM", requires = "predictions", value_parser = PossibleValuesParser::new(["names", "numbers"]).map(label_form))]
    labels: Option<LabelForm>,
}

fn label_form(name: String) -> LabelForm {
    if name == "names" { LabelForm::Names } else { LabelForm::Numbers }
}

/// Adds `--predictions` to the verb of stage `evaluate`; leaves every other verb as it is.
pub(super) fn extend(command: Command) -> Command {
    if command.get_name() != "evaluate" {
        return command;
    }
    let about = command.get_about().cloned();
    let command = command.mut_arg("classifier", |port| port.required(false).required_unless_present("predictions"));
    PredictionsArgs::augment_args(command).about(about.unwrap_or_default())
}

pub(super) fn has_predictions(options: &ArgMatches) -> bool {
    // A stage `evaluate` of another program may lack the option.
    options.try_contains_id("predictions").unwrap_or(false)
}

pub(super) fn run(session: &Session, options: &ArgMatches) -> Result<()> {
    let PredictionsArgs { predictions, column, labels } = PredictionsArgs::from_arg_matches(options)?;
    let file = predictions.context("--predictions is missing")?;
    let dataset = open(options.get_one::<PathBuf>("dataset").context("--dataset is missing")?)?;
    let stage = EvaluatePredictions::new(&file, PredictionOptions { column, labels })?;
    let inputs = Inputs::new().with("dataset", &dataset);
    run_stage(session, &stage, &inputs, options.get_flag("dry_run"), &OutArgs::from_arg_matches(options)?)
}
