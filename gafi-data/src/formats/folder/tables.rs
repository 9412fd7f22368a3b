//! Labels from files beside the images: which files are read, and which image each of their rows names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gafi_core::{Error, Result, Split};

use super::listing::{Entry, Node, Reader, relative};
use super::source::Folder;
use crate::formats::label_table::{LabelTable, Labels, class_name, classes_of, is_table};
use crate::formats::split_names::split_in;
use crate::note::{Note, NoteKind, UNLABELLED};

impl Reader<'_> {
    /// The files of labels in `node` and directly in its folders.
    pub(super) fn tables(&self, node: &Node) -> Vec<PathBuf> {
        let mut tables: Vec<PathBuf> = Vec::new();
        for folder in std::iter::once(node).chain(&node.folders) {
            let own = self.files.iter().map(|file| &file.path);
            tables.extend(own.filter(|path| path.parent() == Some(&folder.path) && is_table(path)).cloned());
        }
        tables
    }

    /// Reads labels from `file`, or else from every file of labels that names images. `splits` are the folders known to be splits.
    pub(super) fn labelled_by_table(
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
            let found = format!("{} images without labels", node.images);
            return Err(Error::format(&node.path, "labels", expected, found));
        }
        let mut rows: BTreeMap<usize, Vec<(PathBuf, String)>> = BTreeMap::new();
        let mut failed = None;
        let mut read = Vec::new();
        for table in &tables {
            let stem = table.file_stem().and_then(|n| n.to_str()).unwrap_or_default();
            let own = split_in(stem).map(|found| found.split);
            let labels = LabelTable::read(table);
            // If several splits have files of the same name, a table named after a split means the files of that split.
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
                "only labels of other splits",
            ));
        }
        let classes = classes_of(&all).map_err(|found| {
            Error::format(
                read[0],
                "labels",
                "labels that are classes (set label_column to choose another column)",
                found,
            )
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

/// The labelled images, sorted by class and path.
fn table_folder(root: &Path, classes: &[String], rows: Vec<(PathBuf, String)>) -> Folder {
    let number: BTreeMap<&str, u32> =
        classes.iter().enumerate().map(|(label, name)| (name.as_str(), label as u32)).collect();
    let mut rows: Vec<(u32, PathBuf)> =
        rows.into_iter().map(|(path, name)| (number.get(name.as_str()).copied().unwrap_or(0), path)).collect();
    rows.sort_unstable();
    let (labels, files) = rows.into_iter().unzip();
    Folder { root: root.into(), classes: classes.to_vec(), files, labels }
}

/// Whether the labels of a file group the images as the folders of `node` do.
pub(super) fn agree(splits: &[(Split, Folder)], node: &Node) -> bool {
    let mut folders: BTreeMap<&str, &Path> = BTreeMap::new();
    let mut classes: BTreeMap<&Path, &str> = BTreeMap::new();
    splits.iter().flat_map(|(_, folder)| folder.files()).all(|(file, class)| {
        let Some(folder) = node.folders.iter().find(|folder| file.starts_with(&folder.path)) else { return false };
        *folders.entry(class).or_insert(&folder.path) == folder.path
            && *classes.entry(&folder.path).or_insert(class) == class
    })
}

/// Adds the labelled images of a table to `rows`. Returns notes on the columns, and on rows without an image.
fn take_labels(
    root: &Path,
    table: &Path,
    own: Option<Split>,
    labels: Labels,
    index: &Index<'_>,
    splits: &[(Split, &Node)],
    rows: &mut BTreeMap<usize, Vec<(PathBuf, String)>>,
) -> Result<Vec<Note>> {
    let name = relative(root, table);
    let mut missing = Note::new(NoteKind::Warning, 0, format!("rows of {name} without an image"));
    let mut taken = BTreeMap::new();
    let mut found = 0;
    for row in labels.rows {
        let Some(label) = row.label else { continue };
        let Some(matched) = index.find(&row.file) else {
            missing.add(|| row.file.clone());
            continue;
        };
        let Ok(path) = matched else {
            let expected =
                format!("a path instead of {:?}, because several folders have a file of that name", row.file);
            return Err(Error::format(table, "content", expected, "only a name"));
        };
        let label = class_name(&label);
        if let Some(before) = taken.insert(path, label.clone()) {
            if before == label {
                continue;
            }
            let found = format!("{before} and {label}");
            return Err(Error::format(table, "content", format!("one label for {}", row.file), found));
        }
        let folder = splits.iter().find(|(_, folder)| path.starts_with(&folder.path)).map(|(split, _)| *split);
        let split = row.split.or(folder).or(own).unwrap_or(Split::Train);
        rows.entry(order(split)).or_default().push((path.to_owned(), label));
        found += 1;
    }
    let what = format!(
        "images labelled by {name}: files in column {}, labels in column {}",
        labels.file_column, labels.label_column
    );
    let mut notes = vec![Note::new(NoteKind::Assumed, found, what)];
    notes.extend((missing.count > 0).then_some(missing));
    Ok(notes)
}

pub(super) fn order(split: Split) -> usize {
    match split {
        Split::Train => 0,
        Split::Val => 1,
        _ => 2,
    }
}

/// Finds images by name, with or without extension.
struct Index<'a> {
    names: BTreeMap<String, Vec<&'a Path>>,
}

impl<'a> Index<'a> {
    fn of(node: &'a Node, files: &'a [Entry]) -> Self {
        let mut own = Vec::new();
        node.all_files(&mut own);
        let mut names: BTreeMap<String, Vec<&'a Path>> = BTreeMap::new();
        for file in own {
            let path = files[file].path.as_path();
            let mut keys = [path.file_name(), path.file_stem()]
                .map(|part| part.unwrap_or_default().to_string_lossy().into_owned());
            if keys[0] == keys[1] {
                keys[1].clear();
            }
            for key in keys.into_iter().filter(|key| !key.is_empty()) {
                names.entry(key).or_default().push(path);
            }
        }
        Self { names }
    }

    /// The file that a value names, with or without folders and extension. `Err` if several files match equally well.
    fn find(&self, value: &str) -> Option<std::result::Result<&'a Path, ()>> {
        let value = value.replace('\\', "/");
        let mut folders = value.rsplit('/');
        let name = folders.next().unwrap_or_default();
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        let candidates = self.names.get(name).or_else(|| self.names.get(stem))?;
        if let [only] = candidates[..] {
            return Some(Ok(only));
        }
        // The best match shares the most folders with the value, counted from the last one.
        let shared = |path: &Path| {
            let own = path.ancestors().skip(1).map_while(Path::file_name);
            own.zip(folders.clone()).take_while(|(own, given)| own.to_str() == Some(given)).count()
        };
        let most = candidates.iter().map(|path| shared(path)).max()?;
        let mut best = candidates.iter().filter(|path| shared(path) == most);
        Some(match (best.next(), best.next()) {
            (Some(&only), None) => Ok(only),
            _ => Err(()),
        })
    }
}
