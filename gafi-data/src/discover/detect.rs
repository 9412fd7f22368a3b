//! Detects the format of a set from the first bytes of a file, or from the names in a folder.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use gafi_core::{Error, MANIFEST_FILE, Result, open_regular};

use crate::format::Format;
use crate::formats::cifar::{self, Variant};
use crate::formats::mat::Mat;
use crate::formats::{cifar_pickle, idx, mat, npz, parquet, webdataset};
use crate::hints::{contents, conversion, expected_files};

/// Detects the format of a file by its first bytes. CIFAR has no magic number and is recognised by the length of a `.bin` file.
pub(super) fn detect_file(path: &Path, length: u64) -> Result<Format> {
    let mut head = Vec::with_capacity(4);
    let file = open_regular(path).map_err(Error::io("open", path))?;
    file.take(4).read_to_end(&mut head).map_err(Error::io("read", path))?;
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
                let expected = "format = \"cifar10\" or \"cifar100\" to be set, because the length fits both";
                return Err(Error::format(path, "length", expected, format!("{length} bytes")));
            }
            (false, false) => {}
        },
        _ => {}
    }
    let found = if head.is_empty() { "an empty file".into() } else { format!("bytes {head:02x?}") };
    let how = path.file_name().and_then(|n| n.to_str()).and_then(conversion).map(|how| format!("; {how}"));
    let expected =
        format!("an IDX, CIFAR, parquet, npz or .mat file, or a zip or tar archive{}", how.unwrap_or_default());
    Err(Error::format(path, "first bytes", expected, found))
}

/// The error for Arrow files, which `datasets.save_to_disk` writes.
fn saved_to_disk(path: &Path) -> Error {
    let expected = format!(
        "parquet instead of Arrow; convert with: python3 -c \"import datasets; s = datasets.load_from_disk('{}'); s = s if hasattr(s, \
         'keys') else {{'train': s}}; [d.to_parquet(f'OUT/{{n}}.parquet') for n, d in s.items()]\"",
        path.display()
    );
    Error::format(path, "content", expected, "Arrow files of datasets.save_to_disk")
}

/// Whether a folder was written by `datasets.save_to_disk`.
fn is_saved_to_disk(path: &Path) -> bool {
    path.join("dataset_dict.json").is_file()
        || path.join("state.json").is_file() && path.join("dataset_info.json").is_file()
}

/// The format of a folder whose file names are those of a published set; `None` if it is not one.
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
    // Sets in folders of classes have `.mat` files with other variables beside them.
    let alone = || !fs::read_dir(path).is_ok_and(|mut entries| entries.any(|e| e.is_ok_and(|e| e.path().is_dir())));
    if mat::find(path).is_some_and(|found| alone() || found.splits.iter().all(|(_, file)| Mat::open(file).is_ok())) {
        return Ok(Some(Format::Mat));
    }
    if npz::only(path).is_some_and(|file| npz::find(&file).is_ok()) || npz::find_several(path)?.is_some() {
        return Ok(Some(Format::Npz));
    }
    Ok(None)
}

/// How deep published sets are searched (`data/MNIST/raw`), and in folders of at most how many subfolders.
const NESTED_DEPTH: usize = 3;
const NESTED_FOLDERS: usize = 64;

/// Collects the folders below `folder` that hold a published set.
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

/// The folder that holds a published set: `path`, or the only such folder below it, as in the folders of torchvision.
///
/// # Errors
/// [`Error::Format`] for several sets.
pub(super) fn set_folder(path: &Path, format: Format) -> Result<Option<(PathBuf, Format)>> {
    let wanted = |found: Format| format == Format::Auto || format == found;
    if let Some(found) = known_files(path)?.filter(|found| wanted(*found)) {
        return Ok(Some((path.into(), found)));
    }
    let mut found = Vec::new();
    nested(path, 1, &mut found)?;
    found.retain(|(_, format)| wanted(*format));
    if found.len() > 1 {
        let name = |(folder, format): &(PathBuf, Format)| {
            format!("{} ({})", folder.strip_prefix(path).unwrap_or(folder).display(), format.name())
        };
        let names: Vec<String> = found.iter().map(name).collect();
        let expected = "one set; set path to the folder of the set to import";
        return Err(Error::format(path, "sets", expected, names.join(", ")));
    }
    Ok(found.pop())
}

/// Detects the format of a folder by its file names. Returns the folder that holds the files.
pub(super) fn detect_folder(path: &Path) -> Result<(PathBuf, Format)> {
    if is_saved_to_disk(path) {
        return Err(saved_to_disk(path));
    }
    if let Some(found) = set_folder(path, Format::Auto)? {
        return Ok(found);
    }
    if let Some(file) = npz::only(path) {
        // Fails, and says which arrays are missing.
        npz::find(&file)?;
    }
    if !parquet::find(path)?.is_empty() {
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
