//! `import`: real images in, as three datasets.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Arg, ArgMatches, Command};
use gafi_core::{Inputs, Split};
use gafi_data::{Import, ImportConfig, NamedSet};
use serde_json::{Value, json};

use super::{config_args, configured, out_arg, print_config};
use crate::session::Session;
use gafi_pipeline::Usage;
use gafi_pipeline::overrides::{merge, resolve};

pub(super) fn command() -> Command {
    let source = Arg::new("source").value_name("SET|PATH").help(
        "fashion-mnist, mnist, cifar10, cifar100, shapes; or a file or folder: IDX, CIFAR binary batches, parquet, \
         split/class/file images, npz, or a dataset of GaFi",
    );
    config_args(
        Command::new("import")
            .about("Read real images into three datasets: DIR/train, DIR/val and DIR/test")
            .arg(source),
    )
    .arg(Arg::new("path").long("path").value_name("PATH").help("Where a named set lies"))
    .arg(out_arg())
}

/// A named set by its name, anything else as a path.
///
/// # Errors
/// [`Usage`] for what is neither.
pub(super) fn source(text: &str) -> Result<Value> {
    match serde_json::from_value::<NamedSet>(text.into()) {
        Ok(_) => Ok(json!({"set": text, "path": null})),
        // What cannot be asked about is there, and why it cannot be read is told when it is.
        Err(_) if Path::new(text).try_exists().unwrap_or(true) => Ok(json!({"set": null, "path": text})),
        Err(_) => {
            let sets = NamedSet::ALL.map(NamedSet::name).join(", ");
            Err(Usage(format!("{text}: expected a file or folder of images that is there, or one of the sets {sets}"))
                .into())
        }
    }
}

pub(super) fn run(session: &Session, options: &ArgMatches) -> Result<()> {
    let mut tree = serde_json::to_value(ImportConfig::default())?;
    if let Some(text) = options.get_one::<String>("source") {
        merge(&mut tree, source(text)?);
    }
    if let Some(path) = options.get_one::<String>("path") {
        merge(&mut tree, json!({ "path": path }));
    }
    let config: ImportConfig = resolve(configured(tree, options)?, "import")?;
    config.validate()?;
    if options.get_flag("dry-run") {
        return print_config(&serde_json::to_value(&config)?, session.json);
    }
    let out = options.get_one::<PathBuf>("out").context("--out is missing")?;
    let import = Import::new(&config, Split::Train, &session.cx)?;
    let mut made = Vec::new();
    for split in [Split::Train, Split::Val, Split::Test] {
        let outcome = session.execute(&import.with_split(split), &Inputs::new(), &out.join(split.to_string()));
        // A folder made for nothing goes again; one with anything in it stays.
        made.push(outcome.inspect_err(|_| drop(std::fs::remove_dir(out)))?);
    }
    session.tell(&made)?;
    Ok(())
}
