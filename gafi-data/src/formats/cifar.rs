//! The binary version of CIFAR-10 and CIFAR-100: records of label bytes and 3,072 pixels (red plane, green, blue).
//!
//! The format: <https://www.cs.toronto.edu/~kriz/cifar.html>. A CIFAR-10 record starts with one label byte; a CIFAR-100
//! record with two, coarse and fine, of which the fine one is used.

use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use gafi_core::{Error, ImageSpec, Result, Split, open_regular, read_text};

use crate::source::{Item, Location, Pixels, RawImage, Sink, Source, read_bytes};

const SPEC: ImageSpec = ImageSpec::new(3, 32, 32);

/// The set that a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    Cifar10,
    Cifar100,
}

impl Variant {
    /// Number of label bytes in a record. The last one is the label.
    const fn label_bytes(self) -> usize {
        match self {
            Self::Cifar10 => 1,
            Self::Cifar100 => 2,
        }
    }

    /// The text file of class names beside the records.
    const fn names_file(self) -> &'static str {
        match self {
            Self::Cifar10 => "batches.meta.txt",
            Self::Cifar100 => "fine_label_names.txt",
        }
    }

    /// The published class names, in label order.
    pub(crate) const fn classes(self) -> &'static [&'static str] {
        match self {
            Self::Cifar10 => &CIFAR10,
            Self::Cifar100 => &CIFAR100,
        }
    }
}

/// One file of records.
pub(crate) struct Cifar {
    path: PathBuf,
    variant: Variant,
    labels: Vec<u32>,
    classes: Vec<String>,
}

impl Cifar {
    /// Opens a file. Class names come from the text file beside it, or else are the published names.
    pub(crate) fn open(path: &Path, variant: Variant) -> Result<Self> {
        let classes = class_names(path, variant)?;
        let mut source = Self { path: path.into(), variant, labels: Vec::new(), classes };
        let length = fs::metadata(path).map_err(Error::io("read", path))?.len();
        let record = source.record() as u64;
        if !length.is_multiple_of(record) {
            let expected = format!("whole records of {record} bytes");
            let found = format!("{length} bytes: {} records and {} bytes", length / record, length % record);
            return Err(Error::format(path, "length", expected, found));
        }
        let mut labels = Vec::new();
        source.each(length / record, |_, bytes| {
            labels.push(u32::from(bytes[variant.label_bytes() - 1]));
            Ok(())
        })?;
        source.labels = labels;
        Ok(source)
    }

    /// Length of a record in bytes.
    fn record(&self) -> usize {
        self.variant.label_bytes() + SPEC.bytes()
    }

    fn each(&self, count: u64, mut f: impl FnMut(usize, Vec<u8>) -> Result<()>) -> Result<()> {
        let file = open_regular(&self.path).map_err(Error::io("open", &self.path))?;
        let mut reader = BufReader::with_capacity(1 << 17, file);
        for row in 0..count as usize {
            f(row, read_bytes(&mut reader, self.record() as u64, &self.path, || self.location(row).place)?)?;
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

    fn location(&self, row: usize) -> Location {
        Location::new(&self.path, format!("record {row} (byte {})", row * self.record()))
    }

    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        let mut wanted = rows.iter().copied().peekable();
        self.each(self.labels.len() as u64, |row, mut data| {
            if wanted.next_if_eq(&row).is_some() {
                data.drain(..self.variant.label_bytes());
                sink(Item { row, image: RawImage::Pixels(Pixels { spec: SPEC, data }) })?;
            }
            Ok(())
        })
    }
}

/// Longest file of class names in bytes: 256 names of 256 bytes.
const NAMES_MAX: u64 = 1 << 16;

fn class_names(path: &Path, variant: Variant) -> Result<Vec<String>> {
    let names_path = path.with_file_name(variant.names_file());
    if !names_path.is_file() {
        return Ok(variant.classes().iter().map(ToString::to_string).collect());
    }
    let text = read_text(&names_path, NAMES_MAX).map_err(Error::io("read", &names_path))?;
    let names: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(Into::into).collect();
    // Other sets are published in CIFAR-10's format, and one label byte distinguishes up to 256 classes.
    let (fits, expected) = match variant {
        Variant::Cifar10 => ((1..=256).contains(&names.len()), "1 to 256 class names"),
        Variant::Cifar100 => (names.len() == 100, "100 class names"),
    };
    if !fits {
        return Err(Error::format(names_path, "lines", expected, names.len().to_string()));
    }
    Ok(names)
}

/// The record files of a folder.
pub(crate) struct Batches {
    pub(crate) variant: Variant,
    pub(crate) train: Vec<PathBuf>,
    pub(crate) test: Vec<PathBuf>,
    /// The split of the files in `train` if the folder holds only that split and it is not the training split.
    pub(crate) only: Option<Split>,
}

/// Looks for the published file names in `folder` and in the subfolders that the archives unpack to.
pub(crate) fn find(folder: &Path) -> Option<Batches> {
    let five: Vec<String> = (1..=5).map(|i| format!("data_batch_{i}.bin")).collect();
    let one = |name: &str| vec![name.to_owned()];
    let layouts = [
        (Variant::Cifar10, five, one("test_batch.bin"), None),
        (Variant::Cifar100, one("train.bin"), one("test.bin"), None),
        // Exports of other splits by GaFi.
        (Variant::Cifar10, one("val_batch.bin"), Vec::new(), Some(Split::Val)),
        (Variant::Cifar10, one("test_batch.bin"), Vec::new(), Some(Split::Test)),
    ];
    for dir in [folder.to_path_buf(), folder.join("cifar-10-batches-bin"), folder.join("cifar-100-binary")] {
        let existing =
            |names: &[String]| -> Vec<PathBuf> { names.iter().map(|n| dir.join(n)).filter(|p| p.is_file()).collect() };
        for (variant, train, test, only) in &layouts {
            let train = existing(train);
            if !train.is_empty() {
                return Some(Batches { variant: *variant, train, test: existing(test), only: *only });
            }
        }
    }
    None
}

const CIFAR10: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

#[rustfmt::skip]
const CIFAR100: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
    "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
];
