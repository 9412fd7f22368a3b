//! NumPy archives with the array names of MedMNIST (`train_images`, `train_labels`, …), of Keras (`x_train`, `y_train`, …), or
//! plain `images` and `labels`, in one archive or in one for each split or array. Stored or deflated. Images are streamed out of
//! the archive, never held in memory as a whole, except for arrays in Fortran order.
//!
//! The formats: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use gafi_core::{Error, ImageSpec, Result, Split, open_regular};
use zip::ZipArchive;

use super::labels::LabelColumn;
use super::npy::{self, Header, show_shape};
use super::split_names::split_of;
use crate::import::{Note, NoteKind};
use crate::source::{
    Item, Location, MAX_SIDE, Pixels, RawImage, Sink, Source, check_inflated, check_rows, expect_end,
    interleaved_to_planar, read_bytes,
};

/// The array names in use, in lower case: images and labels, where `{}` is a split.
const OF_SPLIT: [(&str, &[&str]); 5] = [
    ("{}_images", &["{}_labels", "{}_label"]),
    ("x_{}", &["y_{}"]),
    ("{}_x", &["{}_y"]),
    ("{}_data", &["{}_labels", "{}_label", "{}_targets", "{}_target"]),
    ("{}_imgs", &["{}_labels"]),
];
/// The same for archives of one split.
const WHOLE: [(&str, &[&str]); 5] = [
    ("images", &["labels", "label", "targets", "target"]),
    ("x", &["y"]),
    ("data", &["labels", "label", "targets", "target"]),
    ("imgs", &["labels"]),
    ("arr_0", &["arr_1"]),
];
/// The splits, and what array names call them.
const SPLITS: [(Split, &[&str]); 3] =
    [(Split::Train, &["train"]), (Split::Val, &["val", "valid", "validation"]), (Split::Test, &["test", "t10k"])];
/// Arrays of class names.
const NAMES: [&str; 3] = ["classes", "class_names", "label_names"];

/// Most bytes of an array in Fortran order, which must be in memory.
const FORTRAN_MAX: u64 = 2 << 30;

/// An array in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    name: String,
}

/// The arrays of one split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrays {
    images: Place,
    labels: Place,
    names: Option<Place>,
}

impl Arrays {
    /// The archives, each once.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let paths: BTreeSet<&PathBuf> = [&self.images.path, &self.labels.path].into();
        paths.into_iter().cloned().collect()
    }
}

/// One split of a set of archives.
pub(crate) struct Npz {
    images: Place,
    layout: Layout,
    values: Values,
    /// Whether images are stored without their sides.
    flat: bool,
    labels: LabelColumn,
    classes: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy)]
struct Layout {
    count: usize,
    spec: ImageSpec,
    channels_last: bool,
}

/// How the values of an array become bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Values {
    /// They are bytes.
    Bytes,
    /// Whole numbers from 0 to 255 in a wider type.
    Wide,
    /// From 0 to 1: times 255, rounded.
    Unit,
}

impl Npz {
    /// Opens a split. `train` are the arrays of the training split, which decide how values become bytes and which class a name is.
    pub(crate) fn open(arrays: &Arrays, train: &Arrays) -> Result<Self> {
        let Place { path, name } = &arrays.images;
        let mut archive = open_archive(path)?;
        let (layout, flat) = {
            let (_, header, deflated) = open_array(&mut archive, path, name)?;
            let layout = image_layout(path, name, &header)?;
            let place = format!("{name}, header");
            check_inflated(header.bytes().unwrap_or(u64::MAX), deflated, path, place.clone())?;
            check_rows(layout.count as u64, path, place)?;
            (layout, header.shape.len() == 2)
        };
        let values = values_of(&train.images)?;
        if arrays != train && values != values_of(&arrays.images)? {
            let expected = format!("values like those of {}", train.images.name);
            return Err(Error::format(path, name.clone(), expected, "another range or dtype"));
        }
        let mut labels = read_labels(&arrays.labels, layout.count)?;
        let mut classes = arrays.names.as_ref().map(read_names).transpose()?;
        if labels.names.is_some() {
            let own = [&labels];
            classes = if arrays == train {
                LabelColumn::classes(&own, &[])
            } else {
                let count = image_count(&train.images)?;
                LabelColumn::classes(&[&read_labels(&train.labels, count)?], &own)
            };
            labels.number_by(classes.as_deref().unwrap_or_default());
        }
        Ok(Self { images: arrays.images.clone(), layout, values, flat, labels, classes })
    }

    /// The images that `values`, the bytes of consecutive images, store.
    fn pixels(&self, row: usize, header: &Header, values: &[u8]) -> Result<Pixels> {
        let spec = self.layout.spec;
        let data = match self.values {
            Values::Bytes => values.to_vec(),
            kind => {
                let width = values.len() / spec.bytes();
                let byte = |raw: &[u8]| {
                    let value = number(header, raw);
                    let value = if kind == Values::Unit { (value * 255.0).round() } else { value };
                    // `values_of` has seen every value; the file may have changed since.
                    if (0.0..=255.0).contains(&value) { Ok(value as u8) } else { Err(value) }
                };
                let bytes: std::result::Result<Vec<u8>, f64> = values.chunks_exact(width).map(byte).collect();
                bytes.map_err(|v| self.location(row).error("values as when the array was opened", v.to_string()))?
            }
        };
        let data = if self.layout.channels_last { interleaved_to_planar(data, spec) } else { data };
        Ok(Pixels { spec, data })
    }

    /// Sends rows of an array in Fortran order, which has to be in memory: the values of an image are far apart.
    fn scan_fortran(&self, header: &Header, array: &mut dyn Read, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        let Place { path, name } = &self.images;
        let bytes = header.bytes().unwrap_or(u64::MAX);
        if bytes > FORTRAN_MAX {
            let expected =
                format!("at most {FORTRAN_MAX} bytes in Fortran order (save np.ascontiguousarray(array) instead)");
            return Err(Error::format(path, format!("{name}, header"), expected, format!("{bytes} bytes")));
        }
        let all = read_bytes(array, bytes, path, || name.clone())?;
        let spec = self.layout.spec;
        let width = all.len() / (self.layout.count * spec.bytes()).max(1);
        // The sides of one image in the order of the file, and the distance of neighbours along each.
        let sides = &header.shape[1..];
        let mut strides = Vec::new();
        let mut stride = self.layout.count;
        for side in sides {
            strides.push(stride);
            stride *= side;
        }
        for &row in rows {
            let mut values = Vec::with_capacity(spec.bytes() * width);
            for at in 0..spec.bytes() {
                let mut rest = at;
                let mut from = row;
                for (side, stride) in sides.iter().zip(&strides).rev() {
                    from += rest % side * stride;
                    rest /= side;
                }
                values.extend_from_slice(&all[from * width..(from + 1) * width]);
            }
            sink(Item { row, image: RawImage::Pixels(self.pixels(row, header, &values)?) })?;
        }
        Ok(())
    }
}

impl Source for Npz {
    fn labels(&self) -> &[u32] {
        &self.labels.values
    }

    fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    fn location(&self, row: usize) -> Location {
        Location::new(&self.images.path, format!("{}[{row}]", self.images.name))
    }

    fn notes(&self) -> Vec<Note> {
        let count = self.layout.count as u64;
        let mut notes = Vec::new();
        if self.values == Values::Unit {
            notes.push(Note::new(NoteKind::Converted, count, "images of values from 0 to 1, scaled to 0 to 255"));
        }
        if self.flat {
            let ImageSpec { height, width, .. } = self.layout.spec;
            let what = format!("images stored without their sides, read as {height} rows of {width} pixels");
            notes.push(Note::new(NoteKind::Assumed, count, what));
        }
        notes
    }

    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        let Place { path, name } = &self.images;
        let mut archive = open_archive(path)?;
        let (mut array, header, _) = open_array(&mut archive, path, name)?;
        if header.fortran && header.shape.len() > 1 {
            self.scan_fortran(&header, &mut array, rows, sink)?;
        } else {
            let bytes = self.layout.spec.bytes() as u64 * header.width().unwrap_or(1);
            let mut wanted = rows.iter().copied().peekable();
            for row in 0..self.layout.count {
                let values = read_bytes(&mut array, bytes, path, || self.location(row).place)?;
                if wanted.next_if_eq(&row).is_some() {
                    sink(Item { row, image: RawImage::Pixels(self.pixels(row, &header, &values)?) })?;
                }
            }
        }
        // Reading to the end makes the archive verify its CRC.
        expect_end(&mut array, path, &format!("{name}, after its last image"))
    }
}

/// What an archive holds.
pub(crate) struct Found {
    pub(crate) splits: Vec<(Split, Arrays)>,
    /// Images without labels.
    pub(crate) skipped: Vec<Note>,
}

/// The splits of an archive.
///
/// # Errors
/// [`Error::Format`], which lists the arrays, when there are no training rows.
pub(crate) fn find(path: &Path) -> Result<Found> {
    let names = array_names(&open_archive(path)?);
    let mut skipped = Vec::new();
    let mut splits: Vec<(Split, Arrays)> = Vec::new();
    for (split, words) in SPLITS {
        let pairs = words.iter().flat_map(|word| OF_SPLIT.map(|(i, l)| (i.replace("{}", word), l, *word)));
        let pairs =
            pairs.map(|(images, labels, word)| (images, labels.iter().map(|l| l.replace("{}", word)).collect()));
        let pairs: Vec<(String, Vec<String>)> = pairs.collect();
        if let Some(arrays) = pair(path, &names, &pairs) {
            splits.push((split, arrays));
        } else if split != Split::Train
            && let Some(images) = pairs.iter().find_map(|(images, _)| named(&names, images))
        {
            skipped.push(unlabelled(&images, path)?);
        }
    }
    if splits.first().is_none_or(|(split, _)| *split != Split::Train)
        && let Some(arrays) = whole(path, &names)
    {
        splits.insert(0, (Split::Train, arrays));
    }
    if splits.first().is_none_or(|(split, _)| *split != Split::Train) {
        let expected = "images and labels, train_images and train_labels, or x_train and y_train";
        let found = if names.is_empty() { "no arrays".into() } else { names.join(", ") };
        return Err(Error::format(path, "arrays", expected, found));
    }
    Ok(Found { splits, skipped })
}

/// Images without labels, which cannot be imported.
fn unlabelled(images: &str, path: &Path) -> Result<Note> {
    let count = image_count(&Place { path: path.into(), name: images.into() })?;
    let mut note = Note::new(NoteKind::Skipped, count as u64, "images without labels");
    note.examples.push(images.into());
    Ok(note)
}

/// The splits of archives that hold one split or one array each: `train.npz` and `test.npz`, or `kmnist-train-imgs.npz` and
/// `kmnist-train-labels.npz`. `None` if a folder has no such archives.
///
/// # Errors
/// [`Error::Format`] for several sets in one folder.
pub(crate) fn find_several(folder: &Path) -> Result<Option<Vec<(Split, Arrays)>>> {
    let stems: Vec<String> =
        archives(folder).iter().filter_map(|p| Some(p.file_stem()?.to_str()?.to_owned())).collect();
    let file = |stem: &str| folder.join(format!("{stem}.npz"));
    let mut found: Vec<(String, Split, Arrays)> = Vec::new();
    for stem in &stems {
        // The words of a name: the split is one of them, those before it name the set.
        let words: Vec<&str> = stem.split(['-', '_', '.']).collect();
        let Some((at, split)) = words.iter().enumerate().find_map(|(at, word)| Some((at, split_of(word)?))) else {
            continue;
        };
        let set = words[..at].join("-");
        if let Some(word) = words.iter().find(|w| matches!(w.to_ascii_lowercase().as_str(), "imgs" | "images")) {
            let labels = stem.replace(word, "labels");
            if let (true, Some(images), Some(labels)) =
                (stems.contains(&labels), only_array(&file(stem))?, only_array(&file(&labels))?)
            {
                found.push((set, split, Arrays { images, labels, names: None }));
            }
        } else if let Some(arrays) = whole(&file(stem), &array_names(&open_archive(&file(stem))?)) {
            found.push((set, split, arrays));
        }
    }
    let sets: BTreeSet<&String> = found.iter().map(|(set, ..)| set).collect();
    if sets.len() > 1 {
        let found: Vec<&str> = sets.into_iter().map(String::as_str).collect();
        let expected = "archives of one set (move the others to another folder)";
        return Err(Error::format(folder, "sets", expected, found.join(", ")));
    }
    found.sort_by_key(|(_, split, _)| match split {
        Split::Train => 0,
        Split::Val => 1,
        _ => 2,
    });
    if found.windows(2).any(|two| two[0].1 == two[1].1) || found.first().is_none_or(|f| f.1 != Split::Train) {
        return Ok(None);
    }
    Ok(Some(found.into_iter().map(|(_, split, arrays)| (split, arrays)).collect()))
}

/// The NumPy archives of a folder, sorted.
pub(crate) fn archives(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "npz") && p.is_file()).collect();
    paths.sort_unstable();
    paths
}

/// The array of an archive of one.
fn only_array(path: &Path) -> Result<Option<Place>> {
    let names = array_names(&open_archive(path)?);
    Ok(match <[String; 1]>::try_from(names) {
        Ok([name]) => Some(Place { path: path.into(), name }),
        Err(_) => None,
    })
}

/// The images and labels of an archive of one split.
fn whole(path: &Path, names: &[String]) -> Option<Arrays> {
    let pairs = WHOLE.map(|(images, labels)| (images.to_owned(), labels.iter().map(ToString::to_string).collect()));
    pair(path, names, &pairs)
}

/// The first pair of images and labels that is there.
fn pair(path: &Path, names: &[String], pairs: &[(String, Vec<String>)]) -> Option<Arrays> {
    let place = |name: String| Place { path: path.into(), name };
    pairs.iter().find_map(|(images, labels)| {
        let images = named(names, images)?;
        let labels = labels.iter().find_map(|label| named(names, label))?;
        let class_names = NAMES.iter().find_map(|name| named(names, name));
        Some(Arrays { images: place(images), labels: place(labels), names: class_names.map(place) })
    })
}

/// The array called `name`, in lower case or with capitals: `X_train`.
fn named(names: &[String], name: &str) -> Option<String> {
    let exact = names.iter().find(|n| *n == name);
    exact.or_else(|| names.iter().find(|n| n.eq_ignore_ascii_case(name))).cloned()
}

type Archive = ZipArchive<BufReader<File>>;

fn open_archive(path: &Path) -> Result<Archive> {
    let file = open_regular(path).map_err(Error::io("open", path))?;
    ZipArchive::new(BufReader::new(file))
        .map_err(|e| Error::format(path, "archive", "a zip archive as written by numpy.savez", e.to_string()))
}

fn array_names(archive: &Archive) -> Vec<String> {
    let mut names: Vec<String> = (archive.file_names_raw())
        .filter_map(|n| Some(std::str::from_utf8(n).ok()?.strip_suffix(".npy")?.to_owned()))
        .collect();
    names.sort_unstable();
    names
}

/// Opens an array of the archive. Returns the reader at its first value, its header, and its bytes in the archive.
fn open_array<'a>(archive: &'a mut Archive, path: &Path, name: &str) -> Result<(impl Read + 'a, Header, u64)> {
    let length = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
    let entry = archive.by_name(&format!("{name}.npy"));
    let mut entry = entry.map_err(|e| Error::format(path, name, "a readable array", e.to_string()))?;
    let header = npy::read_header(&mut entry, path, name)?;
    let deflated = entry.compressed_size().min(length);
    Ok((entry, header, deflated))
}

fn image_count(images: &Place) -> Result<usize> {
    let mut archive = open_archive(&images.path)?;
    let (_, header, deflated) = open_array(&mut archive, &images.path, &images.name)?;
    let place = format!("{}, header", images.name);
    check_inflated(header.bytes().unwrap_or(u64::MAX), deflated, &images.path, place.clone())?;
    let count = header.shape.first().copied().unwrap_or(0);
    check_rows(count as u64, &images.path, place)?;
    Ok(count)
}

fn read_labels(labels: &Place, count: usize) -> Result<LabelColumn> {
    let mut archive = open_archive(&labels.path)?;
    let (mut array, header, _) = open_array(&mut archive, &labels.path, &labels.name)?;
    npy::labels(&mut array, &header, count, true, &labels.path, &labels.name)
}

fn read_names(names: &Place) -> Result<Vec<String>> {
    let mut archive = open_archive(&names.path)?;
    let (mut array, header, _) = open_array(&mut archive, &names.path, &names.name)?;
    npy::texts(&mut array, &header, &names.path, &names.name)
}

/// The number that the bytes of a value store.
fn number(header: &Header, raw: &[u8]) -> f64 {
    let mut bytes = [0; 8];
    let width = raw.len().min(8);
    bytes[..width].copy_from_slice(&raw[..width]);
    if header.big_endian {
        bytes[..width].reverse();
    }
    match header.kind.as_str() {
        "f4" => f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
        "f8" => f64::from_le_bytes(bytes),
        kind if kind.starts_with('i') => {
            // Extends the sign.
            let unused = 64 - 8 * width as u32;
            (i64::from_le_bytes(bytes) << unused >> unused) as f64
        }
        _ => u64::from_le_bytes(bytes) as f64,
    }
}

/// How the values of an array of images become bytes, by their type, and for wider types by their range.
fn values_of(images: &Place) -> Result<Values> {
    let Place { path, name } = images;
    let mut archive = open_archive(path)?;
    let (mut array, header, _) = open_array(&mut archive, path, name)?;
    match header.kind.as_str() {
        "u1" => return Ok(Values::Bytes),
        "b1" => return Ok(Values::Unit),
        "u2" | "u4" | "u8" | "i1" | "i2" | "i4" | "i8" | "f4" | "f8" => {}
        other => {
            let expected = "dtype uint8, bool, or numbers from 0 to 255 or from 0 to 1";
            return Err(Error::format(path, format!("{name}, header"), expected, format!("dtype {other}")));
        }
    }
    let width = header.width().unwrap_or(1);
    let mut left = header.bytes().unwrap_or(u64::MAX);
    let (mut low, mut high, mut whole) = (f64::INFINITY, f64::NEG_INFINITY, true);
    while left > 0 {
        let bytes = read_bytes(&mut array, left.min(1 << 16), path, || name.clone())?;
        left -= bytes.len() as u64;
        for raw in bytes.chunks_exact(width as usize) {
            let value = number(&header, raw);
            // Not a number is neither low nor high.
            whole &= value.fract() == 0.0;
            (low, high) = (low.min(value), high.max(value));
            if value.is_nan() {
                return Err(Error::format(path, name.clone(), "numbers", "NaN"));
            }
        }
    }
    let is_float = header.kind.starts_with('f');
    if is_float && low >= 0.0 && high <= 1.0 {
        return Ok(Values::Unit);
    }
    // Values that use the lower half alone are of another range, such as 0 to 16.
    if whole && low >= 0.0 && (128.0..=255.0).contains(&high) {
        return Ok(Values::Wide);
    }
    let expected = "values from 0 to 255, or floats from 0 to 1; scale others: \
                    ((x - x.min()) * (255 / (x.max() - x.min()))).round().astype(np.uint8)";
    Err(Error::format(path, name.clone(), expected, format!("{} from {low} to {high}", header.kind)))
}

fn image_layout(path: &Path, name: &str, header: &Header) -> Result<Layout> {
    let place = format!("{name}, header");
    let is_colour_axis = |n: usize| n == 1 || n == 3;
    let square = |values: usize| Some(values.isqrt()).filter(|side| side * side == values);
    let (count, spec, channels_last) = match header.shape[..] {
        // Three times a square is never a square, so a square is the size of a grey image.
        [n, values] if square(values).is_some_and(|side| side > 1) => {
            let side = values.isqrt();
            (n, ImageSpec::new(1, side, side), false)
        }
        [_, values] if values % 3 == 0 && square(values / 3).is_some() => {
            let side = (values / 3).isqrt();
            let expected = format!(
                "images with their sides; x.reshape(-1, 3, {side}, {side}) if they are stored as three planes, as CIFAR and ImageNet \
                 are, else x.reshape(-1, {side}, {side}, 3)"
            );
            return Err(Error::format(path, place, expected, show_shape(&header.shape)));
        }
        [n, h, w] => (n, ImageSpec::new(1, h, w), false),
        [n, h, w, c] if is_colour_axis(c) => (n, ImageSpec::new(c, h, w), true),
        [n, c, h, w] if is_colour_axis(c) => (n, ImageSpec::new(c, h, w), false),
        [_, a, b, c] if a > 4 && b > 4 && c > 4 => {
            let expected = "images, not volumes (3-D sets cannot be imported; cut slices first)";
            return Err(Error::format(path, place, expected, show_shape(&header.shape)));
        }
        _ => {
            let expected = "shape (n, h, w), (n, h, w, c) or (n, c, h, w), where c is 1 or 3 (drop alpha)";
            return Err(Error::format(path, place, expected, show_shape(&header.shape)));
        }
    };
    let side = 1..=MAX_SIDE;
    if !side.contains(&spec.height) || !side.contains(&spec.width) {
        return Err(Error::format(path, place, format!("1 to {MAX_SIDE} rows and columns"), show_shape(&header.shape)));
    }
    Ok(Layout { count, spec, channels_last })
}
