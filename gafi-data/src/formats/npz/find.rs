//! Finds the arrays of each split, by their names in one archive or by the names of several archives.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gafi_core::{Error, Result, Split};

use super::archive::{ArrayPath, array_names, image_count, open_archive};
use crate::formats::split_names::split_of;
use crate::note::{Note, NoteKind, UNLABELLED};

/// Known array names in lower case: images, and their labels. `{}` stands for a split.
const OF_SPLIT: [(&str, &[&str]); 5] = [
    ("{}_images", &["{}_labels", "{}_label"]),
    ("x_{}", &["y_{}"]),
    ("{}_x", &["{}_y"]),
    ("{}_data", &["{}_labels", "{}_label", "{}_targets", "{}_target"]),
    ("{}_imgs", &["{}_labels"]),
];
/// The same, for archives of one split.
const WHOLE: [(&str, &[&str]); 5] = [
    ("images", &["labels", "label", "targets", "target"]),
    ("x", &["y"]),
    ("data", &["labels", "label", "targets", "target"]),
    ("imgs", &["labels"]),
    ("arr_0", &["arr_1"]),
];
/// The splits, and their names in array names.
const SPLITS: [(Split, &[&str]); 3] =
    [(Split::Train, &["train"]), (Split::Val, &["val", "valid", "validation"]), (Split::Test, &["test", "t10k"])];
/// Names of arrays of class names.
const NAMES: [&str; 3] = ["classes", "class_names", "label_names"];

/// The arrays of one split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrays {
    pub(super) images: ArrayPath,
    pub(super) labels: ArrayPath,
    pub(super) names: Option<ArrayPath>,
}

impl Arrays {
    /// The archives, each once.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let paths: BTreeSet<&PathBuf> = [&self.images.path, &self.labels.path].into();
        paths.into_iter().cloned().collect()
    }
}

/// The splits of an archive.
pub(crate) struct Found {
    pub(crate) splits: Vec<(Split, Arrays)>,
    /// Notes on images without labels.
    pub(crate) skipped: Vec<Note>,
}

/// Finds the splits of an archive.
///
/// # Errors
/// [`Error::Format`], which lists the arrays, if there are no training rows.
pub(crate) fn find(path: &Path) -> Result<Found> {
    let names = array_names(&open_archive(path)?);
    let mut skipped = Vec::new();
    let mut splits: Vec<(Split, Arrays)> = Vec::new();
    for (split, words) in SPLITS {
        let images_of = |word: &&str| OF_SPLIT.iter().find_map(|(images, _)| named(&names, images, word));
        if let Some(arrays) = words.iter().find_map(|word| pair(path, &names, &OF_SPLIT, word)) {
            splits.push((split, arrays));
        } else if split != Split::Train
            && let Some(images) = words.iter().find_map(images_of)
        {
            skipped.push(unlabelled(images, path)?);
        }
    }
    if splits.first().is_none_or(|(split, _)| *split != Split::Train) {
        let Some(arrays) = pair(path, &names, &WHOLE, "") else {
            let expected = "images and labels, train_images and train_labels, or x_train and y_train";
            let found = if names.is_empty() { "no arrays".into() } else { names.join(", ") };
            return Err(Error::format(path, "arrays", expected, found));
        };
        splits.insert(0, (Split::Train, arrays));
    }
    Ok(Found { splits, skipped })
}

/// A note on images without labels, which are skipped.
fn unlabelled(images: String, path: &Path) -> Result<Note> {
    let images = ArrayPath { path: path.into(), name: images };
    let mut note = Note::new(NoteKind::Skipped, image_count(&images)? as u64, UNLABELLED);
    note.examples.push(images.name);
    Ok(note)
}

/// Finds the splits of archives that hold one split or one array each: `train.npz` and `test.npz`, or `kmnist-train-imgs.npz` and
/// `kmnist-train-labels.npz`. `None` if a folder has no such archives.
///
/// # Errors
/// [`Error::Format`] for several sets in one folder.
pub(crate) fn find_several(folder: &Path) -> Result<Option<Vec<(Split, Arrays)>>> {
    let stems: Vec<String> =
        archives(folder).iter().filter_map(|p| Some(p.file_stem()?.to_str()?.to_owned())).collect();
    let file = |stem: &str| folder.join(format!("{stem}.npz"));
    let mut found: Vec<(String, Split, Arrays)> = Vec::new();
    for stem in &stems {
        // One word of a name is the split; the words before it name the set.
        let words: Vec<&str> = stem.split(['-', '_', '.']).collect();
        let Some((at, split)) = words.iter().enumerate().find_map(|(at, word)| Some((at, split_of(word)?))) else {
            continue;
        };
        let set = words[..at].join("-");
        if let Some(word) = words.iter().find(|w| matches!(w.to_ascii_lowercase().as_str(), "imgs" | "images")) {
            let labels = stem.replace(word, "labels");
            if let (true, Some(images), Some(labels)) =
                (stems.contains(&labels), only_array(&file(stem))?, only_array(&file(&labels))?)
            {
                found.push((set, split, Arrays { images, labels, names: None }));
            }
        } else if let Some(arrays) = pair(&file(stem), &array_names(&open_archive(&file(stem))?), &WHOLE, "") {
            found.push((set, split, arrays));
        }
    }
    let sets: BTreeSet<&String> = found.iter().map(|(set, ..)| set).collect();
    if sets.len() > 1 {
        let found: Vec<&str> = sets.into_iter().map(String::as_str).collect();
        let expected = "archives of one set (move the others to another folder)";
        return Err(Error::format(folder, "sets", expected, found.join(", ")));
    }
    found.sort_by_key(|(_, split, _)| *split);
    if let Some(two) = found.windows(2).find(|two| two[0].1 == two[1].1 && two[0].1 == Split::Train) {
        let file = |arrays: &Arrays| arrays.images.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let expected = format!(
            "one archive for each split; join them: f = [np.load(p) for p in sorted(glob.glob('train*.npz'))]; \
             np.savez('set.npz', x_train=np.concatenate([a['{0}'] for a in f]), y_train=np.concatenate([a['{1}'] for a in f])), \
             with .reshape(-1, 3, side, side) behind x_train if it has a row of pixels for each image, and x_test and y_test likewise",
            two[0].2.images.name, two[0].2.labels.name
        );
        let found = format!("{} and {}", file(&two[0].2), file(&two[1].2));
        return Err(Error::format(folder, "archives", expected, found));
    }
    if found.windows(2).any(|two| two[0].1 == two[1].1) || found.first().is_none_or(|f| f.1 != Split::Train) {
        return Ok(None);
    }
    Ok(Some(found.into_iter().map(|(_, split, arrays)| (split, arrays)).collect()))
}

/// The only NumPy archive of a folder; `None` if there are several.
pub(crate) fn only(folder: &Path) -> Option<PathBuf> {
    <[PathBuf; 1]>::try_from(archives(folder)).ok().map(|[only]| only)
}

/// The NumPy archives of a folder, sorted.
fn archives(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "npz") && p.is_file()).collect();
    paths.sort_unstable();
    paths
}

/// The array of an archive that holds only one.
fn only_array(path: &Path) -> Result<Option<ArrayPath>> {
    let names = array_names(&open_archive(path)?);
    Ok(<[String; 1]>::try_from(names).ok().map(|[name]| ArrayPath { path: path.into(), name }))
}

/// The first of `pairs` of images and labels that the archive has. `word` stands for the split in their names.
fn pair(path: &Path, names: &[String], pairs: &[(&str, &[&str])], word: &str) -> Option<Arrays> {
    let array = |name: &&str| Some(ArrayPath { path: path.into(), name: named(names, name, word)? });
    pairs.iter().find_map(|(images, labels)| {
        let class_names = NAMES.iter().find_map(array);
        Some(Arrays { images: array(images)?, labels: labels.iter().find_map(array)?, names: class_names })
    })
}

/// The array called `name`, in which `word` stands for the split. An exact match is preferred to one in other case, such as `X_train`.
fn named(names: &[String], name: &str, word: &str) -> Option<String> {
    let name = name.replace("{}", word);
    let exact = names.iter().find(|n| **n == name);
    exact.or_else(|| names.iter().find(|n| n.eq_ignore_ascii_case(&name))).cloned()
}
