//! Typed flags of GaFi's own stages. Stages of other programs have only `--config` and `--set`.

use anyhow::Result;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use gafi_expand::StdRange;
use serde::Serialize;
use serde_json::json;

use crate::configuration::FlagKeys;

/// Adds the flags of stage `name` to its verb.
pub(super) fn add(command: Command, name: &str) -> Command {
    match name {
        "expand" => ExpandFlags::augment_args(command),
        "filter" => FilterFlags::augment_args(command),
        "recycle" => RecycleFlags::augment_args(command).after_help(RECYCLE),
        "train-classifier" => ClassifierFlags::augment_args(command),
        "train-gan" => GanFlags::augment_args(command),
        "evaluate" => EvaluateFlags::augment_args(command),
        "collect" => SourceFlags::augment_args(command).after_help(COLLECT),
        "probe" => SourceFlags::augment_args(command).after_help(PROBE),
        _ => command,
    }
}

/// The keys that the flags of stage `name` set.
pub(super) fn keys(name: &str, options: &ArgMatches) -> Result<FlagKeys> {
    fn of<F: FromArgMatches + Serialize>(options: &ArgMatches) -> Result<FlagKeys> {
        FlagKeys::of(&F::from_arg_matches(options)?)
    }
    match name {
        "expand" => of::<ExpandFlags>(options),
        "filter" => of::<FilterFlags>(options),
        "recycle" => of::<RecycleFlags>(options),
        "train-classifier" => of::<ClassifierFlags>(options),
        "train-gan" => Ok(GanFlags::from_arg_matches(options)?.keys()),
        "evaluate" => of::<EvaluateFlags>(options),
        "collect" | "probe" => of::<SourceFlags>(options),
        _ => Ok(FlagKeys::default()),
    }
}

const RECYCLE: &str = "Example:
  gafi-cli recycle --generator gan --teacher teacher --val data/val --out student \\
    --period 1 --factor 1 --set source.std=1.3 --set source.filter.threshold=0.5";
const COLLECT: &str = "Example:
  gafi-cli collect --generator gan --teacher teacher --per-class 500 --out kept \\
    --set source.std=1.3 --set source.filter.threshold=0.5";
const PROBE: &str = "Example:
  gafi-cli probe --generator gan --teacher teacher --real data/screen --out rating \\
    --set source.std=1.3 --set source.filter.threshold=0.5";

#[derive(Args, Serialize)]
struct SourceFlags {
    /// Samples of each class
    #[arg(long, value_name = "N")]
    per_class: Option<u64>,
}

#[derive(Args, Serialize)]
struct ExpandFlags {
    /// Standard deviation of the latents, or LO,HI to draw one for each sample
    #[arg(long, value_name = "STD", value_parser = std_range)]
    std: Option<StdRange>,
    /// Samples of each class
    #[arg(long, value_name = "N")]
    per_class: Option<u64>,
    /// The generator's checkpoint, by its training step [default: the last]
    #[arg(long, value_name = "STEP")]
    checkpoint: Option<u64>,
}

#[derive(Args, Serialize)]
struct FilterFlags {
    /// Keep samples whose class the teacher gives more than this probability, from 0 to below 1
    #[arg(long, value_name = "P")]
    threshold: Option<f64>,
    /// Keep this many samples of each class [default: all that pass]
    #[arg(long, value_name = "N")]
    per_class: Option<u64>,
}

#[derive(Args, Serialize)]
struct RecycleFlags {
    /// Epochs between renewals of the set
    #[arg(long, value_name = "EPOCHS")]
    #[serde(rename = "recycle.period")]
    period: Option<u32>,
    /// Share of each class that a renewal replaces, above 0 and up to 1
    #[arg(long, value_name = "SHARE")]
    #[serde(rename = "recycle.factor")]
    factor: Option<f64>,
    /// Images of each class in the set that the student trains on
    #[arg(long, value_name = "N")]
    per_class: Option<u64>,
}

#[derive(Args, Serialize)]
struct ClassifierFlags {
    /// Passes over the training images
    #[arg(long, value_name = "N")]
    #[serde(rename = "classifier.epochs")]
    epochs: Option<u32>,
    /// Highest learning rate
    #[arg(long, value_name = "RATE")]
    #[serde(rename = "classifier.lr")]
    lr: Option<f64>,
    /// Train on this many images of each class [default: all]
    #[arg(long, value_name = "N")]
    per_class: Option<u64>,
}

#[derive(Args)]
struct GanFlags {
    /// Generator updates
    #[arg(long, value_name = "N", conflicts_with = "epochs")]
    steps: Option<u64>,
    /// Passes over the training images
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Learning rate of generator and discriminator
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
}

impl GanFlags {
    fn keys(&self) -> FlagKeys {
        FlagKeys::default()
            .set("--steps", "length", self.steps.map(|steps| json!({ "steps": steps })))
            .set("--epochs", "length", self.epochs.map(|epochs| json!({ "epochs": epochs })))
            .set("--lr", "g_lr", self.lr)
            .set("--lr", "d_lr", self.lr)
    }
}

#[derive(Args, Serialize)]
struct EvaluateFlags {
    /// Classify several views of each image and average the log-probabilities [default: none]
    #[arg(long, value_name = "VIEWS", value_parser = ["none", "mirror", "mirror-translate"], conflicts_with = "predictions")]
    tta: Option<String>,
}

fn std_range(text: &str) -> Result<StdRange, String> {
    let number = |text: &str| text.trim().parse::<f64>().map_err(|_| "expected a number, or two as LO,HI".to_string());
    match text.trim_matches(['[', ']']).split_once(',') {
        Some((low, high)) => Ok(StdRange::Range([number(low)?, number(high)?])),
        None => Ok(StdRange::Fixed(number(text)?)),
    }
}
