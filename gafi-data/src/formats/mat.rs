//! MATLAB's level 5 `.mat` files, compressed or not, as SVHN publishes its 32x32 images: `X` of shape (rows, columns, 3, images) and
//! `y`, where 10 is the digit 0. Images are streamed, because the values of one image are consecutive.
//!
//! The format: <https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf>. The crate `matfile` reads whole files into
//! memory and decompresses without a limit, so the format is parsed here.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::read::ZlibDecoder;
use gafi_core::{Error, ImageSpec, Result, Split, open_regular};

use super::labels::{number, whole};
use super::split_names::split_of;
use crate::note::{Note, NoteKind};
use crate::source::{Item, Location, MAX_SIDE, Pixels, RawImage, Sink, Source, check_inflated, check_rows, read_bytes};

/// Bytes before the first variable.
const HEADER: u64 = 128;
/// Maximum numbers of variables in a file and of dimensions of a variable.
const VARIABLES_MAX: usize = 256;
const RANK_MAX: u64 = 8;

// Types of data elements.
const COMPRESSED: u32 = 15;
const MATRIX: u32 = 14;

/// A file of images and labels.
pub(crate) struct Mat {
    path: PathBuf,
    spec: ImageSpec,
    labels: Vec<u32>,
    classes: Option<Vec<String>>,
}

impl Mat {
    /// Opens a file: reads the labels and the shape of the images.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut shape = None;
        let mut found = Vec::new();
        let mut labels = None;
        each_variable(path, |variable, data| {
            found.push(variable.name.clone());
            match variable.name.as_str() {
                "X" => shape = Some(variable.images(path)?),
                "y" => labels = Some(variable.labels(path, data)?),
                _ => {}
            }
            Ok(())
        })?;
        let (Some((spec, count)), Some(mut labels)) = (shape, labels) else {
            let found = if found.is_empty() { "none".into() } else { found.join(", ") };
            return Err(Error::format(path, "variables", "X, the images, and y, their labels, as in SVHN", found));
        };
        if labels.len() != count {
            let expected = format!("{count} labels, one for each image");
            return Err(Error::format(path, "y", expected, labels.len().to_string()));
        }
        let digits = labels.iter().all(|l| (1..=10).contains(l)) && labels.contains(&10);
        if digits {
            labels.iter_mut().for_each(|label| *label %= 10);
        }
        let classes = digits.then(|| (0..10).map(|digit| digit.to_string()).collect());
        Ok(Self { path: path.into(), spec, labels, classes })
    }
}

impl Source for Mat {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    fn location(&self, row: usize) -> Location {
        Location::new(&self.path, format!("X, image {row}"))
    }

    fn notes(&self) -> Vec<Note> {
        if self.classes.is_none() {
            return Vec::new();
        }
        let zeros = self.labels.iter().filter(|&&label| label == 0).count() as u64;
        vec![Note::new(NoteKind::Assumed, zeros, "images with label 10, read as the digit 0 as in SVHN")]
    }

    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        let ImageSpec { channels, height, width } = self.spec;
        each_variable(&self.path, |variable, data| {
            if variable.name != "X" {
                return Ok(());
            }
            let mut wanted = rows.iter().copied().peekable();
            for row in 0..self.labels.len() {
                let stored = read_bytes(data, self.spec.bytes() as u64, &self.path, || self.location(row).place)?;
                if wanted.next_if_eq(&row).is_some() {
                    // MATLAB stores arrays column by column.
                    let pixel = |i: usize| {
                        let (c, y, x) = (i / (height * width), i / width % height, i % width);
                        stored[(c * width + x) * height + y]
                    };
                    let data = (0..channels * height * width).map(pixel).collect();
                    sink(Item { row, image: RawImage::Pixels(Pixels { spec: self.spec, data }) })?;
                }
            }
            Ok(())
        })
    }
}

/// The header of a numeric array, whose values follow it.
struct Variable {
    name: String,
    shape: Vec<usize>,
    /// The type code of the stored values.
    kind: u32,
    /// Length of the values in bytes.
    bytes: u64,
}

impl Variable {
    /// Number of values; `None` on overflow.
    fn values(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |n, &side| n.checked_mul(side as u64))
    }

    fn wrong(&self, path: &Path, expected: &str) -> Error {
        let kind = number_type(self.kind).map_or("another type", |(name, _)| name);
        let found = format!("{kind} of shape {:?} in {} bytes", self.shape, self.bytes);
        Error::format(path, self.name.clone(), expected, found)
    }

    fn images(&self, path: &Path) -> Result<(ImageSpec, usize)> {
        let (spec, count) = match self.shape[..] {
            [h, w, c @ (1 | 3), n] => (ImageSpec::new(c, h, w), n),
            [h, w, n] => (ImageSpec::new(1, h, w), n),
            _ => return Err(self.wrong(path, "uint8 of shape (rows, columns, 3, images)")),
        };
        let side = 1..=MAX_SIDE;
        let fits = side.contains(&spec.height) && side.contains(&spec.width) && self.values() == Some(self.bytes);
        if self.kind != 2 || !fits {
            return Err(self.wrong(path, "uint8 of shape (rows, columns, 3, images)"));
        }
        check_rows(count as u64, path, "X")?;
        Ok((spec, count))
    }

    fn labels(&self, path: &Path, data: &mut dyn Read) -> Result<Vec<u32>> {
        let Some((kind, width)) = number_type(self.kind) else { return Err(self.wrong(path, "numbers")) };
        let count = self.bytes / width;
        check_rows(count, path, "y")?;
        if self.values() != Some(count) || !matches!(self.shape[..], [_, 1] | [1, _]) {
            return Err(self.wrong(path, "one label for each image"));
        }
        let bytes = read_bytes(data, self.bytes, path, || "y".into())?;
        let label = |(at, raw): (usize, &[u8])| {
            let value = number(kind, false, raw);
            let wrong = || Error::format(path, format!("y[{at}]"), "a label, 0 or more", value.to_string());
            whole(value).ok_or_else(wrong)
        };
        bytes.chunks_exact(width as usize).enumerate().map(label).collect()
    }
}

/// The name of a type of numbers, and its width in bytes; `None` for other types.
fn number_type(kind: u32) -> Option<(&'static str, u64)> {
    Some(match kind {
        1 => ("int8", 1),
        2 => ("uint8", 1),
        3 => ("int16", 2),
        4 => ("uint16", 2),
        5 => ("int32", 4),
        6 => ("uint32", 4),
        7 => ("float32", 4),
        9 => ("float64", 8),
        12 => ("int64", 8),
        13 => ("uint64", 8),
        _ => return None,
    })
}

/// Passes each numeric array to `each`, with a reader at its values. Other variables are skipped.
fn each_variable(path: &Path, mut each: impl FnMut(&Variable, &mut dyn Read) -> Result<()>) -> Result<()> {
    let file = open_regular(path).map_err(Error::io("open", path))?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    let mut file = BufReader::with_capacity(1 << 17, file);
    let head = read_bytes(&mut file, HEADER, path, || "header".into())?;
    if head.starts_with(b"MATLAB 7.3") {
        let expected = "a .mat file of level 5 (save it with -v7)";
        return Err(Error::format(path, "header", expected, "level 7.3, which is HDF5"));
    }
    if !head.starts_with(b"MATLAB 5.0") || &head[126..] != b"IM" {
        let found = head[..10].escape_ascii().to_string();
        return Err(Error::format(path, "header", "a little-endian .mat file of level 5", found));
    }
    let mut at = HEADER;
    for _ in 0..VARIABLES_MAX {
        if at >= length {
            return Ok(());
        }
        file.seek(SeekFrom::Start(at)).map_err(Error::io("read", path))?;
        let (kind, bytes) = tag(&mut file, path)?;
        at += 8 + u64::from(bytes);
        if at > length {
            let found = format!("the end of the file after {length}");
            return Err(Error::format(path, "variables", format!("{at} bytes"), found));
        }
        let element: &mut dyn Read = &mut (&mut file as &mut BufReader<File>).take(bytes.into());
        if kind == COMPRESSED {
            let mut inflated = ZlibDecoder::new(element);
            if let (MATRIX, claimed) = tag(&mut inflated, path)? {
                check_inflated(claimed.into(), bytes.into(), path, "variables")?;
                matrix(&mut inflated.take(claimed.into()), path, &mut each)?;
            }
        } else if kind == MATRIX {
            matrix(element, path, &mut each)?;
        }
    }
    Err(Error::format(path, "variables", format!("at most {VARIABLES_MAX}"), "more"))
}

fn matrix(
    reader: &mut dyn Read,
    path: &Path,
    each: &mut impl FnMut(&Variable, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let flags = small(reader, path, 16)?;
    // Array classes 6 to 15 are numeric.
    if !flags.first().is_some_and(|class| (6..=15).contains(class)) {
        return Ok(());
    }
    let shape = small(reader, path, 4 * RANK_MAX)?;
    let (sides, _) = shape.as_chunks::<4>();
    let shape = sides.iter().map(|side| u32::from_le_bytes(*side) as usize).collect();
    let name = String::from_utf8_lossy(&small(reader, path, 256)?).into_owned();
    let (kind, bytes) = tag(reader, path)?;
    // A small data element holds at most 4 bytes, and its length is in the upper half of the type.
    if kind >> 16 == 0 {
        return each(&Variable { name, shape, kind, bytes: bytes.into() }, reader);
    }
    let variable = Variable { name, shape, kind: kind & 0xffff, bytes: u64::from(kind >> 16).min(4) };
    each(&variable, &mut &bytes.to_le_bytes()[..])
}

/// The type and the length of a data element.
fn tag(reader: &mut dyn Read, path: &Path) -> Result<(u32, u32)> {
    let bytes = read_bytes(reader, 8, path, || "variables".into())?;
    let (words, _) = bytes.as_chunks::<4>();
    Ok((u32::from_le_bytes(words[0]), u32::from_le_bytes(words[1])))
}

/// The content of a data element of at most `most` bytes. Elements are padded to a multiple of 8 bytes.
fn small(reader: &mut dyn Read, path: &Path, most: u64) -> Result<Vec<u8>> {
    let (kind, bytes) = tag(reader, path)?;
    if kind >> 16 != 0 {
        return Ok(bytes.to_le_bytes()[..(kind >> 16).min(4) as usize].to_vec());
    }
    let bytes = u64::from(bytes);
    if bytes > most {
        return Err(Error::format(path, "variables", format!("at most {most} bytes"), bytes.to_string()));
    }
    let mut data = read_bytes(reader, bytes.next_multiple_of(8), path, || "variables".into())?;
    data.truncate(bytes as usize);
    Ok(data)
}

/// The `.mat` files of a folder.
pub(crate) struct MatFiles {
    pub(crate) splits: Vec<(Split, PathBuf)>,
    /// Files whose names contain no split, such as `extra_32x32.mat`.
    pub(crate) others: Vec<PathBuf>,
}

/// Assigns the files of a folder to splits by the words in their names (`train_32x32.mat`). `None` without exactly one training file.
pub(crate) fn find(folder: &Path) -> Option<MatFiles> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "mat")).collect();
    paths.sort_unstable();
    let split = |path: &PathBuf| path.file_stem()?.to_str()?.split(['_', '-', '.']).find_map(split_of);
    let of = |wanted: Split| {
        let mut found = paths.iter().filter(|p| split(p) == Some(wanted));
        found.next().filter(|_| found.next().is_none()).map(|p| (wanted, p.clone()))
    };
    let splits: Vec<_> = [Split::Train, Split::Val, Split::Test].into_iter().filter_map(of).collect();
    let others = paths.iter().filter(|p| split(p).is_none()).cloned().collect();
    (splits.first()?.0 == Split::Train).then_some(MatFiles { splits, others })
}
