//! What every reader gives: labels at once, pictures as a stream of the rows asked for.
//!
//! Labels are small and are needed whole before the first picture (a stratified split is drawn from them), so a reader
//! loads them when it is opened. Pictures are pushed into a sink, still encoded where the format encodes them: pushing
//! lets a reader borrow its archive or file while it goes through it, and leaves decoding to one place ([`crate::import`])
//! that does it in parallel.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use gafi_core::{Error, ImageSpec, Result};

/// Longest side of an image that a reader takes, in pixels. What is beyond is a damaged header, not a picture.
pub(crate) const MAX_SIDE: usize = 16_384;

/// Pixels of one image, (c, h, w).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pixels {
    pub(crate) spec: ImageSpec,
    pub(crate) data: Vec<u8>,
}

/// One image as the format holds it.
pub(crate) enum Picture {
    /// Bare pixels.
    Pixels(Pixels),
    /// The bytes of a PNG or JPEG file.
    Encoded(Vec<u8>),
    /// A PNG or JPEG file, not read yet.
    File(PathBuf),
}

impl Picture {
    /// What it weighs in memory, in bytes; for a file that isn't read yet, a guess.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Pixels(p) => p.data.len(),
            Self::Encoded(bytes) => bytes.len(),
            Self::File(_) => 1 << 17,
        }
    }
}

/// One row that was asked for.
pub(crate) struct Item {
    /// Its number in the source, from 0.
    pub(crate) row: usize,
    pub(crate) picture: Picture,
}

/// Where a row lives, for errors.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) at: String,
}

impl Place {
    pub(crate) fn new(path: impl Into<PathBuf>, at: impl Into<String>) -> Self {
        Self { path: path.into(), at: at.into() }
    }

    pub(crate) fn error(&self, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::format(&self.path, self.at.clone(), expected, found)
    }
}

/// Takes the rows that a scan finds.
pub(crate) type Sink<'a> = dyn FnMut(Item) -> Result<()> + 'a;

/// Labelled images of one part (train, val or test) of a set.
pub(crate) trait Source {
    /// The label of each row.
    fn labels(&self) -> &[u32];

    /// Names of the classes, where the format has them.
    fn classes(&self) -> Option<&[String]>;

    /// Where `row` lives.
    fn place(&self, row: usize) -> Place;

    /// Sends the rows listed in `rows` (ascending, each once, each below `labels().len()`) to `sink`, in that order.
    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()>;
}

/// Several sources, one after the other: the batches of CIFAR, the shards of a parquet set.
pub(crate) struct Chain {
    parts: Vec<Box<dyn Source>>,
    starts: Vec<usize>,
    labels: Vec<u32>,
}

impl Chain {
    /// Joins `parts`, of which there is at least one.
    ///
    /// # Errors
    /// When they name different classes.
    pub(crate) fn join(mut parts: Vec<Box<dyn Source>>) -> Result<Box<dyn Source>> {
        if parts.len() == 1 {
            return Ok(parts.swap_remove(0));
        }
        let (mut starts, mut labels) = (Vec::with_capacity(parts.len()), Vec::new());
        for part in &parts {
            if part.classes() != parts[0].classes() {
                let expected = format!("the classes of {}, {:?}", parts[0].place(0).path.display(), parts[0].classes());
                return Err(
                    Place::new(part.place(0).path, "class names").error(expected, format!("{:?}", part.classes()))
                );
            }
            starts.push(labels.len());
            labels.extend_from_slice(part.labels());
        }
        Ok(Box::new(Self { parts, starts, labels }))
    }

    /// The part that holds `row`, and the row's number in it.
    fn find(&self, row: usize) -> (usize, usize) {
        // Empty parts share their start with the next one; the last of them holds the row.
        let part = self.starts.partition_point(|&s| s <= row) - 1;
        (part, row - self.starts[part])
    }
}

impl Source for Chain {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn classes(&self) -> Option<&[String]> {
        self.parts[0].classes()
    }

    fn place(&self, row: usize) -> Place {
        let (part, row) = self.find(row);
        self.parts[part].place(row)
    }

    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        for (part, &start) in self.parts.iter().zip(&self.starts) {
            let (low, high) = (start, start + part.labels().len());
            let own: Vec<usize> = rows.iter().filter(|r| (low..high).contains(r)).map(|r| r - start).collect();
            if !own.is_empty() {
                part.scan(&own, &mut |item| sink(Item { row: item.row + start, ..item }))?;
            }
        }
        Ok(())
    }
}

/// Reads exactly `n` bytes. Memory grows with what is there, not with what a header claims.
///
/// # Errors
/// [`Error::Format`] at `place` when the file ends early or its compression is damaged.
pub(crate) fn read_bytes(reader: &mut dyn Read, n: u64, path: &Path, place: impl Fn() -> String) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(n.min(1 << 20) as usize);
    reader.take(n).read_to_end(&mut bytes).map_err(|e| damaged(e, path, place()))?;
    if (bytes.len() as u64) < n {
        let found = format!("the end of the file after {} of them", bytes.len());
        return Err(Error::format(path, place(), format!("{n} bytes"), found));
    }
    Ok(bytes)
}

/// Checks that `reader` is at its end.
pub(crate) fn expect_end(reader: &mut dyn Read, path: &Path, place: &str) -> Result<()> {
    match reader.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Error::format(path, place, "the end of the file", "more bytes")),
        Err(e) => Err(damaged(e, path, place.into())),
    }
}

/// A read that failed: damaged content is a fault of the file, everything else one of the system.
pub(crate) fn damaged(e: io::Error, path: &Path, place: String) -> Error {
    match e.kind() {
        io::ErrorKind::InvalidData
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::Other => Error::format(path, place, "readable data", e.to_string()),
        _ => Error::io("read", path)(e),
    }
}

/// Channels last, as files hold colour, to channels first, as datasets do.
pub(crate) fn interleaved_to_planar(data: &[u8], spec: ImageSpec) -> Vec<u8> {
    if spec.channels == 1 {
        return data.to_vec();
    }
    let mut planar = Vec::with_capacity(data.len());
    for c in 0..spec.channels {
        planar.extend(data.iter().skip(c).step_by(spec.channels));
    }
    planar
}
