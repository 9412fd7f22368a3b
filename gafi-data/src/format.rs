//! Formats, and how to tell which one is at a path.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use gafi_core::{Error, MANIFEST, Result};
use serde::{Deserialize, Serialize};

use crate::{cifar, idx};

/// How images are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Found out from names and content.
    #[default]
    Auto,
    /// IDX files, plain or gzipped: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-…` or `test-…`.
    Idx,
    /// Binary batches of CIFAR-10.
    Cifar10,
    /// Binary files of CIFAR-100, fine labels.
    Cifar100,
    /// Parquet files of images and labels, as on the hub.
    Parquet,
    /// `split/class/file` or `class/file`, PNG and JPEG.
    Folder,
    /// A NumPy archive of images and labels.
    Npz,
    /// A dataset of this program, or a folder of them called `train`, `val`, `test`.
    Gafi,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Auto, Self::Idx, Self::Cifar10, Self::Cifar100, Self::Parquet, Self::Folder, Self::Npz, Self::Gafi];

    /// Its name in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Idx => "idx",
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::Parquet => "parquet",
            Self::Folder => "folder",
            Self::Npz => "npz",
            Self::Gafi => "gafi",
        }
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|f| f.name() == s);
        found.ok_or_else(|| format!("expected one of {}, found {s:?}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// The format of a file, by its first bytes; CIFAR's has no magic, but its length tells.
pub(crate) fn detect_file(path: &Path, length: u64) -> Result<Format> {
    let mut head = Vec::with_capacity(4);
    File::open(path)
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
                let found = format!("{length} bytes, whole records of either");
                return Err(Error::format(path, "length", "the format given as cifar10 or cifar100", found));
            }
            (false, false) => {}
        },
        _ => {}
    }
    let found = if head.is_empty() { "an empty file".into() } else { format!("bytes {head:02x?}") };
    Err(Error::format(path, "first bytes", "an IDX, CIFAR (.bin), parquet or npz file", found))
}

/// The format of a folder, by names.
pub(crate) fn detect_folder(path: &Path) -> Result<Format> {
    if path.join(MANIFEST).is_file() || path.join("train").join(MANIFEST).is_file() {
        return Ok(Format::Gafi);
    }
    if idx::find(path)?.0.is_some() {
        return Ok(Format::Idx);
    }
    if let Some(found) = cifar::find(path) {
        return Ok(if found.fine { Format::Cifar100 } else { Format::Cifar10 });
    }
    if only_npz(path).is_some() {
        return Ok(Format::Npz);
    }
    let mut shards = Vec::new();
    parquet_files(path, 0, &mut shards)?;
    if !shards.is_empty() {
        return Ok(Format::Parquet);
    }
    let entries = fs::read_dir(path).map_err(Error::io("read", path))?;
    if entries.flatten().any(|e| e.path().is_dir() && !e.file_name().as_encoded_bytes().starts_with(b".")) {
        return Ok(Format::Folder);
    }
    let expected = "IDX or CIFAR files, parquet, one .npz, a dataset (manifest.json), or one folder a class";
    Err(Error::format(path, "content", expected, contents(path)))
}

/// The first few names in a folder, for errors.
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

/// The one NumPy archive of a folder.
pub(crate) fn only_npz(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    let mut found =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "npz") && p.is_file());
    found.next().filter(|_| found.next().is_none())
}

/// All parquet files in a folder, and in its folders to a depth of 3, sorted within each.
pub(crate) fn parquet_files(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
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
