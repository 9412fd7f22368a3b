//! NumPy archives: MedMNIST's (`train_images`, `train_labels`, …), Keras's (`x_train`, `y_train`, …), and plain `images` with
//! `labels`. Stored or deflated; arrays are streamed out of the archive, never held whole.
//!
//! The formats: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use gafi_core::{Error, ImageSpec, Result, Split};
use zip::ZipArchive;

use crate::source::{
    Item, MAX_SIDE, Picture, Pixels, Place, Sink, Source, expect_end, interleaved_to_planar, read_bytes,
};

/// (split, images, labels) of each naming in use.
const NAMES: [(Split, &str, &str); 10] = [
    (Split::Train, "train_images", "train_labels"),
    (Split::Train, "x_train", "y_train"),
    (Split::Train, "images", "labels"),
    (Split::Train, "x", "y"),
    (Split::Val, "val_images", "val_labels"),
    (Split::Val, "x_val", "y_val"),
    (Split::Val, "x_valid", "y_valid"),
    (Split::Test, "test_images", "test_labels"),
    (Split::Test, "x_test", "y_test"),
    (Split::Test, "t10k_images", "t10k_labels"),
];

/// One part of an archive.
pub(crate) struct Npz {
    path: PathBuf,
    images: String,
    layout: Layout,
    labels: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Layout {
    count: usize,
    spec: ImageSpec,
    channels_last: bool,
}

impl Npz {
    /// Opens the part `split`; `None` when the archive has no such arrays.
    pub(crate) fn open(path: &Path, split: Split) -> Result<Option<Self>> {
        let mut archive = open_archive(path)?;
        let names = array_names(&archive);
        let has = |name: &str| names.iter().any(|n| n == name);
        let Some((_, images, labels)) = NAMES.iter().find(|(s, i, l)| *s == split && has(i) && has(l)) else {
            return Ok(None);
        };
        let layout = {
            let (_, header) = open_array(&mut archive, path, images)?;
            image_layout(path, images, &header)?
        };
        let labels = read_labels(&mut archive, path, labels)?;
        if labels.len() != layout.count {
            let expected = format!("{} labels, as many as there are {images}", layout.count);
            return Err(Error::format(path, "labels", expected, labels.len().to_string()));
        }
        Ok(Some(Self { path: path.into(), images: (*images).into(), layout, labels }))
    }
}

impl Source for Npz {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn classes(&self) -> Option<&[String]> {
        None
    }

    fn place(&self, row: usize) -> Place {
        Place::new(&self.path, format!("{}[{row}]", self.images))
    }

    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        let mut archive = open_archive(&self.path)?;
        let (mut array, _) = open_array(&mut archive, &self.path, &self.images)?;
        let spec = self.layout.spec;
        let mut wanted = rows.iter().copied().peekable();
        for row in 0..self.layout.count {
            let data = read_bytes(&mut array, spec.bytes() as u64, &self.path, || self.place(row).at)?;
            if wanted.next_if_eq(&row).is_some() {
                let data = if self.layout.channels_last { interleaved_to_planar(&data, spec) } else { data };
                sink(Item { row, picture: Picture::Pixels(Pixels { spec, data }) })?;
            }
        }
        // Reading to the end also makes the archive check its CRC.
        expect_end(&mut array, &self.path, &format!("{}, after its last image", self.images))
    }
}

/// Which splits an archive has, or an error that lists its arrays.
pub(crate) fn find(path: &Path) -> Result<Vec<Split>> {
    let names = array_names(&open_archive(path)?);
    let has = |name: &str| names.iter().any(|n| n == name);
    let mut splits: Vec<Split> = NAMES.iter().filter(|(_, i, l)| has(i) && has(l)).map(|(s, _, _)| *s).collect();
    splits.dedup();
    if !splits.contains(&Split::Train) {
        let expected = "images and labels, train_images and train_labels, or x_train and y_train";
        let found = if names.is_empty() { "none".into() } else { names.join(", ") };
        return Err(Error::format(path, "arrays", expected, found));
    }
    Ok(splits)
}

type Archive = ZipArchive<BufReader<File>>;

fn open_archive(path: &Path) -> Result<Archive> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    ZipArchive::new(BufReader::new(file))
        .map_err(|e| Error::format(path, "archive", "a zip archive, as NumPy's savez writes", e.to_string()))
}

fn array_names(archive: &Archive) -> Vec<String> {
    let mut names: Vec<String> = (archive.file_names_raw())
        .filter_map(|n| Some(std::str::from_utf8(n).ok()?.strip_suffix(".npy")?.to_owned()))
        .collect();
    names.sort_unstable();
    names
}

/// What an array says of itself.
struct Header {
    /// NumPy's type code without the byte order: "u1", "i8", "f4".
    kind: String,
    big_endian: bool,
    shape: Vec<usize>,
}

/// Opens an array of the archive: its values, and its header.
fn open_array<'a>(archive: &'a mut Archive, path: &Path, name: &str) -> Result<(impl Read + 'a, Header)> {
    let entry = archive.by_name(&format!("{name}.npy"));
    let mut entry = entry.map_err(|e| Error::format(path, name, "an array", e.to_string()))?;
    let place = || format!("{name}, header");
    let head = read_bytes(&mut entry, 8, path, place)?;
    if !head.starts_with(b"\x93NUMPY") {
        return Err(Error::format(
            path,
            place(),
            "NumPy's magic \\x93NUMPY",
            format!("{:?}", head.escape_ascii().to_string()),
        ));
    }
    let length = match head[6] {
        1 => read_bytes(&mut entry, 2, path, place)?,
        2 | 3 => read_bytes(&mut entry, 4, path, place)?,
        v => return Err(Error::format(path, place(), "version 1, 2 or 3 of NumPy's format", v.to_string())),
    };
    let length = length.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
    let text = read_bytes(&mut entry, length.min(1 << 16), path, place)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let header = parse_header(&text)
        .ok_or_else(|| Error::format(path, place(), "{'descr': …, 'fortran_order': False, 'shape': …}", text.trim()))?;
    Ok((entry, header))
}

/// Reads `{'descr': '|u1', 'fortran_order': False, 'shape': (60000, 28, 28), }`. Structured types, and arrays in Fortran's
/// order, give `None`.
fn parse_header(text: &str) -> Option<Header> {
    let value = |key: &str| Some(text.split_once(key)?.1.trim_start().strip_prefix(':')?.trim_start());
    let descr = value("'descr'")?.strip_prefix('\'')?.split_once('\'')?.0;
    if !value("'fortran_order'")?.starts_with("False") {
        return None;
    }
    let shape = value("'shape'")?.strip_prefix('(')?.split_once(')')?.0;
    let shape = shape.split(',').map(str::trim).filter(|n| !n.is_empty());
    let shape = shape.map(|n| n.parse().ok()).collect::<Option<Vec<usize>>>()?;
    let kind = descr.trim_start_matches(['<', '>', '|', '=']);
    Some(Header { kind: kind.into(), big_endian: descr.starts_with('>'), shape })
}

fn image_layout(path: &Path, name: &str, header: &Header) -> Result<Layout> {
    let place = format!("{name}, header");
    if header.kind != "u1" {
        let expected = "unsigned bytes (dtype uint8); scale other types to 0..255 and convert them first";
        return Err(Error::format(path, place, expected, format!("dtype {}", header.kind)));
    }
    let colours = |n: usize| n == 1 || n == 3;
    let (count, spec, channels_last) = match header.shape[..] {
        [n, h, w] => (n, ImageSpec::new(1, h, w), false),
        [n, h, w, c] if colours(c) => (n, ImageSpec::new(c, h, w), true),
        [n, c, h, w] if colours(c) => (n, ImageSpec::new(c, h, w), false),
        _ => {
            let expected = "shape (n, h, w), (n, h, w, c) or (n, c, h, w) with c of 1 or 3";
            return Err(Error::format(path, place, expected, format!("{:?}", header.shape)));
        }
    };
    let side = 1..=MAX_SIDE;
    if !side.contains(&spec.height) || !side.contains(&spec.width) {
        return Err(Error::format(
            path,
            place,
            format!("1 to {MAX_SIDE} rows and columns"),
            format!("{:?}", header.shape),
        ));
    }
    Ok(Layout { count, spec, channels_last })
}

fn read_labels(archive: &mut Archive, path: &Path, name: &str) -> Result<Vec<u32>> {
    let (mut array, header) = open_array(archive, path, name)?;
    let place = format!("{name}, header");
    let count = match header.shape[..] {
        [n] | [n, 1] => n,
        _ => return Err(Error::format(path, place, "shape (n) or (n, 1)", format!("{:?}", header.shape))),
    };
    let (width, signed) = match header.kind.as_str() {
        "u1" | "u2" | "u4" | "u8" => (header.kind.as_bytes()[1] - b'0', false),
        "i1" | "i2" | "i4" | "i8" => (header.kind.as_bytes()[1] - b'0', true),
        other => return Err(Error::format(path, place, "an integer dtype", format!("dtype {other}"))),
    };
    let width = usize::from(width);
    let total = (count as u64).checked_mul(width as u64);
    let total =
        total.ok_or_else(|| Error::format(path, place.clone(), "a possible shape", format!("{:?}", header.shape)))?;
    let bytes = read_bytes(&mut array, total, path, || name.into())?;
    expect_end(&mut array, path, &format!("{name}, after its last value"))?;
    let label = |(row, raw): (usize, &[u8])| {
        let mut raw: Vec<u8> = raw.to_vec();
        if header.big_endian {
            raw.reverse();
        }
        let negative = signed && raw.last().is_some_and(|b| b & 0x80 != 0);
        let value = raw.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
        match u32::try_from(value) {
            Ok(label) if !negative => Ok(label),
            _ => {
                let found = if negative { "a negative number".into() } else { value.to_string() };
                Err(Error::format(path, format!("{name}[{row}]"), "a label from 0", found))
            }
        }
    };
    bytes.chunks_exact(width).enumerate().map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_as_numpy_writes_them() {
        let h = parse_header("{'descr': '|u1', 'fortran_order': False, 'shape': (60000, 28, 28), }   \n").unwrap();
        assert_eq!((h.kind.as_str(), h.big_endian, &h.shape[..]), ("u1", false, &[60000, 28, 28][..]));
        let h = parse_header("{'descr': '>i8', 'fortran_order': False, 'shape': (5,), }").unwrap();
        assert_eq!((h.kind.as_str(), h.big_endian, &h.shape[..]), ("i8", true, &[5][..]));
        assert!(parse_header("{'descr': '|u1', 'fortran_order': True, 'shape': (5, 2, 2), }").is_none());
        assert!(parse_header("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (5,), }").is_none());
        assert!(parse_header("").is_none());
    }
}
