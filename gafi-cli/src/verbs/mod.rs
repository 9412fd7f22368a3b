//! The verbs. Stages become verbs through the registry, so a stage that another program registers is a verb as well.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{ArgMatches, Args, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use gafi_core::{Artifact, Inputs, Stage, check_inputs, execute};
use gafi_pipeline::record::RECORD;
use gafi_pipeline::{RunRecord, Usage};

use crate::options::GlobalArgs;
use crate::registry::Registry;
use crate::session::Session;
use crate::stdout;

mod doctor;
mod evaluate;
mod export;
mod folder_check;
mod import;
mod import_generator;
mod init;
mod inspect;
mod pipeline;
mod prune;
mod quickstart;
mod report;
mod shell;
mod stage;
mod stage_flags;
mod synthesize;
mod tensorboard;
mod watch;

#[derive(Debug, Parser)]
#[command(
    name = "gafi-cli",
    version,
    about = "Turns a generator of labelled images into a training set for classifiers (GaFi)",
    arg_required_else_help = true,
    max_term_width = 120
)]
struct Cli {
    #[command(flatten)]
    options: GlobalArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Import(import::ImportArgs),
    ImportGenerator(import_generator::ImportGeneratorArgs),
    ImportTeacher(import_generator::ImportTeacherArgs),
    Export(export::ExportArgs),
    Quickstart(quickstart::QuickstartArgs),
    Init(init::InitArgs),
    Pipeline(pipeline::PipelineArgs),
    Synthesize(synthesize::SynthesizeArgs),
    Watch(watch::WatchArgs),
    Report(report::ReportArgs),
    Inspect(inspect::InspectArgs),
    Verify(inspect::VerifyArgs),
    Prune(prune::PruneArgs),
    Tensorboard(tensorboard::TensorboardArgs),
    Doctor(doctor::DoctorArgs),
    Schema(init::SchemaArgs),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
}

/// The headings of `--help`, with their verbs. Every other verb is a stage.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Data", &["import", "import-generator", "import-teacher", "export"]),
    ("Stages", &[]),
    ("Whole pipeline", &["quickstart", "init", "pipeline", "synthesize"]),
    ("Results", &["watch", "report", "inspect", "verify", "prune", "tensorboard"]),
    ("Tools", &["doctor", "schema", "completions", "man"]),
];

/// The parsed command line.
#[derive(Debug)]
pub(crate) enum Call {
    Verb(Verb),
    Stage(String, ArgMatches),
}

/// The whole command line.
pub(crate) fn command(registry: &Registry) -> Command {
    let stages = registry.stages().map(|kind| evaluate::extend(stage::command(kind)));
    let command = Cli::command().subcommands(stages);
    let verbs = groups(&command);
    command
        .help_template(format!(
            "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{verbs}Options:\n{{options}}{{after-help}}"
        ))
        .after_help(crate::exit::HELP)
}

/// The verbs with a line each, under their headings.
fn groups(command: &Command) -> String {
    let verbs: Vec<(&str, String)> = command
        .get_subcommands()
        .map(|verb| (verb.get_name(), verb.get_about().map(ToString::to_string).unwrap_or_default()))
        .collect();
    let named = |name: &str| GROUPS.iter().any(|(_, verbs)| verbs.contains(&name));
    let width = verbs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (heading, names) in GROUPS {
        text += &format!("{heading}:\n");
        let listed = names.iter().filter_map(|name| verbs.iter().find(|(verb, _)| verb == name));
        let stages = verbs.iter().filter(|(name, _)| names.is_empty() && !named(name));
        for (name, about) in listed.chain(stages) {
            text += &format!("  {name:width$}  {about}\n");
        }
        text.push('\n');
    }
    text
}

/// Parses a command line, the program's name first.
///
/// # Errors
/// Clap's, for invalid arguments and for requests of help or version.
pub(crate) fn parse(registry: &Registry, args: Vec<OsString>) -> clap::error::Result<(GlobalArgs, Call)> {
    let matches = command(registry).try_get_matches_from(args)?;
    let options = GlobalArgs::from_arg_matches(&matches)?;
    let call = match matches.subcommand() {
        Some((name, matches)) if registry.stage(name).is_ok() => Call::Stage(name.into(), matches.clone()),
        _ => Call::Verb(Verb::from_arg_matches(&matches)?),
    };
    Ok((options, call))
}

impl Call {
    /// How many networks may train at the same time.
    pub(crate) fn jobs(&self) -> usize {
        match self {
            Self::Verb(Verb::Pipeline(args)) => args.jobs.unwrap_or(1),
            Self::Verb(Verb::Quickstart(args)) => args.jobs.unwrap_or(1),
            _ => 1,
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// Those of the verb or the stage.
    pub(crate) fn run(&self, session: &Session) -> Result<()> {
        match self {
            Self::Verb(verb) => verb.run(session),
            Self::Stage(_, options) if evaluate::has_predictions(options) => evaluate::run(session, options),
            Self::Stage(name, options) => stage::run(session, name, options),
        }
    }
}

impl Verb {
    fn run(&self, session: &Session) -> Result<()> {
        match self {
            Self::Import(args) => import::run(session, args),
            Self::ImportGenerator(args) => import_generator::run(session, args),
            Self::ImportTeacher(args) => import_generator::run_teacher(session, args),
            Self::Export(args) => export::run(session, args),
            Self::Quickstart(args) => quickstart::run(session, args),
            Self::Init(args) => init::run(session, args),
            Self::Pipeline(args) => pipeline::run(session, args),
            Self::Synthesize(args) => synthesize::run(session, args),
            Self::Watch(args) => watch::run(session, args),
            Self::Report(args) => report::run(session, args),
            Self::Inspect(args) => inspect::run(session, args),
            Self::Verify(args) => inspect::verify(session, args),
            Self::Prune(args) => prune::run(session, args),
            Self::Tensorboard(args) => tensorboard::run(session, args),
            Self::Doctor(args) => doctor::run(session, args),
            Self::Schema(args) => init::schema(session, args),
            Self::Completions(args) => shell::completions(session, args),
            Self::Man(args) => shell::man(session, args),
        }
    }
}

/// Opens an artifact by its folder, or by `RUN:NAME` for the artifact that a run of the pipeline calls NAME.
///
/// # Errors
/// Those of opening the artifact; [`Usage`] for a name that the run does not have.
fn open(path: &Path) -> Result<Artifact> {
    let named = path.to_str().filter(|_| !path.exists()).and_then(|text| text.rsplit_once(':'));
    match named.filter(|(run, _)| Path::new(run).join(RECORD).is_file()) {
        Some((dir, name)) => {
            let record = RunRecord::read(Path::new(dir))?;
            let known = || Usage(format!("{dir} has no {name:?}; it has {}", record.names().join(", ")));
            record.artifact(name).ok_or_else(known)?.open(Path::new(dir))
        }
        None => Ok(Artifact::open(path)?),
    }
}

/// The destination of a verb that makes an artifact.
#[derive(Debug, Clone, Default, Args)]
struct OutArgs {
    /// Folder of the result; a finished result is reused, an interrupted one resumes
    #[arg(long, short, visible_alias = "output", value_name = "DIR", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
}

/// Runs a stage and reports its artifact. With `dry_run`, checks its inputs and prints its configuration instead.
///
/// # Errors
/// Those of the stage.
fn run_stage(session: &Session, stage: &dyn Stage, inputs: &Inputs, dry_run: bool, out: &OutArgs) -> Result<()> {
    if dry_run {
        check_inputs(stage, inputs)?;
        return print_config(&stage.config(), session.json);
    }
    let out = out.out.as_ref().context("--out is missing")?;
    session.report(&[execute(stage, inputs, out, &session.cx)?])
}

/// Prints a resolved configuration, for `--dry-run`.
fn print_config(config: &serde_json::Value, json: bool) -> Result<()> {
    if json {
        return stdout::line(config);
    }
    stdout::text(toml::to_string_pretty(&without_nulls(config.clone()))?)
}

/// TOML has no null: an absent key means the same.
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
