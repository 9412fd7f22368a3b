//! [`Files`]: the files of one split, and how to open and hash them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gafi_core::{Artifact, Kind, Result, hash_file};
use rayon::prelude::*;

use crate::formats::cifar::{Cifar, Variant};
use crate::formats::cifar_pickle::{self, CifarPickle};
use crate::formats::folder::Folder;
use crate::formats::gafi::GafiDataset;
use crate::formats::idx::{self, Idx, Pair};
use crate::formats::mat::Mat;
use crate::formats::npz::{Arrays, Npz};
use crate::formats::parquet::{Columns, Parquet};
use crate::formats::webdataset::Shard;
use crate::source::{Chain, Source};

/// The files of one split.
#[derive(Debug, Clone)]
pub(super) enum Files {
    Idx(Pair),
    Cifar { variant: Variant, batches: Vec<PathBuf> },
    CifarPickle(Vec<PathBuf>),
    Parquet(Vec<PathBuf>),
    Npz(Arrays),
    Mat(PathBuf),
    WebDataset(Vec<PathBuf>),
    Folder(Arc<Folder>),
    Gafi(PathBuf),
}

/// Opens each file, and joins the sources in order.
fn chain<S: Source + 'static>(paths: &[PathBuf], open: impl Fn(&Path) -> Result<S>) -> Result<Arc<dyn Source>> {
    Chain::join(paths.iter().map(|path| Ok(Arc::new(open(path)?) as Arc<dyn Source>)).collect::<Result<_>>()?)
}

impl Files {
    /// Opens the split. `train` are the files of the training split, whose names and values decide how those of other splits are read.
    pub(super) fn open(&self, train: Option<&Self>, columns: Columns<'_>) -> Result<Arc<dyn Source>> {
        Ok(match self {
            Self::Idx((images, labels)) => Arc::new(Idx::open(images, labels)?),
            Self::Cifar { variant, batches } => chain(batches, |path| Cifar::open(path, *variant))?,
            Self::CifarPickle(batches) => chain(batches, CifarPickle::open)?,
            Self::Parquet(shards) => {
                let train = if let Some(Self::Parquet(train)) = train { train } else { shards };
                let parts = Parquet::open_all(shards, train, columns)?;
                Chain::join(parts.into_iter().map(|part| Arc::new(part) as Arc<dyn Source>).collect())?
            }
            Self::Mat(path) => Arc::new(Mat::open(path)?),
            Self::WebDataset(shards) => chain(shards, Shard::open)?,
            Self::Npz(arrays) => {
                let train = if let Some(Self::Npz(train)) = train { train } else { arrays };
                Arc::new(Npz::open(arrays, train)?)
            }
            Self::Folder(folder) => folder.clone(),
            Self::Gafi(path) => Arc::new(GafiDataset::open(&Artifact::open_as(path, Kind::Dataset)?)?),
        })
    }

    /// Passes the name and the hash of each file to `add`, in a fixed order.
    pub(super) fn digest(&self, mut add: impl FnMut(&str, &str)) -> Result<()> {
        // The files, and the files of class names beside them.
        let beside = |files: &[PathBuf], names: &[&str]| -> Vec<PathBuf> {
            let names = names.iter().map(|name| files[0].with_file_name(name)).filter(|path| path.is_file());
            files.iter().cloned().chain(names).collect()
        };
        let paths: Vec<PathBuf> = match self {
            Self::Gafi(path) => {
                let artifact = Artifact::open_as(path, Kind::Dataset)?;
                artifact.verify()?;
                add("artifact", artifact.id());
                return Ok(());
            }
            Self::Folder(folder) => {
                let files: Vec<_> = folder.files().collect();
                let hashes: Vec<_> = files.par_iter().map(|(path, _)| hash_file(path)).collect();
                for ((path, class), hash) in files.into_iter().zip(hashes) {
                    add(&relative(path, folder.root()), &hash?.blake3);
                    // The class may come from a file of labels, so the path does not imply it.
                    add("class", class);
                }
                return Ok(());
            }
            Self::Idx((images, labels)) => [images, labels].into_iter().cloned().chain(idx::mapping(images)).collect(),
            Self::Mat(path) => vec![path.clone()],
            Self::WebDataset(shards) => beside(shards, &["classes.json"]),
            Self::Cifar { batches, .. } => beside(batches, &["batches.meta.txt", "fine_label_names.txt"]),
            Self::CifarPickle(batches) => beside(batches, &cifar_pickle::NAMES.map(|(name, _)| name)),
            Self::Parquet(shards) => shards.clone(),
            Self::Npz(arrays) => arrays.files(),
        };
        let root = paths.first().and_then(|path| path.parent()).unwrap_or(Path::new(""));
        let hashes: Vec<_> = paths.par_iter().map(|path| hash_file(path)).collect();
        for (path, hash) in paths.iter().zip(hashes) {
            add(&relative(path, root), &hash?.blake3);
        }
        Ok(())
    }
}

fn relative(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}
