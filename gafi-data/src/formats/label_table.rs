//! Files of labels beside images: CSV and TSV, the `metadata.jsonl` of `datasets`, and StyleGAN's `dataset.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gafi_core::{Error, Result, Split, read_text};
use serde_json::Value;

use super::split_names::split_of;

/// Longest file of labels in bytes.
const MAX_BYTES: u64 = 256 << 20;

/// Maximum number of columns of a table.
const MAX_COLUMNS: usize = 256;

/// Names of columns that hold labels, the likeliest first.
const LABEL_COLUMNS: [&str; 16] = [
    "label",
    "labels",
    "class",
    "class_name",
    "classname",
    "category",
    "target",
    "species",
    "breed",
    "dx",
    "diagnosis",
    "class_id",
    "classid",
    "label_id",
    "y",
    "type",
];

/// Names of columns that hold the split of a row.
const SPLIT_COLUMNS: [&str; 5] = ["split", "subset", "partition", "set", "fold"];

/// A file of labels: columns of text.
#[derive(Debug)]
pub(crate) struct LabelTable {
    pub(crate) path: PathBuf,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// A row of a [`LabelTable`]: an image file, its label, and its split if there is a column of splits. An empty label is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabelRow {
    pub(crate) file: String,
    pub(crate) label: Option<String>,
    pub(crate) split: Option<Split>,
}

/// Labels, and the names of the columns they were read from.
#[derive(Debug)]
pub(crate) struct Labels {
    pub(crate) rows: Vec<LabelRow>,
    pub(crate) file_column: String,
    pub(crate) label_column: String,
}

/// Whether a file may hold labels, by its name. The labels of a sample submission are placeholders.
pub(crate) fn is_table(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_lowercase();
    let table =
        [".csv", ".tsv"].iter().any(|end| name.ends_with(end)) || name == "metadata.jsonl" || name == "dataset.json";
    table && !name.contains("submission")
}

impl LabelTable {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Format`] for a file that is not a table; [`Error::Io`].
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = read_text(path, MAX_BYTES).map_err(Error::io("read", path))?;
        let text = text.trim_start_matches('\u{feff}');
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        let (header, rows) = match extension.as_str() {
            "json" => stylegan(path, text)?,
            "jsonl" => json_lines(path, text)?,
            _ => separated(path, text)?,
        };
        Ok(Self { path: path.into(), header, rows })
    }

    /// Finds the columns and reads the labels. `matches` counts the values that name an image file.
    ///
    /// # Errors
    /// [`Error::Format`], which lists the columns, if the column of files or of labels is unclear.
    pub(crate) fn labels(
        &self,
        file_column: Option<&str>,
        label_column: Option<&str>,
        matches: impl Fn(&mut dyn Iterator<Item = &str>) -> usize,
    ) -> Result<Labels> {
        let wrong = |expected: String| {
            let found = format!("the columns {}", self.header.join(", "));
            Error::format(&self.path, "header", expected, found)
        };
        let named = |key: &str, name: &str| {
            let found = self.header.iter().position(|column| column == name);
            found.ok_or_else(|| wrong(format!("a column {name:?}, which {key} names")))
        };
        let file = match file_column {
            Some(name) => named("file_column", name)?,
            None => {
                let hits = |column: usize| {
                    matches(&mut self.rows.iter().filter_map(|row| row.get(column).map(String::as_str)))
                };
                let best = (0..self.header.len()).map(|column| (hits(column), column)).filter(|(hits, _)| *hits > 0);
                let best = best.max_by_key(|&(hits, column)| (hits, std::cmp::Reverse(column)));
                best.ok_or_else(|| wrong("a column of image file names (set file_column to choose it)".into()))?.1
            }
        };
        let split = self.header.iter().position(|name| SPLIT_COLUMNS.contains(&name.to_lowercase().as_str()));
        let split = split.filter(|&column| column != file && self.column(column).all(|v| split_of(v).is_some()));
        let label = match label_column {
            Some(name) => Some(named("label_column", name)?),
            None => self.label_column(file, split),
        };
        let (labels, label_column): (Vec<Option<String>>, String) = match label {
            Some(column) => {
                let labels = self.rows.iter().map(|row| row.get(column).filter(|v| !v.is_empty()).cloned());
                (labels.collect(), self.header[column].clone())
            }
            None => self.one_hot(file, split).ok_or_else(|| {
                wrong("a column of labels named label or class (set label_column to choose another)".into())
            })?,
        };
        let rows = self.rows.iter().zip(labels).filter_map(|(row, label)| {
            let split = split.and_then(|column| split_of(row.get(column)?));
            Some(LabelRow { file: row.get(file)?.clone(), label, split })
        });
        Ok(Labels { rows: rows.collect(), file_column: self.header[file].clone(), label_column })
    }

    /// Whether there is a column of splits.
    pub(crate) fn has_splits(&self) -> bool {
        self.header.iter().any(|name| SPLIT_COLUMNS.contains(&name.to_lowercase().as_str()))
    }

    fn column(&self, column: usize) -> impl Iterator<Item = &str> {
        self.rows.iter().map(move |row| row.get(column).map_or("", String::as_str))
    }

    /// The column of labels: one with a usual name, or the only one besides files and splits.
    fn label_column(&self, file: usize, split: Option<usize>) -> Option<usize> {
        let others: Vec<usize> = (0..self.header.len()).filter(|&c| c != file && Some(c) != split).collect();
        let name = |column: &usize| self.header[*column].to_lowercase().replace([' ', '-'], "_");
        let usual = LABEL_COLUMNS.iter().find_map(|usual| others.iter().find(|c| name(c) == *usual));
        match (usual, &others[..]) {
            (Some(&usual), _) => Some(usual),
            (None, &[only]) => Some(only),
            _ => None,
        }
    }

    /// Labels from one-hot columns: a 1 in the column of the class, zeros in all others.
    fn one_hot(&self, file: usize, split: Option<usize>) -> Option<(Vec<Option<String>>, String)> {
        let columns: Vec<usize> = (0..self.header.len()).filter(|&c| c != file && Some(c) != split).collect();
        let class = |row: &Vec<String>| {
            let mut class = None;
            for &column in &columns {
                match row.get(column)?.parse::<f64>().ok()? {
                    0.0 => {}
                    1.0 if class.is_none() => class = Some(self.header[column].clone()),
                    _ => return None,
                }
            }
            class
        };
        let labels = self.rows.iter().map(|row| class(row).map(Some)).collect::<Option<Vec<_>>>()?;
        let first = columns.first()?;
        Some((labels, format!("{} to {}", self.header[*first], self.header[*columns.last()?])))
    }
}

type Table = (Vec<String>, Vec<Vec<String>>);

fn separated(path: &Path, text: &str) -> Result<Table> {
    let first = text.lines().next().unwrap_or_default();
    let separator =
        [b',', b';', b'\t'].into_iter().max_by_key(|&s| first.bytes().filter(|&b| b == s).count()).unwrap_or(b',');
    let mut reader = csv::ReaderBuilder::new();
    reader.delimiter(separator).flexible(true).has_headers(false).trim(csv::Trim::All);
    let mut lines = reader.from_reader(text.as_bytes()).into_records().map(|record| match record {
        Ok(record) => Ok(record.iter().map(String::from).collect::<Vec<_>>()),
        Err(e) => Err(Error::format(path, "content", "lines of separated values", e.to_string())),
    });
    let Some(header) = lines.next().transpose()? else {
        return Err(Error::format(path, "content", "a header", "an empty file"));
    };
    if header.len() > MAX_COLUMNS {
        // Most likely a column per pixel.
        let expected = format!("at most {MAX_COLUMNS} columns");
        return Err(Error::format(path, "header", expected, header.len().to_string()));
    }
    // Without a header, the first line names an image.
    let image = |value: &String| [".png", ".jpg", ".jpeg"].iter().any(|end| value.to_lowercase().ends_with(end));
    if header.iter().any(image) {
        let names = (1..=header.len()).map(|n| format!("column {n}")).collect();
        let rows = std::iter::once(Ok(header)).chain(lines).collect::<Result<_>>()?;
        return Ok((names, rows));
    }
    Ok((header, lines.collect::<Result<_>>()?))
}

fn json_lines(path: &Path, text: &str) -> Result<Table> {
    let mut header: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |found: String| Error::format(path, format!("line {}", number + 1), "a JSON object", found);
        let object: BTreeMap<String, Value> = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
        if header.is_empty() {
            header = object.keys().cloned().collect();
        }
        rows.push(header.iter().map(|key| object.get(key).map(cell).unwrap_or_default()).collect());
    }
    Ok((header, rows))
}

/// `{"labels": [["00000/img00000000.png", 3], ...]}`, or an object of the same.
fn stylegan(path: &Path, text: &str) -> Result<Table> {
    let wrong = |found: String| {
        let expected = "an object with \"labels\": [[\"FILE\", LABEL], ...], as StyleGAN's dataset_tool.py writes it";
        Error::format(path, "content", expected, found)
    };
    let root: Value = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
    let rows: Option<Vec<Vec<String>>> = match root.get("labels") {
        Some(Value::Array(rows)) => rows.iter().map(|row| Some(row.as_array()?.iter().map(cell).collect())).collect(),
        Some(Value::Object(rows)) => Some(rows.iter().map(|(file, label)| vec![file.clone(), cell(label)]).collect()),
        Some(Value::Null) => return Err(wrong("\"labels\": null, so the set has no labels".into())),
        _ => None,
    };
    let rows = rows.filter(|rows| rows.iter().all(|row| row.len() == 2)).ok_or_else(|| wrong("other JSON".into()))?;
    Ok((vec!["file".into(), "label".into()], rows))
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The classes among `labels`, in the order of [`sort_classes`].
///
/// # Errors
/// Why the labels are not classes: they are real numbers, or more than 90 % of them differ.
pub(crate) fn classes_of(labels: &[&str]) -> std::result::Result<Vec<String>, String> {
    let mut unique: Vec<String> = labels.iter().map(|label| class_name(label)).collect();
    unique.sort_unstable();
    unique.dedup();
    if unique.iter().all(|name| name.parse::<f64>().is_ok()) && unique.iter().any(|name| name.parse::<i64>().is_err()) {
        return Err("real numbers".into());
    }
    if unique.len() > 2 && 10 * unique.len() > 9 * labels.len() {
        return Err(format!("{} different labels in {} rows", unique.len(), labels.len()));
    }
    sort_classes(&mut unique);
    Ok(unique)
}

/// The class name of a label: whole numbers lose their `.0`.
pub(crate) fn class_name(label: &str) -> String {
    match label.parse::<f64>() {
        Ok(value) if label.contains('.') && value.fract() == 0.0 && value.abs() < 1e9 => (value as i64).to_string(),
        _ => label.to_owned(),
    }
}

/// Sorts names numerically if all are whole numbers, else by their bytes.
pub(crate) fn sort_classes<T: AsRef<str>>(names: &mut [T]) {
    if names.iter().all(|name| name.as_ref().parse::<i64>().is_ok()) {
        names.sort_by(|a, b| {
            let number = |name: &T| name.as_ref().parse::<i64>().ok();
            (number(a), a.as_ref()).cmp(&(number(b), b.as_ref()))
        });
    } else {
        names.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str, label: Option<&str>) -> Result<Labels> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        LabelTable::read(&path)?.labels(None, label, |values| values.filter(|v| v.starts_with("im")).count())
    }

    fn pairs(labels: &Labels) -> Vec<(&str, &str)> {
        labels.rows.iter().map(|row| (row.file.as_str(), row.label.as_deref().unwrap_or("-"))).collect()
    }

    #[test]
    fn labels_are_read_from_every_kind_of_file() {
        let expected = [("im1.png", "cat"), ("im2.png", "dog")];
        for (name, text) in [
            ("train.csv", "id,label\nim1.png,cat\nim2.png,dog\n"),
            ("bom.csv", "\u{feff}\"label\";\"n\";\"id\"\r\ncat;1;im1.png\r\n\"dog\";2;im2.png\r\n"),
            ("tabs.tsv", "file\tspecies\tage\nim1.png\tcat\t3\nim2.png\tdog\t4\n"),
            ("no-header.csv", "im1.png,cat\nim2.png,dog\n"),
            ("one-hot.csv", "image,cat,dog\nim1.png,1.0,0.0\nim2.png,0,1\n"),
            ("only-other.csv", "im,what\nim1.png,cat\nim2.png,dog\n"),
            (
                "metadata.jsonl",
                "{\"file_name\": \"im1.png\", \"label\": \"cat\"}\n{\"file_name\": \"im2.png\", \"label\": \"dog\"}\n",
            ),
            ("dataset.json", "{\"labels\": [[\"im1.png\", \"cat\"], [\"im2.png\", \"dog\"]]}"),
            ("other/dataset.json", "{\"labels\": {\"im1.png\": \"cat\", \"im2.png\": \"dog\"}}"),
        ] {
            let found = read(name.rsplit('/').next().unwrap(), text, None).unwrap();
            assert_eq!(pairs(&found), expected, "{name}");
        }
        let split = read("all.csv", "id,label,split\nim1,a,train\nim2,,test\n", None).unwrap();
        assert_eq!((split.rows[0].split, split.rows[1].split), (Some(Split::Train), Some(Split::Test)));
        assert_eq!(pairs(&split), [("im1", "a"), ("im2", "-")]);
    }

    #[test]
    fn unclear_columns_are_errors() {
        let error = |text: &str, label| read("train.csv", text, label).unwrap_err().to_string();
        let unclear = error("id,age,sex\nim1,3,f\n", None);
        assert!(unclear.contains("set label_column") && unclear.contains("the columns id, age, sex"), "{unclear}");
        assert!(error("id,label\nx1,3\n", None).contains("a column of image file names (set file_column"));
        assert!(error("id,label\nim1,3\n", Some("kind")).contains("a column \"kind\", which label_column names"));
        let none = read("dataset.json", "{\"labels\": null}", None).unwrap_err().to_string();
        assert!(none.contains("the set has no labels"), "{none}");
    }

    #[test]
    fn classes_are_ordered_by_number_or_name() {
        let of = |labels: &[&str]| classes_of(labels);
        assert_eq!(of(&["10", "9", "10", "9.0", "0"]).unwrap(), ["0", "9", "10"]);
        assert_eq!(of(&["b", "10", "9", "b", "10", "9"]).unwrap(), ["10", "9", "b"]);
        assert_eq!(of(&["0.5", "1", "1"]).unwrap_err(), "real numbers");
        assert!(of(&["a", "b", "c", "d"]).unwrap_err().contains("4 different labels in 4 rows"));
    }
}
