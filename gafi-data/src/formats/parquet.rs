//! Image datasets of the Hugging Face hub: parquet files with the bytes of image files in a struct column, and labels as numbers,
//! names or booleans.
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
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;

use super::labels::{LabelColumn, Names, whole};
use crate::note::{Note, NoteKind};
use crate::source::{Item, Location, RawImage, Sink, Source, check_rows};

const IMAGE_COLUMNS: [&str; 3] = ["image", "img", "images"];
const LABEL_COLUMNS: [&str; 4] = ["label", "labels", "fine_label", "target"];
/// Longest class name in bytes. A longer text is no label.
const NAME_MAX: usize = 1024;
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
    label_name: String,
    labels: LabelColumn,
    classes: Option<Vec<String>>,
    /// Whether the column of labels was found by its type in the metadata.
    guessed: bool,
}

impl Parquet {
    /// Opens a file: finds the columns and reads all labels.
    pub(crate) fn open(path: &Path, columns: Columns<'_>) -> Result<Self> {
        let reader = open(path)?;
        let meta = reader.metadata().file_metadata();
        let schema = meta.schema_descr();
        let features = features(&reader);
        let image = image_column(path, schema, columns.image)?;
        let (label, guessed) = label_column(path, schema, columns.label, &features)?;
        let image_name = root_name(schema, image).to_owned();
        let label_name = root_name(schema, label).to_owned();
        let labels = read_labels(path, &reader, label, &label_name)?;
        let numbered = labels.names.is_none();
        let classes = features.into_iter().find(|f| f.name == label_name && numbered).and_then(|f| f.names);
        Ok(Self { path: path.into(), image, image_name, label_name, labels, classes, guessed })
    }

    /// Opens the files of one split. Labels that are names become classes by the names in `train`, the files of the training
    /// split.
    pub(crate) fn open_all(shards: &[PathBuf], train: &[PathBuf], columns: Columns<'_>) -> Result<Vec<Self>> {
        let open = |paths: &[PathBuf]| paths.iter().map(|path| Self::open(path, columns)).collect::<Result<Vec<_>>>();
        let mut parts = open(shards)?;
        if parts.iter().all(|part| part.labels.names.is_none()) {
            return Ok(parts);
        }
        if let Some(number) = parts.iter().find(|part| part.labels.names.is_none() && !part.labels.values.is_empty()) {
            let expected = format!("labels that are names, as in {}", shards[0].display());
            return Err(Error::format(&number.path, format!("column {}", number.label_name), expected, "numbers"));
        }
        let other = if shards == train { Vec::new() } else { open(train)? };
        fn labels(parts: &[Parquet]) -> Vec<&LabelColumn> {
            parts.iter().map(|part| &part.labels).collect()
        }
        let classes = match &other[..] {
            [] => LabelColumn::classes(&labels(&parts), &[]),
            other => LabelColumn::classes(&labels(other), &labels(&parts)),
        };
        for part in &mut parts {
            part.labels.number_by(classes.as_deref().unwrap_or_default());
            part.classes.clone_from(&classes);
        }
        Ok(parts)
    }

    /// Number of rows if the file has no labels: not the column `requested`, or of the names in use, or nothing but nulls and -1 in it.
    /// `None` if it has labels, or if that cannot be told.
    pub(crate) fn unlabelled(path: &Path, train: &Path, requested: Option<&str>) -> Option<u64> {
        let has_labels = |reader: &SerializedFileReader<File>| {
            let schema = reader.metadata().file_metadata().schema_descr();
            label_column(path, schema, requested, &features(reader)).ok()
        };
        has_labels(&open(train).ok()?)?;
        let reader = open(path).ok()?;
        let rows: u64 =
            (0..reader.num_row_groups()).filter_map(|g| group_rows(path, &reader, g).ok()).sum::<usize>() as u64;
        let Some((label, _)) = has_labels(&reader) else { return Some(rows) };
        (rows > 0 && has_no_label(path, &reader, label).unwrap_or(false)).then_some(rows)
    }
}

impl Source for Parquet {
    fn labels(&self) -> &[u32] {
        &self.labels.values
    }

    fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    fn notes(&self) -> Vec<Note> {
        if !self.guessed {
            return Vec::new();
        }
        let what = format!("rows whose labels are column {}, the only one of type ClassLabel", self.label_name);
        vec![Note::new(NoteKind::Assumed, self.labels.values.len() as u64, what)]
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
                let Some(value) = value else { return Err(self.null(reader, group, row, start)) };
                sink(Item { row, image: RawImage::Encoded(value.data().to_vec()) })?;
            }
            at = first + run;
            rows = &rows[run..];
        }
        Ok(())
    }
}

impl Parquet {
    /// The error for a row without bytes, which may have a path instead.
    fn null(&self, reader: &SerializedFileReader<File>, group: usize, row: usize, start: usize) -> Error {
        let schema = reader.metadata().file_metadata().schema_descr();
        let sibling = (0..schema.num_columns()).find(|&i| {
            matches!(schema.column(i).path().parts(), [root, .., leaf] if *root == self.image_name && leaf == "path")
                && schema.column(i).physical_type() == Type::BYTE_ARRAY
        });
        let path = sibling.and_then(|column| {
            let read_one = || match reader.get_row_group(group)?.get_column_reader(column)? {
                ColumnReader::ByteArrayColumnReader(mut column) => {
                    column.skip_records(row - start)?;
                    read::<ByteArrayType>(&mut column, 1)
                }
                _ => Ok(Vec::new()),
            };
            guard(&self.path, || "path".into(), read_one).ok()?.pop()?
        });
        match path {
            None => self.location(row).error("an image", "null"),
            Some(path) => {
                let expected = "the bytes of an image file. To store them, load the set with datasets, then: from \
                                datasets.table import embed_table_storage; \
                                ds.with_format(\"arrow\").map(embed_table_storage, batched=True).to_parquet(\"train.parquet\")";
                let name = String::from_utf8_lossy(path.data()).chars().take(200).collect::<String>();
                self.location(row).error(expected, format!("null bytes and the path {name:?} of another file"))
            }
        }
    }
}

/// The parquet files of a folder and its subfolders, down to three levels, sorted within each folder. Hidden ones are skipped.
pub(crate) fn find(folder: &Path) -> Result<Vec<PathBuf>> {
    fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
            let entry = entry.map_err(Error::io("read", folder))?;
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                paths.push(entry.path());
            }
        }
        paths.sort_unstable();
        for path in paths {
            if path.is_dir() && depth < 3 {
                walk(&path, depth + 1, files)?;
            } else if path.extension().is_some_and(|e| e == "parquet") {
                files.push(path);
            }
        }
        Ok(())
    }
    let mut files = Vec::new();
    walk(folder, 0, &mut files)?;
    Ok(files)
}

/// Runs code of the parquet crate, which returns an error for most kinds of damage and panics on some. Both become
/// [`Error::Format`].
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

/// Reads `count` records, nulls as `None`; an error if there are fewer, or a list of several values in one.
fn read<T: DataType>(column: &mut ColumnReaderImpl<T>, count: usize) -> Result<Vec<Option<T::T>>, ParquetError> {
    let mut levels = Vec::new();
    let mut repetition = Vec::new();
    let mut values = Vec::new();
    let (records, present, levels_read) =
        column.read_records(count, Some(&mut levels), Some(&mut repetition), &mut values)?;
    if records != count {
        return Err(ParquetError::EOF(format!("{records} values instead of {count}")));
    }
    if levels_read.max(present) > count {
        return Err(ParquetError::General("a list of several values in one row, of one image or label".into()));
    }
    if present == count {
        return Ok(values.into_iter().map(Some).collect());
    }
    // A definition level below the highest is a null: of the value, or of the struct around it.
    let highest = levels.iter().copied().max().unwrap_or(0);
    let mut values = values.into_iter();
    Ok(levels.iter().map(|&l| if l == highest && present > 0 { values.next() } else { None }).collect())
}

/// One label as it is stored.
enum Label {
    Number(i64),
    Float(f64),
    Name(ByteArray),
}

/// Passes each label, or `None` for null, to `each`.
fn each_label(
    path: &Path,
    reader: &SerializedFileReader<File>,
    column: usize,
    name: &str,
    mut each: impl FnMut(Option<Label>) -> Result<()>,
) -> Result<()> {
    for group in 0..reader.num_row_groups() {
        let count = group_rows(path, reader, group)?;
        let place = || format!("row group {group}, column {name}");
        let mut values = guard(path, place, || reader.get_row_group(group)?.get_column_reader(column))?;
        let mut left = count;
        fn labels<T>(values: Vec<Option<T>>, label: impl Fn(T) -> Label) -> Vec<Option<Label>> {
            values.into_iter().map(|v| v.map(&label)).collect()
        }
        while left > 0 {
            let n = left.min(4096);
            let chunk = guard(path, place, || {
                Ok(match &mut values {
                    ColumnReader::Int64ColumnReader(c) => labels(read(c, n)?, Label::Number),
                    ColumnReader::Int32ColumnReader(c) => labels(read(c, n)?, |v| Label::Number(v.into())),
                    ColumnReader::BoolColumnReader(c) => labels(read(c, n)?, |v| Label::Number(v.into())),
                    ColumnReader::FloatColumnReader(c) => labels(read(c, n)?, |v| Label::Float(v.into())),
                    ColumnReader::DoubleColumnReader(c) => labels(read(c, n)?, Label::Float),
                    ColumnReader::ByteArrayColumnReader(c) => labels(read(c, n)?, Label::Name),
                    _ => return Err(ParquetError::General("the column holds neither numbers nor names".into())),
                })
            })?;
            chunk.into_iter().try_for_each(&mut each)?;
            left -= n;
        }
    }
    Ok(())
}

/// Whether all labels are null, or -1, which the hub's datasets store for unknown ones.
fn has_no_label(path: &Path, reader: &SerializedFileReader<File>, column: usize) -> Result<bool> {
    let mut labelled = false;
    each_label(path, reader, column, "", |label| {
        labelled |= !matches!(label, None | Some(Label::Number(-1)));
        Ok(())
    })?;
    Ok(!labelled)
}

fn read_labels(path: &Path, reader: &SerializedFileReader<File>, column: usize, name: &str) -> Result<LabelColumn> {
    let all = (0..reader.num_row_groups())
        .try_fold(0u64, |sum, group| Ok::<_, Error>(sum.saturating_add(group_rows(path, reader, group)? as u64)))?;
    check_rows(all, path, "footer")?;
    let boolean = reader.metadata().file_metadata().schema_descr().column(column).physical_type() == Type::BOOLEAN;
    let mut values: Vec<u32> = Vec::new();
    let mut names = Names::default();
    let mut named = boolean;
    each_label(path, reader, column, name, |label| {
        let row = values.len();
        let wrong = |expected: &str, found: String| {
            Err(Error::format(path, format!("row {row}, column {name}"), expected, found))
        };
        values.push(match label {
            None => return wrong("a label", "null".into()),
            Some(Label::Number(number)) => match u32::try_from(number) {
                Ok(label) => label,
                Err(_) => return wrong("a label, 0 or more", number.to_string()),
            },
            Some(Label::Float(number)) => match whole(number) {
                Some(label) => label,
                None => return wrong("a label, a whole number of 0 or more", number.to_string()),
            },
            Some(Label::Name(bytes)) => match std::str::from_utf8(bytes.data()) {
                Ok(text) if (1..=NAME_MAX).contains(&text.len()) => {
                    named = true;
                    names.number(text)
                }
                Ok(text) => return wrong("the name of a class", format!("a text of {} bytes", text.len())),
                Err(_) => return wrong("the name of a class in UTF-8", "other bytes".into()),
            },
        });
        Ok(())
    })?;
    // A column of booleans has both classes, whichever come first.
    let names = if boolean { vec!["false".into(), "true".into()] } else { names.into_names() };
    Ok(LabelColumn { values, names: named.then_some(names) })
}

/// A column in the hub's metadata.
struct Feature {
    name: String,
    is_label: bool,
    names: Option<Vec<String>>,
}

/// The columns that the `huggingface` entry of the schema's metadata describes:
/// `{"info": {"features": {"label": {"names": ["airplane", …], "_type": "ClassLabel"}}}}`.
fn features(reader: &SerializedFileReader<File>) -> Vec<Feature> {
    let metadata = reader.metadata().file_metadata().key_value_metadata();
    let text = metadata.and_then(|m| m.iter().find(|e| e.key == "huggingface")).and_then(|e| e.value.as_deref());
    let hub: Option<serde_json::Value> = text.and_then(|text| serde_json::from_str(text).ok());
    let features = hub.as_ref().and_then(|hub| hub.get("info")?.get("features")?.as_object());
    let feature = |(name, value): (&String, &serde_json::Value)| Feature {
        name: name.clone(),
        is_label: value.get("_type").is_some_and(|kind| kind == "ClassLabel"),
        names: value.get("names").and_then(|names| serde_json::from_value(names.clone()).ok()),
    };
    features.into_iter().flatten().map(feature).collect()
}

/// The leaf column of encoded images: `NAME.bytes`, or a column of bytes named NAME. `requested` is `image_column`.
fn image_column(path: &Path, schema: &SchemaDescriptor, requested: Option<&str>) -> Result<usize> {
    let is_bytes =
        |i: usize| schema.column(i).physical_type() == Type::BYTE_ARRAY && schema.column(i).max_rep_level() <= 1;
    let find = |name: &str| {
        (0..schema.num_columns()).filter(|&i| is_bytes(i)).find(|&i| match schema.column(i).path().parts() {
            [root] => root == name,
            // `NAME.list.element.bytes` is a list of images.
            [root, .., leaf] => root == name && leaf == "bytes",
            _ => false,
        })
    };
    if let Some(found) = requested.map_or_else(|| IMAGE_COLUMNS.iter().find_map(|n| find(n)), find) {
        return Ok(found);
    }
    let is_struct =
        |i: &usize| is_bytes(*i) && matches!(schema.column(*i).path().parts(), [_, .., leaf] if leaf == "bytes");
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

/// The leaf column of labels, and whether it was found by its type alone.
fn label_column(
    path: &Path,
    schema: &SchemaDescriptor,
    requested: Option<&str>,
    features: &[Feature],
) -> Result<(usize, bool)> {
    let find = |name: &str| {
        (0..schema.num_columns()).find(|&i| matches!(schema.column(i).path().parts(), [root, ..] if root == name))
    };
    let labels: Vec<&Feature> = features.iter().filter(|f| f.is_label).collect();
    let by_type = || match labels[..] {
        [only] => find(&only.name),
        _ => None,
    };
    let found = match requested {
        Some(name) => find(name).map(|i| (i, false)),
        None => {
            let usual = LABEL_COLUMNS.iter().find_map(|n| find(n));
            usual.map(|i| (i, false)).or_else(|| Some((by_type()?, true)))
        }
    };
    let Some((column, guessed)) = found else {
        let expected = match requested {
            Some(name) => format!("a column {name:?} of labels"),
            None => {
                "a column of labels named label, labels, fine_label or target; set label_column for another name".into()
            }
        };
        return Err(Error::format(path, "columns", expected, column_list(schema)));
    };
    let name = schema.column(column).path().string();
    if schema.column(column).max_rep_level() > 0 {
        let expected = "one label in each row; a multi-label set cannot be imported, because each image has one class";
        return Err(Error::format(path, format!("column {name}"), expected, "a list of labels in each row"));
    }
    match schema.column(column).physical_type() {
        Type::INT96 | Type::FIXED_LEN_BYTE_ARRAY => {
            let found = schema.column(column).physical_type().to_string();
            Err(Error::format(path, format!("column {name}"), "labels: integers, names or booleans", found))
        }
        _ => Ok((column, guessed)),
    }
}

fn root_name(schema: &SchemaDescriptor, leaf: usize) -> &str {
    schema.get_column_root(leaf).name()
}

fn column_list(schema: &SchemaDescriptor) -> String {
    let names: Vec<_> =
        schema.columns().iter().map(|c| format!("{} ({})", c.path().string(), c.physical_type())).collect();
    if names.is_empty() { "no columns".into() } else { names.join(", ") }
}
