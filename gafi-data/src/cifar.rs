//! The binary version of CIFAR-10 and CIFAR-100: records of label bytes and 3,072 pixels (red plane, green, blue).
//!
//! The format: <https://www.cs.toronto.edu/~kriz/cifar.html>. CIFAR-10: one label byte. CIFAR-100: a coarse label, then a fine
//! one, which is the one read.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use gafi_core::{Error, ImageSpec, Result};

use crate::named::NamedSet;
use crate::source::{Item, Picture, Pixels, Place, Sink, Source, read_bytes};

const SPEC: ImageSpec = ImageSpec::new(3, 32, 32);

/// One file of records.
pub(crate) struct Cifar {
    path: PathBuf,
    label_bytes: usize,
    labels: Vec<u32>,
    classes: Vec<String>,
}

impl Cifar {
    /// Opens a file of CIFAR-10 records (`fine` false) or CIFAR-100 ones. Class names come from the text file beside it, else
    /// they are the published ones.
    pub(crate) fn open(path: &Path, fine: bool) -> Result<Self> {
        let label_bytes = if fine { 2 } else { 1 };
        let classes = class_names(path, fine)?;
        let mut source = Self { path: path.into(), label_bytes, labels: Vec::new(), classes };
        let length = fs::metadata(path).map_err(Error::io("read", path))?.len();
        let record = source.record() as u64;
        if !length.is_multiple_of(record) {
            let expected = format!("whole records of {record} bytes");
            let found = format!("{length} bytes: {} records and {} bytes", length / record, length % record);
            return Err(Error::format(path, "length", expected, found));
        }
        let mut labels = Vec::new();
        source.each(length / record, |_, bytes| {
            labels.push(u32::from(bytes[label_bytes - 1]));
            Ok(())
        })?;
        source.labels = labels;
        Ok(source)
    }

    fn record(&self) -> usize {
        self.label_bytes + SPEC.bytes()
    }

    fn each(&self, count: u64, mut f: impl FnMut(usize, Vec<u8>) -> Result<()>) -> Result<()> {
        let file = File::open(&self.path).map_err(Error::io("open", &self.path))?;
        let mut reader = BufReader::with_capacity(1 << 17, file);
        for row in 0..count as usize {
            f(row, read_bytes(&mut reader, self.record() as u64, &self.path, || self.place(row).at)?)?;
        }
        Ok(())
    }
}

impl Source for Cifar {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn classes(&self) -> Option<&[String]> {
        Some(&self.classes)
    }

    fn place(&self, row: usize) -> Place {
        Place::new(&self.path, format!("record {row} (byte {})", row * self.record()))
    }

    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        let mut wanted = rows.iter().copied().peekable();
        self.each(self.labels.len() as u64, |row, mut data| {
            if wanted.next_if_eq(&row).is_some() {
                data.drain(..self.label_bytes);
                sink(Item { row, picture: Picture::Pixels(Pixels { spec: SPEC, data }) })?;
            }
            Ok(())
        })
    }
}

fn class_names(path: &Path, fine: bool) -> Result<Vec<String>> {
    let (name, set) =
        if fine { ("fine_label_names.txt", NamedSet::Cifar100) } else { ("batches.meta.txt", NamedSet::Cifar10) };
    let names_path = path.with_file_name(name);
    if !names_path.is_file() {
        return Ok(set.classes());
    }
    let text = fs::read_to_string(&names_path).map_err(Error::io("read", &names_path))?;
    let names: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(Into::into).collect();
    // One label byte tells up to 256 classes apart, and other sets than CIFAR-10 come in its format.
    let (fits, expected) =
        if fine { (names.len() == 100, "100") } else { ((1..=256).contains(&names.len()), "1 to 256") };
    if !fits {
        return Err(Error::format(names_path, "lines", format!("{expected} class names"), names.len().to_string()));
    }
    Ok(names)
}

/// The files of a folder, and whether they are CIFAR-100's: train batches and test.
pub(crate) struct Found {
    pub(crate) fine: bool,
    pub(crate) train: Vec<PathBuf>,
    pub(crate) test: Vec<PathBuf>,
}

/// Looks for the published file names in `folder`, and in the sub-folders that the archives unpack to.
pub(crate) fn find(folder: &Path) -> Option<Found> {
    for dir in [folder.to_path_buf(), folder.join("cifar-10-batches-bin"), folder.join("cifar-100-binary")] {
        let there =
            |names: &[&str]| -> Vec<PathBuf> { names.iter().map(|n| dir.join(n)).filter(|p| p.is_file()).collect() };
        let batches =
            ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
        let (train, test) = (there(&batches), there(&["test_batch.bin"]));
        if !train.is_empty() {
            return Some(Found { fine: false, train, test });
        }
        let (train, test) = (there(&["train.bin"]), there(&["test.bin"]));
        if !train.is_empty() {
            return Some(Found { fine: true, train, test });
        }
    }
    None
}
