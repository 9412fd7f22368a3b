//! Files of labels beside images: CSV and TSV, lists in `.txt` files, the `metadata.jsonl` of `datasets`, StyleGAN's `dataset.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gafi_core::{Error, Result, Split, read_text};
use serde_json::Value;

use super::split_names::split_of;
use crate::hints::PIXELS;

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

/// Names of columns that hold the split of a row. Such a column never holds labels.
const SPLIT_COLUMNS: [&str; 7] = ["split", "subset", "partition", "set", "data_set", "dataset", "fold"];

/// Names of columns of booleans that hold the split of a row, with the splits of false and true.
const SPLIT_FLAGS: [(&str, [Split; 2]); 5] = [
    ("is_valid", [Split::Train, Split::Val]),
    ("is_val", [Split::Train, Split::Val]),
    ("is_validation", [Split::Train, Split::Val]),
    ("is_test", [Split::Train, Split::Test]),
    ("is_train", [Split::Test, Split::Train]),
];

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
    pub(crate) split_column: Option<String>,
}

/// How well the values of a column name image files; 0 if none does.
pub(crate) type Matches<'a> = &'a dyn Fn(&mut dyn Iterator<Item = &str>) -> usize;

/// Whether a file may hold labels, by its name. The labels of a sample submission are placeholders.
pub(crate) fn is_table(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_lowercase();
    let table =
        [".csv", ".tsv"].iter().any(|end| name.ends_with(end)) || name == "metadata.jsonl" || name == "dataset.json";
    table && !name.contains("submission")
}

/// Whether a file may list images, with or without labels, by its name. Most `.txt` files hold something else.
pub(crate) fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"))
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
            "txt" => listed(path, text)?,
            _ => separated(path, text)?,
        };
        Ok(Self { path: path.into(), header, rows })
    }

    /// Finds the columns and reads the labels.
    ///
    /// # Errors
    /// [`Error::Format`], which lists the columns, if the column of files or of labels is unclear.
    pub(crate) fn labels(
        &self,
        file_column: Option<&str>,
        label_column: Option<&str>,
        matches: Matches<'_>,
    ) -> Result<Labels> {
        let file = self.file_column(file_column, matches)?;
        let named = label_column.map(|name| self.named("label_column", name)).transpose()?;
        let splits = self.splits(|column| column != file && Some(column) != named);
        let split = splits.as_ref().map(|(column, _)| *column);
        let (labels, label_column): (Vec<Option<String>>, String) =
            match named.or_else(|| self.label_column(file, split)) {
                Some(column) => {
                    let labels = self.rows.iter().map(|row| row.get(column).filter(|v| !v.is_empty()).cloned());
                    (labels.collect(), self.header[column].clone())
                }
                None => self.one_hot(file, split).ok_or_else(|| {
                    self.wrong("a column of labels named label or class (set label_column to choose another)")
                })?,
            };
        let rows = self.rows.iter().zip(labels).enumerate().filter_map(|(number, (row, label))| {
            let split = splits.as_ref().map(|(_, splits)| splits[number]);
            Some(LabelRow { file: row.get(file)?.clone(), label, split })
        });
        Ok(Labels {
            rows: rows.collect(),
            file_column: self.header[file].clone(),
            label_column,
            split_column: split.map(|column| self.header[column].clone()),
        })
    }

    /// The image files of the table and the splits of its rows, for a table without labels.
    ///
    /// # Errors
    /// [`Error::Format`] if no column names image files.
    pub(crate) fn files(&self, file_column: Option<&str>, matches: Matches<'_>) -> Result<Vec<(&str, Option<Split>)>> {
        let file = self.file_column(file_column, matches)?;
        let splits = self.splits(|column| column != file);
        let split = |row: usize| splits.as_ref().map(|(_, splits)| splits[row]);
        let rows = self.rows.iter().enumerate();
        Ok(rows.filter_map(|(row, cells)| Some((cells.get(file)?.as_str(), split(row)))).collect())
    }

    /// The labels of the files that `is_file` accepts, from the column whose values are all classes; with the name of that column.
    /// `class` is the number of a class by its name. Numbers need a column with a usual name, because any number may be a class.
    pub(crate) fn classes_among(
        &self,
        keys: [Option<&str>; 2],
        is_file: &dyn Fn(&str) -> bool,
        class: &dyn Fn(&str) -> Option<u32>,
    ) -> Option<(Vec<(&str, u32)>, &str)> {
        let file = self.file_column(keys[0], &|values| values.filter(|value| is_file(value)).count()).ok()?;
        let rows = |column: usize| -> Option<Vec<(&str, u32)>> {
            let cells = self.rows.iter().filter_map(|row| Some((row.get(file)?.as_str(), row.get(column)?)));
            cells
                .filter(|(name, _)| is_file(name))
                .map(|(name, label)| Some((name, class(&class_name(label))?)))
                .collect()
        };
        let columns: Vec<usize> = match keys[1] {
            Some(name) => vec![self.named("label_column", name).ok()?],
            None => {
                let usual =
                    LABEL_COLUMNS.iter().flat_map(|usual| (0..self.header.len()).filter(|&c| self.name(c) == *usual));
                let is_number = |column: usize| self.column(column).all(|value| value.parse::<f64>().is_ok());
                usual.chain((0..self.header.len()).filter(|&c| !is_number(c))).filter(|&c| c != file).collect()
            }
        };
        columns.into_iter().find_map(|column| Some((rows(column)?, self.header[column].as_str())))
    }

    fn wrong(&self, expected: impl Into<String>) -> Error {
        Error::format(&self.path, "header", expected.into(), format!("the columns {}", self.header.join(", ")))
    }

    /// The column that the key `key` names.
    fn named(&self, key: &str, name: &str) -> Result<usize> {
        let found = self.header.iter().position(|column| column == name);
        found.ok_or_else(|| self.wrong(format!("a column {name:?}, which {key} names")))
    }

    /// The column of image files: `name`, or the one with the most matches.
    fn file_column(&self, name: Option<&str>, matches: Matches<'_>) -> Result<usize> {
        if let Some(name) = name {
            return self.named("file_column", name);
        }
        let hits = |column: usize| matches(&mut self.rows.iter().filter_map(|row| row.get(column).map(String::as_str)));
        let best = (0..self.header.len()).map(|column| (hits(column), column)).filter(|(hits, _)| *hits > 0);
        let best = best.max_by_key(|&(hits, column)| (hits, std::cmp::Reverse(column)));
        Ok(best.ok_or_else(|| self.wrong("a column of image file names (set file_column to choose it)"))?.1)
    }

    /// The name of a column, in lower case and with underscores.
    fn name(&self, column: usize) -> String {
        self.header[column].to_lowercase().replace([' ', '-'], "_")
    }

    /// The split of each row, from the first of the columns that holds splits: `train` and `test` in words, or booleans such as
    /// `is_valid`. A column with another name than those of [`SPLIT_COLUMNS`] must hold at least two splits.
    fn splits(&self, may: impl Fn(usize) -> bool) -> Option<(usize, Vec<Split>)> {
        let flag = |value: &str| match value.to_lowercase().as_str() {
            "true" | "1" | "1.0" => Some(true),
            "false" | "0" | "0.0" => Some(false),
            _ => None,
        };
        (0..self.header.len()).filter(|&column| may(column)).find_map(|column| {
            let name = self.name(column);
            let flags = SPLIT_FLAGS.iter().find(|(flag, _)| *flag == name);
            let split = |value: &str| match flags {
                Some((_, splits)) => flag(value).map(|flag| splits[usize::from(flag)]),
                // Paths contain splits too.
                None => split_of(value).filter(|_| !value.contains(['/', '.'])),
            };
            let splits: Vec<Split> = self.column(column).map(split).collect::<Option<_>>()?;
            let first = splits.first()?;
            let named = flags.is_some() || SPLIT_COLUMNS.contains(&name.as_str());
            (named || splits.iter().any(|split| split != first)).then_some((column, splits))
        })
    }

    /// Whether there is a column of splits.
    pub(crate) fn has_splits(&self) -> bool {
        self.splits(|_| true).is_some()
    }

    /// The values of a column.
    pub(crate) fn column(&self, column: usize) -> impl Iterator<Item = &str> {
        self.rows.iter().map(move |row| row.get(column).map_or("", String::as_str))
    }

    /// The columns that may hold labels.
    fn others(&self, file: usize, split: Option<usize>) -> Vec<usize> {
        let of_splits = |column: usize| {
            let name = self.name(column);
            SPLIT_COLUMNS.contains(&name.as_str()) || SPLIT_FLAGS.iter().any(|(flag, _)| *flag == name)
        };
        (0..self.header.len()).filter(|&c| c != file && Some(c) != split && !of_splits(c)).collect()
    }

    /// The column of labels: one with a usual name, or the only one besides files and splits.
    fn label_column(&self, file: usize, split: Option<usize>) -> Option<usize> {
        let others = self.others(file, split);
        let usual = LABEL_COLUMNS.iter().find_map(|usual| others.iter().find(|&&c| self.name(c) == *usual));
        match (usual, &others[..]) {
            (Some(&usual), _) => Some(usual),
            (None, &[only]) => Some(only),
            _ => None,
        }
    }

    /// Labels from one-hot columns: a 1 in the column of the class, zeros in all others.
    fn one_hot(&self, file: usize, split: Option<usize>) -> Option<(Vec<Option<String>>, String)> {
        let columns = self.others(file, split);
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
        let expected = format!("at most {MAX_COLUMNS} columns; {PIXELS}");
        return Err(Error::format(path, "header", expected, header.len().to_string()));
    }
    // Without a header, the first line names an image.
    let ends = [".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"];
    let image = |value: &String| ends.iter().any(|end| value.to_lowercase().ends_with(end));
    if header.iter().any(image) {
        let names = numbered(header.len());
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

/// Lines of a file name and a label, as in the lists of Caffe, or of a file name alone. Tabs, commas or blanks separate columns. If the
/// numbers of blanks differ, the label is the rest of the line. `#` starts a comment.
fn listed(path: &Path, text: &str) -> Result<Table> {
    let lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let separator = ['\t', ','].into_iter().find(|&separator| lines.iter().all(|line| line.contains(separator)));
    let mut rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| match separator {
            Some(separator) => line.split(separator).map(|cell| cell.trim().to_owned()).collect(),
            None => line.split_whitespace().map(String::from).collect(),
        })
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    if separator.is_none() && rows.iter().any(|row| row.len() != columns) {
        let two = |line: &&str| {
            let (file, label) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            vec![file.to_owned(), label.trim().to_owned()]
        };
        rows = lines.iter().map(two).collect();
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    if columns > MAX_COLUMNS {
        return Err(Error::format(path, "content", format!("at most {MAX_COLUMNS} columns"), columns.to_string()));
    }
    Ok((numbered(columns), rows))
}

/// Names of the columns of a table without a header.
fn numbered(columns: usize) -> Vec<String> {
    (1..=columns).map(|n| format!("column {n}")).collect()
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
    sort_classes(&mut unique, String::as_str);
    Ok(unique)
}

/// The class name of a label: whole numbers lose their `.0`.
pub(crate) fn class_name(label: &str) -> String {
    match label.parse::<f64>() {
        Ok(value) if label.contains('.') && value.fract() == 0.0 && value.abs() < 1e9 => (value as i64).to_string(),
        _ => label.to_owned(),
    }
}

/// Sorts classes by their names: numerically if all are whole numbers, else by their bytes.
pub(crate) fn sort_classes<T>(classes: &mut [T], name: impl Fn(&T) -> &str) {
    let number = |class: &T| name(class).parse::<i64>().ok();
    if classes.iter().all(|class| number(class).is_some()) {
        classes.sort_by(|a, b| (number(a), name(a)).cmp(&(number(b), name(b))));
    } else {
        classes.sort_by(|a, b| name(a).cmp(name(b)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str, label: Option<&str>) -> Result<Labels> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        LabelTable::read(&path)?.labels(None, label, &|values| values.filter(|v| v.starts_with("im")).count())
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
            ("list.txt", "# a list\nim1.png cat\n\nim2.png  dog\r\n"),
            ("tabs.txt", "im1.png\tcat\nim2.png\tdog\n"),
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
        // Labels of several words.
        let rest = read("variants.txt", "im1 Boeing 717\nim2 A300\n", None).unwrap();
        assert_eq!(pairs(&rest), [("im1", "Boeing 717"), ("im2", "A300")]);
    }

    #[test]
    fn splits_are_found_by_the_values_of_their_column() {
        let splits = |text: &str| {
            let found = read("all.csv", text, None).unwrap();
            (pairs(&found)[0].1.to_owned(), found.rows.iter().map(|row| row.split).collect::<Vec<_>>())
        };
        let expected = |splits: [Split; 2]| ("a".to_owned(), splits.map(Some).to_vec());
        for text in ["id,label,data set\nim1,a,train\nim2,b,test\n", "TRAIN,im1.png,a\nTEST,im2.png,b\n"] {
            assert_eq!(splits(text), expected([Split::Train, Split::Test]), "{text}");
        }
        assert_eq!(splits("id,label,is_valid\nim1,a,False\nim2,b,True\n"), expected([Split::Train, Split::Val]));
        assert_eq!(splits("id,label,is_train\nim1,a,0\nim2,b,1\n"), expected([Split::Test, Split::Train]));
        // One word that is a split is a class, and the number of a fold or of a part is neither.
        assert_eq!(splits("id,label,what\nim1,a,test\nim2,b,test\n").1, [None, None]);
        assert_eq!(splits("id,label,fold\nim1,a,0\nim2,b,1\n").1, [None, None]);
        let partition = read("list.csv", "image_id,partition\nim1,0\nim2,1\n", None).unwrap_err().to_string();
        assert!(partition.contains("set label_column"), "{partition}");
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
