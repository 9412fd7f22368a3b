//! Labels from files beside the images: which files are read, and which image each of their rows names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gafi_core::{Error, Result, Split};

use super::listing::{Node, Reader};
use super::source::Folder;
use crate::formats::label_table::{LabelTable, Labels, class_name, classes_of, is_list, is_table};
use crate::formats::split_names::split_in;
use crate::hints::advice;
use crate::note::{Note, NoteKind, UNLABELLED};

/// Lists in `.txt` files are read from folders with at most this many, because some sets have a `.txt` file for each image.
const LISTS_MAX: usize = 64;

/// A labelled image.
struct Taken<'a> {
    label: String,
    /// `None` if nothing says the split.
    split: Option<Split>,
    /// The table that labels it.
    table: &'a Path,
}

/// A file of labels that is being read.
struct Table<'a> {
    path: &'a Path,
    /// The split in its name.
    own: Option<Split>,
    /// Its folder, whose files it means if others have the same names.
    home: Option<&'a Path>,
}

impl Reader<'_> {
    /// The files of labels and lists of images that are in `node`, in its folders and what these wrap, or in the folders around `node`. A
    /// `.txt` file counts if half of its lines name images of `node`.
    pub(super) fn tables(&self, node: &Node) -> Vec<PathBuf> {
        let mut folders: Vec<&Path> = vec![&node.path];
        for folder in &node.folders {
            let mut folder = folder;
            folders.push(&folder.path);
            while let Some(only) = folder.only() {
                folder = only;
                folders.push(&folder.path);
            }
        }
        folders.extend(self.wrappers.iter().map(PathBuf::as_path));
        let files = || folders.iter().filter_map(|folder| self.tables.get(*folder));
        let tables = files().flatten().filter(|path| is_table(path)).cloned();
        let lists: Vec<&PathBuf> =
            files().filter(|files| files.len() <= LISTS_MAX).flatten().filter(|path| is_list(path)).collect();
        if lists.is_empty() {
            return tables.collect();
        }
        let index = Index::of(node, &self.files);
        let lists = lists.into_iter().filter(|path| {
            let Ok(table) = LabelTable::read(path) else { return false };
            let first: Vec<&str> = table.column(0).collect();
            2 * first.iter().filter(|value| index.find(value, None).is_some()).count() > first.len()
        });
        tables.chain(lists.cloned()).collect()
    }

    /// The file of labels that the key `labels` names, or several for a name with a `*`.
    fn named_tables(&self, name: &str) -> Result<Vec<PathBuf>> {
        let missing = || {
            Error::config("labels", name, format!("\"folders\", \"subfolders\", or a file in {}", self.root.display()))
        };
        let Some((start, end)) = name.split_once('*') else {
            let path = self.root.join(name);
            return if path.is_file() { Ok(vec![path]) } else { Err(missing()) };
        };
        let matches = |path: &PathBuf| {
            let path = self.relative(path);
            path.len() >= start.len() + end.len() && path.starts_with(start) && path.ends_with(end)
        };
        let found: Vec<PathBuf> = self.tables.values().flatten().filter(|path| matches(path)).cloned().collect();
        if found.is_empty() { Err(missing()) } else { Ok(found) }
    }

    /// Reads labels from `file`, or else from every file of labels that names images. `splits` are the folders known to be splits.
    pub(super) fn labelled_by_table(
        &mut self,
        node: &Node,
        file: Option<&str>,
        splits: &[(Split, &Node)],
    ) -> Result<Vec<(Split, Folder)>> {
        let tables = match file {
            Some(file) => self.named_tables(file)?,
            None => self.tables(node),
        };
        if tables.is_empty() {
            let expected = "images in one folder for each class, or a file of labels beside them: a CSV with the columns file and label, \
                            a .txt of such lines, metadata.jsonl or dataset.json";
            let expected = advice(&node.path).map_or(expected.into(), |how| format!("{expected}; {how}"));
            let found = format!("{} images without labels", node.images);
            return Err(Error::format(&node.path, "labels", expected, found));
        }
        let mut taken: BTreeMap<PathBuf, Taken<'_>> = BTreeMap::new();
        let mut failed = None;
        let mut read = Vec::new();
        for table in &tables {
            let own = split_of_table(table);
            let labels = LabelTable::read(table);
            // If several splits have files of the same name, a table named after a split means the files of that split.
            let named = own.filter(|_| labels.as_ref().is_ok_and(|labels| !labels.has_splits()));
            let named = named.and_then(|own| splits.iter().find(|(split, _)| *split == own));
            let index = Index::of(named.map_or(node, |(_, folder)| folder), &self.files);
            let home = table.parent().filter(|home| *home != node.path);
            let labels = labels.and_then(|labels| {
                let matches = |values: &mut dyn Iterator<Item = &str>| index.matches(values, home);
                labels.labels(self.keys.file_column, self.keys.label_column, &matches)
            });
            let labels = match labels {
                Ok(labels) => labels,
                Err(e) if file.is_some() => return Err(e),
                Err(e) => {
                    failed = failed.or(Some(e));
                    continue;
                }
            };
            let source = Table { path: table, own, home };
            let notes = self.take_labels(&source, labels, &index, splits, &mut taken)?;
            self.notes.extend(notes);
            read.push(table);
        }
        let mut rows: BTreeMap<Split, Vec<(PathBuf, String)>> = BTreeMap::new();
        for (path, Taken { label, split, .. }) in taken {
            rows.entry(split.unwrap_or(Split::Train)).or_default().push((path, label));
        }
        let all: Vec<&str> = rows.values().flatten().map(|(_, label)| label.as_str()).collect();
        if all.is_empty() {
            let none = || Error::format(&tables[0], "content", "labels of the images beside it", "none");
            return Err(failed.unwrap_or_else(none));
        }
        if !rows.contains_key(&Split::Train) {
            let found = "only labels of other splits";
            return Err(Error::format(&tables[0], "content", "labels of training images", found));
        }
        let classes = classes_of(&all).map_err(|found| {
            let expected = "labels that are classes (set label_column to choose another column)";
            Error::format(read[0], "labels", expected, found)
        })?;
        let labelled = all.len();
        let mut in_scope = Vec::new();
        node.all_files(&mut in_scope);
        if in_scope.len() > labelled {
            let what = format!("{UNLABELLED} in {}", self.list(&read));
            self.notes.push(Note::new(NoteKind::Skipped, (in_scope.len() - labelled) as u64, what));
        }
        Ok(rows.into_iter().map(|(split, rows)| (split, table_folder(&node.path, &classes, rows))).collect())
    }

    /// Adds the labelled images of a table to `taken`. Returns notes on the columns, and on rows without an image.
    fn take_labels<'a>(
        &self,
        table: &Table<'a>,
        labels: Labels,
        index: &Index<'_>,
        splits: &[(Split, &Node)],
        taken: &mut BTreeMap<PathBuf, Taken<'a>>,
    ) -> Result<Vec<Note>> {
        let name = self.relative(table.path);
        let mut missing = Note::new(NoteKind::Warning, 0, format!("rows of {name} without an image"));
        let mut found = 0;
        for row in labels.rows {
            let Some(label) = row.label else { continue };
            let Some(matched) = index.find(&row.file, table.home) else {
                missing.add(|| row.file.clone());
                continue;
            };
            let Ok(path) = matched else {
                let expected =
                    format!("a path instead of {:?}, because several folders have a file of that name", row.file);
                return Err(Error::format(table.path, "content", expected, "only a name"));
            };
            let label = class_name(&label);
            let folder = splits.iter().find(|(_, folder)| path.starts_with(&folder.path)).map(|(split, _)| *split);
            let split = row.split.or(folder).or(table.own);
            let Some(before) = taken.get_mut(path) else {
                taken.insert(path.to_owned(), Taken { label, split, table: table.path });
                found += 1;
                continue;
            };
            let other = self.relative(before.table);
            let several = " (set labels to one of the files, or with a * to several)";
            let choice = if before.table == table.path { "" } else { several };
            let conflict = |what: &str, found: String| {
                Error::format(table.path, "content", format!("one {what} for {}{choice}", row.file), found)
            };
            if before.label != label {
                return Err(conflict("label", format!("{} in {other} and {label} in {name}", before.label)));
            }
            match (before.split, split) {
                (Some(before), Some(split)) if before != split => {
                    return Err(conflict("split", format!("{before} in {other} and {split} in {name}")));
                }
                _ => before.split = before.split.or(split),
            }
        }
        let splits =
            labels.split_column.map(|column| format!(", splits in {}", column_name(&column))).unwrap_or_default();
        let what = format!(
            "images labelled by {name}: files in {}, labels in {}{splits}",
            column_name(&labels.file_column),
            column_name(&labels.label_column)
        );
        let mut notes = Vec::new();
        notes.extend((found > 0).then(|| Note::new(NoteKind::Assumed, found, what)));
        notes.extend((missing.count > 0).then_some(missing));
        Ok(notes)
    }

    /// Divides the images of class folders by the lists of splits that some sets have beside them, such as `meta/train.txt`. All are training
    /// images if there are no such lists.
    pub(super) fn divided_by_lists(&mut self, node: &Node, folder: Folder) -> Vec<(Split, Folder)> {
        let index = Index::of(node, &self.files);
        let mut listed: BTreeMap<&Path, Split> = BTreeMap::new();
        let mut used = Vec::new();
        let mut contradicted =
            Note::new(NoteKind::Warning, 0, "images that lists assign to several splits, so the lists are ignored");
        for path in self.tables(node) {
            let own = split_of_table(&path);
            let home = path.parent();
            let Ok(table) = LabelTable::read(&path) else { continue };
            let matches = |values: &mut dyn Iterator<Item = &str>| index.matches(values, home);
            let Ok(files) = table.files(self.keys.file_column, &matches) else { continue };
            let mut count = 0;
            for (file, split) in files {
                let (Some(Ok(file)), Some(split)) = (index.find(file, home), split.or(own)) else { continue };
                count += 1;
                if *listed.entry(file).or_insert(split) != split {
                    contradicted.add(|| self.relative(file));
                }
            }
            used.extend((count > 0).then_some(path));
        }
        let has = |split: Split| listed.values().any(|other| *other == split);
        if contradicted.count > 0 {
            self.notes.push(contradicted);
            return vec![(Split::Train, folder)];
        }
        if !has(Split::Train) || !(has(Split::Val) || has(Split::Test)) {
            return vec![(Split::Train, folder)];
        }
        let what = format!("images split by {}", self.list(&used.iter().collect::<Vec<_>>()));
        let mut notes = vec![Note::new(NoteKind::Assumed, listed.len() as u64, what)];
        let left = folder.files.len().saturating_sub(listed.len()) as u64;
        notes.extend((left > 0).then(|| Note::new(NoteKind::Skipped, left, "images in no list of a split")));
        let splits = [Split::Train, Split::Val, Split::Test].into_iter().filter(|split| has(*split));
        let splits = splits.map(|split| {
            let rows =
                folder.files.iter().zip(&folder.labels).filter(|(file, _)| listed.get(file.as_path()) == Some(&split));
            let (files, labels) = rows.map(|(file, label)| (file.clone(), *label)).unzip();
            (split, Folder { root: folder.root.clone(), classes: folder.classes.clone(), files, labels })
        });
        let splits = splits.collect();
        self.notes.extend(notes);
        splits
    }

    /// Labels the images of `part`, a split without folders of classes, from a table whose labels are the folders in `train`: GTSRB and Tiny
    /// ImageNet have such test and validation images. `None` if there is no such table.
    pub(super) fn labelled_like(&mut self, node: &Node, part: &Node, train: &Node) -> Result<Option<Folder>> {
        let before = self.notes.len();
        let train = self.classes(train)?;
        self.notes.truncate(before);
        let index = Index::of(part, &self.files);
        let find = |value: &str| index.find(value, None).and_then(std::result::Result::ok);
        let class = |label: &str| {
            let number = label.parse::<u64>().ok();
            let equal = |name: &String| name == label || number.is_some() && name.parse().ok() == number;
            train.classes.iter().position(equal).map(|at| at as u32)
        };
        let keys = [self.keys.file_column, self.keys.label_column];
        let mut best: Option<(BTreeMap<PathBuf, u32>, PathBuf, String)> = None;
        for path in self.tables(node).into_iter().chain(self.tables(part)) {
            let Ok(table) = LabelTable::read(&path) else { continue };
            let is_file = |value: &str| find(value).is_some();
            let Some((rows, column)) = table.classes_among(keys, &is_file, &class) else { continue };
            let rows: BTreeMap<PathBuf, u32> =
                rows.into_iter().filter_map(|(file, label)| Some((find(file)?.to_owned(), label))).collect();
            if best.as_ref().is_none_or(|(before, ..)| before.len() < rows.len()) {
                best = Some((rows, path, column.to_owned()));
            }
        }
        let Some((rows, path, column)) = best else { return Ok(None) };
        let left = part.images.saturating_sub(rows.len()) as u64;
        let table = self.relative(&path);
        let column = column_name(&column);
        let what = format!("images of {} labelled by {table}: labels in {column}", self.relative(&part.path));
        self.notes.push(Note::new(NoteKind::Assumed, rows.len() as u64, what));
        let what = format!("{UNLABELLED} in {table}");
        self.notes.extend((left > 0).then(|| Note::new(NoteKind::Skipped, left, what)));
        let mut rows: Vec<(u32, PathBuf)> = rows.into_iter().map(|(file, label)| (label, file)).collect();
        rows.sort_unstable();
        let (labels, files) = rows.into_iter().unzip();
        Ok(Some(Folder { root: part.path.clone(), classes: train.classes, files, labels }))
    }

    fn list(&self, paths: &[&PathBuf]) -> String {
        paths.iter().map(|path| self.relative(path)).collect::<Vec<_>>().join(", ")
    }
}

/// A column, for a note. Columns of a table without a header are called `column 1` and so on.
fn column_name(name: &str) -> String {
    if name.starts_with("column ") { name.into() } else { format!("column {name}") }
}

/// The split in the name of a table. `trainval` contains two.
fn split_of_table(path: &Path) -> Option<Split> {
    let stem = path.file_stem().and_then(|n| n.to_str()).unwrap_or_default();
    split_in(stem).map(|found| found.split).filter(|_| !stem.to_lowercase().contains("trainval"))
}

/// The labelled images, sorted by class and path.
fn table_folder(root: &Path, classes: &[String], rows: Vec<(PathBuf, String)>) -> Folder {
    let number: BTreeMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
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

/// Finds images by name, with or without extension.
struct Index<'a> {
    names: BTreeMap<String, Vec<&'a Path>>,
}

impl<'a> Index<'a> {
    fn of(node: &'a Node, files: &'a [PathBuf]) -> Self {
        let mut own = Vec::new();
        node.all_files(&mut own);
        let mut names: BTreeMap<String, Vec<&'a Path>> = BTreeMap::new();
        for file in own {
            let path = files[file].as_path();
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

    /// How well values name files: 2 for each value that names one, 1 for each that names several.
    fn matches(&self, values: &mut dyn Iterator<Item = &str>, home: Option<&Path>) -> usize {
        values.filter_map(|value| self.find(value, home)).map(|found| 1 + usize::from(found.is_ok())).sum()
    }

    /// The file that a value names, with or without folders and extension. Of files that match equally well, one in the folder `home` is
    /// preferred; `Err` if there is no single best one.
    fn find(&self, value: &str, home: Option<&Path>) -> Option<std::result::Result<&'a Path, ()>> {
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
        let mut best: Vec<&&Path> = candidates.iter().filter(|path| shared(path) == most).collect();
        if let Some(home) = home.filter(|home| best.iter().any(|path| path.starts_with(home))) {
            best.retain(|path| path.starts_with(home));
        }
        Some(match best[..] {
            [only] => Ok(*only),
            _ => Err(()),
        })
    }
}
