//! `import-generator`: a generator that another program trained, as an artifact.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use gafi_core::{Artifact, Inputs};
use gafi_gan::{ImportGenerator, ImportGeneratorConfig, Origin};

use crate::session::Session;

pub(super) fn command() -> Command {
    Command::new("import-generator")
        .about("Make an artifact of a generator that another program trained")
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("PROGRAM")
                .required(true)
                .value_parser(PossibleValuesParser::new(["studiogan"]))
                .help("studiogan: PyTorch-StudioGAN's big_resnet and big_resnet_deep_studiogan, safetensors or .pth"),
        )
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .action(ArgAction::Append)
                .value_parser(value_parser!(PathBuf))
                .help("The generator's state dict, best that of its average (G_ema); several files are parts of one"),
        )
        .arg(
            Arg::new("out")
                .long("out")
                .visible_alias("output")
                .short('o')
                .value_name("DIR")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Folder of the result; what is there already is reused"),
        )
        .arg(
            Arg::new("classes")
                .long("classes")
                .value_name("NAME,...")
                .value_delimiter(',')
                .help("Names of the classes in the order of their labels; 0, 1 and so on when absent"),
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
            Arg::new("step")
                .long("step")
                .value_name("N")
                .value_parser(value_parser!(u64))
                .default_value("0")
                .help("Generator updates that its training had done: the checkpoint's name"),
        )
}

pub(super) fn run(session: &Session, options: &ArgMatches) -> Result<()> {
    let out = options.get_one::<PathBuf>("out").context("--out is missing")?;
    let names = options.get_many::<String>("classes").into_iter().flatten().cloned();
    let config = ImportGeneratorConfig {
        from: Origin::Studiogan,
        files: options.get_many::<PathBuf>("file").into_iter().flatten().cloned().collect(),
        classes: match options.get_one::<PathBuf>("classes-of") {
            Some(path) => class_names(&Artifact::open(path)?)?,
            None => names.collect(),
        },
        step: options.get_one("step").copied().unwrap_or_default(),
    };
    let stage = ImportGenerator::new(config, &session.device)?;
    let outcome = session.execute(&stage, &Inputs::new(), out)?;
    session.tell(&[outcome]);
    Ok(())
}

/// Datasets, classifiers and generators all say it in the same place.
fn class_names(artifact: &Artifact) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Classes {
        classes: Vec<String>,
    }
    Ok(artifact.content::<Classes>()?.classes)
}
