//! [`Source`], the interface of every reader: all labels up front, images streamed for the requested rows.
//!
//! Labels are small, and a stratified split needs all of them before the first image, so a reader loads them when it opens.
//! Images are pushed into a sink, still encoded if the format encodes them. So a reader can borrow its archive or file while it
//! streams, and all decoding happens in parallel in one place, the import stage.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gafi_core::{Error, ImageSpec, Result};

use crate::note::{Note, NoteKind};

/// Longest side of an image that a reader accepts, in pixels. A larger one is taken for a damaged header.
pub(crate) const MAX_SIDE: usize = 16_384;

/// Maximum number of rows of one split that a reader accepts: 2^27, whose labels take 512 MiB.
const MAX_ROWS: u64 = 1 << 27;

/// The highest compression ratio of deflate, rounded up.
const DEFLATE_RATIO: u64 = 1033;

/// The pixels of one image, in the order (channels, rows, columns).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pixels {
    pub(crate) spec: ImageSpec,
    pub(crate) data: Vec<u8>,
}

/// One image as its format stores it.
pub(crate) enum RawImage {
    /// Uncompressed pixels.
    Pixels(Pixels),
    /// The bytes of an image file.
    Encoded(Vec<u8>),
    /// An image file that has not been read yet.
    File(PathBuf),
}

impl RawImage {
    /// Size in bytes; an estimate for a file that has not been read yet.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Pixels(p) => p.data.len(),
            Self::Encoded(bytes) => bytes.len(),
            Self::File(_) => 1 << 17,
        }
    }
}

/// One requested row.
pub(crate) struct Item {
    /// Row number in the source, from 0.
    pub(crate) row: usize,
    pub(crate) image: RawImage,
}

/// Where a row is stored, for errors.
#[derive(Debug, Clone)]
pub(crate) struct Location {
    pub(crate) path: PathBuf,
    pub(crate) place: String,
}

impl Location {
    pub(crate) fn new(path: impl Into<PathBuf>, place: impl Into<String>) -> Self {
        Self { path: path.into(), place: place.into() }
    }

    pub(crate) fn error(&self, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::format(&self.path, self.place.clone(), expected, found)
    }
}

/// Receives the rows of a scan.
pub(crate) type Sink<'a> = dyn FnMut(Item) -> Result<()> + 'a;

/// The labelled images of one split.
pub(crate) trait Source: Send + Sync {
    /// The label of each row.
    fn labels(&self) -> &[u32];

    /// Class names in label order, if the format stores them.
    fn classes(&self) -> Option<&[String]>;

    /// Where `row` is stored.
    fn location(&self, row: usize) -> Location;

    /// What the reader skipped, converted or assumed, for the import's report.
    fn notes(&self) -> Vec<Note> {
        Vec::new()
    }

    /// Sends `rows` (ascending, unique, each below `labels().len()`) to `sink`, in that order.
    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()>;
}

/// Class names, for errors.
pub(crate) fn show_classes(classes: Option<&[String]>) -> String {
    classes.map_or("no class names".into(), |names| names.join(", "))
}

/// Several sources in sequence: the batches of CIFAR, the shards of a parquet set.
pub(crate) struct Chain {
    parts: Vec<Arc<dyn Source>>,
    starts: Vec<usize>,
    labels: Vec<u32>,
}

impl Chain {
    /// Joins `parts`, which must not be empty.
    ///
    /// # Errors
    /// When two parts name different classes.
    pub(crate) fn join(mut parts: Vec<Arc<dyn Source>>) -> Result<Arc<dyn Source>> {
        if parts.len() == 1 {
            return Ok(parts.swap_remove(0));
        }
        let mut starts = Vec::with_capacity(parts.len());
        let mut labels = Vec::new();
        for part in &parts {
            if part.classes() != parts[0].classes() {
                let first = parts[0].location(0).path;
                let expected = format!("the classes of {}: {}", first.display(), show_classes(parts[0].classes()));
                let found = show_classes(part.classes());
                return Err(Error::format(part.location(0).path, "class names", expected, found));
            }
            starts.push(labels.len());
            labels.extend_from_slice(part.labels());
        }
        Ok(Arc::new(Self { parts, starts, labels }))
    }
}

impl Source for Chain {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn classes(&self) -> Option<&[String]> {
        self.parts[0].classes()
    }

    fn location(&self, row: usize) -> Location {
        // An empty part has the same start as the next one; the last part with that start holds the row.
        let part = self.starts.partition_point(|&s| s <= row) - 1;
        self.parts[part].location(row - self.starts[part])
    }

    fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        self.parts.iter().flat_map(|part| part.notes()).for_each(|note| Note::merge(&mut notes, note));
        notes
    }

    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        for (part, &start) in self.parts.iter().zip(&self.starts) {
            let range = start..start + part.labels().len();
            let own: Vec<usize> = rows.iter().filter(|r| range.contains(r)).map(|r| r - start).collect();
            if !own.is_empty() {
                part.scan(&own, &mut |item| sink(Item { row: item.row + start, ..item }))?;
            }
        }
        Ok(())
    }
}

/// A source whose files number the classes from another label than 0.
pub(crate) struct Shifted {
    inner: Arc<dyn Source>,
    labels: Vec<u32>,
    /// Says that the first label was detected rather than configured.
    note: Option<Note>,
}

impl Shifted {
    /// Subtracts `first` from every label. `detected` says that it was not configured.
    ///
    /// # Errors
    /// When a label is below it.
    pub(crate) fn open(inner: Arc<dyn Source>, first: u32, detected: bool) -> Result<Arc<dyn Source>> {
        if first == 0 {
            return Ok(inner);
        }
        let mut labels = inner.labels().to_vec();
        for (row, label) in labels.iter_mut().enumerate() {
            *label = label.checked_sub(first).ok_or_else(|| {
                let expected = format!("a label of {first} or more, because the labels start at {first}");
                inner.location(row).error(expected, format!("label {label}"))
            })?;
        }
        let note = detected.then(|| {
            let what = format!("labels that start at {first} (set first_label = 0 if there is a class 0 without rows)");
            Note::new(NoteKind::Assumed, labels.len() as u64, what)
        });
        Ok(Arc::new(Self { inner, labels, note }))
    }
}

impl Source for Shifted {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn classes(&self) -> Option<&[String]> {
        self.inner.classes()
    }

    fn location(&self, row: usize) -> Location {
        self.inner.location(row)
    }

    fn notes(&self) -> Vec<Note> {
        self.inner.notes().into_iter().chain(self.note.clone()).collect()
    }

    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        self.inner.scan(rows, sink)
    }
}

/// Reads exactly `n` bytes. Memory grows with the bytes read, not with the length that a header claims.
///
/// # Errors
/// [`Error::Format`] at `place` when the file ends early or its compression is damaged.
pub(crate) fn read_bytes(reader: &mut dyn Read, n: u64, path: &Path, place: impl Fn() -> String) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(n.min(1 << 20) as usize);
    reader.take(n).read_to_end(&mut bytes).map_err(|e| damaged(e, path, place()))?;
    if (bytes.len() as u64) < n {
        let found = format!("the end of the file after {} bytes", bytes.len());
        return Err(Error::format(path, place(), format!("{n} bytes"), found));
    }
    Ok(bytes)
}

/// Checks the number of rows that a file claims, before memory is allocated for labels.
///
/// # Errors
/// [`Error::Format`] at `place` for more than [`MAX_ROWS`].
pub(crate) fn check_rows(rows: u64, path: &Path, place: impl Into<String>) -> Result<()> {
    if rows <= MAX_ROWS {
        return Ok(());
    }
    Err(Error::format(path, place, format!("at most {MAX_ROWS} rows"), rows.to_string()))
}

/// Checks that `deflated` compressed bytes can inflate to `claimed` bytes.
///
/// # Errors
/// [`Error::Format`] at `place`.
pub(crate) fn check_inflated(claimed: u64, deflated: u64, path: &Path, place: impl Into<String>) -> Result<()> {
    let most = deflated.saturating_mul(DEFLATE_RATIO);
    if claimed <= most {
        return Ok(());
    }
    let expected = format!("at most {most} bytes of data, {DEFLATE_RATIO} for each compressed byte");
    Err(Error::format(path, place, expected, format!("a header that claims {claimed}")))
}

/// Checks that `reader` is at its end.
pub(crate) fn expect_end(reader: &mut dyn Read, path: &Path, place: &str) -> Result<()> {
    match reader.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Error::format(path, place, "the end of the file", "more bytes")),
        Err(e) => Err(damaged(e, path, place.into())),
    }
}

/// Converts a read error: [`Error::Format`] for damaged content, [`Error::Io`] for any other.
pub(crate) fn damaged(e: io::Error, path: &Path, place: String) -> Error {
    match e.kind() {
        io::ErrorKind::InvalidData
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::Other => Error::format(path, place, "readable data", e.to_string()),
        _ => Error::io("read", path)(e),
    }
}

/// Converts (rows, columns, channels), the layout of image files, to (channels, rows, columns), the layout of datasets.
pub(crate) fn interleaved_to_planar(data: Vec<u8>, spec: ImageSpec) -> Vec<u8> {
    if spec.channels == 1 {
        return data;
    }
    let mut planar = Vec::with_capacity(data.len());
    for c in 0..spec.channels {
        planar.extend(data.iter().skip(c).step_by(spec.channels));
    }
    planar
}
