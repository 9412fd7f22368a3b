//! IDX, the format of MNIST and Fashion-MNIST: a big-endian magic number, sizes, then bytes. Gzip is detected by content.
//!
//! The format: <https://yann.lecun.com/exdb/mnist/>. Images: magic 0x00000803, count, rows, columns, then one byte per pixel
//! in row-major order. Labels: magic 0x00000801, count, then one byte per label.

use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use gafi_core::{Error, ImageSpec, Result, open_regular};

use crate::source::{
    Item, Location, MAX_SIDE, Pixels, RawImage, Sink, Source, check_inflated, check_rows, damaged, expect_end,
    read_bytes,
};

const IMAGES_MAGIC: u32 = 0x0803;
const LABELS_MAGIC: u32 = 0x0801;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const IMAGES_HEADER: u64 = 16;

/// A file of images and its file of labels.
pub(crate) struct Idx {
    images: PathBuf,
    spec: ImageSpec,
    labels: Vec<u32>,
}

impl Idx {
    /// Opens a pair: reads all labels, and the header of the images.
    pub(crate) fn open(images: &Path, labels: &Path) -> Result<Self> {
        let (_, count, spec) = open_images(images)?;
        check_rows(count, images, "header")?;
        let labels = read_labels(labels, count, images)?;
        Ok(Self { images: images.into(), spec, labels })
    }
}

impl Source for Idx {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn classes(&self) -> Option<&[String]> {
        None
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
                sink(Item { row, image: RawImage::Pixels(Pixels { spec, data }) })?;
            }
        }
        expect_end(&mut *reader, &self.images, "after the last image")
    }
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

/// Reads the labels of the `count` images in `images`. A header with another number is refused before anything is inflated.
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
    let word = |i: usize| u32::from_be_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]);
    if word(0) != magic {
        return Err(Error::format(
            path,
            "header",
            format!("the magic number of IDX {what}"),
            format!("{:#010x}", word(0)),
        ));
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

/// Finds the training and test pairs of a folder by name.
pub(crate) fn find(folder: &Path) -> Result<(Option<Pair>, Option<Pair>)> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    let pick = |part: &str, what: &str| {
        names.iter().find(|n| n.starts_with(part) && is_idx_name(n, what)).map(|n| folder.join(n))
    };
    let pair = |parts: &[&str]| parts.iter().find_map(|p| Some((pick(p, "images")?, pick(p, "labels")?)));
    Ok((pair(&["train-"]), pair(&["t10k-", "test-"])))
}

/// Accepts `train-images-idx3-ubyte` and `train-images.idx3-ubyte`, either with `.gz`.
fn is_idx_name(name: &str, what: &str) -> bool {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    let Some((_, rest)) = name.split_once(what) else { return false };
    matches!(rest, "-idx3-ubyte" | ".idx3-ubyte" | "-idx1-ubyte" | ".idx1-ubyte" | ".idx" | "")
}

/// Finds the labels of a file of images by its name.
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
    Err(Error::format(
        images,
        "labels",
        "a file of labels beside it with a matching name (…-labels-idx1-ubyte)",
        "no such file",
    ))
}
