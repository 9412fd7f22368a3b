//! [`Note`]: what an import did with some of its images or files, counted.

use serde::{Deserialize, Serialize};

/// Maximum number of examples that a [`Note`] lists.
pub(crate) const EXAMPLES: usize = 5;

/// The start of every note about images without labels.
pub(crate) const UNLABELLED: &str = "images without labels";

/// What happened to the images that a [`Note`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NoteKind {
    /// Left out of the dataset: files that are not images, unreadable images, images without labels.
    Skipped,
    /// Imported with changed pixels: rotated, composited, scaled to 8 bits.
    Converted,
    /// Imported under an assumption that the source does not confirm: which folder is a split, or that labels start at 1.
    Assumed,
    /// Imported unchanged, but worth a look: the same image in two splits, or one class with 90 % of the images.
    Warning,
}

/// What an import did with some of its images or files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// What happened to them.
    pub kind: NoteKind,
    /// Number of images or files.
    pub count: u64,
    /// What they are and why, phrased to follow the number: "images rotated or mirrored by their EXIF orientation".
    pub what: String,
    /// The first five of them, by path relative to the source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

impl Note {
    /// A note without examples.
    pub fn new(kind: NoteKind, count: u64, what: impl Into<String>) -> Self {
        Self { kind, count, what: what.into(), examples: Vec::new() }
    }

    /// The note as text: "3 images ...: a.png, b.png, ...".
    pub fn sentence(&self) -> String {
        let rest = if self.count > self.examples.len() as u64 { ", …" } else { "" };
        match &self.examples[..] {
            [] => format!("{} {}", self.count, self.what),
            examples => format!("{} {}: {}{rest}", self.count, self.what, examples.join(", ")),
        }
    }

    /// Counts one more image or file. The first ones become examples.
    pub(crate) fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }

    /// Adds `note` to `notes`: to the count of a note of the same kind and text, if there is one.
    pub(crate) fn merge(notes: &mut Vec<Self>, note: Self) {
        match notes.iter_mut().find(|n| (n.kind, &n.what) == (note.kind, &note.what)) {
            Some(found) => {
                found.count += note.count;
                let free = EXAMPLES.saturating_sub(found.examples.len());
                let new = note.examples.into_iter().filter(|example| !found.examples.contains(example));
                let new: Vec<String> = new.take(free).collect();
                found.examples.extend(new);
            }
            None => notes.push(note),
        }
    }
}
