//! `import-generator` and `import-teacher`: generators and classifiers that others made, as artifacts.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueEnum, value_parser};
use gafi_command::{ImportProgram, Program, Role};
use gafi_core::{Artifact, Inputs, Stage};
use gafi_gan::{ImportGenerator, ImportGeneratorConfig, Origin};
use serde_json::json;

use super::{open, out_arg, print_config};
use crate::session::Session;
use gafi_pipeline::Usage;

/// What a generator is imported from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum From {
    /// A program that is asked by lines of JSON: docs/command-protocol.md
    Command,
    /// An ONNX file of latents and labels to images (a build with the feature onnx): docs/import-generator.md
    Onnx,
    /// PyTorch-StudioGAN's big_resnet and big_resnet_deep_studiogan, safetensors or .pth: docs/import-generator.md
    Studiogan,
}

fn from() -> Arg {
    Arg::new("from").long("from").value_name("KIND").required(true).help("What it is")
}

pub(super) fn command() -> Command {
    let command = Command::new("import-generator")
        .about("Use somebody else's generator: as an artifact wherever one is read")
        .arg(from().value_parser(value_parser!(From)));
    let command = of_file(
        command,
        "onnx: the model. studiogan: the generator's state dict, best that of its average (G_ema); several files are parts of one",
    )
        .arg(
            Arg::new("step")
                .long("step")
                .value_name("N")
                .value_parser(value_parser!(u64))
                .default_value("0")
                .help("onnx, studiogan: generator updates that its training had done, the checkpoint's name"),
        );
    of_program(command)
}

pub(super) fn teacher_command() -> Command {
    let about = "Use somebody else's classifier: as an artifact wherever one is read";
    // A classifier's state dict is nobody's standard; a program answers for any.
    let from = from().value_parser(["command", "onnx"]);
    let from = from.long_help(
        "What it is: a program that is asked by lines of JSON (command), or an ONNX file (onnx, a build with the feature onnx)",
    );
    of_program(of_file(Command::new("import-teacher").about(about).arg(from), "onnx: the model"))
}

fn of_file(command: Command, file: &'static str) -> Command {
    command
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .required_if_eq_any([("from", "onnx"), ("from", "studiogan")])
                .action(ArgAction::Append)
                .value_parser(value_parser!(PathBuf))
                .help(file),
        )
        .arg(
            Arg::new("classes")
                .long("classes")
                .value_name("NAME,...")
                .value_delimiter(',')
                .help("Names of the classes in the order of their labels; 0, 1 and so on when absent. Not of a program, which says them"),
        )
        .arg(
            Arg::new("classes-of")
                .long("classes-of")
                .value_name("DIR")
                .conflicts_with("classes")
                .value_parser(value_parser!(PathBuf))
                .help("Take them from this dataset, classifier or generator"),
        )
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("KEY=VALUE")
                .action(ArgAction::Append)
                .help("onnx: how the file is read, such as range=[0,1]; keys in docs/import-generator.md. May be repeated"),
        )
}

fn of_program(command: Command) -> Command {
    command
        .arg(
            Arg::new("include")
                .long("include")
                .value_name("FILE")
                .action(ArgAction::Append)
                .value_parser(value_parser!(PathBuf))
                .help("command: copy this file into the artifact, where {artifact}/FILE in the program's arguments finds it"),
        )
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .value_parser(value_parser!(u64).range(1..))
                .default_value("600")
                .help("command: give the program up when it has been silent for so long"),
        )
        .arg(
            Arg::new("revision")
                .long("revision")
                .value_name("N")
                .value_parser(value_parser!(u32))
                .default_value("1")
                .help("command: raise it when the program changes: nothing else tells, but for the files that --include names"),
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
                .required_if_eq("from", "command")
                .help("command: the program and its arguments"),
        )
}

pub(super) fn run(session: &Session, options: &ArgMatches) -> Result<()> {
    match options.get_one("from").context("--from is missing")? {
        From::Command => program(session, options, Role::Generator),
        From::Onnx => onnx(session, options, Role::Generator),
        From::Studiogan => studiogan(session, options),
    }
}

pub(super) fn run_teacher(session: &Session, options: &ArgMatches) -> Result<()> {
    match options.get_one::<String>("from").map(String::as_str) {
        Some("onnx") => onnx(session, options, Role::Scorer),
        _ => program(session, options, Role::Scorer),
    }
}

fn studiogan(session: &Session, options: &ArgMatches) -> Result<()> {
    let config = ImportGeneratorConfig {
        from: Origin::Studiogan,
        files: options.get_many::<PathBuf>("file").into_iter().flatten().cloned().collect(),
        classes: classes(options)?,
        step: options.get_one("step").copied().unwrap_or_default(),
    };
    make(session, options, &ImportGenerator::new(config, &session.device)?)
}

fn onnx(session: &Session, options: &ArgMatches, role: Role) -> Result<()> {
    let files: Vec<&PathBuf> = options.get_many("file").into_iter().flatten().collect();
    let [file] = files[..] else {
        return Err(Usage(format!("--from onnx: expected one file, found {}", files.len())).into());
    };
    let mut config = json!({ "classes": classes(options)? });
    if role == Role::Generator {
        config["step"] = json!(options.get_one::<u64>("step"));
    }
    for assignment in options.get_many::<String>("set").into_iter().flatten() {
        gafi_pipeline::overrides::set(&mut config, assignment)?;
    }
    make(session, options, crate::onnx::import(role, file, config)?.as_ref())
}

/// Names of the classes as they were given, none when they were not.
fn classes(options: &ArgMatches) -> Result<Vec<String>> {
    match options.get_one::<PathBuf>("classes-of") {
        Some(path) => class_names(&open(path)?),
        None => Ok(options.get_many("classes").into_iter().flatten().cloned().collect()),
    }
}

/// Datasets, classifiers and generators all say it in the same place.
fn class_names(artifact: &Artifact) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Classes {
        classes: Vec<String>,
    }
    Ok(artifact.content::<Classes>()?.classes)
}

fn program(session: &Session, options: &ArgMatches, role: Role) -> Result<()> {
    let arguments = options.get_many::<String>("program").into_iter().flatten();
    let timeout_s = *options.get_one::<u64>("timeout").context("--timeout is missing")?;
    let program = Program::new(arguments).with_timeout_s(timeout_s);
    let files: Vec<PathBuf> = options.get_many("include").into_iter().flatten().cloned().collect();
    let revision = *options.get_one::<u32>("revision").context("--revision is missing")?;
    let stage = ImportProgram::new(role, program, &files, revision)?;
    make(session, options, &stage)
}

fn make(session: &Session, options: &ArgMatches, stage: &dyn Stage) -> Result<()> {
    if options.get_flag("dry-run") {
        return print_config(&stage.config(), session.json);
    }
    let out = options.get_one::<PathBuf>("out").context("--out is missing")?;
    let outcome = session.execute(stage, &Inputs::new(), out)?;
    session.tell(&[outcome])?;
    Ok(())
}
