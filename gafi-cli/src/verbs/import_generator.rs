//! `import-generator` and `import-teacher`: generators and classifiers that were trained elsewhere, as artifacts.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use gafi_command::{ImportProgram, Program, Role};
use gafi_core::{Artifact, Inputs, Stage as _, execute};
use gafi_gan::{ImportGenerator, ImportGeneratorConfig, Origin};
use serde_json::json;

use super::{OutArgs, open, print_config, run_stage};
use crate::commands;
use crate::session::Session;
use gafi_pipeline::Usage;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum From {
    /// A program that answers requests: docs/command-protocol.md
    Command,
    /// An ONNX model from latents and labels to images (needs a build with the feature onnx): docs/import-generator.md
    Onnx,
    /// PyTorch-StudioGAN's big_resnet or big_resnet_deep_studiogan, safetensors or .pth: docs/import-generator.md
    Studiogan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TeacherFrom {
    /// A program that answers requests: docs/command-protocol.md
    Command,
    /// An ONNX model from images to logits (needs a build with the feature onnx): docs/import-generator.md
    Onnx,
}

/// Import a generator that was trained elsewhere
#[derive(Debug, Args)]
pub(crate) struct ImportGeneratorArgs {
    /// What to import
    #[arg(long, value_name = "KIND", value_enum)]
    from: From,
    /// onnx: the model. studiogan: the generator's state dict, its moving average (G_ema) if there is one; several files are
    /// read as one
    #[arg(required_if_eq_any([("from", "onnx"), ("from", "studiogan")]))]
    file: Vec<PathBuf>,
    /// onnx, studiogan: training step to record, the name of the checkpoint
    #[arg(long, value_name = "N", default_value_t = 0)]
    step: u64,
    /// studiogan: which network of a file with several, such as `g_ema` [default: a moving average, if there is one]
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    #[command(flatten)]
    shared: SharedArgs,
}

/// Import a classifier that was trained elsewhere, to be used as a teacher
#[derive(Debug, Args)]
pub(crate) struct ImportTeacherArgs {
    /// What to import
    #[arg(long, value_name = "KIND", value_enum)]
    from: TeacherFrom,
    /// onnx: the model
    #[arg(required_if_eq("from", "onnx"))]
    file: Vec<PathBuf>,
    #[command(flatten)]
    shared: SharedArgs,
}

#[derive(Debug, Args)]
struct SharedArgs {
    /// All but command: class names in the order of the labels [default: 0, 1, ...]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    classes: Vec<String>,
    /// All but command: take the class names from this dataset, classifier or generator
    #[arg(long, value_name = "DIR", conflicts_with = "classes")]
    classes_of: Option<PathBuf>,
    /// onnx: how to use the model, such as `range=[0,1]` (see docs/import-generator.md); repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// command: copy this file into the artifact; {artifact}/FILE in the program's arguments is its path; repeatable
    #[arg(long, value_name = "FILE")]
    include: Vec<PathBuf>,
    /// command: stop the program when it sends nothing for this long
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// command: raise this when the program changes outside the files of --include, so that results are rebuilt
    #[arg(long, value_name = "N", default_value_t = 1)]
    revision: u32,
    /// Print the configuration and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    out: OutArgs,
    /// command: the program and its arguments
    #[arg(last = true, required_if_eq("from", "command"))]
    program: Vec<String>,
}

pub(super) fn run(session: &Session, args: &ImportGeneratorArgs) -> Result<()> {
    match args.from {
        From::Command => args.shared.program(session, Role::Generator),
        From::Onnx => args.shared.onnx(session, Role::Generator, &args.file, json!({ "step": args.step })),
        From::Studiogan => {
            let config = ImportGeneratorConfig {
                from: Origin::Studiogan,
                files: args.file.clone(),
                classes: args.shared.classes()?,
                step: args.step,
                key: args.key.clone(),
            };
            let stage = ImportGenerator::new(config, &session.device)?;
            run_stage(session, &stage, &Inputs::new(), args.shared.dry_run, &args.shared.out)
        }
    }
}

pub(super) fn run_teacher(session: &Session, args: &ImportTeacherArgs) -> Result<()> {
    match args.from {
        TeacherFrom::Command => args.shared.program(session, Role::Scorer),
        TeacherFrom::Onnx => args.shared.onnx(session, Role::Scorer, &args.file, json!({})),
    }
}

impl SharedArgs {
    fn program(&self, session: &Session, role: Role) -> Result<()> {
        let program = Program::new(&self.program).with_timeout_s(self.timeout);
        let stage = ImportProgram::new(role, program, &self.include, self.revision)?;
        if self.dry_run {
            return print_config(&stage.config(), session.json);
        }
        let out = self.out.out.as_ref().context("--out is missing")?;
        let made = execute(&stage, &Inputs::new(), out, &session.cx)?;
        // An artifact that existed may come from somebody else.
        if stage.describes(&made.artifact)
            && let Err(error) = commands::remember(&made.artifact)
        {
            tracing::warn!("this import cannot be recorded, so using the artifact needs --allow-commands: {error:#}");
        }
        session.report(&[made])
    }

    fn onnx(&self, session: &Session, role: Role, files: &[PathBuf], mut config: serde_json::Value) -> Result<()> {
        let [file] = files else {
            return Err(Usage(format!("--from onnx: expected one file, found {}", files.len())).into());
        };
        config["classes"] = json!(self.classes()?);
        for assignment in &self.set {
            gafi_pipeline::overrides::set(&mut config, assignment)?;
        }
        let stage = crate::onnx::import(role, file, config)?;
        run_stage(session, &*stage, &Inputs::new(), self.dry_run, &self.out)
    }

    /// The class names, empty if none were given.
    fn classes(&self) -> Result<Vec<String>> {
        match &self.classes_of {
            Some(path) => class_names(&open(path)?),
            None => Ok(self.classes.clone()),
        }
    }
}

/// Datasets, classifiers and generators all list their classes under the same key.
fn class_names(artifact: &Artifact) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Classes {
        classes: Vec<String>,
    }
    Ok(artifact.content::<Classes>()?.classes)
}
