//! Exports datasets to formats that training scripts read. An export is a folder of data files with a dataset card (`README.md`)
//! that describes what the images are, how they were made, and how to load them.
//!
//! A writer reads the dataset shard by shard, once for each column that its format stores separately, so it holds one shard in
//! memory. Rows keep their order. Equal datasets and options give equal bytes: files have no dates or owners, and compression is
//! fixed.

mod card;
mod cifar_bin;
mod exporter;
mod image_folder;
mod npz;
mod options;
mod parquet;
mod webdataset;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use gafi_core::{Artifact, Context, Dataset, DatasetInfo, Error, FolderWriter, Result, Rows};

use exporter::{Exporter, Extra, unfit};
pub use options::{ExportFormat, ExportOptions};

/// The dataset card, which identifies an export.
const CARD: &str = "README.md";

/// What [`export_dataset`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// Number of images.
    pub rows: u64,
    /// Number of classes.
    pub classes: usize,
}

/// Writes the dataset `artifact` to the folder `dest`, completely or not at all. `cx.force` replaces an earlier export.
///
/// # Errors
/// [`Error::Occupied`] when `dest` is not empty and `cx.force` is off; [`Error::Config`] when it must not be replaced, because it is
/// not an export, or overlaps the dataset; [`Error::Input`] when the format cannot hold these images or classes;
/// [`Error::Format`] when the artifact is damaged; [`Error::Interrupted`]; [`Error::Io`].
pub fn export_dataset(
    artifact: &Artifact,
    format: ExportFormat,
    options: &ExportOptions,
    dest: &Path,
    cx: &Context,
) -> Result<Exported> {
    let set = Dataset::open(artifact)?;
    let info = set.info();
    check(info, format)?;
    check_dest(artifact, dest)?;
    let replace = cx.force && fs::symlink_metadata(dest).is_ok();
    if replace && !card::is_card(&dest.join(CARD)) {
        let found = format!("{} (its {CARD} was not written by an export)", dest.display());
        return Err(Error::config("out", found, "an earlier export to replace, or a new folder"));
    }
    let out = FolderWriter::begin(dest, replace, cx)?;
    artifact.verify()?;
    let first = set.batches().next().transpose()?.unwrap_or_default();
    let extra = Extra { confidence: first.confidence.is_some(), probabilities: first.probabilities.is_some() };
    let exporter = Exporter { set: &set, info, extra, format, options, out: &out, cx };
    let folders = match format {
        ExportFormat::ImageFolder => image_folder::write(&exporter)?,
        ExportFormat::Parquet => parquet::write(&exporter)?,
        ExportFormat::WebDataset => webdataset::write(&exporter)?,
        ExportFormat::Npz => npz::write(&exporter)?,
        ExportFormat::CifarBin => cifar_bin::write(&exporter)?,
    };
    exporter.file(CARD, card::text(&exporter, artifact, &folders).as_bytes())?;
    cx.checkpoint()?;
    out.finish()?;
    Ok(Exported { rows: info.rows(), classes: info.classes.len() })
}

/// Checks that the format can hold the dataset: images of 1 or 3 channels, and classes with unique names.
fn check(info: &DatasetInfo, format: ExportFormat) -> Result<()> {
    if !matches!(info.image.channels, 1 | 3) {
        return Err(unfit(format, "images of 1 or 3 channels", info.image.to_string()));
    }
    let mut seen = BTreeMap::new();
    for (label, name) in info.classes.iter().enumerate() {
        if let Some(before) = seen.insert(name, label) {
            let found = format!("{name:?} for classes {before} and {label}");
            return Err(unfit(format, "unique class names", found));
        }
    }
    match format {
        ExportFormat::CifarBin => cifar_bin::check(info),
        ExportFormat::ImageFolder => image_folder::check(info),
        _ => Ok(()),
    }
}

/// Checks that `dest` is neither inside the artifact's folder nor around it.
fn check_dest(artifact: &Artifact, dest: &Path) -> Result<()> {
    let home = fs::canonicalize(artifact.path()).map_err(Error::io("read", artifact.path()))?;
    let dest = std::path::absolute(dest).map_err(Error::io("resolve", dest))?;
    let inside = dest.ancestors().any(|above| fs::canonicalize(above).is_ok_and(|above| above == home));
    if inside || fs::canonicalize(&dest).is_ok_and(|dest| home.starts_with(dest)) {
        return Err(Error::config("out", dest.display(), "a folder that is neither inside the dataset nor around it"));
    }
    Ok(())
}
