//! Arrays in NumPy archives: opening one, and reading labels, class names and the number of images.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use gafi_core::{Error, Result, open_regular};
use zip::ZipArchive;

use crate::formats::labels::LabelColumn;
use crate::formats::npy::{self, Header};
use crate::source::{check_inflated, check_rows};

/// An array, by its archive and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ArrayPath {
    pub(super) path: PathBuf,
    pub(super) name: String,
}

pub(super) type Archive = ZipArchive<BufReader<File>>;

pub(super) fn open_archive(path: &Path) -> Result<Archive> {
    let file = open_regular(path).map_err(Error::io("open", path))?;
    ZipArchive::new(BufReader::new(file))
        .map_err(|e| Error::format(path, "archive", "a zip archive as written by numpy.savez", e.to_string()))
}

pub(super) fn array_names(archive: &Archive) -> Vec<String> {
    let mut names: Vec<String> = (archive.file_names_raw())
        .filter_map(|n| Some(std::str::from_utf8(n).ok()?.strip_suffix(".npy")?.to_owned()))
        .collect();
    names.sort_unstable();
    names
}

/// Opens an array of the archive. Returns a reader at its first value, its header, and its compressed length.
pub(super) fn open_array<'a>(
    archive: &'a mut Archive,
    path: &Path,
    name: &str,
) -> Result<(impl Read + 'a, Header, u64)> {
    let length = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
    let entry = archive.by_name(&format!("{name}.npy"));
    let mut entry = entry.map_err(|e| Error::format(path, name, "a readable array", e.to_string()))?;
    let header = npy::read_header(&mut entry, path, name)?;
    let deflated = entry.compressed_size().min(length);
    Ok((entry, header, deflated))
}

pub(super) fn image_count(images: &ArrayPath) -> Result<usize> {
    let mut archive = open_archive(&images.path)?;
    let (_, header, deflated) = open_array(&mut archive, &images.path, &images.name)?;
    let place = format!("{}, header", images.name);
    check_inflated(header.bytes().unwrap_or(u64::MAX), deflated, &images.path, place.clone())?;
    let count = header.shape.first().copied().unwrap_or(0);
    check_rows(count as u64, &images.path, place)?;
    Ok(count)
}

pub(super) fn read_labels(labels: &ArrayPath, count: usize) -> Result<LabelColumn> {
    let mut archive = open_archive(&labels.path)?;
    let (mut array, header, _) = open_array(&mut archive, &labels.path, &labels.name)?;
    npy::labels(&mut array, &header, count, true, &labels.path, &labels.name)
}

pub(super) fn read_names(names: &ArrayPath) -> Result<Vec<String>> {
    let mut archive = open_archive(&names.path)?;
    let (mut array, header, _) = open_array(&mut archive, &names.path, &names.name)?;
    npy::texts(&mut array, &header, &names.path, &names.name)
}
