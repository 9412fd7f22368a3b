//! [`Folder`]: the image files of one split, as a source.

use std::path::{Path, PathBuf};

use gafi_core::Result;

use crate::source::{Item, Location, RawImage, Sink, Source};

/// The files of one split, grouped by class and sorted within each class.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(super) root: PathBuf,
    pub(super) classes: Vec<String>,
    pub(super) files: Vec<PathBuf>,
    pub(super) labels: Vec<u32>,
}

impl Folder {
    /// The image files and their classes, in row order.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.files
            .iter()
            .zip(&self.labels)
            .map(|(file, &label)| (file.as_path(), self.classes[label as usize].as_str()))
    }

    /// The folder that file names are relative to.
    pub(crate) fn root(&self) -> &Path {
        &self.root
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
