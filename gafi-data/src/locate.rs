//! What is at a path: which files make which part.

use std::fs;
use std::path::{Path, PathBuf};

use gafi_core::{Artifact, Error, Kind, MANIFEST, Result, Split, hash_file};
use rayon::prelude::*;

use crate::cifar::{self, Cifar};
use crate::folder::{self, Folder, split_of};
use crate::format::{Format, contents, detect_file, detect_folder, only_npz, parquet_files};
use crate::idx::{self, Idx, Pair};
use crate::npz::{self, Npz};
use crate::ours::Ours;
use crate::parquet::{Columns, Parquet};
use crate::source::{Chain, Source};

/// The files of one part.
#[derive(Debug, Clone)]
enum Files {
    Idx(Pair),
    Cifar { fine: bool, batches: Vec<PathBuf> },
    Parquet(Vec<PathBuf>),
    Npz(PathBuf),
    Folder(PathBuf),
    Ours(PathBuf),
}

/// A set on disk: its format, and the files of each part that it has. There is always a part `train`; a set without
/// parts is all train.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) format: Format,
    parts: Vec<(Split, Files)>,
}

impl Located {
    /// Looks at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when it isn't there, [`Error::Format`] when it isn't (one of) what was asked for.
    pub(crate) fn at(path: &Path, format: Format) -> Result<Self> {
        let meta = fs::metadata(path).map_err(Error::io("open", path))?;
        let format = match format {
            Format::Auto if meta.is_dir() => detect_folder(path)?,
            Format::Auto => detect_file(path, meta.len())?,
            format => format,
        };
        let missing = |expected: &str| {
            Error::format(path, format!("files for format {}", format.name()), expected, contents(path))
        };
        let parts = match format {
            Format::Idx if meta.is_dir() => {
                let (train, test) = idx::find(path)?;
                let train =
                    train.ok_or_else(|| missing("train-images-idx3-ubyte and train-labels-idx1-ubyte, or with .gz"))?;
                let test = test.map(|pair| (Split::Test, Files::Idx(pair)));
                [(Split::Train, Files::Idx(train))].into_iter().chain(test).collect()
            }
            Format::Idx => vec![(Split::Train, Files::Idx((path.into(), idx::labels_beside(path)?)))],
            Format::Cifar10 | Format::Cifar100 if meta.is_dir() => {
                let fine = format == Format::Cifar100;
                let found = cifar::find(path).filter(|f| f.fine == fine);
                let found = found.ok_or_else(|| {
                    missing(if fine { "train.bin and test.bin" } else { "data_batch_1.bin … and test_batch.bin" })
                })?;
                let part = |split, batches: Vec<PathBuf>| {
                    (!batches.is_empty()).then_some((split, Files::Cifar { fine, batches }))
                };
                [part(Split::Train, found.train), part(Split::Test, found.test)].into_iter().flatten().collect()
            }
            Format::Cifar10 => vec![(Split::Train, Files::Cifar { fine: false, batches: vec![path.into()] })],
            Format::Cifar100 => vec![(Split::Train, Files::Cifar { fine: true, batches: vec![path.into()] })],
            Format::Parquet if meta.is_dir() => parquet_parts(path)?,
            Format::Parquet => vec![(Split::Train, Files::Parquet(vec![path.into()]))],
            Format::Npz => {
                let file =
                    if meta.is_dir() { only_npz(path).ok_or_else(|| missing("one .npz file"))? } else { path.into() };
                npz::find(&file)?.into_iter().map(|split| (split, Files::Npz(file.clone()))).collect()
            }
            Format::Gafi => ours_parts(path)?,
            Format::Folder | Format::Auto if meta.is_dir() => {
                folder::find(path)?.into_iter().map(|(split, path)| (split, Files::Folder(path))).collect()
            }
            Format::Folder | Format::Auto => return Err(missing("a folder")),
        };
        Ok(Self { format, parts })
    }

    /// Two parquet files.
    pub(crate) fn parquet_pair(train: PathBuf, test: PathBuf) -> Self {
        let part = |split, file| (split, Files::Parquet(vec![file]));
        Self { format: Format::Parquet, parts: vec![part(Split::Train, train), part(Split::Test, test)] }
    }

    /// Whether there is a part `split`.
    pub(crate) fn has(&self, split: Split) -> bool {
        self.parts.iter().any(|(s, _)| *s == split)
    }

    /// Opens the part `split`, if there is one.
    pub(crate) fn open(&self, split: Split, columns: Columns<'_>) -> Result<Option<Box<dyn Source>>> {
        let Some((_, files)) = self.parts.iter().find(|(s, _)| *s == split) else { return Ok(None) };
        Ok(Some(match files {
            Files::Idx((images, labels)) => Box::new(Idx::open(images, labels)?),
            Files::Cifar { fine, batches } => {
                let open = |path: &PathBuf| Ok(Box::new(Cifar::open(path, *fine)?) as Box<dyn Source>);
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
            Files::Folder(path) => Box::new(Folder::open(path)?),
            Files::Ours(path) => Box::new(Ours::open(&Artifact::open_as(path, Kind::Dataset)?)?),
        }))
    }

    /// A hash (BLAKE3, hex) of all that is read: the parts, the names of their files, and the files' content.
    pub(crate) fn digest(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        let mut add = |name: &str, content: &str| {
            // Lengths, so that no two lists of names and hashes give the same bytes.
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(content.as_bytes());
        };
        for (split, files) in &self.parts {
            add("part", &split.to_string());
            if let Files::Ours(path) = files {
                let artifact = Artifact::open_as(path, Kind::Dataset)?;
                artifact.verify()?;
                add("artifact", artifact.id());
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
    /// All files of the part, in order, and the folder that their names are relative to.
    fn list(&self) -> Result<(PathBuf, Vec<PathBuf>)> {
        let paths: Vec<PathBuf> = match self {
            Self::Idx((images, labels)) => vec![images.clone(), labels.clone()],
            Self::Cifar { batches, .. } => {
                let names = ["batches.meta.txt", "fine_label_names.txt"].map(|n| batches[0].with_file_name(n));
                batches.iter().cloned().chain(names.into_iter().filter(|p| p.is_file())).collect()
            }
            Self::Parquet(shards) => shards.clone(),
            Self::Npz(path) => vec![path.clone()],
            Self::Folder(root) => return Ok((root.clone(), Folder::open(root)?.files().to_vec())),
            Self::Ours(path) => vec![path.clone()],
        };
        let root = paths.first().and_then(|p| p.parent()).map(Path::to_path_buf).unwrap_or_default();
        Ok((root, paths))
    }
}

fn ours_parts(path: &Path) -> Result<Vec<(Split, Files)>> {
    let is_artifact = |p: &Path| p.join(MANIFEST).is_file();
    if is_artifact(path) {
        return Ok(vec![(Split::Train, Files::Ours(path.into()))]);
    }
    let part = |split: Split| Some((split, path.join(split.to_string()))).filter(|(_, p)| is_artifact(p));
    let parts: Vec<_> = [Split::Train, Split::Val, Split::Test].into_iter().filter_map(part).collect();
    if parts.first().is_none_or(|(split, _)| *split != Split::Train) {
        return Err(Error::NoArtifact {
            path: path.into(),
            why: "neither manifest.json nor train/manifest.json".into(),
        });
    }
    Ok(parts.into_iter().map(|(split, path)| (split, Files::Ours(path))).collect())
}

/// Parts by the first word of the file's name (`train-00000-of-00005.parquet`), else by its folder's (`train/0000.parquet`);
/// files that name no part are all train when no file names one.
fn parquet_parts(folder: &Path) -> Result<Vec<(Split, Files)>> {
    let mut files = Vec::new();
    parquet_files(folder, 0, &mut files)?;
    let part = |path: &Path| {
        let word = |name: Option<&str>| split_of(name?.split(['-', '_', '.']).next()?);
        word(path.file_stem().and_then(|n| n.to_str())).or_else(|| word(path.parent()?.file_name()?.to_str()))
    };
    let mut parts = Vec::new();
    for split in [Split::Train, Split::Val, Split::Test] {
        let own: Vec<PathBuf> = files.iter().filter(|p| part(p) == Some(split)).cloned().collect();
        if let Some(other) = own.iter().find(|p| p.parent() != own[0].parent()) {
            let found = format!("{} and {}", own[0].display(), other.display());
            return Err(Error::format(folder, format!("files of {split}"), "all in one folder (pass that one)", found));
        }
        if !own.is_empty() {
            parts.push((split, Files::Parquet(own)));
        }
    }
    if parts.is_empty() && !files.is_empty() {
        return Ok(vec![(Split::Train, Files::Parquet(files))]);
    }
    for left_out in files.iter().filter(|p| part(p).is_none()) {
        tracing::warn!(file = %left_out.display(), "names no split, left out");
    }
    if !parts.iter().any(|(s, _)| *s == Split::Train) {
        return Err(Error::format(
            folder,
            "files for format parquet",
            "train-….parquet or train/….parquet",
            contents(folder),
        ));
    }
    Ok(parts)
}
