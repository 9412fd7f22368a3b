//! `import-generator` and `import-teacher`: generators and classifiers that others made, as artifacts.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueEnum, value_parser};
use gafi_command::{ImportProgram, Program, Role};
use gafi_core::{Inputs, Stage};

use super::{out_arg, print_config};
use crate::session::Session;

/// What a generator is imported from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum From {
    /// A program that is asked by lines of JSON: docs/command-protocol.md
    Command,
}

pub(super) fn command() -> Command {
    arguments(
        Command::new("import-generator").about("Use somebody else's generator: as an artifact wherever one is read"),
    )
}

pub(super) fn teacher_command() -> Command {
    arguments(
        Command::new("import-teacher").about("Use somebody else's classifier: as an artifact wherever one is read"),
    )
}

fn arguments(command: Command) -> Command {
    let from = Arg::new("from").long("from").value_name("KIND").required(true).value_parser(value_parser!(From));
    command
        .arg(from.help("What it is"))
        .arg(
            Arg::new("include")
                .long("include")
                .value_name("FILE")
                .action(ArgAction::Append)
                .value_parser(value_parser!(PathBuf))
                .help("Copy this file into the artifact, where {artifact}/FILE in the program's arguments finds it"),
        )
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .value_parser(value_parser!(u64).range(1..))
                .default_value("600")
                .help("Give the program up when it has been silent for so long"),
        )
        .arg(
            Arg::new("revision")
                .long("revision")
                .value_name("N")
                .value_parser(value_parser!(u32))
                .default_value("1")
                .help("Raise it when the program changes: nothing else tells, but for the files that --include names"),
        )
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Print what would be recorded, start nothing"),
        )
        .arg(out_arg())
        .arg(
            Arg::new("program")
                .value_name("PROGRAM")
                .last(true)
                .num_args(1..)
                .required(true)
                .help("The program and its arguments"),
        )
}

pub(super) fn run(session: &Session, options: &ArgMatches) -> Result<()> {
    match options.get_one("from").context("--from is missing")? {
        From::Command => program(session, options, Role::Generator),
    }
}

pub(super) fn run_teacher(session: &Session, options: &ArgMatches) -> Result<()> {
    match options.get_one("from").context("--from is missing")? {
        From::Command => program(session, options, Role::Scorer),
    }
}

fn program(session: &Session, options: &ArgMatches, role: Role) -> Result<()> {
    let arguments = options.get_many::<String>("program").into_iter().flatten();
    let timeout_s = *options.get_one::<u64>("timeout").context("--timeout is missing")?;
    let program = Program { timeout_s, ..Program::new(arguments) };
    let files: Vec<PathBuf> = options.get_many("include").into_iter().flatten().cloned().collect();
    let revision = *options.get_one::<u32>("revision").context("--revision is missing")?;
    let stage = ImportProgram::new(role, program, &files, revision)?;
    if options.get_flag("dry-run") {
        return print_config(&stage.config(), session.json);
    }
    let out = options.get_one::<PathBuf>("out").context("--out is missing")?;
    let outcome = session.execute(&stage, &Inputs::new(), out)?;
    session.tell(&[outcome]);
    Ok(())
}
