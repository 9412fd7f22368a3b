//! The images that the rows of a file of labels name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gafi_core::{Error, Result, Split};

use super::listing::{Entry, Node, relative};
use crate::formats::label_table::{Labels, class_name};
use crate::import::{Note, NoteKind};

/// Takes the labelled images of a table, and notes what it did.
pub(super) fn take_labels(
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
            let expected = format!("a path for {:?}, because several folders have such a file", row.file);
            return Err(Error::format(table, "content", expected, "a name"));
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

/// Images by name, and by name without extension.
pub(super) struct Index<'a> {
    names: BTreeMap<String, Vec<&'a Path>>,
}

impl<'a> Index<'a> {
    pub(super) fn of(node: &'a Node, files: &'a [Entry]) -> Self {
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

    /// The file that a value names: a name with or without folders and extension. `Err` if it names several files equally well.
    pub(super) fn find(&self, value: &str) -> Option<std::result::Result<&'a Path, ()>> {
        let value = value.replace('\\', "/");
        let mut folders = value.rsplit('/');
        let name = folders.next().unwrap_or_default();
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        let candidates = self.names.get(name).or_else(|| self.names.get(stem))?;
        if let [only] = candidates[..] {
            return Some(Ok(only));
        }
        // The one that shares most folders with the value, from the last on.
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
