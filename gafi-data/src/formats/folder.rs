//! Folders of images. Classes are the names of folders (`split/class/file`, `class/file`) or come from a file of labels beside the
//! images. Lists beside class folders may say which images are in which split. Content decides which files are images, not their names.
//!
//! Folders named like splits are splits, in any spelling and nesting (`seg_train/seg_train/CLASS`, `dataset/train/CLASS`). Where names
//! and structure disagree, the error says what was found and which keys decide.

mod classes;
mod listing;
mod source;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use gafi_core::{Error, Result, Split};

use super::label_table::is_table;
use super::split_names::{are_numbered_parts, is_neutral, split_in, split_of};
use crate::hints::{contents, expected_files};
use crate::note::{Note, NoteKind, UNLABELLED};
use classes::{Class, exported_classes, has_files};
pub(crate) use listing::FolderKeys;
use listing::{Node, Reader, is_number, split_folders};
pub(crate) use source::Folder;
use tables::agree;

/// The splits of a folder, and what was skipped or assumed.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) splits: Vec<(Split, Folder)>,
    pub(crate) notes: Vec<Note>,
}

/// Finds the splits of the images in `root`.
///
/// # Errors
/// [`Error::Format`] when splits, classes or labels are ambiguous, with what was found and the keys that decide; [`Error::Config`]
/// for a key that names a missing folder or file; [`Error::Io`].
pub(crate) fn find(root: &Path, keys: &FolderKeys<'_>) -> Result<Found> {
    let mut reader =
        Reader { root, keys, notes: Vec::new(), files: Vec::new(), tables: BTreeMap::new(), wrappers: Vec::new() };
    let tree = reader.read(root, 0)?;
    let images = reader.sniff();
    let mut annotations = Vec::new();
    let tree = tree.with_images(&reader.files, &images, &mut annotations);
    reader.skip_annotations(&annotations);
    let splits = reader.splits(&tree)?;
    let unused = tree.images - splits.iter().map(|(_, folder)| folder.files.len()).sum::<usize>();
    let noted = |note: &Note| note.what.starts_with(UNLABELLED);
    let noted: u64 = reader.notes.iter().filter(|note| noted(note)).map(|note| note.count).sum();
    if unused as u64 > noted {
        let what = format!("{UNLABELLED}: outside the folders of classes");
        reader.notes.push(Note::new(NoteKind::Skipped, unused as u64 - noted, what));
    }
    Ok(Found { splits, notes: reader.notes })
}

impl Reader<'_> {
    fn splits(&mut self, tree: &Node) -> Result<Vec<(Split, Folder)>> {
        let root = self.root;
        let is_empty = |folder: &Node| folder.folders.is_empty() && !has_files(&folder.path);
        if tree.images == 0 && !tree.folders.iter().any(is_empty) {
            let expected = expected_files(root);
            return Err(Error::format(root, "content", expected, contents(root)));
        }
        if self.keys.splits[0].is_some() {
            let mut splits = Vec::new();
            let keys = [(Split::Train, "train_folder"), (Split::Val, "val_folder"), (Split::Test, "test_folder")];
            for ((split, key), folder) in keys.into_iter().zip(self.keys.splits) {
                let Some(folder) = folder else { continue };
                let node = folder.components().try_fold(tree, |node, part| {
                    node.folders.iter().find(|inner| part.as_os_str() == inner.name.as_str())
                });
                let node = node.filter(|node| node.images > 0).ok_or_else(|| {
                    Error::config(key, folder.display(), format!("a folder with images in {}", root.display()))
                })?;
                splits.push((split, node));
            }
            return match self.keys.labels {
                None | Some("folders" | "subfolders") => {
                    splits.into_iter().map(|(split, node)| Ok((split, self.classes(node.unwrapped())?))).collect()
                }
                file => self.labelled_by_table(tree, file, &splits),
            };
        }
        match self.keys.labels {
            Some("folders") => Ok(vec![(Split::Train, self.classes(tree.unwrapped())?)]),
            Some("subfolders") => self.resolve(tree),
            Some(file) => self.labelled_by_table(tree, Some(file), &[]),
            None if tree.path.join("dataset.json").is_file() => self.labelled_by_table(tree, Some("dataset.json"), &[]),
            None => self.resolve(tree),
        }
    }

    /// Decides by names and structure which folders are splits, which are classes, and which only wrap others.
    fn resolve(&mut self, node: &Node) -> Result<Vec<(Split, Folder)>> {
        if exported_classes(node).is_some() {
            return Ok(vec![(Split::Train, self.classes(node)?)]);
        }
        let filled: Vec<&Node> = node.filled().collect();
        if let Some(splits) = self.class_before_split(node, &filled)? {
            return Ok(splits);
        }
        let named = split_folders(&filled);
        if !named.is_empty() {
            return self.named_splits(node, &filled, &named);
        }
        // Splits and classes in one name: `train_cats`, `test_cats`.
        let mut mixed: Vec<_> = filled.iter().filter_map(|folder| split_in(&folder.name)).collect();
        mixed.sort_by(|a, b| a.rest.cmp(&b.rest));
        if mixed.windows(2).any(|pair| pair[0].rest == pair[1].rest) {
            let expected = "folders named like classes or like splits, not both";
            return Err(self.unclear(node, expected, Node::names(filled)));
        }
        match &filled[..] {
            [] if node.direct > 0 => self.labelled_by_table(node, None, &[]),
            [] => Ok(vec![(Split::Train, self.classes(node)?)]),
            [only] if node.direct == 0 && only.unwrapped().is_nested() => {
                let what = format!("images read from {}, the only folder with images", self.relative(&only.path));
                self.notes.push(Note::new(NoteKind::Assumed, only.images as u64, what));
                self.wrappers.push(node.path.clone());
                self.wrappers
                    .extend(node.folders.iter().filter(|other| other.images == 0).map(|other| other.path.clone()));
                self.resolve(only)
            }
            _ => self.classes_or_table(node, &filled),
        }
    }

    /// Reads folders that may be classes, or parts of a set whose labels are in a file.
    fn classes_or_table(&mut self, node: &Node, filled: &[&Node]) -> Result<Vec<(Split, Folder)>> {
        let neutral = |folder: &Node| is_neutral(&folder.name) && !is_number(&folder.name);
        let parts = filled.len() == 1 || filled.iter().all(|folder| neutral(folder));
        let before = self.notes.len();
        let tables = self.tables(node);
        if tables.is_empty() {
            if filled.len() == 1 && neutral(filled[0].unwrapped()) {
                // Fails, and says where labels may be.
                return self.labelled_by_table(node, None, &[]);
            }
            if parts && filled.len() > 1 {
                let expected = "folders named like classes";
                return Err(self.unclear(node, expected, Node::names(filled.iter().copied())));
            }
            return self.class_folders(node, filled);
        }
        let by_table = self.labelled_by_table(node, None, &[]);
        match by_table {
            Ok(splits) if parts || are_numbered_parts(filled.iter().map(|folder| folder.name.as_str())) => Ok(splits),
            Ok(splits) if !agree(&splits, node) && tables.iter().any(|table| is_table(table)) => {
                let found = format!("{} and the folders {}", Node::list(&tables), Node::names(filled.iter().copied()));
                Err(self.unclear(node, "labels in a file or in names of folders, not both", found))
            }
            Err(e) if parts => Err(e),
            // The file repeats the folders, or doesn't label these images.
            _ => {
                self.notes.truncate(before);
                self.class_folders(node, filled)
            }
        }
    }

    /// Reads `class/file`. Lists beside the folders may divide the images into splits.
    fn class_folders(&mut self, node: &Node, filled: &[&Node]) -> Result<Vec<(Split, Folder)>> {
        if self.keys.labels != Some("subfolders") {
            self.expect_one_level(node, filled)?;
        }
        let folder = self.classes(node)?;
        Ok(self.divided_by_lists(node, folder))
    }

    /// Refuses folders that hold the same folders as each other or as the one that they are in: variants, domains or copies of a set.
    fn expect_one_level(&self, node: &Node, filled: &[&Node]) -> Result<()> {
        let inner = |folder: &Node| -> BTreeSet<String> {
            let unwrapped = folder.unwrapped();
            if !unwrapped.is_nested() {
                return BTreeSet::new();
            }
            unwrapped.filled().map(|folder| folder.name.clone()).collect()
        };
        let own: BTreeSet<String> = filled.iter().map(|folder| folder.name.clone()).collect();
        let copy = filled.iter().find(|folder| inner(folder).intersection(&own).count() > 1);
        let all: Vec<BTreeSet<String>> = filled.iter().map(|folder| inner(folder)).collect();
        let common = all.iter().cloned().reduce(|a, b| a.intersection(&b).cloned().collect()).unwrap_or_default();
        let (expected, found) = match copy {
            Some(copy) => {
                let found = format!("{}, which holds folders named like those beside it", copy.name);
                ("one copy of the set (move the other out, or import it alone)", found)
            }
            None if filled.len() > 1 && common.len() > 1 => {
                let common: Vec<String> = common.into_iter().take(4).collect();
                let found = format!("{} in each of {}", common.join(", "), Node::names(filled.iter().copied()));
                let expected = "folders of classes, not of variants of one set (import one of them alone, or train_folder names it)";
                (expected, found)
            }
            None => return Ok(()),
        };
        Err(self.unclear(node, expected, found))
    }

    /// Reads `class/split/file`; `None` if no folder holds splits.
    fn class_before_split(&mut self, node: &Node, filled: &[&Node]) -> Result<Option<Vec<(Split, Folder)>>> {
        fn inner(folder: &Node) -> Vec<(Split, &Node)> {
            split_folders(&folder.filled().collect::<Vec<_>>())
        }
        let holds_splits = |folder: &&Node| inner(folder).iter().any(|(split, _)| *split != Split::Train);
        let holding = filled.iter().filter(|folder| split_of(&folder.name).is_none() && holds_splits(folder)).count();
        if holding == 0 || filled.len() < 2 {
            return Ok(None);
        }
        let all_alike = filled.iter().all(|folder| {
            folder.is_nested()
                && inner(folder).len() == folder.filled().count()
                && folder.filled().all(|part| part.direct > 0)
        });
        if holding < filled.len() || !all_alike {
            let expected = "splits in every folder or in none";
            return Err(self.unclear(node, expected, format!("splits in {holding} of {} folders", filled.len())));
        }
        let mut parts: BTreeMap<Split, Vec<Class<'_>>> = BTreeMap::new();
        for class in filled {
            for (split, part) in inner(class) {
                let classes = parts.entry(split).or_default();
                if classes.last().is_some_and(|(name, _)| *name == class.name) {
                    let expected = format!("one folder for {split} in {}", class.path.display());
                    return Err(self.unclear(node, &expected, Node::names(class.filled())));
                }
                classes.push((class.name.clone(), vec![part]));
            }
        }
        let what = "images in CLASS/SPLIT folders, read as splits of those classes";
        self.notes.push(Note::new(NoteKind::Assumed, node.images as u64, what));
        Ok(Some(parts.into_iter().map(|(split, classes)| (split, self.folder(&node.path, classes))).collect()))
    }

    /// Reads folders of which some, `named`, are named like splits.
    fn named_splits(
        &mut self,
        node: &Node,
        filled: &[&Node],
        named: &[(Split, &Node)],
    ) -> Result<Vec<(Split, Folder)>> {
        let is_named = |folder: &Node| named.iter().any(|(_, other)| other.path == folder.path);
        let others: Vec<&Node> = filled.iter().copied().filter(|folder| !is_named(folder)).collect();
        let nested = |folder: &Node| folder.unwrapped().is_nested();
        let train = named.iter().find(|(split, folder)| *split == Split::Train && nested(folder));
        let distinct = named.iter().any(|(split, _)| *split != named[0].0);
        let Some(&(_, train)) = train else {
            // A class may be called `train` if no other class is named like a split.
            if !distinct && named.len() == 1 && !others.is_empty() && !nested(named[0].1) {
                let what = format!("images of a class that is named like a split, {}", named[0].1.name);
                self.notes.push(Note::new(NoteKind::Warning, named[0].1.images as u64, what));
                return Ok(vec![(Split::Train, self.classes(node)?)]);
            }
            let flat = named.iter().all(|(_, folder)| !nested(folder));
            if flat && !self.tables(node).is_empty() {
                return self.labelled_by_table(node, None, named);
            }
            let expected = if flat {
                "a folder for each class in each split, or a file of labels (a CSV with the columns file and label) beside them"
            } else {
                "folders of training images"
            };
            return Err(self.unclear(node, expected, Node::names(filled.iter().copied())));
        };
        if !others.is_empty() && !distinct && others.iter().any(|other| !is_unlabelled(&other.name)) {
            let found = Node::names(filled.iter().copied());
            return Err(self.unclear(node, "folders that are all splits or all classes", found));
        }
        if let Some(other) = others.iter().find(|other| nested(other)) {
            let names = Node::names(filled.iter().copied());
            let found = format!("{}, which is not named like a split, among {names}", other.name);
            return Err(self.unclear(node, "folders named like splits", found));
        }
        for other in others {
            let what = format!("{UNLABELLED}: in {}", self.relative(&other.path));
            self.notes.push(Note::new(NoteKind::Skipped, other.images as u64, what));
        }
        let mut splits: Vec<(Split, &Node)> = Vec::new();
        let mut labelled: Vec<(Split, Folder)> = Vec::new();
        for &(split, folder) in named {
            if !nested(folder) {
                let alone = named.iter().filter(|(other, _)| *other == split).count() == 1;
                if split != Split::Train
                    && alone
                    && let Some(found) = self.labelled_like(node, folder, train.unwrapped())?
                {
                    labelled.push((split, found));
                    continue;
                }
                let what = format!("{UNLABELLED}: in {}, which has no folders of classes", self.relative(&folder.path));
                self.notes.push(Note::new(NoteKind::Skipped, folder.images as u64, what));
                continue;
            }
            if let Some((_, before)) = splits.iter().find(|(s, _)| *s == split) {
                let found = format!("{} and {}", before.name, folder.name);
                return Err(self.unclear(node, &format!("one folder for {split}"), found));
            }
            splits.push((split, folder));
        }
        splits.sort_by_key(|(split, _)| *split);
        let plain = |folder: &Node| {
            let canonical = ["train", "training", "val", "valid", "validation", "test", "testing"];
            canonical.contains(&folder.name.to_lowercase().as_str()) && std::ptr::eq(folder.unwrapped(), folder)
        };
        if !splits.iter().all(|(_, folder)| plain(folder)) {
            let read: Vec<String> = (splits.iter())
                .map(|(split, folder)| format!("{split} from {}", self.relative(&folder.unwrapped().path)))
                .collect();
            let images = splits.iter().map(|(_, folder)| folder.images as u64).sum();
            let what = format!("images split by folder names: {}", read.join(", "));
            self.notes.push(Note::new(NoteKind::Assumed, images, what));
        }
        let nested = splits.into_iter().map(|(split, folder)| Ok((split, self.classes(folder.unwrapped())?)));
        let mut splits = nested.collect::<Result<Vec<_>>>()?;
        splits.extend(labelled);
        splits.sort_by_key(|(split, _)| *split);
        Ok(splits)
    }
}

/// Whether a name says that the images have no labels.
fn is_unlabelled(name: &str) -> bool {
    let name = name.to_lowercase();
    ["pred", "unlabel", "unsup", "submission"].iter().any(|word| name.contains(word))
}
