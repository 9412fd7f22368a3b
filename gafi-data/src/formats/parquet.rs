//! Parquet files as on the Hugging Face hub: a struct column with the bytes of image files, and labels as numbers, names or booleans.
//!
//! The parquet crate's column readers read one leaf column at a time, a few rows at a time. This needs no Arrow, which would be a
//! third of the compile time, and holds one page in memory, at most a few megabytes. Class names come from the `huggingface` entry
//! of the schema's metadata.

mod columns;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use gafi_core::{Error, Result, open_regular};
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::labels::{LabelColumn, Names, whole};
use crate::note::{Note, NoteKind};
use crate::source::{Item, Location, RawImage, Sink, Source, check_rows};
pub(crate) use columns::Columns;
use columns::{features, image_column, label_column};

/// Longest class name in bytes. A longer string is not a label.
const NAME_MAX: usize = 1024;
/// Maximum number of images that are read at once.
const CHUNK: usize = 64;

/// A parquet file.
pub(crate) struct Parquet {
    path: PathBuf,
    image: usize,
    image_name: String,
    label_name: String,
    labels: LabelColumn,
    classes: Option<Vec<String>>,
    /// Whether only its type in the metadata marks the column of labels.
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
        let image_name = schema.get_column_root(image).name().to_owned();
        let label_name = schema.get_column_root(label).name().to_owned();
        let labels = read_labels(path, &reader, label, &label_name)?;
        let numbered = labels.names.is_none();
        let classes = features.into_iter().find(|f| f.name == label_name && numbered).and_then(|f| f.names);
        Ok(Self { path: path.into(), image, image_name, label_name, labels, classes, guessed })
    }

    /// Opens the files of one split. If labels are names, the files of the training split, `train`, decide which class a name is.
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
        fn labels(parts: &[Parquet]) -> Vec<&LabelColumn> {
            parts.iter().map(|part| &part.labels).collect()
        }
        let own = labels(&parts);
        let classes = if shards == train {
            LabelColumn::classes(&own, &[])
        } else {
            LabelColumn::classes(&labels(&open(train)?), &own)
        };
        for part in &mut parts {
            part.labels.number_by(classes.as_deref().unwrap_or_default());
            part.classes.clone_from(&classes);
        }
        Ok(parts)
    }

    /// Number of rows of a file without labels: one without the column of labels that `train` has, or with only nulls and -1 in it.
    /// `None` if the file has labels, or cannot be read. `requested` is the key `label_column`.
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

    /// The error for a row without image bytes. It may have the path of a file instead.
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
                self.location(row).error(expected, format!("no bytes, only the path {name:?} of another file"))
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
    let found = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(e)) => e.to_string(),
        Err(_) => "damage that makes the parquet reader panic".into(),
    };
    Err(Error::format(path, place(), "readable parquet data", found))
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

/// Reads `count` records, nulls as `None`. Fewer records, or several values in one record, are an error.
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
        return Err(ParquetError::General("several values in one row, instead of one image or label".into()));
    }
    if present == count {
        return Ok(values.into_iter().map(Some).collect());
    }
    // A definition level below the highest means a null: the value, or the struct around it.
    let highest = levels.iter().copied().max().unwrap_or(0);
    let mut values = values.into_iter();
    Ok(levels.iter().map(|&l| if l == highest && present > 0 { values.next() } else { None }).collect())
}

/// A label as it is stored.
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

/// Whether all labels are null or -1, which datasets on the hub store for unknown labels.
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
        let wrong =
            |expected: &str, found: String| Error::format(path, format!("row {row}, column {name}"), expected, found);
        values.push(match label {
            None => return Err(wrong("a label", "null".into())),
            Some(Label::Number(number)) => {
                u32::try_from(number).map_err(|_| wrong("a label, 0 or more", number.to_string()))?
            }
            Some(Label::Float(number)) => {
                whole(number).ok_or_else(|| wrong("a label, a whole number of 0 or more", number.to_string()))?
            }
            Some(Label::Name(bytes)) => match std::str::from_utf8(bytes.data()) {
                Ok(text) if (1..=NAME_MAX).contains(&text.len()) => {
                    named = true;
                    names.number(text)
                }
                Ok(text) => return Err(wrong("a class name", format!("a string of {} bytes", text.len()))),
                Err(_) => return Err(wrong("a class name in UTF-8", "invalid bytes".into())),
            },
        });
        Ok(())
    })?;
    // A boolean column has both classes, whichever value comes first.
    let names = if boolean { vec!["false".into(), "true".into()] } else { names.into_names() };
    Ok(LabelColumn { values, names: named.then_some(names) })
}
