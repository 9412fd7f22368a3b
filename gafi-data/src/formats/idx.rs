//! IDX, the format of MNIST and Fashion-MNIST: a big-endian magic number, sizes, then bytes. Gzip is detected by content.
//!
//! The format: <https://yann.lecun.com/exdb/mnist/>. Images: magic 0x00000803, count, rows, columns, then one byte per pixel
//! in row-major order. Labels: magic 0x00000801, count, then one byte per label.

use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use gafi_core::{Error, ImageSpec, Result, open_regular, read_text};

use crate::note::{Note, NoteKind};
use crate::source::{
    Item, Location, MAX_SIDE, Pixels, RawImage, Sink, Source, check_inflated, check_rows, damaged, expect_end,
    read_bytes,
};

const IMAGES_MAGIC: u32 = 0x0803;
const LABELS_MAGIC: u32 = 0x0801;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const IMAGES_HEADER: u64 = 16;

/// A file of images, with its file of labels.
pub(crate) struct Idx {
    images: PathBuf,
    spec: ImageSpec,
    labels: Vec<u32>,
    classes: Option<Vec<String>>,
    /// Whether the images are stored columns first, as EMNIST's are.
    transposed: bool,
}

impl Idx {
    /// Opens a pair of files: reads all labels, and the header of the images.
    pub(crate) fn open(images: &Path, labels: &Path) -> Result<Self> {
        let (_, count, spec) = open_images(images)?;
        check_rows(count, images, "header")?;
        let labels = read_labels(labels, count, images)?;
        let name = images.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let transposed = name.to_ascii_lowercase().starts_with("emnist-");
        let classes = mapping(images).map(|path| read_mapping(&path)).transpose()?;
        Ok(Self { images: images.into(), spec, labels, classes, transposed })
    }
}

impl Source for Idx {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    fn notes(&self) -> Vec<Note> {
        if !self.transposed {
            return Vec::new();
        }
        let what = "images transposed, because EMNIST stores columns first";
        vec![Note::new(NoteKind::Converted, self.labels.len() as u64, what)]
    }

    fn location(&self, row: usize) -> Location {
        let offset = IMAGES_HEADER + row as u64 * self.spec.bytes() as u64;
        Location::new(&self.images, format!("image {row} (byte {offset})"))
    }

    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        let (mut reader, _, spec) = open_images(&self.images)?;
        let mut wanted = rows.iter().copied().peekable();
        for row in 0..self.labels.len() {
            let data = read_bytes(&mut *reader, spec.bytes() as u64, &self.images, || self.location(row).place)?;
            if wanted.next_if_eq(&row).is_some() {
                let (data, spec) = if self.transposed { transpose(&data, spec) } else { (data, spec) };
                sink(Item { row, image: RawImage::Pixels(Pixels { spec, data }) })?;
            }
        }
        expect_end(&mut *reader, &self.images, "after the last image")
    }
}

/// Exchanges rows and columns of a grey image.
fn transpose(data: &[u8], spec: ImageSpec) -> (Vec<u8>, ImageSpec) {
    let ImageSpec { height, width, .. } = spec;
    let data = (0..data.len()).map(|i| data[i % height * width + i / height]).collect();
    (data, ImageSpec::new(1, width, height))
}

/// Opens a file of images and reads its header. Returns the reader at the first pixel, the number of images and their shape.
fn open_images(path: &Path) -> Result<(Box<dyn Read>, u64, ImageSpec)> {
    let (mut reader, length) = open(path)?;
    let [count, height, width] = header(&mut *reader, path, IMAGES_MAGIC, "images (0x00000803)")?;
    let side = 1..=MAX_SIDE as u32;
    if !side.contains(&height) || !side.contains(&width) {
        let found = format!("{height} rows of {width} columns");
        return Err(Error::format(path, "header", format!("1 to {MAX_SIDE} rows and columns"), found));
    }
    let spec = ImageSpec::new(1, height as usize, width as usize);
    let expected = IMAGES_HEADER + u64::from(count) * spec.bytes() as u64;
    check_length(path, length, expected, || format!("{count} images of {height}x{width}"))?;
    Ok((reader, u64::from(count), spec))
}

/// Reads the labels of the `count` images in `images`. Another number in the header is an error before anything is decompressed.
fn read_labels(path: &Path, count: u64, images: &Path) -> Result<Vec<u32>> {
    let (mut reader, length) = open(path)?;
    let [found] = header(&mut *reader, path, LABELS_MAGIC, "labels (0x00000801)")?;
    if u64::from(found) != count {
        let expected = format!("{count} labels, one for each image in {}", images.display());
        return Err(Error::format(path, "header", expected, found.to_string()));
    }
    check_length(path, length, 8 + count, || format!("{count} labels"))?;
    let labels = read_bytes(&mut *reader, count, path, || "labels".into())?;
    expect_end(&mut *reader, path, "after the last label")?;
    Ok(labels.into_iter().map(u32::from).collect())
}

/// The length of a file in bytes.
#[derive(Clone, Copy)]
enum Length {
    Plain(u64),
    Gzip(u64),
}

/// Opens a file, decompressing gzip.
fn open(path: &Path) -> Result<(Box<dyn Read>, Length)> {
    let file = open_regular(path).map_err(Error::io("open", path))?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    let mut reader = BufReader::with_capacity(1 << 17, file);
    let head = std::io::BufRead::fill_buf(&mut reader).map_err(|e| damaged(e, path, "header".into()))?;
    if head.starts_with(&GZIP) {
        Ok((Box::new(MultiGzDecoder::new(reader)), Length::Gzip(length)))
    } else {
        Ok((Box::new(reader), Length::Plain(length)))
    }
}

fn header<const N: usize>(reader: &mut dyn Read, path: &Path, magic: u32, what: &str) -> Result<[u32; N]> {
    let bytes = read_bytes(reader, 4 + 4 * N as u64, path, || "header".into())?;
    let (words, _) = bytes.as_chunks::<4>();
    let word = |i: usize| u32::from_be_bytes(words[i]);
    if word(0) != magic {
        let expected = format!("the magic number of IDX {what}");
        return Err(Error::format(path, "header", expected, format!("{:#010x}", word(0))));
    }
    Ok(std::array::from_fn(|i| word(i + 1)))
}

fn check_length(path: &Path, length: Length, expected: u64, of: impl Fn() -> String) -> Result<()> {
    match length {
        Length::Plain(found) if found != expected => {
            Err(Error::format(path, "length", format!("{expected} bytes for {}", of()), format!("{found} bytes")))
        }
        Length::Plain(_) => Ok(()),
        Length::Gzip(deflated) => check_inflated(expected, deflated, path, "header"),
    }
}

/// The files of images and labels.
pub(crate) type Pair = (PathBuf, PathBuf);

/// The files of a set.
#[derive(Debug)]
pub(crate) struct Pairs {
    pub(crate) train: Pair,
    pub(crate) test: Option<Pair>,
    /// Test images without labels.
    pub(crate) unlabelled: Option<PathBuf>,
}

/// Finds the files of a set by their names: `train-images-idx3-ubyte`, or with the name of the set first
/// (`emnist-letters-train-images-idx3-ubyte`). `None` if a folder has no such files. `only`, a file of training images, selects its
/// set.
///
/// # Errors
/// [`Error::Format`] for several sets in one folder, unless `only` selects one.
pub(crate) fn find(folder: &Path, only: Option<&Path>) -> Result<Option<Pairs>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    // The part before `images` or `labels`: `train-`, `emnist-letters-test-`.
    let before = |name: &str, what: &str| {
        is_idx_name(name, what).then(|| name.split_once(what).map_or("", |(before, _)| before).to_owned())
    };
    let pick = |part: &str, what: &str| {
        names.iter().find(|n| before(n, what).is_some_and(|b| b == part)).map(|n| folder.join(n))
    };
    let pair = |part: &str| Some((pick(part, "images")?, pick(part, "labels")?));
    let sets = names.iter().filter_map(|n| Some((n, before(n, "images")?.strip_suffix("train-")?.to_owned())));
    let sets =
        sets.filter(|(n, set)| pair(&format!("{set}train-")).is_some() && only.is_none_or(|only| only.ends_with(n)));
    let mut sets: Vec<String> = sets.map(|(_, set)| set).collect();
    sets.dedup();
    let set = match &sets[..] {
        [] => return Ok(None),
        [set] => set,
        several => {
            let found: Vec<&str> = several.iter().map(|set| set.trim_end_matches('-')).collect();
            let expected =
                "files of one set; set path to the training images of the set to import (unpack an archive first)";
            return Err(Error::format(folder, "sets", expected, found.join(", ")));
        }
    };
    let tests = ["t10k-", "test-"].map(|test| format!("{set}{test}"));
    let Some(train) = pair(&format!("{set}train-")) else { return Ok(None) };
    let test = tests.iter().find_map(|test| pair(test));
    let unlabelled = if test.is_none() { tests.iter().find_map(|test| pick(test, "images")) } else { None };
    Ok(Some(Pairs { train, test, unlabelled }))
}

/// The number of images in a file.
pub(crate) fn count(images: &Path) -> Result<u64> {
    Ok(open_images(images)?.1)
}

/// Accepts `train-images-idx3-ubyte` and `train-images.idx3-ubyte`, either with `.gz`.
fn is_idx_name(name: &str, what: &str) -> bool {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    let Some((_, rest)) = name.split_once(what) else { return false };
    matches!(rest, "-idx3-ubyte" | ".idx3-ubyte" | "-idx1-ubyte" | ".idx1-ubyte" | ".idx" | "")
}

/// EMNIST's file of class names beside its images: each line has a label and the code of its character.
pub(crate) fn mapping(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    let set = ["train-", "test-"].iter().find_map(|part| Some(name.split_once(part)?.0))?;
    if set.is_empty() {
        return None;
    }
    Some(images.with_file_name(format!("{set}mapping.txt"))).filter(|path| path.is_file())
}

/// Reads a [`mapping`], whose labels count from 0 or 1.
fn read_mapping(path: &Path) -> Result<Vec<String>> {
    let text = read_text(path, 1 << 16).map_err(Error::io("read", path))?;
    let mut names = Vec::new();
    let mut first = None;
    for (line, text) in text.lines().filter(|l| !l.trim().is_empty()).enumerate() {
        let mut words = text.split_whitespace().map(|word| word.parse::<u32>().ok());
        let (label, name) = (words.next().flatten(), words.next().flatten().and_then(char::from_u32));
        let first = *first.get_or_insert(label.unwrap_or(0));
        match (label, name) {
            (Some(label), Some(name)) if first <= 1 && label == first + line as u32 => names.push(name.to_string()),
            _ => {
                let expected = "the next label and the code of its character";
                return Err(Error::format(path, format!("line {}", line + 1), expected, format!("{text:?}")));
            }
        }
    }
    Ok(names)
}

/// The file of labels for a file of images, by its name.
pub(crate) fn labels_beside(images: &Path) -> Result<PathBuf> {
    let name = images.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let base = name.strip_suffix(".gz").unwrap_or(name);
    let labels = base.replace("images", "labels").replace("idx3", "idx1");
    for candidate in [format!("{labels}.gz"), labels.clone()] {
        let path = images.with_file_name(candidate);
        if labels != base && path.is_file() {
            return Ok(path);
        }
    }
    let expected = "a file of labels beside it with a matching name (…-labels-idx1-ubyte)";
    Err(Error::format(images, "labels", expected, "no such file"))
}
