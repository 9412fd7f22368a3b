//! Lists a folder with its subfolders: which files are images, and which are skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use gafi_core::{Error, Result, Split, open_regular};
use rayon::prelude::*;

use crate::formats::label_table::{is_list, is_table};
use crate::formats::split_names::{is_neutral, split_in, split_of};
use crate::note::{Note, NoteKind};
use crate::sniff::{SNIFFED, sniff};

/// Deeper nesting is taken for a cycle of symbolic links.
const MAX_DEPTH: usize = 16;

/// The keys of an import that decide how folders are read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FolderKeys<'a> {
    pub(crate) labels: Option<&'a str>,
    pub(crate) file_column: Option<&'a str>,
    pub(crate) label_column: Option<&'a str>,
    /// The folders of the training, validation and test images.
    pub(crate) splits: [Option<&'a Path>; 3],
}

/// A folder: its name, the indices of its files, and its subfolders, sorted by name.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) files: Vec<usize>,
    pub(super) folders: Vec<Node>,
    /// Number of images in this folder alone, and with all its subfolders.
    pub(super) direct: usize,
    pub(super) images: usize,
}

impl Node {
    /// Counts the images, and drops other files: `images` says of each of `files` whether it is an image. Images that annotate others
    /// move to `annotations`.
    pub(super) fn with_images(mut self, files: &[PathBuf], images: &[bool], annotations: &mut Vec<usize>) -> Self {
        self.files.retain(|&file| images[file]);
        self.folders = self.folders.into_iter().map(|folder| folder.with_images(files, images, annotations)).collect();
        let stems: BTreeSet<&OsStr> = self.files.iter().filter_map(|&file| files[file].file_stem()).collect();
        self.files.retain(|&file| {
            let annotates = annotated(&files[file]).is_some_and(|image| stems.contains(OsStr::new(image)));
            annotations.extend(annotates.then_some(file));
            !annotates
        });
        let of_images =
            |folder: &Self| folder.images > 0 && (is_neutral(&folder.name) || split_of(&folder.name).is_some());
        if self.folders.iter().any(of_images) {
            for folder in self.folders.iter_mut().filter(|folder| is_annotation(&folder.name)) {
                folder.all_files(annotations);
                (folder.files, folder.folders, folder.direct, folder.images) = (Vec::new(), Vec::new(), 0, 0);
            }
        }
        self.direct = self.files.len();
        self.images = self.direct + self.folders.iter().map(|folder| folder.images).sum::<usize>();
        self
    }

    /// The folders that hold images.
    pub(super) fn filled(&self) -> impl Iterator<Item = &Self> {
        self.folders.iter().filter(|folder| folder.images > 0)
    }

    /// Whether all images are in subfolders.
    pub(super) fn is_nested(&self) -> bool {
        self.direct == 0 && self.images > 0
    }

    /// The only folder inside, if it holds all images.
    pub(super) fn only(&self) -> Option<&Self> {
        let mut filled = self.filled();
        let only = filled.next()?;
        (self.direct == 0 && filled.next().is_none()).then_some(only)
    }

    /// The folder below all wrappers. A folder wraps its only subfolder with images if that has no images of its own, or a name that is
    /// no class.
    pub(super) fn unwrapped(&self) -> &Self {
        match self.only() {
            Some(only) if only.is_nested() || only.adds_nothing(&self.name) => only.unwrapped(),
            _ => self,
        }
    }

    /// Whether the name is not a class inside the folder `parent`.
    pub(super) fn adds_nothing(&self, parent: &str) -> bool {
        self.name == parent || split_of(&self.name).is_some() || is_neutral(&self.name) && !is_number(&self.name)
    }

    pub(super) fn all_files(&self, files: &mut Vec<usize>) {
        files.extend(&self.files);
        self.folders.iter().for_each(|folder| folder.all_files(files));
    }

    /// The names of folders, for errors.
    pub(super) fn names<'a>(folders: impl IntoIterator<Item = &'a Self>) -> String {
        let names: Vec<&str> = folders.into_iter().map(|folder| folder.name.as_str()).collect();
        match names.len() {
            n if n > 8 => format!("{}, … ({n} folders)", names[..8].join(", ")),
            _ => names.join(", "),
        }
    }

    /// The names of files, for errors.
    pub(super) fn list(paths: &[PathBuf]) -> String {
        let names: Vec<_> = paths.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy()).collect();
        names.join(", ")
    }
}

/// Whether a folder holds annotations, by its name, if a folder of images is beside it.
fn is_annotation(name: &str) -> bool {
    const NAMES: [&str; 16] = [
        "annotation",
        "annotations",
        "mask",
        "masks",
        "trimap",
        "trimaps",
        "segmentation",
        "segmentations",
        "segmentation_masks",
        "ground_truth",
        "groundtruth",
        "gt",
        "label",
        "labels",
        "bbox",
        "bboxes",
    ];
    NAMES.contains(&name.to_lowercase().replace([' ', '-'], "_").as_str())
}

/// The stem of the image that a file annotates, by its name: `X` for `X_mask.png` and `X_mask_1.png`.
fn annotated(path: &Path) -> Option<&str> {
    let stem = path.file_stem()?.to_str()?.trim_end_matches(|c: char| c == '_' || c.is_ascii_digit());
    ["_mask", "_masks", "_seg", "_segmentation", "_superpixels", "_gt"].iter().find_map(|end| stem.strip_suffix(end))
}

pub(super) fn is_number(name: &str) -> bool {
    name.parse::<i64>().is_ok()
}

/// Whether a name is that of a hidden file, of thumbnails, or of what file systems and sync programs leave in folders.
fn is_litter(name: &str) -> bool {
    const NAMES: [&str; 14] = [
        "@eadir",
        "__macosx",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "__pycache__",
        "#recycle",
        "@recycle",
        "@recently-snapshot",
        "@tmp",
        "thumbnails",
    ];
    name.starts_with('.') || NAMES.contains(&name.to_lowercase().as_str())
}

/// The image format that an extension names; `""` for one that is not read, `None` if it names no image format.
fn claimed(path: &Path) -> Option<&'static str> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    Some(match extension.as_str() {
        "png" => "PNG",
        "jpg" | "jpeg" | "jpe" | "jfif" => "JPEG",
        "gif" => "GIF",
        "bmp" | "dib" => "BMP",
        "tif" | "tiff" => "TIFF",
        "webp" => "WebP",
        "ppm" | "pgm" | "pbm" | "pnm" => "PNM",
        "avif" | "heic" | "heif" | "jxl" | "jp2" | "tga" | "ico" | "svg" => "",
        _ => return None,
    })
}

pub(super) struct Reader<'a> {
    pub(super) root: &'a Path,
    pub(super) keys: &'a FolderKeys<'a>,
    pub(super) notes: Vec<Note>,
    pub(super) files: Vec<PathBuf>,
    /// The files that may be tables of labels or lists of images, by their folders.
    pub(super) tables: BTreeMap<PathBuf, Vec<PathBuf>>,
    /// Folders around the one that is being resolved, whose tables apply too.
    pub(super) wrappers: Vec<PathBuf>,
}

impl<'a> Reader<'a> {
    /// Lists a folder and its subfolders.
    pub(super) fn read(&mut self, path: &Path, depth: usize) -> Result<Node> {
        if depth > MAX_DEPTH {
            return Err(Error::format(path, "folders", format!("at most {MAX_DEPTH} nested levels"), "more"));
        }
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut node = Node { path: path.into(), name, files: Vec::new(), folders: Vec::new(), direct: 0, images: 0 };
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(Error::io("read", path))? {
            entries.push(entry.map_err(Error::io("read", path))?.path());
        }
        entries.sort_unstable();
        for entry in entries {
            let is_folder = entry.is_dir();
            let name = entry.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if is_litter(&name) {
                self.skip_litter(&entry, is_folder, 0);
            } else if !is_folder {
                node.files.push(self.files.len());
                self.files.push(entry);
            } else if entry.file_name().is_some_and(|n| n.to_str().is_none()) {
                return Err(Error::format(&entry, "name", "a folder name in UTF-8", "other bytes"));
            } else {
                node.folders.push(self.read(&entry, depth + 1)?);
            }
        }
        Ok(node)
    }

    /// Counts the files of litter. A folder that cannot be read counts as one.
    pub(super) fn skip_litter(&mut self, path: &Path, is_folder: bool, depth: usize) {
        if is_folder
            && depth < MAX_DEPTH
            && let Ok(entries) = fs::read_dir(path)
        {
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort_unstable();
            paths.iter().for_each(|path| self.skip_litter(path, path.is_dir(), depth + 1));
            return;
        }
        let mut note = Note::new(NoteKind::Skipped, 0, "hidden files, thumbnails and files of other programs");
        note.add(|| self.relative(path));
        Note::merge(&mut self.notes, note);
    }

    /// Counts images that annotate others.
    pub(super) fn skip_annotations(&mut self, files: &[usize]) {
        let what = "images of annotations: masks beside images, or in a folder such as masks or annotations beside one of images";
        let mut note = Note::new(NoteKind::Skipped, 0, what);
        files.iter().for_each(|&file| note.add(|| self.relative(&self.files[file])));
        self.notes.extend((note.count > 0).then_some(note));
    }

    /// An error about the folders in `node`, with the keys that resolve it.
    pub(super) fn unclear(&self, node: &Node, expected: &str, found: String) -> Error {
        let keys = "set train_folder, val_folder and test_folder to name the folders of splits, labels = \"FILE\" for a file of labels, or \
                    labels = \"folders\" if these folders are classes";
        Error::format(&node.path, "folders", format!("{expected}; {keys}"), found)
    }

    /// A name relative to the root.
    pub(super) fn relative(&self, path: &Path) -> String {
        path.strip_prefix(self.root).unwrap_or(path).display().to_string()
    }

    /// Whether each file is an image, by its first bytes or else by its extension: so the import reports a damaged image as unreadable
    /// instead of ignoring it.
    pub(super) fn sniff(&mut self) -> Vec<bool> {
        let formats: Vec<_> = self.files.par_iter().map(|path| sniff_file(path)).collect();
        let mut images = Vec::new();
        let mut strange =
            Note::new(NoteKind::Assumed, 0, "images whose extensions name another format or none, read by content");
        let mut others = Note::new(NoteKind::Skipped, 0, "files that are not images");
        for (path, format) in self.files.iter().zip(formats) {
            let claim = claimed(path);
            images.push(claim.is_some() || format.is_some());
            match (format, claim) {
                (Some(format), claim) if claim != Some(format) => strange.add(|| self.relative(path)),
                // Files of labels are read later.
                (None, None) if !is_table(path) => others.add(|| self.relative(path)),
                _ => {}
            }
            if format.is_none() && (is_table(path) || is_list(path)) {
                let folder = path.parent().unwrap_or(self.root).to_path_buf();
                self.tables.entry(folder).or_default().push(path.clone());
            }
        }
        self.notes.extend([strange, others].into_iter().filter(|note| note.count > 0));
        images
    }
}

/// The format of a file that is an image by its content.
fn sniff_file(path: &Path) -> Option<&'static str> {
    let mut head = Vec::with_capacity(SNIFFED);
    open_regular(path).ok()?.take(SNIFFED as u64).read_to_end(&mut head).ok()?;
    sniff(&head)
}

/// The folders that are splits: their names contain a split and no other words, or all the same other words (`birds_train`,
/// `birds_test`).
pub(super) fn split_folders<'a>(folders: &[&'a Node]) -> Vec<(Split, &'a Node)> {
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
