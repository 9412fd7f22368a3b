//! Image datasets of the Hugging Face hub: parquet files with PNG or JPEG bytes in a struct column, and integer labels.
//!
//! Columns are read leaf by leaf through the parquet crate's column readers, a few rows at a time. This needs no Arrow (a
//! third of the compile time) and holds one page, at most a few megabytes, in memory. Class names come from the
//! `huggingface` entry of the schema's metadata.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use gafi_core::{Error, Result, open_regular};
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;

use crate::source::{Item, Location, RawImage, Sink, Source, check_rows};

const IMAGE_COLUMNS: [&str; 2] = ["image", "img"];
const LABEL_COLUMNS: [&str; 2] = ["label", "fine_label"];
/// Images read at once, at most.
const CHUNK: usize = 64;

/// Names of the columns to read; `None` means one of the usual names.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Columns<'a> {
    pub(crate) image: Option<&'a str>,
    pub(crate) label: Option<&'a str>,
}

/// One parquet file.
pub(crate) struct Parquet {
    path: PathBuf,
    image: usize,
    image_name: String,
    labels: Vec<u32>,
    classes: Option<Vec<String>>,
}

impl Parquet {
    /// Opens a file: finds the columns and reads all labels.
    pub(crate) fn open(path: &Path, columns: Columns<'_>) -> Result<Self> {
        let reader = open(path)?;
        let meta = reader.metadata().file_metadata();
        let schema = meta.schema_descr();
        let image = image_column(path, schema, columns.image)?;
        let label = label_column(path, schema, columns.label)?;
        let image_name = root_name(schema, image).to_owned();
        let label_name = root_name(schema, label).to_owned();
        let hub = meta.key_value_metadata().and_then(|m| m.iter().find(|e| e.key == "huggingface"));
        let classes = hub.and_then(|e| e.value.as_deref()).and_then(|text| class_names(text, &label_name));
        let labels = read_labels(path, &reader, label, &label_name)?;
        Ok(Self { path: path.into(), image, image_name, labels, classes })
    }
}

impl Source for Parquet {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    fn location(&self, row: usize) -> Location {
        Location::new(&self.path, format!("row {row}, column {}", self.image_name))
    }

    fn scan(&self, rows: &[usize], sink: &mut Sink<'_>) -> Result<()> {
        let reader = open(&self.path)?;
        let mut start = 0;
        let mut rows = rows;
        for group in 0..reader.num_row_groups() {
            let count = group_rows(&self.path, &reader, group)?;
            let own = rows.partition_point(|&r| r < start + count);
            if own > 0 {
                self.scan_group(&reader, group, start, &rows[..own], sink)?;
            }
            start += count;
            rows = &rows[own..];
        }
        Ok(())
    }
}

impl Parquet {
    fn scan_group(
        &self,
        reader: &SerializedFileReader<File>,
        group: usize,
        start: usize,
        mut rows: &[usize],
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let path = &self.path;
        let place = || format!("row group {group}, column {}", self.image_name);
        let mut column = guard(path, place, || {
            let ColumnReader::ByteArrayColumnReader(column) =
                reader.get_row_group(group)?.get_column_reader(self.image)?
            else {
                return Err(ParquetError::General("the column does not hold byte arrays".into()));
            };
            Ok(column)
        })?;
        let mut at = start;
        while let Some(&first) = rows.first() {
            let run = rows.iter().zip(first..).take(CHUNK).take_while(|(r, expected)| **r == *expected).count();
            let place = || self.location(first).place;
            let skipped = guard(path, place, || if first > at { column.skip_records(first - at) } else { Ok(0) })?;
            if skipped != first - at {
                let found = format!("the end of the column after row {}", at + skipped);
                return Err(Error::format(path, place(), "an image", found));
            }
            let values = guard(path, place, || read::<ByteArrayType>(&mut column, run))?;
            for (&row, value) in rows[..run].iter().zip(values) {
                let Some(value) = value else { return Err(self.location(row).error("an image", "null")) };
                sink(Item { row, image: RawImage::Encoded(value.data().to_vec()) })?;
            }
            at = first + run;
            rows = &rows[run..];
        }
        Ok(())
    }
}

/// The parquet crate returns errors for most damage and panics on some. Both become [`Error::Format`].
fn guard<T>(path: &Path, place: impl Fn() -> String, f: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(Error::format(path, place(), "readable parquet data", e.to_string())),
        Err(_) => {
            Err(Error::format(path, place(), "readable parquet data", "damage at which the parquet reader panicked"))
        }
    }
}

fn open(path: &Path) -> Result<SerializedFileReader<File>> {
    let file = open_regular(path).map_err(Error::io("open", path))?;
    let reader = guard(path, || "footer".into(), || SerializedFileReader::new(file))?;
    // Negative offsets and lengths make the parquet reader panic later.
    for (i, group) in reader.metadata().row_groups().iter().enumerate() {
        for column in group.columns() {
            let dictionary = column.dictionary_page_offset().unwrap_or(0);
            if column.data_page_offset().min(dictionary).min(column.compressed_size()) < 0 {
                let place = format!("row group {i}, column {}", column.column_path().string());
                return Err(Error::format(path, place, "offsets and lengths of 0 or more", "a negative one"));
            }
        }
    }
    Ok(reader)
}

fn group_rows(path: &Path, reader: &SerializedFileReader<File>, group: usize) -> Result<usize> {
    let rows = reader.metadata().row_group(group).num_rows();
    usize::try_from(rows)
        .map_err(|_| Error::format(path, format!("row group {group}"), "a row count of 0 or more", rows.to_string()))
}

/// Reads `count` records, nulls as `None`; an error if there are fewer.
fn read<T: DataType>(column: &mut ColumnReaderImpl<T>, count: usize) -> Result<Vec<Option<T::T>>, ParquetError> {
    let mut levels = Vec::new();
    let mut values = Vec::new();
    let (records, present, _) = column.read_records(count, Some(&mut levels), None, &mut values)?;
    if records != count {
        return Err(ParquetError::EOF(format!("{records} values instead of {count}")));
    }
    if present == count {
        return Ok(values.into_iter().map(Some).collect());
    }
    // A definition level below the highest is a null: of the value, or of the struct around it.
    let highest = levels.iter().copied().max().unwrap_or(0);
    let mut values = values.into_iter();
    Ok(levels.iter().map(|&l| if l == highest && present > 0 { values.next() } else { None }).collect())
}

fn read_labels(path: &Path, reader: &SerializedFileReader<File>, column: usize, name: &str) -> Result<Vec<u32>> {
    let all = (0..reader.num_row_groups())
        .try_fold(0u64, |sum, group| Ok::<_, Error>(sum.saturating_add(group_rows(path, reader, group)? as u64)))?;
    check_rows(all, path, "footer")?;
    let mut labels: Vec<u32> = Vec::new();
    for group in 0..reader.num_row_groups() {
        let count = group_rows(path, reader, group)?;
        let place = || format!("row group {group}, column {name}");
        let mut values = guard(path, place, || reader.get_row_group(group)?.get_column_reader(column))?;
        let mut left = count;
        while left > 0 {
            let n = left.min(4096);
            let chunk: Vec<Option<i64>> = guard(path, place, || match &mut values {
                ColumnReader::Int64ColumnReader(c) => read(c, n),
                ColumnReader::Int32ColumnReader(c) => Ok(read(c, n)?.into_iter().map(|v| v.map(i64::from)).collect()),
                _ => Err(ParquetError::General("the column does not hold integers".into())),
            })?;
            for value in chunk {
                let label = value.and_then(|v| u32::try_from(v).ok()).ok_or_else(|| {
                    let found = value.map_or("null".into(), |v| v.to_string());
                    Error::format(path, format!("row {}, column {name}", labels.len()), "a label, 0 or more", found)
                })?;
                labels.push(label);
            }
            left -= n;
        }
    }
    Ok(labels)
}

/// The leaf column of encoded images: `NAME.bytes`, or a column of bytes named NAME. `requested` is `image_column`.
fn image_column(path: &Path, schema: &SchemaDescriptor, requested: Option<&str>) -> Result<usize> {
    let is_bytes =
        |i: usize| schema.column(i).physical_type() == Type::BYTE_ARRAY && schema.column(i).max_rep_level() == 0;
    let find = |name: &str| {
        (0..schema.num_columns()).filter(|&i| is_bytes(i)).find(|&i| match schema.column(i).path().parts() {
            [root] => root == name,
            [root, leaf] => root == name && leaf == "bytes",
            _ => false,
        })
    };
    if let Some(found) = requested.map_or_else(|| IMAGE_COLUMNS.iter().find_map(|n| find(n)), find) {
        return Ok(found);
    }
    let is_struct =
        |i: &usize| is_bytes(*i) && matches!(schema.column(*i).path().parts(), [_, leaf] if leaf == "bytes");
    let structs: Vec<usize> = (0..schema.num_columns()).filter(is_struct).collect();
    match (requested, &structs[..]) {
        (None, &[only]) => Ok(only),
        _ => {
            let expected = match requested {
                Some(name) => format!("a column {name:?} of images (a struct with the field bytes)"),
                None => {
                    "a column of images (a struct with the field bytes) named image or img; set image_column for another name"
                        .into()
                }
            };
            Err(Error::format(path, "columns", expected, column_list(schema)))
        }
    }
}

fn label_column(path: &Path, schema: &SchemaDescriptor, requested: Option<&str>) -> Result<usize> {
    let find = |name: &str| {
        (0..schema.num_columns()).find(|&i| {
            let column = schema.column(i);
            matches!(column.physical_type(), Type::INT32 | Type::INT64)
                && column.max_rep_level() == 0
                && matches!(column.path().parts(), [root] if root == name)
        })
    };
    requested.map_or_else(|| LABEL_COLUMNS.iter().find_map(|n| find(n)), find).ok_or_else(|| {
        let expected = match requested {
            Some(name) => format!("a column {name:?} of integers"),
            None => "a column of integers named label or fine_label; set label_column for another name".into(),
        };
        Error::format(path, "columns", expected, column_list(schema))
    })
}

fn root_name(schema: &SchemaDescriptor, leaf: usize) -> &str {
    schema.get_column_root(leaf).name()
}

fn column_list(schema: &SchemaDescriptor) -> String {
    let names: Vec<_> =
        schema.columns().iter().map(|c| format!("{} ({})", c.path().string(), c.physical_type())).collect();
    if names.is_empty() { "no columns".into() } else { names.join(", ") }
}

/// Class names in the hub's metadata: `{"info": {"features": {"label": {"names": ["airplane", …], "_type": "ClassLabel"}}}}`
fn class_names(text: &str, label: &str) -> Option<Vec<String>> {
    let hub: serde_json::Value = serde_json::from_str(text).ok()?;
    serde_json::from_value(hub.get("info")?.get("features")?.get(label)?.get("names")?.clone()).ok()
}
