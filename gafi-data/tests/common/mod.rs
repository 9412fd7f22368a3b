//! Writes small files in real formats, byte by byte or with the formats' own writers, and imports them.
#![allow(dead_code, reason = "each test program uses only a part")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gafi_core::{Context, Dataset, DatasetInfo, ImageSpec, Inputs, Progress, Result, Rows, Split, Task, execute};
use gafi_data::{Import, ImportConfig};
use image::{DynamicImage, GrayImage, ImageFormat, RgbImage};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

pub(crate) const GREY: ImageSpec = ImageSpec::new(1, 5, 7);
pub(crate) const COLOUR: ImageSpec = ImageSpec::new(3, 5, 7);

/// A pixel value that changes under any flip, rotation or swap of channels.
pub(crate) fn pixel(row: usize, c: usize, y: usize, x: usize) -> u8 {
    ((row * 37 + c * 90 + y * 13 + x * 5) % 251) as u8
}

/// Image number `row` as (c, h, w).
pub(crate) fn picture(row: usize, spec: ImageSpec) -> Vec<u8> {
    let mut data = Vec::new();
    for c in 0..spec.channels {
        for y in 0..spec.height {
            data.extend((0..spec.width).map(|x| pixel(row, c, y, x)));
        }
    }
    data
}

/// Image number `row` as (h, w, c).
pub(crate) fn interleaved(row: usize, spec: ImageSpec) -> Vec<u8> {
    let mut data = Vec::new();
    for y in 0..spec.height {
        for x in 0..spec.width {
            data.extend((0..spec.channels).map(|c| pixel(row, c, y, x)));
        }
    }
    data
}

/// Image number `row` as a type of the image crate.
pub(crate) fn dynamic(row: usize, spec: ImageSpec) -> DynamicImage {
    let w = spec.width as u32;
    let h = spec.height as u32;
    let data = interleaved(row, spec);
    match spec.channels {
        1 => DynamicImage::ImageLuma8(GrayImage::from_raw(w, h, data).unwrap()),
        _ => DynamicImage::ImageRgb8(RgbImage::from_raw(w, h, data).unwrap()),
    }
}

pub(crate) fn png(row: usize, spec: ImageSpec) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    dynamic(row, spec).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// The first images as PNG files, for [`parquet`].
pub(crate) fn pngs(rows: usize, spec: ImageSpec) -> Vec<Option<Vec<u8>>> {
    (0..rows).map(|row| Some(png(row, spec))).collect()
}

pub(crate) fn idx_images(rows: usize, spec: ImageSpec) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [0x0803, rows, spec.height, spec.width] {
        bytes.extend((word as u32).to_be_bytes());
    }
    (0..rows).for_each(|row| bytes.extend(picture(row, spec)));
    bytes
}

pub(crate) fn idx_labels(labels: &[u8]) -> Vec<u8> {
    let mut bytes = 0x0801u32.to_be_bytes().to_vec();
    bytes.extend((labels.len() as u32).to_be_bytes());
    bytes.extend(labels);
    bytes
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

/// A file like the hub's: images as a struct of bytes and path, labels, class names in the schema's metadata.
pub(crate) fn parquet(
    columns: (&str, &str),
    images: &[Option<Vec<u8>>],
    labels: &[i64],
    names: &[&str],
    c: Compression,
) -> Vec<u8> {
    let (image, label) = columns;
    let schema = format!(
        "message schema {{ optional group {image} {{ optional binary bytes; optional binary path (UTF8); }} \
         optional int64 {label}; }}"
    );
    let hub = serde_json::json!({"info": {"features": {
        image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}}});
    let properties = WriterProperties::builder()
        .set_compression(c)
        .set_key_value_metadata(Some(vec![KeyValue::new("huggingface".into(), hub.to_string())]))
        .build();
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    // Two row groups, so that row numbers have to continue across them.
    let middle = labels.len() / 2;
    for range in [0..middle, middle..labels.len()] {
        let mut group = writer.next_row_group().unwrap();
        let images = &images[range.clone()];
        let labels = &labels[range];
        for column in 0..3 {
            let mut next = group.next_column().unwrap().unwrap();
            if column < 2 {
                let present: Vec<ByteArray> = images.iter().flatten().map(|b| ByteArray::from(b.clone())).collect();
                let values = if column == 0 { present } else { Vec::new() };
                let top = if column == 0 { 2 } else { 1 };
                let levels: Vec<i16> = images.iter().map(|b| if b.is_some() { top } else { 0 }).collect();
                next.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            } else {
                next.typed::<Int64Type>().write_batch(labels, Some(&vec![1; labels.len()]), None).unwrap();
            }
            next.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

/// An array as `numpy.save` writes it.
pub(crate) fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

pub(crate) fn npz(arrays: &[(&str, Vec<u8>)], deflated: bool) -> Vec<u8> {
    let method = if deflated { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

pub(crate) fn write(path: impl AsRef<Path>, bytes: &[u8]) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// An import of the images at `path`, of which one of each class is held out for validation.
pub(crate) fn at(path: impl Into<PathBuf>) -> ImportConfig {
    ImportConfig { val_per_class: Some(1), ..ImportConfig::at(path) }
}

/// Requests a stop once `limit` rows are done.
pub(crate) struct StopAt {
    pub(crate) limit: u64,
    pub(crate) done: Arc<AtomicU64>,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Progress for StopAt {
    fn log(&self, _: &str) {}
    fn begin(&self, _: &str, _: Option<u64>) -> Box<dyn Task> {
        Box::new(Self { limit: self.limit, done: self.done.clone(), stop: self.stop.clone() })
    }
}

impl Task for StopAt {
    fn advance(&mut self, n: u64) {
        if self.done.fetch_add(n, Ordering::SeqCst) + n >= self.limit {
            self.stop.store(true, Ordering::SeqCst);
        }
    }
    fn note(&mut self, _: &str) {}
}

/// Rows of a dataset: row number in the source -> (label, pixels).
pub(crate) type Imported = (DatasetInfo, BTreeMap<u64, (u32, Vec<u8>)>);

/// Imports one split into a fresh folder and reads it back.
pub(crate) fn import(config: &ImportConfig, split: Split) -> Result<Imported> {
    let dir = tempfile::tempdir().unwrap();
    let cx = Context::default();
    let stage = Import::new(config, split, &cx)?;
    let made = execute(&stage, &Inputs::new(), &dir.path().join("set"), &cx)?;
    made.artifact.verify()?;
    let set = Dataset::open(&made.artifact)?;
    let bytes = set.info().image.bytes();
    let mut rows = BTreeMap::new();
    for batch in set.batches() {
        let batch = batch?;
        for (i, &id) in batch.ids.iter().enumerate() {
            rows.insert(id, (batch.labels[i].0, batch.images[i * bytes..(i + 1) * bytes].to_vec()));
        }
    }
    assert_eq!(rows.len(), set.len(), "each row is there once");
    Ok((set.info().clone(), rows))
}

/// Imports train and val, which together are all training rows of the source, and checks that they are disjoint.
pub(crate) fn import_rows(config: &ImportConfig) -> Result<Imported> {
    let (info, mut rows) = import(config, Split::Train)?;
    let (val_info, val) = import(config, Split::Val)?;
    assert_eq!((&info.image, &info.classes), (&val_info.image, &val_info.classes));
    let total = rows.len() + val.len();
    rows.extend(val);
    assert_eq!(rows.len(), total, "train and val share rows");
    Ok((info, rows))
}

/// Checks that the rows are [`picture`]s of `spec` with these `labels`.
pub(crate) fn expect_pictures(found: &Imported, labels: &[u8], spec: ImageSpec) {
    assert_eq!(found.0.image, spec);
    assert_eq!(found.1.len(), labels.len());
    for (row, &label) in labels.iter().enumerate() {
        let (found_label, pixels) = &found.1[&(row as u64)];
        assert_eq!(*found_label, u32::from(label), "label of row {row}");
        assert_eq!(*pixels, picture(row, spec), "pixels of row {row}");
    }
}

/// Checks that importing the training split fails with a message that contains all of `parts`.
pub(crate) fn expect_error(config: &ImportConfig, parts: &[&str]) {
    expect_split_error(config, Split::Train, parts);
}

pub(crate) fn expect_split_error(config: &ImportConfig, split: Split, parts: &[&str]) {
    let Err(error) = import(config, split) else { panic!("the import should fail with {parts:?}") };
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

/// Checks that importing train or val fails, whichever has the bad image.
pub(crate) fn expect_image_error(config: &ImportConfig, parts: &[&str]) {
    let errors = [Split::Train, Split::Val].map(|s| import(config, s).err().map(|e| e.to_string()).unwrap_or_default());
    assert!(errors.iter().any(|e| parts.iter().all(|p| e.contains(p))), "{parts:?} in neither of {errors:?}");
}
