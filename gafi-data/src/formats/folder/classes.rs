//! Folders as classes: `class/file`, with the names and the order that our own export records in `classes.json`.

use std::fs;
use std::path::{Path, PathBuf};

use gafi_core::{Error, Result};
use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;

use super::listing::{Node, Reader, split_folders};
use super::source::Folder;
use crate::formats::label_table::sort_classes;
use crate::note::{Note, NoteKind};

/// The `classes.json` of an export by GaFi: class names in label order, and the folder of each.
#[derive(Deserialize)]
pub(super) struct ExportedClasses {
    classes: Vec<String>,
    folders: Vec<String>,
}

/// A class: its name, and the folders of its images.
pub(super) type Class<'a> = (String, Vec<&'a Node>);

impl Reader<'_> {
    /// Reads the folders in `node` as classes.
    pub(super) fn classes(&mut self, node: &Node) -> Result<Folder> {
        if self.keys.labels == Some("subfolders") {
            let mut classes = Vec::new();
            leaves(node, "", &mut classes);
            classes.sort_by(|a, b| a.0.cmp(&b.0));
            if classes.is_empty() {
                return Err(Error::format(&node.path, "folders", "one folder per class", "no folders with images"));
            }
            return Ok(self.folder(&node.path, classes));
        }
        let mut classes: Vec<Class<'_>> = Vec::new();
        let mut others = 0;
        let what = "images pooled from folders inside of their class (labels = \"subfolders\" makes these the classes)";
        let mut pooled = Note::new(NoteKind::Assumed, 0, what);
        for folder in &node.folders {
            // A folder with only other files is not a class. An empty folder is, and the import reports that it has no rows.
            if folder.images == 0 && has_files(&folder.path) {
                others += 1;
                continue;
            }
            let inner = split_folders(&folder.filled().collect::<Vec<_>>());
            if inner.iter().any(|(split, _)| *split != inner[0].0) {
                let found = format!("the folders {} in {}", Node::names(folder.filled()), folder.name);
                return Err(self.unclear(node, "no splits in the folder of a class", found));
            }
            let within = folder.unwrapped();
            if within.filled().next().is_some() {
                pooled.add(|| format!("{} ({})", folder.name, Node::names(within.filled())));
                pooled.count += folder.images as u64 - 1;
            }
            // Names that differ only in their Unicode normalization are one class.
            let name: String = folder.name.nfc().collect();
            match classes.iter_mut().find(|(other, _)| *other == name) {
                Some((_, folders)) => folders.push(folder),
                None => classes.push((name, vec![folder])),
            }
        }
        if pooled.count > 0 {
            Note::merge(&mut self.notes, pooled);
        }
        if others > 0 {
            self.notes.push(Note::new(NoteKind::Skipped, others, "folders without images"));
        }
        if classes.is_empty() {
            return Err(Error::format(&node.path, "folders", "one folder per class", "no folders"));
        }
        match exported_classes(node) {
            Some(exported) => {
                let place = |class: &Class<'_>| exported.folders.iter().position(|folder| *folder == class.0);
                if let Some((name, _)) = classes.iter().find(|class| place(class).is_none()) {
                    let file = node.path.join("classes.json");
                    let found = format!("no entry for {name}");
                    return Err(Error::format(file, "folders", "an entry for every folder", found));
                }
                classes.sort_by_key(place);
                for class in &mut classes {
                    if let Some(place) = place(class) {
                        class.0.clone_from(&exported.classes[place]);
                    }
                }
            }
            None => sort_classes(&mut classes, |class| class.0.as_str()),
        }
        Ok(self.folder(&node.path, classes))
    }

    pub(super) fn folder(&self, root: &Path, classes: Vec<Class<'_>>) -> Folder {
        let mut folder = Folder { root: root.into(), classes: Vec::new(), files: Vec::new(), labels: Vec::new() };
        for (name, nodes) in classes {
            let mut own = Vec::new();
            nodes.into_iter().for_each(|node| node.all_files(&mut own));
            let mut files: Vec<PathBuf> = own.into_iter().map(|file| self.files[file].clone()).collect();
            files.sort_unstable();
            folder.labels.extend(std::iter::repeat_n(folder.classes.len() as u32, files.len()));
            folder.files.extend(files);
            folder.classes.push(name);
        }
        folder
    }
}

/// Collects the folders that hold images themselves, with their paths below the first call's node as names.
fn leaves<'a>(node: &'a Node, path: &str, found: &mut Vec<Class<'a>>) {
    for folder in node.filled() {
        let name = if path.is_empty() { folder.name.clone() } else { format!("{path}/{}", folder.name) };
        let name: String = name.nfc().collect();
        if folder.direct > 0 {
            found.push((name.clone(), vec![folder]));
        }
        leaves(folder, &name, found);
    }
}

pub(super) fn has_files(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok()))
}

pub(super) fn exported_classes(node: &Node) -> Option<ExportedClasses> {
    let text = gafi_core::read_text(node.path.join("classes.json"), 1 << 26).ok()?;
    let exported: ExportedClasses = serde_json::from_str(&text).ok()?;
    (exported.classes.len() == exported.folders.len()).then_some(exported)
}
