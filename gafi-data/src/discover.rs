//! Finds the files of a set at a path: detects the format, and assigns files to splits.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gafi_core::{Artifact, DatasetInfo, Error, Kind, MANIFEST_FILE, Result, Split, hash_file, open_regular};
use rayon::prelude::*;

use crate::format::Format;
use crate::formats::cifar::{self, Cifar, Variant};
use crate::formats::folder::{self, Folder, FolderKeys};
use crate::formats::gafi::GafiDataset;
use crate::formats::idx::{self, Idx, Pair};
use crate::formats::npz::{self, Npz};
use crate::formats::parquet::{Columns, Parquet};
use crate::formats::split_names::{split_in, split_of};
use crate::import::Note;
use crate::source::{Chain, Source};

/// The files of one split.
#[derive(Debug, Clone)]
enum Files {
    Idx(Pair),
    Cifar { variant: Variant, batches: Vec<PathBuf> },
    Parquet(Vec<PathBuf>),
    Npz(PathBuf),
    Folder(Arc<Folder>),
    Gafi(PathBuf),
}

/// A set on disk: its format, and the files of each split. There is always a split `train`; a set that isn't split is all
/// training rows.
#[derive(Debug, Clone)]
pub(crate) struct Discovered {
    pub(crate) format: Format,
    splits: Vec<(Split, Files)>,
    /// What was skipped or assumed in finding them.
    pub(crate) notes: Vec<Note>,
}

impl Discovered {
    /// Looks for a set at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when nothing is there; [`Error::Format`] when it isn't in the given format, or for `auto` in any format.
    pub(crate) fn at(path: &Path, format: Format, keys: &FolderKeys<'_>) -> Result<Self> {
        let meta = fs::metadata(path).map_err(Error::io("open", path))?;
        let format = match format {
            Format::Auto if meta.is_dir() => detect_folder(path)?,
            Format::Auto => detect_file(path, meta.len())?,
            format => format,
        };
        let missing = |expected: &str| {
            Error::format(path, format!("files for format {}", format.name()), expected, contents(path))
        };
        let mut notes = Vec::new();
        let splits = match format {
            Format::Idx if meta.is_dir() => {
                let (train, test) = idx::find(path)?;
                let train = train
                    .ok_or_else(|| missing("train-images-idx3-ubyte and train-labels-idx1-ubyte, plain or .gz"))?;
                let test = test.map(|pair| (Split::Test, Files::Idx(pair)));
                [(Split::Train, Files::Idx(train))].into_iter().chain(test).collect()
            }
            Format::Idx => vec![(Split::Train, Files::Idx((path.into(), idx::labels_beside(path)?)))],
            Format::Cifar10 => cifar_splits(path, meta.is_dir(), Variant::Cifar10)
                .ok_or_else(|| missing("data_batch_1.bin … and test_batch.bin"))?,
            Format::Cifar100 => {
                cifar_splits(path, meta.is_dir(), Variant::Cifar100).ok_or_else(|| missing("train.bin and test.bin"))?
            }
            Format::Parquet if meta.is_dir() => parquet_splits(path)?,
            Format::Parquet => vec![(Split::Train, Files::Parquet(vec![path.into()]))],
            Format::Npz => {
                let file =
                    if meta.is_dir() { only_npz(path).ok_or_else(|| missing("one .npz file"))? } else { path.into() };
                npz::find(&file)?.into_iter().map(|split| (split, Files::Npz(file.clone()))).collect()
            }
            Format::Gafi => gafi_splits(path)?,
            Format::Folder | Format::Auto if meta.is_dir() => {
                let found = folder::find(path, keys)?;
                notes = found.notes;
                found.splits.into_iter().map(|(split, folder)| (split, Files::Folder(Arc::new(folder)))).collect()
            }
            Format::Folder | Format::Auto => return Err(missing("a folder")),
        };
        Ok(Self { format, splits, notes })
    }

    /// A set of two parquet files.
    pub(crate) fn parquet_pair(train: PathBuf, test: PathBuf) -> Self {
        let split = |split, file| (split, Files::Parquet(vec![file]));
        Self {
            format: Format::Parquet,
            splits: vec![split(Split::Train, train), split(Split::Test, test)],
            notes: Vec::new(),
        }
    }

    /// Whether the set has `split`.
    pub(crate) fn has(&self, split: Split) -> bool {
        self.splits.iter().any(|(s, _)| *s == split)
    }

    /// Opens `split`; `None` if the set doesn't have it.
    pub(crate) fn open(&self, split: Split, columns: Columns<'_>) -> Result<Option<Box<dyn Source>>> {
        let Some((_, files)) = self.splits.iter().find(|(s, _)| *s == split) else { return Ok(None) };
        Ok(Some(match files {
            Files::Idx((images, labels)) => Box::new(Idx::open(images, labels)?),
            Files::Cifar { variant, batches } => {
                let open = |path: &PathBuf| Ok(Box::new(Cifar::open(path, *variant)?) as Box<dyn Source>);
                Chain::join(batches.iter().map(open).collect::<Result<_>>()?)?
            }
            Files::Parquet(shards) => {
                let open = |path: &PathBuf| Ok(Box::new(Parquet::open(path, columns)?) as Box<dyn Source>);
                Chain::join(shards.iter().map(open).collect::<Result<_>>()?)?
            }
            Files::Npz(path) => match Npz::open(path, split)? {
                Some(part) => Box::new(part),
                None => return Ok(None),
            },
            Files::Folder(folder) => Box::new(folder.clone()),
            Files::Gafi(path) => Box::new(GafiDataset::open(&Artifact::open_as(path, Kind::Dataset)?)?),
        }))
    }

    /// BLAKE3 (hex) of everything that is read: the splits, their file names and the content of the files.
    pub(crate) fn digest(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        let mut add = |name: &str, content: &str| {
            // The length keeps different lists of names and hashes from giving the same bytes.
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(content.as_bytes());
        };
        for (split, files) in &self.splits {
            add("part", &split.to_string());
            if let Files::Gafi(path) = files {
                let artifact = Artifact::open_as(path, Kind::Dataset)?;
                artifact.verify()?;
                add("artifact", artifact.id());
                continue;
            }
            if let Files::Folder(folder) = files {
                // With the class of each file, which need not be a part of its path.
                let files: Vec<_> = folder.files().collect();
                let hashes: Vec<_> = files.par_iter().map(|(path, _)| hash_file(path)).collect();
                for ((path, class), hash) in files.into_iter().zip(hashes) {
                    let name = path.strip_prefix(folder.root()).unwrap_or(path).to_string_lossy();
                    add(&name, &hash?.blake3);
                    add("class", class);
                }
                continue;
            }
            let (root, paths) = files.list()?;
            let hashes: Vec<_> = paths.par_iter().map(|p| hash_file(p)).collect();
            for (path, hash) in paths.iter().zip(hashes) {
                let name = path.strip_prefix(&root).unwrap_or(path).to_string_lossy();
                add(&name, &hash?.blake3);
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

impl Files {
    /// The folder that file names are relative to, and all files in order.
    fn list(&self) -> Result<(PathBuf, Vec<PathBuf>)> {
        let paths: Vec<PathBuf> = match self {
            Self::Idx((images, labels)) => vec![images.clone(), labels.clone()],
            Self::Cifar { batches, .. } => {
                let names = ["batches.meta.txt", "fine_label_names.txt"].map(|n| batches[0].with_file_name(n));
                batches.iter().cloned().chain(names.into_iter().filter(|p| p.is_file())).collect()
            }
            Self::Parquet(shards) => shards.clone(),
            Self::Npz(path) => vec![path.clone()],
            Self::Folder(folder) => folder.files().map(|(path, _)| path.into()).collect(),
            Self::Gafi(path) => vec![path.clone()],
        };
        let root = paths.first().and_then(|p| p.parent()).map(Path::to_path_buf).unwrap_or_default();
        Ok((root, paths))
    }
}

/// Detects the format of a file by its first bytes. CIFAR's has no magic number and is recognised by its length.
fn detect_file(path: &Path, length: u64) -> Result<Format> {
    let mut head = Vec::with_capacity(4);
    open_regular(path)
        .map_err(Error::io("open", path))?
        .take(4)
        .read_to_end(&mut head)
        .map_err(Error::io("read", path))?;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    match (&head[..], extension.as_str()) {
        (b"PAR1", _) => return Ok(Format::Parquet),
        (b"PK\x03\x04", _) => return Ok(Format::Npz),
        ([0, 0, 8, 1..=4] | [0x1f, 0x8b, ..], _) => return Ok(Format::Idx),
        (_, "bin") => match (length.is_multiple_of(3073), length.is_multiple_of(3074)) {
            (true, false) => return Ok(Format::Cifar10),
            (false, true) => return Ok(Format::Cifar100),
            (true, true) => {
                let expected = "format set to cifar10 or cifar100, because the length fits both";
                return Err(Error::format(path, "length", expected, format!("{length} bytes")));
            }
            (false, false) => {}
        },
        _ => {}
    }
    let found = if head.is_empty() { "an empty file".into() } else { format!("bytes {head:02x?}") };
    Err(Error::format(path, "first bytes", "an IDX, CIFAR (.bin), parquet or npz file", found))
}

/// Detects the format of a folder by file names.
fn detect_folder(path: &Path) -> Result<Format> {
    if path.join(MANIFEST_FILE).is_file() || path.join("train").join(MANIFEST_FILE).is_file() {
        return Ok(Format::Gafi);
    }
    if idx::find(path)?.0.is_some() {
        return Ok(Format::Idx);
    }
    if let Some(found) = cifar::find(path) {
        return Ok(match found.variant {
            Variant::Cifar10 => Format::Cifar10,
            Variant::Cifar100 => Format::Cifar100,
        });
    }
    if only_npz(path).is_some() {
        return Ok(Format::Npz);
    }
    let mut shards = Vec::new();
    parquet_files(path, 0, &mut shards)?;
    if !shards.is_empty() {
        return Ok(Format::Parquet);
    }
    if fs::read_dir(path).map_err(Error::io("read", path))?.next().is_some() {
        return Ok(Format::Folder);
    }
    let expected = "IDX or CIFAR files, parquet, one .npz, a GaFi dataset (manifest.json), or one folder per class";
    Err(Error::format(path, "content", expected, contents(path)))
}

/// The first names in a folder, for errors.
pub(crate) fn contents(path: &Path) -> String {
    let Ok(entries) = fs::read_dir(path) else { return "a file".into() };
    let mut names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    match names.len() {
        0 => "an empty folder".into(),
        n if n > 6 => format!("{}, … ({n} entries)", names[..6].join(", ")),
        _ => names.join(", "),
    }
}

/// The splits of CIFAR files; `None` if a folder holds none of the variant.
fn cifar_splits(path: &Path, is_dir: bool, variant: Variant) -> Option<Vec<(Split, Files)>> {
    let cifar = |batches| Files::Cifar { variant, batches };
    if !is_dir {
        return Some(vec![(Split::Train, cifar(vec![path.into()]))]);
    }
    let found = cifar::find(path).filter(|f| f.variant == variant)?;
    let splits = [(Split::Train, found.train), (Split::Test, found.test)].into_iter();
    Some(splits.filter(|(_, batches)| !batches.is_empty()).map(|(split, batches)| (split, cifar(batches))).collect())
}

/// The only NumPy archive in a folder; `None` if there are several.
fn only_npz(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    let mut found =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "npz") && p.is_file());
    found.next().filter(|_| found.next().is_none())
}

/// Collects the parquet files of a folder and its sub-folders down to three levels, sorted within each folder.
fn parquet_files(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort_unstable();
    for path in paths {
        if path.is_dir() && depth < 3 {
            parquet_files(&path, depth + 1, files)?;
        } else if path.extension().is_some_and(|e| e == "parquet") {
            files.push(path);
        }
    }
    Ok(())
}

/// The splits of a folder of parquet files. The file name decides if it contains a split (`train-00000-of-00005.parquet`), else
/// the folder (`train/0000.parquet`). If no file names a split, all are training rows.
fn parquet_splits(folder: &Path) -> Result<Vec<(Split, Files)>> {
    let mut files = Vec::new();
    parquet_files(folder, 0, &mut files)?;
    let split_of_file = |path: &Path| {
        let stem = path.file_stem().and_then(|n| n.to_str()).and_then(split_in).map(|found| found.split);
        stem.or_else(|| split_of(path.parent()?.file_name()?.to_str()?))
    };
    let mut splits = Vec::new();
    for split in [Split::Train, Split::Val, Split::Test] {
        let own: Vec<PathBuf> = files.iter().filter(|p| split_of_file(p) == Some(split)).cloned().collect();
        if let Some(other) = own.iter().find(|p| p.parent() != own[0].parent()) {
            let found = format!("{} and {}", own[0].display(), other.display());
            let expected = "all of them in one folder (import that folder)";
            return Err(Error::format(folder, format!("files of {split}"), expected, found));
        }
        if !own.is_empty() {
            splits.push((split, Files::Parquet(own)));
        }
    }
    if splits.is_empty() && !files.is_empty() {
        return Ok(vec![(Split::Train, Files::Parquet(files))]);
    }
    for skipped in files.iter().filter(|p| split_of_file(p).is_none()) {
        tracing::warn!(file = %skipped.display(), "skipped: the file name contains no split");
    }
    if !splits.iter().any(|(s, _)| *s == Split::Train) {
        let expected = "train-….parquet or train/….parquet";
        return Err(Error::format(folder, "files for format parquet", expected, contents(folder)));
    }
    Ok(splits)
}

/// The splits of GaFi datasets: a training set, or a folder of datasets named `train`, `val` and `test`. Each must be of the split
/// that it is read as: images that were held out, or generated, don't become training images by another import.
fn gafi_splits(path: &Path) -> Result<Vec<(Split, Files)>> {
    let is_artifact = |p: &Path| p.join(MANIFEST_FILE).is_file();
    let read_as = |split: Split, path: PathBuf| -> Result<(Split, Files)> {
        let found = DatasetInfo::of(&Artifact::open_as(&path, Kind::Dataset)?)?.split;
        if found != split {
            let expected = format!("{split}, because its images are read as that split");
            return Err(Error::format(path.join(MANIFEST_FILE), "content.split", expected, found.to_string()));
        }
        Ok((split, Files::Gafi(path)))
    };
    if is_artifact(path) {
        return Ok(vec![read_as(Split::Train, path.into())?]);
    }
    let existing = |split: Split| Some((split, path.join(split.to_string()))).filter(|(_, p)| is_artifact(p));
    let splits: Vec<_> = [Split::Train, Split::Val, Split::Test].into_iter().filter_map(existing).collect();
    if splits.first().is_none_or(|(split, _)| *split != Split::Train) {
        return Err(Error::NoArtifact {
            path: path.into(),
            why: "neither manifest.json nor train/manifest.json exists".into(),
        });
    }
    splits.into_iter().map(|(split, path)| read_as(split, path)).collect()
}
