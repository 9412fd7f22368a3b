//! Folders of images. Classes are the names of folders (`split/class/file`, `class/file`) or stand in a file of labels beside the
//! images. A file is an image by its content, whatever its name.
//!
//! Folders named like splits are splits, however they are called and wrapped (`seg_train/seg_train/CLASS`, `dataset/train/CLASS`);
//! where names and structure do not agree, the error says what was found and which keys decide.

mod listing;
mod tables;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use gafi_core::{Error, Result, Split};
use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;

use super::label_table::{LabelTable, classes_of, is_table, sort_classes};
pub(crate) use listing::FolderKeys;
use listing::{Node, Reader, is_number};
use tables::{Index, order, take_labels};

use super::split_names::{is_neutral, split_in, split_of};
use crate::discover::{contents, expected_files};
use crate::import::report::UNLABELLED;
use crate::import::{Note, NoteKind};
use crate::source::{Item, Location, RawImage, Sink, Source};

/// The files of one split, grouped by class and sorted within each class.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    classes: Vec<String>,
    files: Vec<PathBuf>,
    labels: Vec<u32>,
}

impl Folder {
    /// The image files with their classes, in row order.
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

impl Source for std::sync::Arc<Folder> {
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

/// The splits of a folder, and what was skipped or assumed.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) splits: Vec<(Split, Folder)>,
    pub(crate) notes: Vec<Note>,
}

/// Finds the splits of the images in `root`.
///
/// # Errors
/// [`Error::Format`] when splits, classes or labels cannot be told, with what was found and the keys that decide; [`Error::Config`]
/// for a key that names what is not there; [`Error::Io`].
pub(crate) fn find(root: &Path, keys: &FolderKeys<'_>) -> Result<Found> {
    let mut reader = Reader { root, keys, notes: Vec::new(), files: Vec::new() };
    let tree = reader.read(root, 0)?;
    reader.sniff();
    let tree = tree.with_images(&reader.files);
    let splits = reader.splits(&tree)?;
    let unused = tree.images - splits.iter().map(|(_, folder)| folder.files.len()).sum::<usize>();
    let noted = |note: &Note| note.what.starts_with(UNLABELLED);
    let noted: u64 = reader.notes.iter().filter(|note| noted(note)).map(|note| note.count).sum();
    if unused as u64 > noted {
        let what = format!("{UNLABELLED}: outside of the folders of classes");
        reader.notes.push(Note::new(NoteKind::Skipped, unused as u64 - noted, what));
    }
    Ok(Found { splits, notes: reader.notes })
}

/// `classes.json` of our own export: class names in label order, and the folder of each.
#[derive(Deserialize)]
struct ExportedClasses {
    classes: Vec<String>,
    folders: Vec<String>,
}

/// One class: its name and the folders of its images.
type Class<'a> = (String, Vec<&'a Node>);

impl<'a> Reader<'a> {
    /// An error about the folders in `node`, with the keys that decide.
    fn unclear(&self, node: &Node, expected: &str, found: String) -> Error {
        let keys = "set train_folder, val_folder and test_folder to name the folders of splits, labels = \"FILE\" for a file of labels, or \
                    labels = \"folders\" if these folders are classes";
        Error::format(&node.path, "folders", format!("{expected}; {keys}"), found)
    }

    fn splits(&mut self, tree: &Node) -> Result<Vec<(Split, Folder)>> {
        let root = self.root;
        if tree.images == 0 && !tree.folders.iter().any(|folder| folder.folders.is_empty()) {
            let expected = expected_files(root);
            return Err(Error::format(root, "content", expected, contents(root)));
        }
        if let Some(train) = self.keys.splits[0] {
            let mut splits = Vec::new();
            let [_, val, test] = self.keys.splits;
            for (split, key, folder) in [
                (Split::Train, "train_folder", Some(train)),
                (Split::Val, "val_folder", val),
                (Split::Test, "test_folder", test),
            ] {
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
                Some(file) if file != "folders" => self.labelled_by_table(tree, Some(file), &splits),
                _ => splits.into_iter().map(|(split, node)| Ok((split, self.classes(node.unwrapped())?))).collect(),
            };
        }
        match self.keys.labels {
            Some("folders") => Ok(vec![(Split::Train, self.classes(tree)?)]),
            Some(file) => self.labelled_by_table(tree, Some(file), &[]),
            None if tree.path.join("dataset.json").is_file() => self.labelled_by_table(tree, Some("dataset.json"), &[]),
            None => self.resolve(tree),
        }
    }

    /// Tells splits, classes and wrappers apart by names and structure.
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
            [only] if node.direct == 0 && only.is_nested() => {
                let what = format!("images read from {}, the only folder with images", self.relative(&only.path));
                self.notes.push(Note::new(NoteKind::Assumed, only.images as u64, what));
                self.resolve(only)
            }
            _ => self.classes_or_table(node, &filled),
        }
    }

    /// Folders that may be classes, or parts of a set whose labels stand in a file.
    fn classes_or_table(&mut self, node: &Node, filled: &[&Node]) -> Result<Vec<(Split, Folder)>> {
        let parts =
            filled.len() == 1 || filled.iter().all(|folder| is_neutral(&folder.name) && !is_number(&folder.name));
        let tables = self.tables(node);
        if tables.is_empty() {
            if parts && filled.len() > 1 {
                let expected = "folders named like classes";
                return Err(self.unclear(node, expected, Node::names(filled.iter().copied())));
            }
            return Ok(vec![(Split::Train, self.classes(node)?)]);
        }
        match self.labelled_by_table(node, None, &[]) {
            Ok(splits) if parts => Ok(splits),
            Ok(splits) if agree(&splits, node) => Ok(vec![(Split::Train, self.classes(node)?)]),
            Ok(_) => {
                let found = format!("{} and the folders {}", Node::list(&tables), Node::names(filled.iter().copied()));
                Err(self.unclear(node, "labels in a file or in names of folders, not both", found))
            }
            Err(e) if parts => Err(e),
            // The file is about something else.
            Err(_) => Ok(vec![(Split::Train, self.classes(node)?)]),
        }
    }

    /// `class/split/file`; `None` if not every folder holds splits.
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
        let mut parts: BTreeMap<usize, Vec<Class<'_>>> = BTreeMap::new();
        for class in filled {
            for (split, part) in inner(class) {
                let classes = parts.entry(order(split)).or_default();
                match classes.last_mut().filter(|(name, _)| *name == class.name) {
                    Some(_) => {
                        let expected = format!("one folder for {split} in {}", class.path.display());
                        return Err(self.unclear(node, &expected, Node::names(class.filled())));
                    }
                    None => classes.push((class.name.clone(), vec![part])),
                }
            }
        }
        let what = "images in folders CLASS/SPLIT, read as splits of those classes";
        self.notes.push(Note::new(NoteKind::Assumed, node.images as u64, what));
        let splits = [Split::Train, Split::Val, Split::Test].into_iter();
        let splits = splits.filter_map(|split| Some((split, parts.remove(&order(split))?)));
        Ok(Some(splits.map(|(split, classes)| (split, self.folder(&node.path, classes))).collect()))
    }

    /// Folders of which some are named like splits.
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
        if train.is_none() {
            // A class may be called `train`, beside classes that are not called like splits.
            if !distinct && named.len() == 1 && !others.is_empty() && !nested(named[0].1) {
                let what = format!("images of a class that is named like a split, {}", named[0].1.name);
                self.notes.push(Note::new(NoteKind::Warning, named[0].1.images as u64, what));
                return Ok(vec![(Split::Train, self.classes(node)?)]);
            }
            let flat = named.iter().all(|(_, folder)| !nested(folder));
            if flat && !self.tables(node).is_empty() {
                return self.labelled_by_table(node, None, named);
            }
            let expected = if flat { "a folder for each class in each split" } else { "folders of training images" };
            return Err(self.unclear(node, expected, Node::names(filled.iter().copied())));
        }
        if !others.is_empty() && !distinct && others.iter().any(|other| !is_unlabelled(&other.name)) {
            let found = Node::names(filled.iter().copied());
            return Err(self.unclear(node, "folders that are all splits or all classes", found));
        }
        if let Some(other) = others.iter().find(|other| nested(other)) {
            let found = format!(
                "{}, which is not named like a split, among {}",
                other.name,
                Node::names(filled.iter().copied())
            );
            return Err(self.unclear(node, "folders named like splits", found));
        }
        for other in others {
            let what = format!("{UNLABELLED}: in {}", self.relative(&other.path));
            self.notes.push(Note::new(NoteKind::Skipped, other.images as u64, what));
        }
        let mut splits: Vec<(Split, &Node)> = Vec::new();
        for &(split, folder) in named {
            if !nested(folder) {
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
        splits.sort_by_key(|(split, _)| order(*split));
        let plain = |folder: &Node| {
            let canonical = ["train", "training", "val", "valid", "validation", "test", "testing"];
            canonical.contains(&folder.name.to_lowercase().as_str()) && std::ptr::eq(folder.unwrapped(), folder)
        };
        if !splits.iter().all(|(_, folder)| plain(folder)) {
            let read: Vec<String> = (splits.iter())
                .map(|(split, folder)| format!("{split} from {}", self.relative(&folder.unwrapped().path)))
                .collect();
            let images = splits.iter().map(|(_, folder)| folder.images as u64).sum();
            self.notes.push(Note::new(NoteKind::Assumed, images, format!("images of splits: {}", read.join(", "))));
        }
        splits.into_iter().map(|(split, folder)| Ok((split, self.classes(folder.unwrapped())?))).collect()
    }

    /// The folders in `node` as classes.
    fn classes(&mut self, node: &Node) -> Result<Folder> {
        let mut classes: Vec<Class<'_>> = Vec::new();
        let mut others = 0;
        for folder in &node.folders {
            // A folder of other files is no class; an empty one is, and the import reports that it has no rows.
            if folder.images == 0 && has_files(&folder.path) {
                others += 1;
                continue;
            }
            let inner = split_folders(&folder.filled().collect::<Vec<_>>());
            if inner.iter().any(|(split, _)| *split != inner[0].0) {
                let found = format!("the folders {} in {}", Node::names(folder.filled()), folder.name);
                return Err(self.unclear(node, "no splits in the folder of a class", found));
            }
            // Names that differ only in how accents are written are one class.
            let name: String = folder.name.nfc().collect();
            match classes.iter_mut().find(|(other, _)| *other == name) {
                Some((_, folders)) => folders.push(folder),
                None => classes.push((name, vec![folder])),
            }
        }
        if others > 0 {
            self.notes.push(Note::new(NoteKind::Skipped, others, "folders without an image"));
        }
        if classes.is_empty() {
            return Err(Error::format(&node.path, "folders", "one folder per class", "no folder"));
        }
        match exported_classes(node) {
            Some(exported) => {
                let place = |class: &Class<'_>| exported.folders.iter().position(|folder| *folder == class.0);
                if let Some((name, _)) = classes.iter().find(|class| place(class).is_none()) {
                    let expected = "the folder of every class";
                    return Err(Error::format(
                        node.path.join("classes.json"),
                        "folders",
                        expected,
                        format!("none of {name}"),
                    ));
                }
                classes.sort_by_key(place);
                for class in &mut classes {
                    if let Some(place) = place(class) {
                        class.0.clone_from(&exported.classes[place]);
                    }
                }
            }
            None => {
                let mut names: Vec<String> = classes.iter().map(|(name, _)| name.clone()).collect();
                sort_classes(&mut names);
                classes.sort_by_key(|(name, _)| names.iter().position(|other| other == name));
            }
        }
        Ok(self.folder(&node.path, classes))
    }

    fn folder(&self, root: &Path, classes: Vec<Class<'_>>) -> Folder {
        let mut folder = Folder { root: root.into(), classes: Vec::new(), files: Vec::new(), labels: Vec::new() };
        for (name, nodes) in classes {
            let mut own = Vec::new();
            nodes.into_iter().for_each(|node| node.all_files(&mut own));
            let mut files: Vec<PathBuf> = own.into_iter().map(|file| self.files[file].path.clone()).collect();
            files.sort_unstable();
            folder.labels.extend(std::iter::repeat_n(folder.classes.len() as u32, files.len()));
            folder.files.extend(files);
            folder.classes.push(name);
        }
        folder
    }

    /// The files of labels in `node`, and in its folders of splits.
    fn tables(&self, node: &Node) -> Vec<PathBuf> {
        let mut tables: Vec<PathBuf> = Vec::new();
        for folder in std::iter::once(node).chain(&node.folders) {
            let own = self.files.iter().map(|file| &file.path);
            tables.extend(own.filter(|path| path.parent() == Some(&folder.path) && is_table(path)).cloned());
        }
        tables
    }

    /// Labels from `file`, or from every file of labels that names images. `splits` are folders that are splits.
    fn labelled_by_table(
        &mut self,
        node: &Node,
        file: Option<&str>,
        splits: &[(Split, &Node)],
    ) -> Result<Vec<(Split, Folder)>> {
        let tables = match file {
            Some(file) => {
                let path = self.root.join(file);
                if !path.is_file() {
                    return Err(Error::config(
                        "labels",
                        file,
                        format!("\"folders\", or a file in {}", self.root.display()),
                    ));
                }
                vec![path]
            }
            None => self.tables(node),
        };
        if tables.is_empty() {
            let expected = "images in one folder for each class, or a file of labels (CSV, metadata.jsonl, dataset.json) beside them";
            let found = format!("{} images and neither", node.images);
            return Err(Error::format(&node.path, "labels", expected, found));
        }
        let mut rows: BTreeMap<usize, Vec<(PathBuf, String)>> = BTreeMap::new();
        let mut failed = None;
        let mut read = Vec::new();
        for table in &tables {
            let stem = table.file_stem().and_then(|n| n.to_str()).unwrap_or_default();
            let own = split_in(stem).map(|found| found.split);
            let labels = LabelTable::read(table);
            // Equal names in several splits are told apart by the split that the table is named after.
            let named = own.filter(|_| labels.as_ref().is_ok_and(|labels| !labels.has_splits()));
            let named = named.and_then(|own| splits.iter().find(|(split, _)| *split == own));
            let index = Index::of(named.map_or(node, |(_, folder)| folder), &self.files);
            let labels = labels.and_then(|labels| {
                let matches =
                    |values: &mut dyn Iterator<Item = &str>| values.filter(|value| index.find(value).is_some()).count();
                labels.labels(self.keys.file_column, self.keys.label_column, matches)
            });
            let labels = match labels {
                Ok(labels) => labels,
                Err(e) => {
                    failed = failed.or(Some(e));
                    continue;
                }
            };
            let noted = take_labels(self.root, table, own, labels, &index, splits, &mut rows)?;
            self.notes.extend(noted);
            read.push(table);
        }
        let all: Vec<&str> = rows.values().flatten().map(|(_, label)| label.as_str()).collect();
        if all.is_empty() {
            return Err(failed
                .unwrap_or_else(|| Error::format(&tables[0], "content", "labels of the images beside it", "none")));
        }
        if !rows.contains_key(&order(Split::Train)) {
            return Err(Error::format(
                &tables[0],
                "content",
                "labels of training images",
                "labels of other splits only",
            ));
        }
        let classes = classes_of(&all).map_err(|found| {
            Error::format(read[0], "labels", "classes (set label_column to name the column of another label)", found)
        })?;
        let labelled = all.len();
        let mut in_scope = Vec::new();
        node.all_files(&mut in_scope);
        if in_scope.len() > labelled {
            let what = format!("{UNLABELLED} in {}", self.list(&read));
            self.notes.push(Note::new(NoteKind::Skipped, (in_scope.len() - labelled) as u64, what));
        }
        let splits = [Split::Train, Split::Val, Split::Test].into_iter();
        let splits = splits.filter_map(|split| Some((split, rows.remove(&order(split))?)));
        Ok(splits.map(|(split, rows)| (split, table_folder(&node.path, &classes, rows))).collect())
    }

    fn list(&self, paths: &[&PathBuf]) -> String {
        paths.iter().map(|path| self.relative(path)).collect::<Vec<_>>().join(", ")
    }
}

/// Rows in the order of their classes and paths.
fn table_folder(root: &Path, classes: &[String], rows: Vec<(PathBuf, String)>) -> Folder {
    let number: BTreeMap<&str, u32> =
        classes.iter().enumerate().map(|(label, name)| (name.as_str(), label as u32)).collect();
    let mut rows: Vec<(u32, PathBuf)> =
        rows.into_iter().map(|(path, name)| (number.get(name.as_str()).copied().unwrap_or(0), path)).collect();
    rows.sort_unstable();
    let (labels, files) = rows.into_iter().unzip();
    Folder { root: root.into(), classes: classes.to_vec(), files, labels }
}

/// Whether the labels of a file divide the images as the folders of `node` do.
fn agree(splits: &[(Split, Folder)], node: &Node) -> bool {
    let mut folders: BTreeMap<&str, &Path> = BTreeMap::new();
    let mut classes: BTreeMap<&Path, &str> = BTreeMap::new();
    splits.iter().flat_map(|(_, folder)| folder.files()).all(|(file, class)| {
        let Some(folder) = node.folders.iter().find(|folder| file.starts_with(&folder.path)) else { return false };
        *folders.entry(class).or_insert(&folder.path) == folder.path
            && *classes.entry(&folder.path).or_insert(class) == class
    })
}

/// The folders that stand for splits: their names say nothing else, or the same else in several splits (`birds_train`, `birds_test`).
fn split_folders<'a>(folders: &[&'a Node]) -> Vec<(Split, &'a Node)> {
    let names: Vec<_> = folders.iter().filter_map(|folder| Some((split_in(&folder.name)?, *folder))).collect();
    let plain: Vec<_> =
        names.iter().filter(|(name, _)| name.rest.is_empty()).map(|(name, folder)| (name.split, *folder)).collect();
    if !plain.is_empty() {
        return plain;
    }
    let one_rest = names.len() == folders.len() && names.iter().all(|(name, _)| name.rest == names[0].0.rest);
    if !one_rest || !names.iter().any(|(name, _)| name.split == Split::Train) || names.len() < 2 {
        return Vec::new();
    }
    names.into_iter().map(|(name, folder)| (name.split, folder)).collect()
}

/// Whether a name says that the images have no labels.
fn is_unlabelled(name: &str) -> bool {
    let name = name.to_lowercase();
    ["pred", "unlabel", "unsup", "submission"].iter().any(|word| name.contains(word))
}

fn has_files(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok()))
}

fn exported_classes(node: &Node) -> Option<ExportedClasses> {
    let path = node.path.join("classes.json");
    let text = path.is_file().then(|| gafi_core::read_text(&path, 1 << 26).ok()).flatten()?;
    let exported: ExportedClasses = serde_json::from_str(&text).ok()?;
    (exported.classes.len() == exported.folders.len()).then_some(exported)
}
