//! Datasets out, in the formats that other people's training scripts read. Every export is a folder: data files, and a
//! dataset card (`README.md`) that says what the images are, what made them, and how to load them.
//!
//! A writer goes through the set shard by shard, as often as its format has columns to write one after another, so
//! memory is bounded by a shard. Rows keep their order and their number. Equal datasets and options give equal bytes:
//! no dates, no owners, fixed compression.

mod card;
mod cifar_bin;
mod image_folder;
mod npz;
mod parquet;
mod webdataset;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use gafi_core::{Artifact, Batch, Context, Dataset, DatasetInfo, Error, FolderWriter, ImageSpec, Result, Rows, Split};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use rayon::prelude::*;
use serde::Serialize;

/// The card of a dataset, and what tells an export from other folders.
const CARD: &str = "README.md";

/// How exported images are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// `CLASS/ROW.png`, and `classes.json` with the folder of each label.
    ImageFolder,
    /// The hub's image feature: `data/SPLIT-00000.parquet` with columns `image` and `label`, and `confidence` and
    /// `probabilities` where the dataset has them.
    Parquet,
    /// `SPLIT-000000.tar` with `ROW.png`, `ROW.cls`, and `ROW.json` where there are confidences; and `classes.json`.
    WebDataset,
    /// `dataset.npz` with arrays `images` (uint8; (n, h, w) of grey images, (n, h, w, 3) of colour), `labels` (int64),
    /// `classes` (strings), and `confidence` and `probabilities` (float32) where the dataset has them.
    Npz,
    /// CIFAR-10's binary files, for 3x32x32 and up to 256 classes; and `batches.meta.txt`.
    CifarBin,
}

impl ExportFormat {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::ImageFolder, Self::Parquet, Self::WebDataset, Self::Npz, Self::CifarBin];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ImageFolder => "image-folder",
            Self::Parquet => "parquet",
            Self::WebDataset => "webdataset",
            Self::Npz => "npz",
            Self::CifarBin => "cifar-bin",
        }
    }
}

impl std::fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for ExportFormat {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|f| f.name() == s);
        found.ok_or_else(|| format!("expected one of {}, found {s:?}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// What is said of the set besides what its artifact says, and how it is cut into files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    /// Name for people; a description of the images when absent.
    pub name: Option<String>,
    /// The hub's identifier of a licence ("cc0-1.0"). Absent: `other`, unspecified.
    pub license: Option<String>,
    /// Parquet and webdataset: a further file begins where this many bytes are written.
    pub file_bytes: u64,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { name: None, license: None, file_bytes: 256 << 20 }
    }
}

/// What [`export`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Images.
    pub rows: u64,
    /// In how many classes.
    pub classes: usize,
}

/// Writes the dataset `artifact` to the folder `dest`, whole or not at all. `cx.force` replaces an earlier export.
///
/// # Errors
/// [`Error::Occupied`] when something is at `dest`; [`Error::Config`] when it may not be replaced: it is no export, or
/// it is or holds the dataset. [`Error::Input`] when the format cannot hold these images or classes; [`Error::Format`]
/// when the artifact is damaged; [`Error::Interrupted`]; [`Error::Io`].
pub fn export(
    artifact: &Artifact,
    format: ExportFormat,
    options: &ExportOptions,
    dest: &Path,
    cx: &Context,
) -> Result<Exported> {
    let set = Dataset::open(artifact)?;
    let info = set.info().clone();
    check(&info, format)?;
    check_place(artifact, dest)?;
    let replace = cx.force && fs::symlink_metadata(dest).is_ok();
    if replace && !card::is_card(&dest.join(CARD)) {
        let found = format!("{} (which has no {CARD} of an export)", dest.display());
        return Err(Error::config("out", found, "an earlier export to replace, or a new folder"));
    }
    let out = FolderWriter::begin(dest, replace)?;
    artifact.verify()?;
    let first = set.shards().next().transpose()?.unwrap_or_default();
    let extra = Extra { confidence: first.confidence.is_some(), probabilities: first.probabilities.is_some() };
    let job = Job { set: &set, info: &info, extra, format, options, out: &out, cx };
    let folders = match format {
        ExportFormat::ImageFolder => image_folder::write(&job)?,
        ExportFormat::Parquet => parquet::write(&job)?,
        ExportFormat::WebDataset => webdataset::write(&job)?,
        ExportFormat::Npz => npz::write(&job)?,
        ExportFormat::CifarBin => cifar_bin::write(&job)?,
    };
    job.file(CARD, card::text(&job, artifact, &folders).as_bytes())?;
    cx.checkpoint()?;
    out.finish()?;
    Ok(Exported { rows: info.rows(), classes: info.classes.len() })
}

/// Names of the folders that the classes are in, in the order of the labels; empty for formats without.
type Folders = Vec<String>;

/// Which of the optional columns a set has.
#[derive(Debug, Clone, Copy)]
struct Extra {
    confidence: bool,
    probabilities: bool,
}

impl Extra {
    const fn any(self) -> bool {
        self.confidence || self.probabilities
    }
}

/// What a writer works on.
struct Job<'a> {
    set: &'a Dataset,
    info: &'a DatasetInfo,
    extra: Extra,
    format: ExportFormat,
    options: &'a ExportOptions,
    out: &'a FolderWriter,
    cx: &'a Context,
}

impl Job<'_> {
    /// Goes through the set; `f` gets the number of the shard's first row, and the shard.
    fn each_shard(&self, mut f: impl FnMut(usize, Batch) -> Result<()>) -> Result<()> {
        let mut task = self.cx.progress.begin(&format!("export {}", self.format.name()), Some(self.info.rows()));
        let mut row = 0;
        for shard in self.set.shards() {
            self.cx.checkpoint()?;
            let shard = shard?;
            let rows = shard.len();
            f(row, shard)?;
            row += rows;
            task.advance(rows as u64);
        }
        Ok(())
    }

    /// Writes a small file.
    fn file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.out.create(name)?;
        file.write_all(bytes).and_then(|()| file.flush()).map_err(self.failed(name))
    }

    /// Writes a small JSON file.
    fn json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(Error::other(format!("writing {name}")))?;
        bytes.push(b'\n');
        self.file(name, &bytes)
    }

    /// What an I/O error while writing `name` becomes.
    fn failed(&self, name: &str) -> impl FnOnce(std::io::Error) -> Error + use<> {
        Error::io("write", self.out.path(name))
    }

    /// The hub's name of the set's split; generated images are there to train on.
    const fn split(&self) -> &'static str {
        match self.info.split {
            Split::Train | Split::Synthetic => "train",
            Split::Val => "validation",
            Split::Test | Split::TestAsVal => "test",
        }
    }

    /// The images of a shard as PNG files.
    fn pngs(&self, shard: &Batch) -> Result<Vec<Vec<u8>>> {
        let spec = self.info.image;
        shard.images.par_chunks_exact(spec.bytes()).map(|image| png(image, spec)).collect()
    }
}

/// Whether the format can hold the set: images of 1 or 3 channels, classes that can be told apart by name.
fn check(info: &DatasetInfo, format: ExportFormat) -> Result<()> {
    if !matches!(info.image.channels, 1 | 3) {
        return Err(unfit(format, "images of 1 or 3 channels", info.image.to_string()));
    }
    let mut seen = BTreeMap::new();
    for (label, name) in info.classes.iter().enumerate() {
        if let Some(before) = seen.insert(name, label) {
            let found = format!("classes {before} and {label} are both called {name:?}");
            return Err(unfit(format, "classes with a name each", found));
        }
    }
    match format {
        ExportFormat::CifarBin => cifar_bin::check(info),
        ExportFormat::ImageFolder => image_folder::check(info),
        _ => Ok(()),
    }
}

/// A dataset that a format cannot hold.
fn unfit(format: ExportFormat, expected: impl Into<String>, found: String) -> Error {
    let (stage, port) = (format!("export {}", format.name()), "dataset".into());
    Error::Input { stage, port, expected: expected.into(), found }
}

/// An artifact has no subfolders, and is not to be written into, nor to be replaced with what it lies in.
fn check_place(artifact: &Artifact, dest: &Path) -> Result<()> {
    let home = fs::canonicalize(artifact.path()).map_err(Error::io("read", artifact.path()))?;
    let dest = std::path::absolute(dest).map_err(Error::io("resolve", dest))?;
    let inside = dest.ancestors().any(|above| fs::canonicalize(above).is_ok_and(|above| above == home));
    if inside || fs::canonicalize(&dest).is_ok_and(|dest| home.starts_with(dest)) {
        return Err(Error::config("out", dest.display(), "a folder apart from the dataset"));
    }
    Ok(())
}

/// (c, h, w) to (h, w, c), as files hold colour.
fn interleaved(image: &[u8], spec: ImageSpec) -> Vec<u8> {
    let plane = spec.height * spec.width;
    (0..plane).flat_map(|at| image.iter().skip(at).step_by(plane).copied()).collect()
}

/// One image as a PNG file: grey or RGB, 8 bits.
fn png(image: &[u8], spec: ImageSpec) -> Result<Vec<u8>> {
    let colour = if spec.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, FilterType::Adaptive);
    // A side is at most 2^28 (`DatasetInfo` sees to it).
    let (width, height) = (spec.width as u32, spec.height as u32);
    encoder
        .write_image(&interleaved(image, spec), width, height, colour)
        .map_err(Error::other(format!("encoding a PNG of {spec}")))?;
    Ok(bytes)
}

/// Digits that row numbers of the set are written with, so that names sort as rows do.
fn digits(rows: u64) -> usize {
    rows.saturating_sub(1).to_string().len().max(6)
}
