//! NumPy archives: MedMNIST's (`train_images`, `train_labels`, …), Keras's (`x_train`, `y_train`, …), and plain `images` with
//! `labels`. Stored or deflated; arrays are streamed out of the archive, never held whole.
//!
//! The formats: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use gafi_core::{Error, ImageSpec, Result, Split};
use zip::ZipArchive;

use crate::npy::{self, Header};
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
        let labels = {
            let (mut array, header) = open_array(&mut archive, path, labels)?;
            npy::labels(&mut array, &header, path, labels)?
        };
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

/// Opens an array of the archive: its values, and its header.
fn open_array<'a>(archive: &'a mut Archive, path: &Path, name: &str) -> Result<(impl Read + 'a, Header)> {
    let entry = archive.by_name(&format!("{name}.npy"));
    let mut entry = entry.map_err(|e| Error::format(path, name, "an array", e.to_string()))?;
    let header = npy::read_header(&mut entry, path, name)?;
    Ok((entry, header))
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
