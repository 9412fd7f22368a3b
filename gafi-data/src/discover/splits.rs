//! Assigns the files of a set to splits, one function per format.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gafi_core::{Artifact, DatasetInfo, Error, Kind, MANIFEST_FILE, Result, Split};

use super::files::Files;
use crate::format::Format;
use crate::formats::cifar::{self, Variant};
use crate::formats::folder::{self, FolderKeys};
use crate::formats::parquet::{self, Parquet};
use crate::formats::split_names::{split_in, split_of};
use crate::formats::{cifar_pickle, idx, mat, npz, webdataset};
use crate::hints::contents;
use crate::note::{Note, NoteKind, UNLABELLED};

/// The splits of a set. A training split comes first.
type Splits = Vec<(Split, Files)>;

/// The splits that an import reads, in the order in which it reads them.
const SPLITS: [Split; 3] = [Split::Train, Split::Val, Split::Test];

/// Assigns the files at `path`, which are in `format`, to splits. `notes` gets what was skipped or assumed.
///
/// # Errors
/// [`Error::Format`] when there are no training images, with the expected files and those that are there.
pub(super) fn find(
    path: &Path,
    is_dir: bool,
    format: Format,
    keys: &FolderKeys<'_>,
    notes: &mut Vec<Note>,
) -> Result<Splits> {
    let missing =
        |expected: &str| Error::format(path, format!("files for format {}", format.name()), expected, contents(path));
    match format {
        Format::Idx if is_dir => {
            let found = idx::find(path, None)?;
            let expected = "train-images-idx3-ubyte and train-labels-idx1-ubyte, plain or .gz";
            idx_splits(found.ok_or_else(|| missing(expected))?, notes)
        }
        Format::Idx => idx_file(path, notes),
        Format::Mat if is_dir => mat_splits(path, notes).ok_or_else(|| missing("train_32x32.mat and test_32x32.mat")),
        Format::Mat => Ok(vec![(Split::Train, Files::Mat(path.into()))]),
        Format::Cifar10 => cifar_splits(path, is_dir, Variant::Cifar10, notes).ok_or_else(|| {
            missing("data_batch_1.bin … and test_batch.bin, or the Python version's pickles data_batch_1 …")
        }),
        Format::Cifar100 => cifar_splits(path, is_dir, Variant::Cifar100, notes)
            .ok_or_else(|| missing("train.bin and test.bin, or the Python version's pickles train and test")),
        Format::Parquet if is_dir => parquet_splits(path, parquet::find(path)?, keys.label_column, notes),
        Format::Parquet => Ok(vec![(Split::Train, Files::Parquet(vec![path.into()]))]),
        Format::Npz => {
            if let Some(found) = if is_dir { npz::find_several(path)? } else { None } {
                return Ok(each(found, Files::Npz));
            }
            let file = if is_dir { npz::only(path) } else { Some(path.into()) };
            let found = npz::find(&file.ok_or_else(|| missing("one .npz file, or one for each split"))?)?;
            notes.extend(found.skipped);
            Ok(each(found.splits, Files::Npz))
        }
        Format::WebDataset => {
            let shards = if is_dir { webdataset::find(path) } else { vec![path.into()] };
            if shards.is_empty() {
                return Err(missing("tar shards with images and .cls files"));
            }
            Ok(webdataset_splits(&shards, is_dir, notes))
        }
        Format::Gafi => gafi_splits(path),
        Format::Folder | Format::Auto if is_dir => {
            let found = folder::find(path, keys)?;
            notes.extend(found.notes);
            Ok(each(found.splits, |folder| Files::Folder(Arc::new(folder))))
        }
        Format::Folder | Format::Auto => Err(missing("a folder")),
    }
}

/// Turns what a format found for each split into [`Files`], by `files`.
fn each<T>(found: Vec<(Split, T)>, files: impl Fn(T) -> Files) -> Splits {
    found.into_iter().map(|(split, found)| (split, files(found))).collect()
}

/// Reads the only split of a set as a whole set, whichever it is: an export of test images can be imported.
fn only_split(split: &mut Split, files: usize, notes: &mut Vec<Note>) {
    if *split != Split::Train {
        let what = format!("files of a set whose only split is {split}, read as a whole set");
        notes.push(Note::new(NoteKind::Assumed, files as u64, what));
        *split = Split::Train;
    }
}

/// The name of a file, for a note.
fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn idx_splits(found: idx::Pairs, notes: &mut Vec<Note>) -> Result<Splits> {
    if let Some(images) = found.unlabelled {
        let mut note = Note::new(NoteKind::Skipped, idx::count(&images)?, UNLABELLED);
        note.examples.push(file_name(&images));
        notes.push(note);
    }
    let test = found.test.map(|pair| (Split::Test, Files::Idx(pair)));
    Ok([(Split::Train, Files::Idx(found.train))].into_iter().chain(test).collect())
}

/// The splits of a set that is given by a single IDX file. Where a folder holds several sets, their file of training images selects
/// one, with its test images. Any other file is a set of its own.
fn idx_file(path: &Path, notes: &mut Vec<Note>) -> Result<Splits> {
    let found = path.parent().map(|folder| idx::find(folder, Some(path))).transpose()?.flatten();
    match found {
        Some(found) if !path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"train")) => {
            idx_splits(found, notes)
        }
        _ => Ok(vec![(Split::Train, Files::Idx((path.into(), idx::labels_beside(path)?)))]),
    }
}

/// `None` if the folder has no training file, or several.
fn mat_splits(folder: &Path, notes: &mut Vec<Note>) -> Option<Splits> {
    let found = mat::find(folder)?;
    for other in found.others {
        let mut note = Note::new(NoteKind::Skipped, 0, "files whose names contain no split");
        note.add(|| file_name(&other));
        Note::merge(notes, note);
    }
    Some(each(found.splits, Files::Mat))
}

/// `None` if the folder holds no files of the variant.
fn cifar_splits(path: &Path, is_dir: bool, variant: Variant, notes: &mut Vec<Note>) -> Option<Splits> {
    let cifar = |batches| Files::Cifar { variant, batches };
    if !is_dir {
        let pickle = path.extension().is_none_or(|e| e != "bin") && cifar_pickle::is_pickle(path);
        let files = if pickle { Files::CifarPickle(vec![path.into()]) } else { cifar(vec![path.into()]) };
        return Some(vec![(Split::Train, files)]);
    }
    if let Some(found) = cifar_pickle::find(path).filter(|f| f.variant == variant) {
        return Some(each(found.splits, Files::CifarPickle));
    }
    let found = cifar::find(path).filter(|f| f.variant == variant)?;
    if let Some(mut only) = found.only {
        only_split(&mut only, found.train.len(), notes);
    }
    let mut splits = vec![(Split::Train, found.train), (Split::Test, found.test)];
    splits.retain(|(_, batches)| !batches.is_empty());
    Some(each(splits, cifar))
}

/// The splits of tar shards, by their names. A shard that was given by its path is a whole set.
fn webdataset_splits(shards: &[PathBuf], is_dir: bool, notes: &mut Vec<Note>) -> Splits {
    let split_of_shard = |path: &PathBuf| {
        let named = path.file_stem().and_then(|name| name.to_str()).and_then(split_in);
        named.filter(|_| is_dir).map_or(Split::Train, |found| found.split)
    };
    let of = |split: Split| shards.iter().filter(|path| split_of_shard(path) == split).cloned().collect::<Vec<_>>();
    let mut splits: Vec<_> = SPLITS.map(|split| (split, of(split))).into_iter().collect();
    splits.retain(|(_, shards)| !shards.is_empty());
    if let [(split, shards)] = &mut splits[..] {
        only_split(split, shards.len(), notes);
    }
    each(splits, Files::WebDataset)
}

/// The splits of parquet files. A split in the name of a file (`train-00000-of-00005.parquet`) comes before one in the name of its
/// folder (`train/0000.parquet`). If no name contains a split, all files are training rows.
pub(super) fn parquet_splits(
    folder: &Path,
    files: Vec<PathBuf>,
    label: Option<&str>,
    notes: &mut Vec<Note>,
) -> Result<Splits> {
    let split_of_file = |path: &Path| {
        let stem = path.file_stem().and_then(|n| n.to_str()).and_then(split_in).map(|found| found.split);
        stem.or_else(|| split_of(path.parent()?.file_name()?.to_str()?))
    };
    let mut splits = Vec::new();
    for split in SPLITS {
        let own: Vec<PathBuf> = files.iter().filter(|p| split_of_file(p) == Some(split)).cloned().collect();
        if let Some(other) = own.iter().find(|p| p.parent() != own[0].parent()) {
            let found = format!("{} and {}", own[0].display(), other.display());
            let expected = "all of them in one folder (import that folder)";
            return Err(Error::format(folder, format!("files of {split}"), expected, found));
        }
        if !own.is_empty() {
            splits.push((split, own));
        }
    }
    if splits.is_empty() && !files.is_empty() {
        return Ok(vec![(Split::Train, Files::Parquet(files))]);
    }
    let mut unnamed = Note::new(NoteKind::Skipped, 0, "files whose names contain no split");
    for skipped in files.iter().filter(|p| split_of_file(p).is_none()) {
        unnamed.add(|| file_name(skipped));
    }
    notes.extend((unnamed.count > 0).then_some(unnamed));
    if let [(Split::Train, train), ..] = &splits[..] {
        let train = train[0].clone();
        splits.retain(|(split, shards)| {
            let rows = shards.iter().map(|shard| Parquet::unlabelled(shard, &train, label)).sum::<Option<u64>>();
            let Some(rows) = rows.filter(|_| *split != Split::Train) else { return true };
            let mut note = Note::new(NoteKind::Skipped, rows, UNLABELLED);
            note.examples.extend(shards.first().map(|shard| file_name(shard)));
            notes.push(note);
            false
        });
    }
    if let [(split, shards)] = &mut splits[..] {
        only_split(split, shards.len(), notes);
    }
    if splits.first().is_none_or(|(split, _)| *split != Split::Train) {
        let expected = "train-….parquet or train/….parquet";
        return Err(Error::format(folder, "files for format parquet", expected, contents(folder)));
    }
    Ok(each(splits, Files::Parquet))
}

/// The splits of GaFi datasets: a training set, or a folder of datasets named `train`, `val` and `test`. Each dataset must have the
/// split that it is read as, so that held-out or generated images never become training images.
fn gafi_splits(path: &Path) -> Result<Splits> {
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
    let splits: Vec<_> = SPLITS.into_iter().filter_map(existing).collect();
    if splits.first().is_none_or(|(split, _)| *split != Split::Train) {
        return Err(Error::NoArtifact {
            path: path.into(),
            why: "neither manifest.json nor train/manifest.json exists".into(),
        });
    }
    splits.into_iter().map(|(split, path)| read_as(split, path)).collect()
}
