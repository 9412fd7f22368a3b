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
        let mut classes: Vec<Class<'_>> = Vec::new();
        let mut others = 0;
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
            // Names that differ only in their Unicode normalization are one class.
            let name: String = folder.name.nfc().collect();
            match classes.iter_mut().find(|(other, _)| *other == name) {
                Some((_, folders)) => folders.push(folder),
                None => classes.push((name, vec![folder])),
            }
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
                    let expected = "an entry for every folder";
                    return Err(Error::format(
                        node.path.join("classes.json"),
                        "folders",
                        expected,
                        format!("no entry for {name}"),
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

    pub(super) fn folder(&self, root: &Path, classes: Vec<Class<'_>>) -> Folder {
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
}

fn has_files(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok()))
}

pub(super) fn exported_classes(node: &Node) -> Option<ExportedClasses> {
    let path = node.path.join("classes.json");
    let text = path.is_file().then(|| gafi_core::read_text(&path, 1 << 26).ok()).flatten()?;
    let exported: ExportedClasses = serde_json::from_str(&text).ok()?;
    (exported.classes.len() == exported.folders.len()).then_some(exported)
}
