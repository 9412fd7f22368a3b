//! The verb of any stage: an option for each port, a configuration, and a destination.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches as _, value_parser};
use gafi_core::{Arity, Inputs, Kind};

use super::{OutArgs, open, run_stage, stage_flags};
use crate::configuration::ConfigArgs;
use crate::registry::StageKind;
use crate::session::Session;

pub(super) fn command(kind: &StageKind) -> Command {
    let ports = kind.ports.iter().map(|port| {
        let many = port.arity == Arity::Many;
        let note = match port.arity {
            Arity::Required => "",
            Arity::Optional => " (optional)",
            Arity::Many => " (repeatable)",
        };
        let kind = if port.kind == Kind::Trials { "trials".into() } else { format!("a {}", port.kind) };
        let option = if many { port.name.trim_end_matches('s') } else { port.name };
        Arg::new(port.name)
            .long(option)
            .alias(many.then_some(port.name))
            .value_name("DIR")
            .required(port.arity == Arity::Required)
            .action(if many { ArgAction::Append } else { ArgAction::Set })
            .value_parser(value_parser!(PathBuf))
            .help(format!("Input: {kind}{}{note}", purpose(port.name)))
    });
    let command = stage_flags::add(Command::new(kind.name).args(ports), kind.name);
    OutArgs::augment_args(ConfigArgs::augment_args(command)).about(kind.about)
}

/// What a port of GaFi's own stages is for, unless its kind implies it.
fn purpose(port: &str) -> &'static str {
    match port {
        "train" => " to train on",
        "val" => " to choose the best epoch on",
        "start" => " whose weights training starts from",
        "teacher" => " that judges samples or gives soft labels",
        "samples" => " of generated images",
        "synthetic" => " to measure",
        "real" => " of real images",
        _ => "",
    }
}

pub(super) fn run(session: &Session, name: &str, options: &ArgMatches) -> Result<()> {
    let kind = session.registry.stage(name)?;
    let config = ConfigArgs::from_arg_matches(options)?;
    let flags = stage_flags::keys(name, options)?;
    let stage = kind.make(config.resolve(kind.defaults.clone(), flags)?.tree, &session.device)?;
    let mut inputs = Inputs::new();
    for port in kind.ports {
        for path in options.get_many::<PathBuf>(port.name).into_iter().flatten() {
            inputs = inputs.with(port.name, &open(path)?);
        }
    }
    run_stage(session, &*stage, &inputs, config.dry_run, &OutArgs::from_arg_matches(options)?)
}
