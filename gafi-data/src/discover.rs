//! Finds a set at a path: unpacks archives, detects the format, and assigns files to splits.

mod detect;
mod files;
mod splits;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gafi_core::{Error, Result, Split};

use crate::archive::{self, Unpacked};
use crate::format::Format;
use crate::formats::folder::FolderKeys;
use crate::formats::parquet::Columns;
use crate::formats::webdataset;
use crate::note::Note;
use crate::source::Source;
use detect::{detect_file, detect_folder, set_folder};
use files::Files;

/// A set on disk: its format, and the files of each split. It always has a training split: a set without splits is all training rows.
#[derive(Debug, Clone)]
pub(crate) struct Discovered {
    pub(crate) format: Format,
    splits: Vec<(Split, Files)>,
    /// The temporary folder that holds the files of an archive. Dropping it deletes them.
    unpacked: Option<Arc<Unpacked>>,
    /// What was skipped or assumed while finding the files.
    pub(crate) notes: Vec<Note>,
}

impl Discovered {
    /// Finds the set at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when nothing is there; [`Error::Format`] when the files are not in `format`, or for `auto` in no known format.
    pub(crate) fn at(path: &Path, format: Format, keys: &FolderKeys<'_>) -> Result<Self> {
        let meta = fs::metadata(path).map_err(Error::io("open", path))?;
        let is_shard = !meta.is_dir() && format != Format::Folder && webdataset::is_shard(path);
        if !meta.is_dir()
            && !is_shard
            && let Some(kind) = archive::kind(path)?
        {
            let unpacked = archive::unpack(path, kind)?;
            let mut found = Self::at(&unpacked.folder, format, keys)?;
            found.notes.extend(unpacked.notes.iter().cloned());
            found.unpacked = Some(Arc::new(unpacked));
            return Ok(found);
        }
        let (path, format) = match format {
            Format::Auto if meta.is_dir() => detect_folder(path)?,
            Format::Auto if is_shard => (path.into(), Format::WebDataset),
            Format::Auto => (path.into(), detect_file(path, meta.len())?),
            format @ (Format::Parquet | Format::Folder) => (path.into(), format),
            format if meta.is_dir() => set_folder(path, format)?.unwrap_or_else(|| (path.into(), format)),
            format => (path.into(), format),
        };
        let mut notes = Vec::new();
        let splits = splits::find(&path, meta.is_dir(), format, keys, &mut notes)?;
        Ok(Self { format, splits, unpacked: None, notes })
    }

    /// A set of parquet files, assigned to splits by their names. `label` is the configured column of labels.
    pub(crate) fn parquet_files(files: Vec<PathBuf>, label: Option<&str>) -> Result<Self> {
        let folder = files.first().and_then(|file| file.parent()).unwrap_or(Path::new("")).to_path_buf();
        let mut notes = Vec::new();
        let splits = splits::parquet_splits(&folder, files, label, &mut notes)?;
        Ok(Self { format: Format::Parquet, splits, unpacked: None, notes })
    }

    pub(crate) fn has(&self, split: Split) -> bool {
        self.files(split).is_some()
    }

    fn files(&self, split: Split) -> Option<&Files> {
        self.splits.iter().find(|(other, _)| *other == split).map(|(_, files)| files)
    }

    /// Opens `split`; `None` if the set doesn't have it.
    pub(crate) fn open(&self, split: Split, columns: Columns<'_>) -> Result<Option<Arc<dyn Source>>> {
        self.files(split).map(|files| files.open(self.files(Split::Train), columns)).transpose()
    }

    /// BLAKE3 (hex) of everything that an import reads: splits, file names relative to the set, and contents.
    pub(crate) fn digest(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        let mut add = |name: &str, content: &str| {
            // The length keeps different lists of names and hashes from giving the same bytes.
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(content.as_bytes());
        };
        for (split, files) in &self.splits {
            add("part", &split.to_string());
            files.digest(&mut add)?;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}
