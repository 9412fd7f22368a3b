//! Finds the files of a set at a path: detects the format, and assigns files to splits.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gafi_core::{Artifact, DatasetInfo, Error, Kind, MANIFEST_FILE, Result, Split, hash_file, open_regular};
use rayon::prelude::*;

use crate::archive::{self, Unpacked};
use crate::format::Format;
use crate::formats::cifar::{self, Cifar, Variant};
use crate::formats::cifar_pickle::{self, CifarPickle};
use crate::formats::folder::{self, Folder, FolderKeys};
use crate::formats::gafi::GafiDataset;
use crate::formats::idx::{self, Idx, Pair, Pairs};
use crate::formats::mat::{self, Mat};
use crate::formats::npz::{self, Arrays, Npz};
use crate::formats::parquet::{Columns, Parquet};
use crate::formats::split_names::{split_in, split_of};
use crate::formats::webdataset::{self, Shard};
use crate::import::{Note, NoteKind};
use crate::source::{Chain, Source};

/// The files of one split.
#[derive(Debug, Clone)]
enum Files {
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

/// A set on disk: its format, and the files of each split. There is always a split `train`; a set that isn't split is all
/// training rows.
#[derive(Debug, Clone)]
pub(crate) struct Discovered {
    pub(crate) format: Format,
    splits: Vec<(Split, Files)>,
    /// The temporary folder of the files, if the set is an archive.
    unpacked: Option<Arc<Unpacked>>,
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
        let is_shard = !meta.is_dir() && format != Format::Folder && webdataset::is_shard(path);
        if !meta.is_dir()
            && !is_shard
            && let Some(kind) = archive::kind(path)?
        {
            let unpacked = archive::unpack(path, kind)?;
            let mut found = Self::at(&unpacked.folder(), format, keys)?;
            found.notes.extend(unpacked.notes.iter().cloned());
            found.unpacked = Some(Arc::new(unpacked));
            return Ok(found);
        }
        let (folder, format) = match format {
            Format::Auto if meta.is_dir() => detect_folder(path)?,
            Format::Auto if is_shard => (path.into(), Format::WebDataset),
            Format::Auto => (path.into(), detect_file(path, meta.len())?),
            format @ (Format::Parquet | Format::Folder) => (path.into(), format),
            format if meta.is_dir() => set_folder(path, format)?.unwrap_or_else(|| (path.into(), format)),
            format => (path.into(), format),
        };
        let path = &*folder;
        let missing = |expected: &str| {
            Error::format(path, format!("files for format {}", format.name()), expected, contents(path))
        };
        let mut notes = Vec::new();
        let splits = match format {
            Format::Idx if meta.is_dir() => {
                let found = idx::find(path, None)?;
                idx_splits(
                    found
                        .ok_or_else(|| missing("train-images-idx3-ubyte and train-labels-idx1-ubyte, plain or .gz"))?,
                    &mut notes,
                )?
            }
            // Of several sets in one folder, the file of training images selects one, with its test images.
            Format::Idx => match path.parent().map(|folder| idx::find(folder, Some(path))).transpose()?.flatten() {
                Some(found) if !path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"train")) => {
                    idx_splits(found, &mut notes)?
                }
                _ => vec![(Split::Train, Files::Idx((path.into(), idx::labels_beside(path)?)))],
            },
            Format::Mat if meta.is_dir() => {
                let found = mat::find(path);
                let found = found.ok_or_else(|| missing("train_32x32.mat and test_32x32.mat"))?;
                for other in found.others {
                    let mut note = Note::new(NoteKind::Skipped, 0, "files whose name says no split");
                    note.add(|| other.file_name().unwrap_or_default().to_string_lossy().into_owned());
                    Note::merge(&mut notes, note);
                }
                found.splits.into_iter().map(|(split, file)| (split, Files::Mat(file))).collect()
            }
            Format::Mat => vec![(Split::Train, Files::Mat(path.into()))],
            Format::Cifar10 => cifar_splits(path, meta.is_dir(), Variant::Cifar10, &mut notes).ok_or_else(|| {
                missing("data_batch_1.bin … and test_batch.bin, or the Python version's pickles data_batch_1 …")
            })?,
            Format::Cifar100 => cifar_splits(path, meta.is_dir(), Variant::Cifar100, &mut notes)
                .ok_or_else(|| missing("train.bin and test.bin, or the Python version's pickles train and test"))?,
            Format::Parquet if meta.is_dir() => {
                let mut files = Vec::new();
                parquet_files(path, 0, &mut files)?;
                parquet_splits(path, files, keys.label_column, &mut notes)?
            }
            Format::Parquet => vec![(Split::Train, Files::Parquet(vec![path.into()]))],
            Format::Npz => {
                let several = if meta.is_dir() { npz::find_several(path)? } else { None };
                let found = match several {
                    Some(found) => found,
                    None => {
                        let file = if meta.is_dir() { only_npz(path) } else { Some(path.into()) };
                        let file = file.ok_or_else(|| missing("one .npz file, or one for each split"))?;
                        let found = npz::find(&file)?;
                        notes.extend(found.skipped);
                        found.splits
                    }
                };
                found.into_iter().map(|(split, arrays)| (split, Files::Npz(arrays))).collect()
            }
            Format::WebDataset => {
                let shards = if meta.is_dir() { webdataset::find(path) } else { vec![path.into()] };
                if shards.is_empty() {
                    return Err(missing("tar shards with images and files .cls"));
                }
                let split = |path: &PathBuf| {
                    let named = path.file_stem().and_then(|n| n.to_str()).and_then(split_in);
                    named.filter(|_| meta.is_dir()).map_or(Split::Train, |found| found.split)
                };
                let of =
                    |wanted: Split| shards.iter().filter(|path| split(path) == wanted).cloned().collect::<Vec<_>>();
                let splits = [Split::Train, Split::Val, Split::Test].map(|split| (split, of(split)));
                let mut splits: Vec<_> = splits.into_iter().filter(|(_, shards)| !shards.is_empty()).collect();
                if let [(split, shards)] = &mut splits[..] {
                    only_split(split, shards.len(), &mut notes);
                }
                splits.into_iter().map(|(split, shards)| (split, Files::WebDataset(shards))).collect()
            }
            Format::Gafi => gafi_splits(path)?,
            Format::Folder | Format::Auto if meta.is_dir() => {
                let found = folder::find(path, keys)?;
                notes = found.notes;
                found.splits.into_iter().map(|(split, folder)| (split, Files::Folder(Arc::new(folder)))).collect()
            }
            Format::Folder | Format::Auto => return Err(missing("a folder")),
        };
        Ok(Self { format, splits, unpacked: None, notes })
    }

    /// A set of two parquet files.
    pub(crate) fn parquet_pair(train: PathBuf, test: PathBuf) -> Self {
        let split = |split, file| (split, Files::Parquet(vec![file]));
        Self {
            format: Format::Parquet,
            splits: vec![split(Split::Train, train), split(Split::Test, test)],
            unpacked: None,
            notes: Vec::new(),
        }
    }

    /// A set of parquet files, whose names say the splits. `label` is the column of labels, if it is set.
    pub(crate) fn parquet_files(files: Vec<PathBuf>, label: Option<&str>) -> Result<Self> {
        let folder = files.first().and_then(|file| file.parent()).unwrap_or(Path::new("")).to_path_buf();
        let mut notes = Vec::new();
        let splits = parquet_splits(&folder, files, label, &mut notes)?;
        Ok(Self { format: Format::Parquet, splits, unpacked: None, notes })
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
            Files::CifarPickle(batches) => {
                let open = |path: &PathBuf| Ok(Box::new(CifarPickle::open(path)?) as Box<dyn Source>);
                Chain::join(batches.iter().map(open).collect::<Result<_>>()?)?
            }
            Files::Parquet(shards) => {
                let train = self.splits.iter().find_map(|(s, files)| match files {
                    Files::Parquet(train) if *s == Split::Train => Some(train),
                    _ => None,
                });
                let parts = Parquet::open_all(shards, train.unwrap_or(shards), columns)?;
                Chain::join(parts.into_iter().map(|part| Box::new(part) as Box<dyn Source>).collect())?
            }
            Files::Mat(path) => Box::new(Mat::open(path)?),
            Files::WebDataset(shards) => {
                let open = |path: &PathBuf| Ok(Box::new(Shard::open(path)?) as Box<dyn Source>);
                Chain::join(shards.iter().map(open).collect::<Result<_>>()?)?
            }
            Files::Npz(arrays) => {
                let train = self.splits.iter().find_map(|(s, files)| match files {
                    Files::Npz(train) if *s == Split::Train => Some(train),
                    _ => None,
                });
                Box::new(Npz::open(arrays, train.unwrap_or(arrays))?)
            }
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
            Self::Idx((images, labels)) => [images, labels].into_iter().cloned().chain(idx::mapping(images)).collect(),
            Self::Mat(path) => vec![path.clone()],
            Self::WebDataset(shards) => {
                let names = shards[0].with_file_name("classes.json");
                shards.iter().cloned().chain(Some(names).filter(|p| p.is_file())).collect()
            }
            Self::Cifar { batches, .. } => {
                let names = ["batches.meta.txt", "fine_label_names.txt"].map(|n| batches[0].with_file_name(n));
                batches.iter().cloned().chain(names.into_iter().filter(|p| p.is_file())).collect()
            }
            Self::CifarPickle(batches) => {
                let names = cifar_pickle::NAMES.map(|(n, _)| batches[0].with_file_name(n));
                batches.iter().cloned().chain(names.into_iter().filter(|p| p.is_file())).collect()
            }
            Self::Parquet(shards) => shards.clone(),
            Self::Npz(arrays) => arrays.files(),
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
        (b"MATL", "mat") => return Ok(Format::Mat),
        (b"ARRO" | [0xff, 0xff, 0xff, 0xff], _) => return Err(saved_to_disk(path)),
        (b"PAR1", _) => return Ok(Format::Parquet),
        (b"PK\x03\x04", _) => return Ok(Format::Npz),
        ([0, 0, 8, 1..=4] | [0x1f, 0x8b, ..], _) => return Ok(Format::Idx),
        ([0x80, 2..=5, ..], extension) if extension != "bin" => return Ok(Format::Cifar10),
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
    let way = path.file_name().and_then(|n| n.to_str()).and_then(way_out).map(|way| format!("; {way}"));
    let expected =
        format!("an IDX, CIFAR, parquet, npz or .mat file, or a zip or tar archive{}", way.unwrap_or_default());
    Err(Error::format(path, "first bytes", expected, found))
}

/// What to do with files of formats that are not read, by the ends of their names.
const WAYS_OUT: [(&str, &str); 9] = [
    (".npy", "pack arrays into one file: np.savez('set.npz', x_train=..., y_train=..., x_test=..., y_test=...)"),
    (
        ".csv",
        "pack pixels in columns into arrays: t = np.loadtxt('train.csv', delimiter=',', skiprows=1, dtype=np.uint8); \
         np.savez('set.npz', x=t[:, 1:], y=t[:, 0])",
    ),
    (
        "_X.bin",
        "pack STL-10 into arrays, for train and test: np.savez('set.npz', x_train=np.fromfile('train_X.bin', \
         np.uint8).reshape(-1, 3, 96, 96).swapaxes(2, 3), y_train=np.fromfile('train_y.bin', np.uint8))",
    ),
    (".h5", "convert HDF5 with h5py: np.savez('set.npz', x=f['images'][:], y=f['labels'][:])"),
    (".hdf5", "convert HDF5 with h5py: np.savez('set.npz', x=f['images'][:], y=f['labels'][:])"),
    (".tfrecord", "convert records with tensorflow_datasets: write the images as PNG in one folder per class"),
    (".mdb", "convert LMDB: write the images in one folder per class"),
    (".zip", "unpack the archives inside"),
    (".tar", "unpack the archives inside"),
];

/// What to do with a file of that name, for errors.
fn way_out(name: &str) -> Option<&'static str> {
    // Shards are numbered behind the name: `mnist-train.tfrecord-00000-of-00001`.
    let ends = |end: &str| name.ends_with(end) || name.contains(&format!("{end}-"));
    WAYS_OUT.iter().find_map(|(end, way)| ends(end).then_some(*way))
}

/// The files that a folder may have, and what to do with those that it has, for errors.
pub(crate) fn expected_files(path: &Path) -> String {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    let way = names.iter().find_map(|name| way_out(name)).map(|way| format!("; {way}")).unwrap_or_default();
    let known = "IDX, CIFAR or .mat files, parquet, one .npz, a GaFi dataset (manifest.json), or images in one folder per class";
    format!("{known}{way}")
}

/// The error for Arrow files, which `datasets.save_to_disk` writes.
fn saved_to_disk(path: &Path) -> Error {
    let expected = "files without Arrow, which is not read; convert with: python3 -c \"import datasets; s = \
                    datasets.load_from_disk('THIS'); s = s if hasattr(s, 'keys') else {'train': s}; \
                    [d.to_parquet(f'OUT/{n}.parquet') for n, d in s.items()]\"";
    Error::format(path, "content", expected, "Arrow files of datasets.save_to_disk")
}

/// Whether a folder was written by `datasets.save_to_disk`.
fn is_saved_to_disk(path: &Path) -> bool {
    path.join("dataset_dict.json").is_file()
        || path.join("state.json").is_file() && path.join("dataset_info.json").is_file()
}

/// The format of the files in a folder whose names are those of a published set; `None` if there are none.
fn known_files(path: &Path) -> Result<Option<Format>> {
    if path.join(MANIFEST_FILE).is_file() || path.join("train").join(MANIFEST_FILE).is_file() {
        return Ok(Some(Format::Gafi));
    }
    if idx::find(path, None)?.is_some() {
        return Ok(Some(Format::Idx));
    }
    if let Some(variant) = cifar::find(path).map(|f| f.variant).or_else(|| Some(cifar_pickle::find(path)?.variant)) {
        return Ok(Some(match variant {
            Variant::Cifar10 => Format::Cifar10,
            Variant::Cifar100 => Format::Cifar100,
        }));
    }
    if mat::find(path).is_some() {
        return Ok(Some(Format::Mat));
    }
    if only_npz(path).is_some_and(|file| npz::find(&file).is_ok()) || npz::find_several(path)?.is_some() {
        return Ok(Some(Format::Npz));
    }
    Ok(None)
}

/// Deepest folder, and most folders of a folder, in which published sets are looked for: `data/MNIST/raw`.
const NESTED_DEPTH: usize = 3;
const NESTED_FOLDERS: usize = 64;

/// Collects the folders below `folder` that have files of published sets.
fn nested(folder: &Path, depth: usize, found: &mut Vec<(PathBuf, Format)>) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let visible = |name: &[u8]| !name.starts_with(b".") && name != b"__MACOSX";
    let entries = entries.flatten().filter(|e| visible(e.file_name().as_encoded_bytes()));
    let mut folders: Vec<PathBuf> = entries.map(|e| e.path()).filter(|p| p.is_dir()).take(NESTED_FOLDERS + 1).collect();
    if folders.len() > NESTED_FOLDERS {
        return Ok(());
    }
    folders.sort_unstable();
    for path in folders {
        match known_files(&path)? {
            Some(format) => found.push((path, format)),
            None if depth < NESTED_DEPTH => nested(&path, depth + 1, found)?,
            None => {}
        }
    }
    Ok(())
}

/// The folder of a published set: `path`, or the only one below it that has such files, as in the folders of torchvision.
///
/// # Errors
/// [`Error::Format`] for several sets.
fn set_folder(path: &Path, format: Format) -> Result<Option<(PathBuf, Format)>> {
    let wanted = |found: Format| format == Format::Auto || format == found;
    if let Some(found) = known_files(path)?.filter(|found| wanted(*found)) {
        return Ok(Some((path.into(), found)));
    }
    let mut found = Vec::new();
    nested(path, 1, &mut found)?;
    found.retain(|(_, format)| wanted(*format));
    if found.len() > 1 {
        let names: Vec<String> = found
            .iter()
            .map(|(folder, format)| {
                format!("{} ({})", folder.strip_prefix(path).unwrap_or(folder).display(), format.name())
            })
            .collect();
        return Err(Error::format(
            path,
            "sets",
            "one set; set path to the folder of the one to import",
            names.join(", "),
        ));
    }
    Ok(found.pop())
}

/// Detects the format of a folder by file names. Returns the folder that has the files.
fn detect_folder(path: &Path) -> Result<(PathBuf, Format)> {
    if is_saved_to_disk(path) {
        return Err(saved_to_disk(path));
    }
    if let Some(found) = set_folder(path, Format::Auto)? {
        return Ok(found);
    }
    if let Some(file) = only_npz(path) {
        // For its error.
        npz::find(&file)?;
    }
    let mut shards = Vec::new();
    parquet_files(path, 0, &mut shards)?;
    if !shards.is_empty() {
        return Ok((path.into(), Format::Parquet));
    }
    if !webdataset::find(path).is_empty() {
        return Ok((path.into(), Format::WebDataset));
    }
    if fs::read_dir(path).map_err(Error::io("read", path))?.next().is_some() {
        return Ok((path.into(), Format::Folder));
    }
    Err(Error::format(path, "content", expected_files(path), contents(path)))
}

/// Files of one split alone, such as an export of test images, are a whole set.
fn only_split(split: &mut Split, files: usize, notes: &mut Vec<Note>) {
    if *split != Split::Train {
        let what = format!("files of a set whose only split is {split}, read as a whole set");
        notes.push(Note::new(NoteKind::Assumed, files as u64, what));
        *split = Split::Train;
    }
}

/// The splits of IDX files.
fn idx_splits(found: Pairs, notes: &mut Vec<Note>) -> Result<Vec<(Split, Files)>> {
    if let Some(images) = found.unlabelled {
        let mut note = Note::new(NoteKind::Skipped, idx::count(&images)?, "images without labels");
        note.examples.push(images.file_name().unwrap_or_default().to_string_lossy().into_owned());
        notes.push(note);
    }
    let test = found.test.map(|pair| (Split::Test, Files::Idx(pair)));
    Ok([(Split::Train, Files::Idx(found.train))].into_iter().chain(test).collect())
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
fn cifar_splits(path: &Path, is_dir: bool, variant: Variant, notes: &mut Vec<Note>) -> Option<Vec<(Split, Files)>> {
    let cifar = |batches| Files::Cifar { variant, batches };
    if !is_dir {
        let pickle = path.extension().is_none_or(|e| e != "bin") && cifar_pickle::is_pickle(path);
        let files = if pickle { Files::CifarPickle(vec![path.into()]) } else { cifar(vec![path.into()]) };
        return Some(vec![(Split::Train, files)]);
    }
    if let Some(found) = cifar_pickle::find(path).filter(|f| f.variant == variant) {
        return Some(found.splits.into_iter().map(|(split, files)| (split, Files::CifarPickle(files))).collect());
    }
    let found = cifar::find(path).filter(|f| f.variant == variant)?;
    if let Some(mut only) = found.only {
        only_split(&mut only, found.train.len(), notes);
    }
    let splits = [(Split::Train, found.train), (Split::Test, found.test)].into_iter();
    Some(splits.filter(|(_, batches)| !batches.is_empty()).map(|(split, batches)| (split, cifar(batches))).collect())
}

/// The only NumPy archive in a folder; `None` if there are several.
fn only_npz(folder: &Path) -> Option<PathBuf> {
    <[PathBuf; 1]>::try_from(npz::archives(folder)).ok().map(|[only]| only)
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
fn parquet_splits(
    folder: &Path,
    files: Vec<PathBuf>,
    label: Option<&str>,
    notes: &mut Vec<Note>,
) -> Result<Vec<(Split, Files)>> {
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
    let mut unnamed = Note::new(NoteKind::Skipped, 0, "files whose name says no split");
    for skipped in files.iter().filter(|p| split_of_file(p).is_none()) {
        unnamed.add(|| skipped.file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
    notes.extend((unnamed.count > 0).then_some(unnamed));
    if let Some((_, Files::Parquet(train))) = splits.iter().find(|(s, _)| *s == Split::Train).cloned() {
        splits.retain(|(split, files)| {
            let Files::Parquet(shards) = files else { return true };
            let rows = shards.iter().map(|shard| Parquet::unlabelled(shard, &train[0], label)).sum::<Option<u64>>();
            let Some(rows) = rows.filter(|_| *split != Split::Train) else { return true };
            let mut note = Note::new(NoteKind::Skipped, rows, "images without labels");
            let names = shards.iter().take(1).filter_map(|p| p.file_name());
            note.examples.extend(names.map(|name| name.to_string_lossy().into_owned()));
            notes.push(note);
            false
        });
    }
    if let [(split, Files::Parquet(shards))] = &mut splits[..] {
        only_split(split, shards.len(), notes);
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
