//! The verb of any stage: a flag for each port, a configuration, a destination.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use gafi_core::{Arity, Inputs};

use super::{artifacts, config_args, configured, out_arg, print_config};
use crate::registry::StageKind;
use crate::session::Session;

pub(super) fn command(kind: &StageKind) -> Command {
    let ports = kind.ports.iter().map(|port| {
        let (action, note) = match port.arity {
            Arity::Required => (ArgAction::Set, ""),
            Arity::Optional => (ArgAction::Set, ", optional"),
            Arity::Many => (ArgAction::Append, ", may be repeated"),
        };
        Arg::new(port.name)
            .long(port.name)
            // `--generator DIR` reads better where there is one.
            .alias((port.arity == Arity::Many).then(|| port.name.trim_end_matches('s')))
            .value_name("DIR")
            .required(port.arity == Arity::Required)
            .action(action)
            .value_parser(value_parser!(PathBuf))
            .help(format!("Input: a {}{note}", port.kind))
    });
    config_args(Command::new(kind.name).about(kind.about).args(ports)).arg(out_arg())
}

pub(super) fn run(session: &Session, name: &str, options: &ArgMatches) -> Result<()> {
    let kind = session.registry.stage(name)?;
    let stage = kind.make(configured(kind.defaults.clone(), options)?, &session.device)?;
    let mut inputs = Inputs::new();
    for port in kind.ports {
        for artifact in artifacts(options, port.name)? {
            inputs = inputs.with(port.name, &artifact);
        }
    }
    if options.get_flag("dry-run") {
        gafi_core::check_inputs(&*stage, &inputs)?;
        return print_config(&stage.config(), session.json);
    }
    let out = options.get_one::<PathBuf>("out").context("--out is missing")?;
    let outcome = session.execute(&*stage, &inputs, out)?;
    session.tell(&[outcome])?;
    Ok(())
}
