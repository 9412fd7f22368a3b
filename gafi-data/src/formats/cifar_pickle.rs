//! The Python version of CIFAR-10 and CIFAR-100, as torchvision unpacks it: pickles of a dictionary with `data`, an array of
//! (rows, 3072) bytes, and `labels` or `fine_labels`. ImageNet resized to 16, 32 or 64 pixels is published in the same form.
//!
//! The format: <https://www.cs.toronto.edu/~kriz/cifar.html>. `gafi-pickle` reads pickles without running their code.

use std::path::{Path, PathBuf};

use gafi_core::{Error, ImageSpec, Result, Split, read_regular};
use gafi_pickle::{Array, Fault, Id, Kind, Pickle};

use super::cifar::Variant;
use crate::source::{Item, Location, MAX_SIDE, Pixels, RawImage, Sink, Source};

/// Longest file in bytes. The training images of CIFAR-100 take 154 MB.
const FILE_MAX: u64 = 1 << 30;

/// One file of images.
pub(crate) struct CifarPickle {
    path: PathBuf,
    labels: Vec<u32>,
    classes: Option<Vec<String>>,
}

impl CifarPickle {
    /// Opens a file and reads its labels. Class names come from the pickle `batches.meta` or `meta` beside it. Without one, CIFAR gets
    /// its published names.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let bytes = read(path)?;
        let pickle = parse(&bytes, path)?;
        let (key, labels) = ["fine_labels", "labels"]
            .iter()
            .find_map(|key| Some((*key, pickle.entry(pickle.root_id(), key)?)))
            .ok_or_else(|| Error::format(path, "keys", "data, and labels or fine_labels", keys(&pickle)))?;
        let found = pickle.integers(labels).map_err(|found| Error::format(path, key, "a list of integers", found))?;
        let (_, spec, rows) = images(&pickle, path)?;
        if found.len() != rows {
            let expected = format!("{rows} labels, one for each image");
            return Err(Error::format(path, key, expected, found.len().to_string()));
        }
        let label = |(row, label): (usize, i64)| {
            let wrong = |_| Error::format(path, format!("{key}[{row}]"), "a label, 0 or more", label.to_string());
            u32::try_from(label).map_err(wrong)
        };
        let labels: Vec<u32> = found.into_iter().enumerate().map(label).collect::<Result<_>>()?;
        let variant = if key == "fine_labels" { Variant::Cifar100 } else { Variant::Cifar10 };
        let published = variant.classes();
        // Downsampled ImageNet has the same layout and other classes, so it does not get the names of CIFAR.
        let is_cifar = spec.height == 32 && labels.iter().all(|&l| (l as usize) < published.len());
        let of_cifar = || published.iter().map(ToString::to_string).collect();
        let classes = class_names(path)?.or_else(|| is_cifar.then(of_cifar));
        Ok(Self { path: path.into(), labels, classes })
    }
}

impl Source for CifarPickle {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    fn location(&self, row: usize) -> Location {
        Location::new(&self.path, format!("data[{row}]"))
    }

    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        let bytes = read(&self.path)?;
        let pickle = parse(&bytes, &self.path)?;
        let (array, spec, count) = images(&pickle, &self.path)?;
        for &row in rows {
            let data = if row >= count {
                return Err(self.location(row).error("an image", format!("{count} images")));
            } else if array.fortran {
                (0..spec.bytes()).map(|at| array.data[at * count + row]).collect()
            } else {
                array.data[row * spec.bytes()..(row + 1) * spec.bytes()].to_vec()
            };
            sink(Item { row, image: RawImage::Pixels(Pixels { spec, data }) })?;
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    read_regular(path, FILE_MAX).map_err(Error::io("read", path))
}

fn parse<'a>(bytes: &'a [u8], path: &Path) -> Result<Pickle<'a>> {
    let wrong = |Fault { at, expected, found }| Error::format(path, format!("byte {at}"), expected, found);
    Pickle::parse(bytes).map_err(wrong)
}

/// The array of images, the shape of an image, and the number of images.
fn images<'a>(pickle: &Pickle<'a>, path: &Path) -> Result<(Array<'a>, ImageSpec, usize)> {
    let data = pickle.entry(pickle.root_id(), "data");
    let data = data.ok_or_else(|| Error::format(path, "keys", "data, and labels or fine_labels", keys(pickle)))?;
    let array = pickle.array(data).map_err(|found| Error::format(path, "data", "an array of images", found))?;
    let side = |bytes: usize| {
        let side = (bytes / 3).isqrt();
        (side > 0 && side <= MAX_SIDE && 3 * side * side == bytes).then_some(side)
    };
    if let (Kind::Unsigned, 1, &[rows, bytes]) = (array.kind, array.width, &array.shape[..])
        && let Some(side) = side(bytes)
    {
        return Ok((array, ImageSpec::new(3, side, side), rows));
    }
    let expected = "uint8 of shape (rows, 3072), or rows of other square images in three planes";
    let found = format!("{:?} of {} bytes, shape {:?}", array.kind, array.width, array.shape);
    Err(Error::format(path, "data", expected, found))
}

/// The keys of the pickled dictionary, for errors.
fn keys(pickle: &Pickle<'_>) -> String {
    match pickle.root() {
        gafi_pickle::Value::Dict(items) => {
            let names: Vec<&str> = items.iter().take(10).filter_map(|(key, _)| pickle.text(*key)).collect();
            if names.is_empty() { "a dictionary without string keys".into() } else { names.join(", ") }
        }
        other => pickle.describe(other),
    }
}

fn class_names(path: &Path) -> Result<Option<Vec<String>>> {
    for (file, key) in NAMES {
        let path = path.with_file_name(file);
        if !path.is_file() {
            continue;
        }
        let bytes = read_regular(&path, 1 << 20).map_err(Error::io("read", &path))?;
        let pickle = parse(&bytes, &path)?;
        let names = pickle.entry(pickle.root_id(), key).and_then(|list| {
            let text = |id: &Id| pickle.text(*id).map(str::to_owned);
            pickle.items(list)?.iter().map(text).collect::<Option<Vec<String>>>()
        });
        let names = names.filter(|names| !names.is_empty());
        return names.map(Some).ok_or_else(|| Error::format(&path, key, "a list of class names", keys(&pickle)));
    }
    Ok(None)
}

/// The files of class names, and the key in each.
pub(crate) const NAMES: [(&str, &str); 2] = [("batches.meta", "label_names"), ("meta", "fine_label_names")];

/// The files of a folder.
pub(crate) struct Batches {
    pub(crate) variant: Variant,
    pub(crate) splits: Vec<(Split, Vec<PathBuf>)>,
}

/// Looks for the published file names in `folder` and in the subfolders that the archives unpack to.
pub(crate) fn find(folder: &Path) -> Option<Batches> {
    let ten = |begin: &str| (1..=10).map(|i| format!("{begin}data_batch_{i}")).collect::<Vec<String>>();
    let one = |name: &str| vec![name.to_owned()];
    let layouts = [
        (Variant::Cifar10, [(Split::Train, ten("")), (Split::Test, one("test_batch"))]),
        (Variant::Cifar100, [(Split::Train, one("train")), (Split::Test, one("test"))]),
        (Variant::Cifar10, [(Split::Train, ten("train_")), (Split::Val, one("val_data"))]),
    ];
    for dir in [folder.to_path_buf(), folder.join("cifar-10-batches-py"), folder.join("cifar-100-python")] {
        let existing =
            |names: &[String]| -> Vec<PathBuf> { names.iter().map(|n| dir.join(n)).filter(|p| is_pickle(p)).collect() };
        for (variant, names) in &layouts {
            let splits = names.iter().map(|(split, names)| (*split, existing(names)));
            let splits: Vec<_> = splits.filter(|(_, files)| !files.is_empty()).collect();
            if splits.first().is_some_and(|(split, _)| *split == Split::Train) {
                return Some(Batches { variant: *variant, splits });
            }
        }
    }
    None
}

/// Whether a file starts like a pickle of protocol 2 to 5.
pub(crate) fn is_pickle(path: &Path) -> bool {
    use std::io::Read;
    let mut head = [0; 2];
    let read = gafi_core::open_regular(path).and_then(|mut file| file.read_exact(&mut head));
    path.is_file() && read.is_ok() && matches!(head, [0x80, 2..=5])
}
