//! The verbs. Those of stages are made from the registry, so that a stage of another program is a verb as well.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::path::{Path, PathBuf};

use anyhow::Result;
use gafi_core::Artifact;

use crate::registry::Registry;
use crate::session::Session;
use crate::stdout;
use gafi_pipeline::CONFIG;
use gafi_pipeline::Usage;
use gafi_report::Run;

mod doctor;
mod evaluate;
mod export;
mod import;
mod import_generator;
mod init;
mod look;
mod pipeline;
mod report;
mod shell;
mod stage;
mod synthesize;
mod tensorboard;
mod watch;

/// The whole command line.
pub(crate) fn command(registry: &Registry) -> Command {
    let global = |arg: Arg| arg.global(true).help_heading("Global options");
    Command::new("gafi-cli")
        .about("Turns a generator of labelled images into a training set worth nearly as much as the real one (GaFi)")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .max_term_width(120)
        .arg(global(
            Arg::new("device")
                .long("device")
                .value_name("DEVICE")
                .default_value("auto")
                .help("auto, cpu, cuda or cuda:N; for --jobs several, such as cuda:0,cuda:1"),
        ))
        .arg(global(
            Arg::new("threads")
                .long("threads")
                .value_name("N")
                .value_parser(value_parser!(usize))
                .help("Threads on the CPU; all cores when absent. Changes no result"),
        ))
        .arg(global(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print one machine-readable record on stdout"),
        ))
        .arg(global(
            Arg::new("force")
                .long("force")
                .action(ArgAction::SetTrue)
                .help("Make the artifact again, and replace what is in its place"),
        ))
        .arg(global(
            Arg::new("verbose")
                .long("verbose")
                .short('v')
                .action(ArgAction::Count)
                .help("Say more (-v, -vv) on stderr"),
        ))
        .arg(global(
            Arg::new("log-format")
                .long("log-format")
                .value_name("FORMAT")
                .value_parser(["text", "json"])
                .default_value("text")
                .help("What is said on stderr: text, or json, one record a line. Results are on stdout either way"),
        ))
        .subcommand(import::command())
        .subcommand(import_generator::command())
        .subcommand(import_generator::teacher_command())
        .subcommands(registry.stages().map(stage::command).map(evaluate::extend))
        .subcommand(pipeline::command())
        .subcommand(synthesize::command())
        .subcommand(report::command())
        .subcommand(export::command())
        .subcommand(look::inspect_command())
        .subcommand(look::verify_command())
        .subcommand(init::command())
        .subcommand(init::schema_command())
        .subcommand(watch::command())
        .subcommand(tensorboard::command())
        .subcommand(doctor::command())
        .subcommand(shell::completions_command())
        .subcommand(shell::man_command())
}

/// Runs the verb that was typed.
pub(crate) fn run(session: &Session, matches: &ArgMatches) -> Result<()> {
    match matches.subcommand() {
        Some(("import", options)) => import::run(session, options),
        Some(("import-generator", options)) => import_generator::run(session, options),
        Some(("import-teacher", options)) => import_generator::run_teacher(session, options),
        Some(("evaluate", options)) if evaluate::is_asked(options) => evaluate::run(session, options),
        Some(("pipeline", options)) => pipeline::run(session, options),
        Some(("synthesize", options)) => synthesize::run(session, options),
        Some(("report", options)) => report::run(session, options),
        Some(("export", options)) => export::run(session, options),
        Some(("inspect", options)) => look::inspect(session, options),
        Some(("verify", options)) => look::verify(session, options),
        Some(("init", options)) => init::run(session, options),
        Some(("schema", options)) => init::schema(session, options),
        Some(("watch", options)) => watch::run(session, options),
        Some(("tensorboard", options)) => tensorboard::run(session, options),
        Some(("doctor", _)) => doctor::run(session),
        Some(("completions", options)) => shell::completions(session, options),
        Some(("man", options)) => shell::man(session, options),
        Some((name, options)) => stage::run(session, name, options),
        None => Ok(()),
    }
}

/// Opens the artifact that an option names; see [`open`].
fn artifact(options: &ArgMatches, name: &str) -> Result<Option<Artifact>> {
    options.get_one::<PathBuf>(name).map(|path| open(path)).transpose()
}

/// Opens every artifact that a repeatable option names; see [`open`].
fn artifacts(options: &ArgMatches, name: &str) -> Result<Vec<Artifact>> {
    options.get_many::<PathBuf>(name).into_iter().flatten().map(|path| open(path)).collect()
}

/// Opens an artifact: its folder, or `RUN:NAME` for what a run of the pipeline calls so.
///
/// # Errors
/// What is wrong with the artifact; [`Usage`] for a name that the run does not know.
fn open(path: &Path) -> Result<Artifact> {
    let named = path.to_str().filter(|_| !path.exists()).and_then(|text| text.rsplit_once(':'));
    match named.filter(|(run, _)| Path::new(run).join(CONFIG).is_file()) {
        Some((dir, name)) => {
            let run = Run::read(Path::new(dir));
            let made = run
                .named(name)
                .ok_or_else(|| Usage(format!("{dir} has no {name:?}; it has {}", run.names().join(", "))))?;
            Ok(made.artifact.clone())
        }
        None => Ok(Artifact::open(path)?),
    }
}

fn out_arg() -> Arg {
    Arg::new("out")
        .long("out")
        .visible_alias("output")
        .short('o')
        .value_name("DIR")
        .required_unless_present("dry-run")
        .value_parser(value_parser!(PathBuf))
        .help("Folder of the result; what is there already is reused, what was begun is gone on with")
}

fn config_args(command: Command) -> Command {
    command
        .arg(
            Arg::new("config")
                .long("config")
                .short('c')
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Configuration in TOML"),
        )
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("KEY=VALUE")
                .action(ArgAction::Append)
                .help("Set one key of the configuration, dotted; may be repeated"),
        )
        .arg(
            Arg::new("seed")
                .long("seed")
                .value_name("N")
                .value_parser(value_parser!(u64))
                .help("Seed of all random numbers; as --set seed=N"),
        )
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Check configuration and inputs, print the resolved configuration, do nothing"),
        )
}

/// Defaults, then `--config`, `--set` and `--seed`, as a tree.
fn configured(mut tree: serde_json::Value, options: &ArgMatches) -> Result<serde_json::Value> {
    if let Some(path) = options.get_one::<PathBuf>("config") {
        gafi_pipeline::overrides::merge(&mut tree, gafi_pipeline::overrides::read_toml(path)?);
    }
    for assignment in options.get_many::<String>("set").into_iter().flatten() {
        gafi_pipeline::overrides::set(&mut tree, assignment)?;
    }
    if let Some(seed) = options.get_one::<u64>("seed") {
        gafi_pipeline::overrides::set(&mut tree, &format!("seed={seed}"))?;
    }
    Ok(tree)
}

/// Prints a resolved configuration, for `--dry-run`.
fn print_config(config: &serde_json::Value, json: bool) -> Result<()> {
    if json { stdout::line(config) } else { stdout::text(toml::to_string_pretty(&without_nulls(config.clone()))?) }
}

/// TOML has no null: an absent key says the same.
fn without_nulls(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let fields = map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v)));
            Value::Object(fields.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
