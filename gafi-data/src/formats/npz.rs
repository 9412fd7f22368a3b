//! NumPy archives with the array names of MedMNIST (`train_images`, `train_labels`, …), of Keras (`x_train`, `y_train`, …), or
//! plain `images` and `labels`. Stored or deflated. Images are streamed out of the archive, never held in memory as a whole.
//!
//! The formats: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use gafi_core::{Error, ImageSpec, Result, Split, open_regular};
use zip::ZipArchive;

use super::npy::{self, Header, show_shape};
use crate::source::{
    Item, Location, MAX_SIDE, Pixels, RawImage, Sink, Source, check_inflated, check_rows, expect_end,
    interleaved_to_planar, read_bytes,
};

/// The array names in use: (split, images, labels).
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

/// One split of an archive.
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
    /// Opens `split`; `None` if the archive has no arrays for it.
    pub(crate) fn open(path: &Path, split: Split) -> Result<Option<Self>> {
        let mut archive = open_archive(path)?;
        let names = array_names(&archive);
        let has = |name: &str| names.iter().any(|n| n == name);
        let Some((_, images, labels)) = NAMES.iter().find(|(s, i, l)| *s == split && has(i) && has(l)) else {
            return Ok(None);
        };
        let layout = {
            let (_, header, deflated) = open_array(&mut archive, path, images)?;
            let layout = image_layout(path, images, &header)?;
            let place = format!("{images}, header");
            check_inflated(header.bytes().unwrap_or(u64::MAX), deflated, path, place.clone())?;
            check_rows(layout.count as u64, path, place)?;
            layout
        };
        let labels = {
            let (mut array, header, _) = open_array(&mut archive, path, labels)?;
            npy::labels(&mut array, &header, layout.count, path, labels)?
        };
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

    fn location(&self, row: usize) -> Location {
        Location::new(&self.path, format!("{}[{row}]", self.images))
    }

    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        let mut archive = open_archive(&self.path)?;
        let (mut array, ..) = open_array(&mut archive, &self.path, &self.images)?;
        let spec = self.layout.spec;
        let mut wanted = rows.iter().copied().peekable();
        for row in 0..self.layout.count {
            let data = read_bytes(&mut array, spec.bytes() as u64, &self.path, || self.location(row).place)?;
            if wanted.next_if_eq(&row).is_some() {
                let data = if self.layout.channels_last { interleaved_to_planar(data, spec) } else { data };
                sink(Item { row, image: RawImage::Pixels(Pixels { spec, data }) })?;
            }
        }
        // Reading to the end makes the archive verify its CRC.
        expect_end(&mut array, &self.path, &format!("{}, after its last image", self.images))
    }
}

/// The splits of an archive.
///
/// # Errors
/// [`Error::Format`], which lists the arrays, when there are no training rows.
pub(crate) fn find(path: &Path) -> Result<Vec<Split>> {
    let names = array_names(&open_archive(path)?);
    let has = |name: &str| names.iter().any(|n| n == name);
    let mut splits: Vec<Split> = NAMES.iter().filter(|(_, i, l)| has(i) && has(l)).map(|(s, _, _)| *s).collect();
    splits.dedup();
    if !splits.contains(&Split::Train) {
        let expected = "images and labels, train_images and train_labels, or x_train and y_train";
        let found = if names.is_empty() { "no arrays".into() } else { names.join(", ") };
        return Err(Error::format(path, "arrays", expected, found));
    }
    Ok(splits)
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

fn image_layout(path: &Path, name: &str, header: &Header) -> Result<Layout> {
    let place = format!("{name}, header");
    if header.kind != "u1" {
        let expected = "dtype uint8 (scale other types to 0..255 and convert them)";
        return Err(Error::format(path, place, expected, format!("dtype {}", header.kind)));
    }
    let is_colour_axis = |n: usize| n == 1 || n == 3;
    let (count, spec, channels_last) = match header.shape[..] {
        [n, h, w] => (n, ImageSpec::new(1, h, w), false),
        [n, h, w, c] if is_colour_axis(c) => (n, ImageSpec::new(c, h, w), true),
        [n, c, h, w] if is_colour_axis(c) => (n, ImageSpec::new(c, h, w), false),
        _ => {
            let expected = "shape (n, h, w), (n, h, w, c) or (n, c, h, w), where c is 1 or 3";
            return Err(Error::format(path, place, expected, show_shape(&header.shape)));
        }
    };
    let side = 1..=MAX_SIDE;
    if !side.contains(&spec.height) || !side.contains(&spec.width) {
        return Err(Error::format(path, place, format!("1 to {MAX_SIDE} rows and columns"), show_shape(&header.shape)));
    }
    Ok(Layout { count, spec, channels_last })
}
