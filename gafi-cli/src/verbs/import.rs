//! `import`: real images as datasets, one for each split.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use gafi_core::{DatasetInfo, Inputs, MANIFEST_FILE, Split, execute};
use gafi_data::{Channels, Import, ImportConfig, NamedSet};
use gafi_pipeline::Usage;
use gafi_pipeline::overrides::resolve;
use serde::Serialize;
use serde_json::json;

use super::{OutArgs, print_config};
use crate::configuration::{ConfigArgs, FlagKeys};
use crate::session::Session;
use crate::{import_table, stdout};

/// Import real images as datasets: DIR/train, DIR/val, DIR/test and, with screen_fraction, DIR/screen. Prints what was found, skipped
/// and converted; --dry-run prints it without writing, with --json as one record
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// fashion-mnist, mnist, cifar10, cifar100 or shapes (drawn, needs no files); hf://OWNER/NAME, a dataset of the Hugging Face
    /// hub; or a file, folder or archive (zip, tar): images in split/class/file, parquet, npz, IDX, CIFAR's batches, SVHN's .mat
    /// files, or a dataset of GaFi
    #[arg(value_name = "SET|PATH")]
    source: Option<String>,
    #[command(flatten)]
    keys: ImportFlags,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    out: OutArgs,
}

#[derive(Debug, Args, Serialize)]
struct ImportFlags {
    /// Folder with the files of a named set
    #[arg(long, value_name = "PATH")]
    path: Option<PathBuf>,
    /// Class names in the order of the labels, for sources that store none [default: those of the source, else 0, 1, ...]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    classes: Option<Vec<String>>,
    /// Height and width of the images in pixels [default: those of the source]
    #[arg(long, value_name = "PIXELS")]
    size: Option<usize>,
    /// How to convert images of another size
    #[arg(long, value_parser = ["pad", "resize", "crop"])]
    fit: Option<String>,
    /// Channels of the images: 1 (grey), 3 (RGB) or keep
    #[arg(long, value_name = "1|3|keep")]
    channels: Option<Channels>,
    /// Share of each class held out for validation; 0 for none [default: 0.1, or the source's own validation split]
    #[arg(long, value_name = "SHARE")]
    val_fraction: Option<f64>,
    /// Share of each class held out for testing, for sources without a test split
    #[arg(long, value_name = "SHARE")]
    test_fraction: Option<f64>,
}

/// Sets the key `set` or the key `path` from `text`, the name of a set or a path.
///
/// # Errors
/// [`Usage`] for any other text.
pub(super) fn source(
    flags: FlagKeys,
    flag: &'static str,
    [set, path]: [&'static str; 2],
    text: Option<&str>,
) -> Result<FlagKeys> {
    let Some(text) = text else { return Ok(flags) };
    if serde_json::from_value::<NamedSet>(text.into()).is_ok() {
        return Ok(flags.clear(path).set(flag, set, Some(text)));
    }
    // A path that cannot be queried counts as existing, so that reading it reports the cause.
    if text.starts_with("hf://") || Path::new(text).try_exists().unwrap_or(true) {
        return Ok(flags.clear(set).set(flag, path, Some(text)));
    }
    let sets = NamedSet::ALL.map(NamedSet::name).join(", ");
    bail!(Usage(format!(
        "{text}: expected an existing file or folder of images, hf://OWNER/NAME, or one of the sets {sets}"
    )))
}

pub(super) fn run(session: &Session, args: &ImportArgs) -> Result<()> {
    let defaults = serde_json::to_value(ImportConfig::default())?;
    let flags = source(FlagKeys::of(&args.keys)?, "SET|PATH", ["set", "path"], args.source.as_deref())?;
    let config: ImportConfig = resolve(args.config.resolve(defaults, flags)?.tree, "import")?;
    config.validate()?;
    if args.config.dry_run {
        return dry_run(session, config);
    }
    let out = args.out.out.as_ref().context("--out is missing")?;
    let import = Import::new(&config, Split::Train, &session.cx)?;
    let at = |split: Split| out.join(split.to_string());
    // Reports the problems of all splits before any split is written.
    if !import.splits().iter().all(|&split| at(split).join(MANIFEST_FILE).exists()) {
        import.report(&session.cx)?;
    }
    let mut made = Vec::new();
    for split in import.splits() {
        let outcome = execute(&import.with_split(split), &Inputs::new(), &at(split), &session.cx);
        // Remove the folder again if it stayed empty.
        made.push(outcome.inspect_err(|_| drop(std::fs::remove_dir(out)))?);
    }
    session.report(&made)?;
    let report = made.first().and_then(|outcome| DatasetInfo::of(&outcome.artifact).ok()?.import);
    if let Some(report) = report.filter(|_| !session.json) {
        let report = serde_json::from_value(report).context("reading the report of the import")?;
        import_table::lines(&report).iter().for_each(|line| session.log(line));
    }
    Ok(())
}

/// Prints the configuration and what an import would find, without writing or downloading anything. With `--json`, both are one record on
/// stdout.
fn dry_run(session: &Session, config: ImportConfig) -> Result<()> {
    let tree = serde_json::to_value(&config)?;
    if !session.json {
        print_config(&tree, false)?;
    }
    let report = match Import::new(&ImportConfig { offline: true, ..config }, Split::Train, &session.cx) {
        // The set would have to be downloaded.
        Err(missing @ gafi_core::Error::Other { .. }) => {
            session.log(&format!("{:#}", anyhow::Error::new(missing)));
            None
        }
        import => Some(import?.report(&session.cx)?),
    };
    if session.json {
        return stdout::line(json!({ "config": tree, "import": report }));
    }
    report.iter().flat_map(import_table::lines).for_each(|line| session.log(&line));
    Ok(())
}
