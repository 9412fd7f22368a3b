//! Folders of PNG and JPEG files: `split/class/file` or `class/file`. The classes are the folder names, sorted.

use std::fs;
use std::path::{Path, PathBuf};

use gafi_core::{Error, Result, Split};

use crate::source::{Item, Location, RawImage, Sink, Source};

/// Deeper nesting is taken for a cycle of symbolic links.
const MAX_DEPTH: usize = 16;

/// The files of one split, grouped by class and sorted within each class.
pub(crate) struct Folder {
    root: PathBuf,
    classes: Vec<String>,
    files: Vec<PathBuf>,
    labels: Vec<u32>,
}

impl Folder {
    /// Lists the images under `root/class/`.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let mut classes = Vec::new();
        let mut files = Vec::new();
        let mut labels = Vec::new();
        for (name, path) in folders(root)? {
            let before = files.len();
            collect(&path, 0, &mut files)?;
            labels.extend(std::iter::repeat_n(classes.len() as u32, files.len() - before));
            classes.push(name);
        }
        if classes.is_empty() {
            return Err(Error::format(root, "folders", "one folder per class", "no folder"));
        }
        Ok(Self { root: root.into(), classes, files, labels })
    }

    /// The image files, in row order.
    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

impl Source for Folder {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn classes(&self) -> Option<&[String]> {
        Some(&self.classes)
    }

    fn location(&self, row: usize) -> Location {
        match self.files.get(row) {
            Some(file) => Location::new(file, "image"),
            None => Location::new(&self.root, "folder"),
        }
    }

    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        rows.iter().try_for_each(|&row| sink(Item { row, image: RawImage::File(self.files[row].clone()) }))
    }
}

/// The splits of `root`. The layout is `split/class/file` if every folder is named like a split and one is `train`.
/// Otherwise it is `class/file`, all of it training rows; so a set with the classes `car`, `plane`, `train` reads correctly.
pub(crate) fn find(root: &Path) -> Result<Vec<(Split, PathBuf)>> {
    let folders = folders(root)?;
    let splits: Vec<_> = folders.iter().filter_map(|(name, path)| Some((split_of(name)?, path.clone()))).collect();
    if splits.len() == folders.len() && splits.iter().any(|(s, _)| *s == Split::Train) {
        for (i, (split, path)) in splits.iter().enumerate() {
            if splits[..i].iter().any(|(s, _)| s == split) {
                let found = format!("another one, {}", path.display());
                return Err(Error::format(root, "folders", format!("one folder for {split}"), found));
            }
        }
        return Ok(splits);
    }
    Ok(vec![(Split::Train, root.into())])
}

/// The split that a folder name, or the first word of a file name, stands for.
pub(crate) fn split_of(name: &str) -> Option<Split> {
    match name.to_ascii_lowercase().as_str() {
        "train" | "training" => Some(Split::Train),
        "val" | "valid" | "validation" => Some(Split::Val),
        "test" | "testing" => Some(Split::Test),
        _ => None,
    }
}

/// The visible folders in `root`, sorted by the bytes of their names.
fn folders(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for path in sorted(root)? {
        if path.is_dir() {
            let name = path.file_name().and_then(|n| n.to_str());
            let name = name.ok_or_else(|| Error::format(&path, "name", "a folder name in UTF-8", "other bytes"))?;
            found.push((name.to_owned(), path));
        }
    }
    Ok(found)
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::format(folder, "folders", format!("at most {MAX_DEPTH} nested levels"), "more"));
    }
    for path in sorted(folder)? {
        if path.is_dir() {
            collect(&path, depth + 1, files)?;
            continue;
        }
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        match extension.as_str() {
            "png" | "jpg" | "jpeg" => files.push(path),
            // Silently dropping an image would change the set; dropping a README doesn't.
            "webp" | "gif" | "bmp" | "tif" | "tiff" | "ppm" | "pgm" | "avif" | "heic" => {
                return Err(Error::format(path, "image", "PNG or JPEG", format!(".{extension}")));
            }
            _ => tracing::debug!(path = %path.display(), "skipped: not an image"),
        }
    }
    Ok(())
}

/// The visible entries of `folder`, sorted by name.
fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort_unstable();
    Ok(paths)
}
