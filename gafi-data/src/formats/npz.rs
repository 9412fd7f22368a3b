//! NumPy archives, stored or deflated, with the array names of MedMNIST (`train_images`, `train_labels`, …), of Keras (`x_train`,
//! `y_train`, …), or plain `images` and `labels`: in one archive, or in one per split or array. Images are streamed; only arrays in
//! Fortran order are held in memory.
//!
//! The formats: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

mod archive;
mod find;

use std::io::Read;
use std::path::Path;

use gafi_core::{Error, ImageSpec, Result};

use super::labels::LabelColumn;
use super::npy::{Header, each_value, show_shape};
use crate::note::{Note, NoteKind};
use crate::source::{
    Item, Location, MAX_SIDE, Pixels, RawImage, Sink, Source, check_inflated, check_rows, expect_end,
    interleaved_to_planar, read_bytes,
};
use archive::{ArrayPath, image_count, open_archive, open_array, read_labels, read_names};
pub(crate) use find::{Arrays, find, find_several, only};

/// Maximum number of bytes of an array in Fortran order, which is held in memory.
const FORTRAN_MAX: u64 = 2 << 30;
/// One split, in one or two archives.
pub(crate) struct Npz {
    images: ArrayPath,
    layout: Layout,
    values: Values,
    /// Whether each image is stored as one row of pixels.
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

/// How the values of an array are converted to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Values {
    /// Bytes already.
    Bytes,
    /// Whole numbers from 0 to 255 in a wider type.
    Wide,
    /// Numbers from 0 to 1, which are multiplied by 255 and rounded.
    Unit,
}

impl Npz {
    /// Opens a split. The arrays of the training split, `train`, decide how values are converted and which class a name is.
    pub(crate) fn open(arrays: &Arrays, train: &Arrays) -> Result<Self> {
        let ArrayPath { path, name } = &arrays.images;
        let mut archive = open_archive(path)?;
        let (_, header, deflated) = open_array(&mut archive, path, name)?;
        let layout = image_layout(path, name, &header)?;
        let place = format!("{name}, header");
        check_inflated(header.bytes().unwrap_or(u64::MAX), deflated, path, place.clone())?;
        check_rows(layout.count as u64, path, place)?;
        let values = values_of(&train.images)?;
        if arrays != train && values != values_of(&arrays.images)? {
            let expected = format!("values like those of {}", train.images.name);
            return Err(Error::format(path, name.clone(), expected, "another range or dtype"));
        }
        let mut labels = read_labels(&arrays.labels, layout.count)?;
        let mut classes = arrays.names.as_ref().map(read_names).transpose()?;
        if labels.names.is_some() {
            classes = if arrays == train {
                LabelColumn::classes(&[&labels], &[])
            } else {
                let train = read_labels(&train.labels, image_count(&train.images)?)?;
                LabelColumn::classes(&[&train], &[&labels])
            };
            labels.number_by(classes.as_deref().unwrap_or_default());
        }
        let flat = header.shape.len() == 2;
        Ok(Self { images: arrays.images.clone(), layout, values, flat, labels, classes })
    }

    /// Converts `values`, the stored bytes of one image.
    fn pixels(&self, row: usize, header: &Header, values: Vec<u8>) -> Result<Pixels> {
        let spec = self.layout.spec;
        let byte = |raw: &[u8]| {
            let value = header.number(raw);
            let value = if self.values == Values::Unit { (value * 255.0).round() } else { value };
            // `values_of` checked every value, but the file may have changed since.
            if (0.0..=255.0).contains(&value) {
                return Ok(value as u8);
            }
            Err(self.location(row).error("values as when the array was opened", value.to_string()))
        };
        let data = match self.values {
            Values::Bytes => values,
            Values::Wide | Values::Unit => {
                values.chunks_exact(values.len() / spec.bytes()).map(byte).collect::<Result<_>>()?
            }
        };
        let data = if self.layout.channels_last { interleaved_to_planar(data, spec) } else { data };
        Ok(Pixels { spec, data })
    }

    /// Sends rows of an array in Fortran order. It is held in memory, because the values of an image are far apart.
    fn scan_fortran(&self, header: &Header, array: &mut dyn Read, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        let ArrayPath { path, name } = &self.images;
        let bytes = header.bytes().unwrap_or(u64::MAX);
        if bytes > FORTRAN_MAX {
            let expected =
                format!("at most {FORTRAN_MAX} bytes in Fortran order (save np.ascontiguousarray(array) instead)");
            return Err(Error::format(path, format!("{name}, header"), expected, format!("{bytes} bytes")));
        }
        let all = read_bytes(array, bytes, path, || name.clone())?;
        let spec = self.layout.spec;
        let width = all.len() / (self.layout.count * spec.bytes()).max(1);
        // The dimensions of an image in the order of the file, and the distance between neighbours along each.
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
            sink(Item { row, image: RawImage::Pixels(self.pixels(row, header, values)?) })?;
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
            let what = format!("images stored as single rows, read as {height}x{width} pixels");
            notes.push(Note::new(NoteKind::Assumed, count, what));
        }
        notes
    }

    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        let ArrayPath { path, name } = &self.images;
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
                    sink(Item { row, image: RawImage::Pixels(self.pixels(row, &header, values)?) })?;
                }
            }
        }
        // Reading to the end makes the archive verify its CRC.
        expect_end(&mut array, path, &format!("{name}, after its last image"))
    }
}

/// How the values of an array of images are converted to bytes: by their type, and for wider types by their range.
fn values_of(images: &ArrayPath) -> Result<Values> {
    let ArrayPath { path, name } = images;
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
    let (mut low, mut high, mut whole) = (f64::INFINITY, f64::NEG_INFINITY, true);
    each_value(&mut array, &header, path, name, |_, raw| {
        let value = header.number(raw);
        whole &= value.fract() == 0.0;
        (low, high) = (low.min(value), high.max(value));
        if value.is_nan() {
            return Err(Error::format(path, name.clone(), "numbers", "NaN"));
        }
        Ok(())
    })?;
    let is_float = header.kind.starts_with('f');
    if is_float && low >= 0.0 && high <= 1.0 {
        return Ok(Values::Unit);
    }
    // Values below 128 alone suggest another range, such as 0 to 16.
    if whole && low >= 0.0 && (128.0..=255.0).contains(&high) {
        return Ok(Values::Wide);
    }
    let expected = "values from 0 to 255, or floats from 0 to 1; scale others: \
                    ((x - x.min()) * (255 / (x.max() - x.min()))).round().astype(np.uint8)";
    Err(Error::format(path, name.clone(), expected, format!("{} from {low} to {high}", header.kind)))
}

fn image_layout(path: &Path, name: &str, header: &Header) -> Result<Layout> {
    let wrong = |expected: String| Error::format(path, format!("{name}, header"), expected, show_shape(&header.shape));
    let is_colour_axis = |n: usize| n == 1 || n == 3;
    let square = |values: usize| Some(values.isqrt()).filter(|side| side * side == values);
    let (count, spec, channels_last) = match header.shape[..] {
        // Three times a square is never a square, so a square number of values is a grey image.
        [n, values] if square(values).is_some_and(|side| side > 1) => {
            let side = values.isqrt();
            (n, ImageSpec::new(1, side, side), false)
        }
        [_, values] if values % 3 == 0 && square(values / 3).is_some() => {
            let side = (values / 3).isqrt();
            return Err(wrong(format!(
                "images with height and width; x.reshape(-1, 3, {side}, {side}) if they are stored as three planes, as CIFAR and ImageNet \
                 are, else x.reshape(-1, {side}, {side}, 3)"
            )));
        }
        [n, h, w] => (n, ImageSpec::new(1, h, w), false),
        [n, h, w, c] if is_colour_axis(c) => (n, ImageSpec::new(c, h, w), true),
        [n, c, h, w] if is_colour_axis(c) => (n, ImageSpec::new(c, h, w), false),
        [_, a, b, c] if a > 4 && b > 4 && c > 4 => {
            return Err(wrong("images, not volumes (3-D sets cannot be imported; cut slices first)".into()));
        }
        _ => {
            return Err(wrong("shape (n, h, w), (n, h, w, c) or (n, c, h, w), where c is 1 or 3 (drop alpha)".into()));
        }
    };
    let side = 1..=MAX_SIDE;
    if !side.contains(&spec.height) || !side.contains(&spec.width) {
        return Err(wrong(format!("1 to {MAX_SIDE} rows and columns")));
    }
    Ok(Layout { count, spec, channels_last })
}
