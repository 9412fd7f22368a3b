//! Tar shards of the `webdataset` library. The files of a sample are adjacent and share a key: `KEY.png` (or another image) and
//! `KEY.cls`, a whole number. Class names come from `classes.json` beside the shards, a list of names, which exports by GaFi have.
//!
//! The layout: <https://github.com/webdataset/webdataset>. Shards are indexed once, and images are read by their offsets.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use gafi_core::{Error, Result, open_regular, read_text};

use crate::note::{Note, NoteKind};
use crate::source::{Item, Location, RawImage, Sink, Source, check_rows, read_bytes};

/// Extensions of images.
const IMAGES: [&str; 9] = ["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "img"];
/// Longest label in bytes.
const LABEL_MAX: u64 = 32;
/// Longest `classes.json` in bytes.
const NAMES_MAX: u64 = 1 << 26;

/// One shard.
pub(crate) struct Shard {
    path: PathBuf,
    /// Offset, length and key of each image.
    images: Vec<(u64, u64, String)>,
    labels: Vec<u32>,
    classes: Option<Vec<String>>,
    unlabelled: u64,
}

/// Whether a file is a shard: a tar archive whose first image has a label beside it.
pub(crate) fn is_shard(path: &Path) -> bool {
    let Ok(file) = open(path) else { return false };
    let mut archive = tar::Archive::new(file);
    let Ok(entries) = archive.entries_with_seek() else { return false };
    let names = entries.take(16).map_while(std::result::Result::ok);
    let names: Vec<String> = names.map(|entry| String::from_utf8_lossy(&entry.path_bytes()).into_owned()).collect();
    let is_image =
        |name: &str, key: &str| name.strip_prefix(key).is_some_and(|end| IMAGES.contains(&end.trim_start_matches('.')));
    let mut keys = names.iter().filter_map(|name| name.strip_suffix(".cls"));
    keys.any(|key| names.iter().any(|name| is_image(name, key)))
}

/// The shards in a folder, sorted.
pub(crate) fn find(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut shards: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    shards.retain(|path| path.extension().is_some_and(|e| e == "tar") && path.is_file() && is_shard(path));
    shards.sort_unstable();
    shards
}

/// A sample, while its files are listed.
#[derive(Default)]
struct Sample {
    key: String,
    image: Option<(u64, u64)>,
    label: Option<u32>,
}

impl Shard {
    /// Lists the samples of a shard.
    ///
    /// # Errors
    /// [`Error::Format`] for a damaged archive, two images of one key, or a label that is not a whole number; [`Error::Io`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut shard = Self {
            path: path.into(),
            images: Vec::new(),
            labels: Vec::new(),
            classes: class_names(path)?,
            unlabelled: 0,
        };
        let damaged = |e: std::io::Error| Error::format(path, "archive", "a readable tar archive", e.to_string());
        let mut archive = tar::Archive::new(open(path)?);
        let mut sample = Sample::default();
        for entry in archive.entries_with_seek().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            // A key ends at the first dot of the file name.
            let start = name.rfind('/').map_or(0, |slash| slash + 1);
            let Some(dot) = name[start..].find('.').map(|dot| start + dot) else { continue };
            let (key, extension) = (&name[..dot], name[dot + 1..].to_ascii_lowercase());
            if key != sample.key {
                shard.push(std::mem::take(&mut sample))?;
                sample.key = key.into();
            }
            let wrong = |expected: &str, found: String| Error::format(path, name.clone(), expected, found);
            if IMAGES.contains(&extension.as_str()) {
                if sample.image.is_some() {
                    return Err(wrong("one image per key", "a second image".into()));
                }
                sample.image = Some((entry.raw_file_position(), entry.size()));
            } else if extension == "cls" {
                if entry.size() > LABEL_MAX {
                    let expected = format!("a label, 0 or more, in at most {LABEL_MAX} bytes");
                    return Err(wrong(&expected, format!("{} bytes", entry.size())));
                }
                let mut text = String::new();
                entry.read_to_string(&mut text).map_err(|e| wrong("a label", e.to_string()))?;
                sample.label = Some(text.trim().parse().map_err(|_| wrong("a label, 0 or more", format!("{text:?}")))?);
            }
        }
        shard.push(sample)?;
        check_rows(shard.images.len() as u64, path, "archive")?;
        Ok(shard)
    }

    fn push(&mut self, sample: Sample) -> Result<()> {
        match (sample.image, sample.label) {
            (Some((offset, length)), Some(label)) => {
                self.images.push((offset, length, sample.key));
                self.labels.push(label);
            }
            (Some(_), None) => self.unlabelled += 1,
            (None, Some(_)) => {
                let place = format!("{}.cls", sample.key);
                return Err(Error::format(&self.path, place, "an image with the same key", "no image"));
            }
            (None, None) => {}
        }
        Ok(())
    }
}

impl Source for Shard {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    fn location(&self, row: usize) -> Location {
        let place = self.images.get(row).map_or_else(|| "archive".into(), |(_, _, key)| format!("sample {key}"));
        Location::new(&self.path, place)
    }

    fn notes(&self) -> Vec<Note> {
        let note = Note::new(NoteKind::Skipped, self.unlabelled, "images without labels: no .cls file with their key");
        if note.count > 0 { vec![note] } else { Vec::new() }
    }

    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        let mut file = open(&self.path)?;
        for &row in rows {
            let (offset, length, _) = self.images[row];
            file.seek(SeekFrom::Start(offset)).map_err(Error::io("read", &self.path))?;
            let bytes = read_bytes(&mut file, length, &self.path, || self.location(row).place)?;
            sink(Item { row, image: RawImage::Encoded(bytes) })?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<BufReader<File>> {
    Ok(BufReader::with_capacity(1 << 16, open_regular(path).map_err(Error::io("open", path))?))
}

fn class_names(shard: &Path) -> Result<Option<Vec<String>>> {
    let path = shard.with_file_name("classes.json");
    if !path.is_file() {
        return Ok(None);
    }
    let text = read_text(&path, NAMES_MAX).map_err(Error::io("read", &path))?;
    let names = serde_json::from_str(&text);
    names.map(Some).map_err(|e| Error::format(path, "content", "a list of class names", e.to_string()))
}
