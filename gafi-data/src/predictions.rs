//! Reads the predictions of an external classifier from a file: a label per row, or a score per class, of which the highest
//! wins.
//!
//! The file has one prediction for each row of a dataset, in order. A file with NumPy's magic string is read as `.npy`, any other
//! as CSV. Scores may be probabilities or logits.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use gafi_core::{ClassId, Error, Result, open_regular};

use crate::formats::npy;

/// Longest line of a CSV file in bytes, without its scores or class names.
const LINE_MAX: u64 = 1 << 20;
/// Longest score in bytes. In the header, the bytes of a class besides its name.
const FIELD_MAX: u64 = 64;

/// What error messages call the array of a `.npy` file.
const ARRAY: &str = "array";
/// Names of a CSV column of predicted labels.
const PREDICTED: [&str; 5] = ["prediction", "predicted", "pred", "y_pred", "label"];
/// Name of the CSV column of row numbers, which are checked.
const ROW: &str = "row";

/// How labels that look like numbers are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelForm {
    /// As class names.
    Names,
    /// As class numbers: positions in the dataset's list of classes, from 0.
    Numbers,
}

/// How to read a file of predictions. By default the content decides, and an ambiguous file is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PredictionOptions {
    /// The CSV column of the predicted labels.
    pub column: Option<String>,
    /// How labels are read, and the headings of score columns.
    pub labels: Option<LabelForm>,
}

/// Reads the predictions for `rows` rows of a dataset with these classes.
///
/// A `.npy` file holds integer labels of shape (n), or scores of shape (n, classes) as `float32` or `float64`. A CSV file has a
/// header, and one of two layouts:
///
/// - A column of predicted labels, which are class numbers or class names: `options.column`, else the column called `prediction`,
///   `predicted`, `pred`, `y_pred` or `label`.
/// - A column of scores for each class, headed by the name or the number of the class.
///
/// An optional column `row` counts from 0.
///
/// All labels are read in the same way: as names if every label is a class name, else as numbers. If both readings are possible and
/// differ, because classes are named by numbers, `options.labels` must decide.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] with the line or element when columns or labels are ambiguous, the number of rows differs, a label
/// is not a class, a score is not finite, or the file is in neither format.
pub fn read_predictions(
    path: &Path,
    classes: &[String],
    rows: u64,
    options: &PredictionOptions,
) -> Result<Vec<ClassId>> {
    let mut file = BufReader::new(open_regular(path).map_err(Error::io("open", path))?);
    let is_array = file.fill_buf().map_err(Error::io("read", path))?.starts_with(npy::MAGIC);
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    let reader = Reader { path, classes, rows, options };
    if is_array { reader.array(file) } else { reader.csv(file) }
}

/// Fails once `left` bytes have been read, so that a single line cannot fill the memory.
struct Limited<'a, R> {
    reader: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Limited<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line that is too long"));
        }
        let n = (&mut self.reader).take(left).read(bytes)?;
        self.left.set(left - n as u64);
        Ok(n)
    }
}

/// Which columns of a CSV file hold the predictions.
enum Columns {
    /// The label is in this column.
    Label(usize),
    /// The scores are in these columns, in label order.
    Scores(Vec<usize>),
}

struct Reader<'a> {
    path: &'a Path,
    classes: &'a [String],
    rows: usize,
    options: &'a PredictionOptions,
}

impl Reader<'_> {
    fn wrong(&self, place: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::format(self.path, place.into(), expected.into(), found.into())
    }

    fn length(&self, found: impl Into<String>) -> Error {
        self.wrong("length", format!("{} predictions, one for each row of the dataset", self.rows), found)
    }

    fn array(&self, mut file: impl Read) -> Result<Vec<ClassId>> {
        let header = npy::read_header(&mut file, self.path, ARRAY)?;
        if header.shape.first().is_some_and(|&n| n != self.rows) {
            return Err(self.length(header.shape[0].to_string()));
        }
        if header.kind.starts_with('f') {
            let shape = (self.rows, self.classes.len());
            let mut best = Vec::new();
            npy::float_rows(&mut file, &header, shape, self.path, ARRAY, |row, scores| {
                best.push(self.highest(scores, || format!("{ARRAY}[{row}]"))?);
                Ok(())
            })?;
            return Ok(best);
        }
        let labels = npy::labels(&mut file, &header, self.rows, false, self.path, ARRAY)?;
        let name = |value: &u32| match &labels.names {
            Some(names) => names[*value as usize].clone(),
            None => value.to_string(),
        };
        self.labels(&labels.values.iter().map(name).collect::<Vec<_>>(), ARRAY, |row| format!("{ARRAY}[{row}]"))
    }

    /// The class with the highest score; ties go to the first.
    fn highest(&self, scores: &[f64], place: impl Fn() -> String) -> Result<ClassId> {
        if let Some(bad) = scores.iter().find(|score| !score.is_finite()) {
            return Err(self.wrong(place(), "finite scores", bad.to_string()));
        }
        let best = (1..scores.len()).fold(0, |best, at| if scores[at] > scores[best] { at } else { best });
        Ok(ClassId(best as u32))
    }

    /// The classes of all labels of `what`, an array or a column.
    fn labels(&self, labels: &[String], what: &str, place: impl Fn(usize) -> String) -> Result<Vec<ClassId>> {
        let of_name: BTreeMap<&str, u32> = self.classes.iter().map(String::as_str).zip(0..).collect();
        let name = |label: &String| of_name.get(label.as_str()).copied().map(ClassId);
        let number = |label: &String| {
            let number = label.parse::<u32>().ok()?;
            ((number as usize) < self.classes.len()).then_some(ClassId(number))
        };
        let names: Option<Vec<ClassId>> = labels.iter().map(name).collect();
        let numbers: Option<Vec<ClassId>> = labels.iter().map(number).collect();
        match (self.options.labels, names, numbers) {
            (None, Some(names), Some(numbers)) if names != numbers => {
                let at = names.iter().zip(&numbers).position(|(name, number)| name != number).unwrap_or(0);
                let number = &self.classes[numbers[at].index()];
                let expected = format!(
                    "unambiguous labels; set whether the labels of {what} are class names or class numbers (positions in the \
                     list of classes)"
                );
                let found = format!("{:?}, the name of a class and the number of class {number:?}", labels[at]);
                Err(self.wrong(place(at), expected, found))
            }
            (None | Some(LabelForm::Names), Some(labels), _) | (None | Some(LabelForm::Numbers), _, Some(labels)) => {
                Ok(labels)
            }
            (form, ..) => {
                // As names if most labels are names, so that the message shows the odd one out.
                let by_name = labels.iter().filter(|label| name(label).is_some()).count();
                let by_number = labels.iter().filter(|label| number(label).is_some()).count();
                let form = form.unwrap_or(if by_name > by_number { LabelForm::Names } else { LabelForm::Numbers });
                let known = |label: &String| match form {
                    LabelForm::Names => name(label).is_some(),
                    LabelForm::Numbers => number(label).is_some(),
                };
                let bad = labels.iter().position(|label| !known(label)).unwrap_or(0);
                let range = format!("a label from 0 to {}", self.classes.len().saturating_sub(1));
                let expected = match form {
                    LabelForm::Names => "a class name, as in the other rows".into(),
                    LabelForm::Numbers if by_name > 0 => format!("{range}, as in the other rows"),
                    LabelForm::Numbers => format!("{range}, or a class name"),
                };
                Err(self.wrong(place(bad), expected, format!("{:?}", labels[bad])))
            }
        }
    }

    fn csv(&self, file: impl Read) -> Result<Vec<ClassId>> {
        let names: u64 = self.classes.iter().map(|name| name.len() as u64 + FIELD_MAX).sum();
        let line_max = LINE_MAX + names;
        let left = Cell::new(line_max);
        let file = Limited { reader: file, left: &left };
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
        let failed = |error: csv::Error| {
            let place = error.position().map_or_else(|| "content".into(), |at| format!("line {}", at.line()));
            match error.kind() {
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    self.wrong(place, format!("{expected_len} fields, as in the header"), len.to_string())
                }
                _ => self.wrong("content", "a .npy file, or CSV in UTF-8", error.to_string()),
            }
        };
        let header: Vec<String> = reader.headers().map_err(failed)?.iter().map(str::to_owned).collect();
        if header.iter().all(String::is_empty) {
            return Err(self.wrong("line 1", "a header", "nothing"));
        }
        let columns = self.columns(&header)?;
        let counted = header.iter().position(|name| name == ROW);
        let mut lines = Vec::new();
        let mut labels = Vec::new();
        let mut best = Vec::new();
        for (row, record) in reader.records().enumerate() {
            let record = record.map_err(failed)?;
            left.set(line_max);
            if row == self.rows {
                return Err(self.length("more"));
            }
            let line = record.position().map_or(0, csv::Position::line);
            let place = || format!("line {line}");
            if let Some(at) = counted
                && record[at].parse() != Ok(row)
            {
                let expected = format!("row {row}, because predictions are in the order of the dataset");
                return Err(self.wrong(place(), expected, &record[at]));
            }
            lines.push(line);
            match &columns {
                Columns::Label(at) => labels.push(record[*at].to_owned()),
                Columns::Scores(columns) => {
                    let number = |&at: &usize| {
                        let field = &record[at];
                        field.parse().map_err(|_| self.wrong(place(), "a number", format!("{field:?}")))
                    };
                    best.push(self.highest(&columns.iter().map(number).collect::<Result<Vec<f64>>>()?, place)?);
                }
            }
        }
        if lines.len() < self.rows {
            return Err(self.length(lines.len().to_string()));
        }
        match columns {
            Columns::Label(at) => {
                self.labels(&labels, &format!("column {:?}", header[at]), |row| format!("line {}", lines[row]))
            }
            Columns::Scores(_) => Ok(best),
        }
    }

    fn columns(&self, header: &[String]) -> Result<Columns> {
        let all = || header.join(", ");
        let named = |name: &String| header.iter().position(|found| found == name);
        let double = header.iter().enumerate().find(|(at, name)| header[..*at].contains(name));
        if let Some((_, double)) = double {
            return Err(self.wrong("line 1", "column names that differ", format!("{double:?} twice")));
        }
        if let Some(column) = &self.options.column {
            let found = named(column).map(Columns::Label);
            return found.ok_or_else(|| self.wrong("line 1", format!("the column {column:?}"), all()));
        }
        let labels: Vec<usize> = (0..header.len()).filter(|&at| PREDICTED.contains(&header[at].as_str())).collect();
        // Headings may be names and numbers at once: a classifier may number its classes in another order.
        let by_name: Option<Vec<usize>> = self.classes.iter().map(named).collect();
        let by_number: Option<Vec<usize>> = (0..self.classes.len()).map(|class| named(&class.to_string())).collect();
        let scores = match (self.options.labels, by_name, by_number) {
            (None, Some(names), Some(numbers)) if names != numbers => {
                let expected = "unambiguous columns of scores; set whether their headings are class names or class numbers \
                                (positions in the list of classes)";
                return Err(self.wrong("line 1", expected, all()));
            }
            (None | Some(LabelForm::Names), Some(columns), _) | (None | Some(LabelForm::Numbers), _, Some(columns)) => {
                Some(columns)
            }
            _ => None,
        };
        match (&labels[..], scores) {
            (&[at], None) => Ok(Columns::Label(at)),
            (&[], Some(columns)) => Ok(Columns::Scores(columns)),
            (&[], None) => {
                let expected = format!(
                    "a column of labels ({}), or a column of scores for each class: {}",
                    PREDICTED.join(", "),
                    self.classes.join(", ")
                );
                Err(self.wrong("line 1", expected, all()))
            }
            (several, scores) => {
                let mut found: Vec<String> = several.iter().map(|&at| format!("{:?}", header[at])).collect();
                found.extend(scores.map(|_| "a column of scores for each class".to_owned()));
                let expected = "one column of predicted labels; set `column` to choose it";
                Err(self.wrong("line 1", expected, found.join(" and ")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `bytes` and reads them as predictions for `rows` rows of three classes.
    fn read(bytes: &[u8], rows: u64) -> Result<Vec<u32>, String> {
        let classes = ["cat", "dog", "eel, young"];
        read_with(bytes, &classes, rows, &PredictionOptions::default())
    }

    fn read_with(bytes: &[u8], classes: &[&str], rows: u64, options: &PredictionOptions) -> Result<Vec<u32>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let classes: Vec<String> = classes.iter().map(|&name| name.to_owned()).collect();
        let labels = read_predictions(file.path(), &classes, rows, options);
        labels.map(|labels| labels.into_iter().map(|class| class.0).collect()).map_err(|e| {
            let text = e.to_string();
            text.split_once(": ").map(|(_, rest)| rest.to_owned()).unwrap_or(text)
        })
    }

    /// The bytes that `numpy.save` writes.
    fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
        text += &" ".repeat(63 - (10 + text.len()) % 64);
        text.push('\n');
        [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes(), data].concat()
    }

    fn le<const N: usize>(values: &[f64], bytes: impl Fn(f64) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|&value| bytes(value)).collect()
    }

    #[test]
    fn arrays_of_labels_and_scores_are_read() {
        assert_eq!(read(&npy("<i8", "(3,)", &[2i64, 0, 1].map(i64::to_le_bytes).concat()), 3).unwrap(), [2, 0, 1]);
        assert_eq!(read(&npy(">i4", "(2, 1)", &[2i32, 1].map(i32::to_be_bytes).concat()), 2).unwrap(), [2, 1]);
        assert_eq!(read(&npy("|u1", "(2,)", &[0, 1]), 2).unwrap(), [0, 1]);
        let scores = [0.1, 0.7, 0.2, 0.5, 0.5, 0.0];
        assert_eq!(read(&npy("<f4", "(2, 3)", &le(&scores, |x| (x as f32).to_le_bytes())), 2).unwrap(), [1, 0]);
        assert_eq!(read(&npy("<f8", "(2, 3)", &le(&scores, f64::to_le_bytes)), 2).unwrap(), [1, 0]);
        assert_eq!(read(&npy(">f8", "(2, 3)", &le(&scores, f64::to_be_bytes)), 2).unwrap(), [1, 0]);
        let logits = [-3.0, -9.0, -2.5];
        assert_eq!(read(&npy("<f8", "(1, 3)", &le(&logits, f64::to_le_bytes)), 1).unwrap(), [2]);
    }

    #[test]
    fn invalid_arrays_are_rejected() {
        let error = |bytes: &[u8], rows| read(bytes, rows).unwrap_err();
        let labels = npy("|u1", "(2,)", &[0, 3]);
        assert_eq!(error(&labels, 2), "array[1]: expected a label from 0 to 2, or a class name, found \"3\"");
        assert!(error(&npy("|i1", "(1,)", &[255]), 1).contains("array[0]: expected a label, 0 or more, found -1"));
        let short = error(&npy("|u1", "(2,)", &[0, 1]), 3);
        assert_eq!(short, "length: expected 3 predictions, one for each row of the dataset, found 2");
        for bad in [f64::NAN, f64::INFINITY] {
            let bytes = npy("<f8", "(2, 3)", &le(&[0.0, 0.5, 0.5, 0.0, bad, 1.0], f64::to_le_bytes));
            assert_eq!(error(&bytes, 2), format!("array[1]: expected finite scores, found {bad}"));
        }
        let two = npy("<f4", "(1, 2)", &[0; 8]);
        assert!(error(&two, 1).contains("expected scores of shape (1, 3), or labels"));
        assert!(error(&npy("<f8", "(3,)", &[0; 24]), 3).contains("found floats of shape (3,)"));
        assert!(error(&npy("<f2", "(1, 3)", &[0; 6]), 1).contains("dtype float32 or float64, found dtype f2"));
        assert!(error(&npy("|u1", "(2, 3)", &[0; 6]), 2).contains("shape (2) or (2, 1)"));
        assert!(error(&labels[..labels.len() - 1], 2).contains("the end of the file"));
        assert!(error(&[&labels[..], &[0]].concat(), 2).contains("more bytes"));
        assert!(error(b"\x93NUMPY\x09\x00\x00\x00", 2).contains("version 1, 2 or 3"));
    }

    #[test]
    fn csv_labels_and_scores_are_read() {
        assert_eq!(read(b"label\n2\n0\n1\n", 3).unwrap(), [2, 0, 1]);
        assert_eq!(read(b"label\ndog\n\"eel, young\"\n", 2).unwrap(), [1, 2]);
        assert_eq!(read(b"\xef\xbb\xbfrow,prediction\r\n0, 1\r\n1,0\r\n\r\n", 2).unwrap(), [1, 0]);
        assert_eq!(read(b"0,1,2\n0.1,0.2,0.7\n1e-3,0,0\n", 2).unwrap(), [2, 0]);
        // Columns are matched by name, in any order; others are ignored.
        assert_eq!(read(b"file,\"eel, young\",cat,dog\na.png,0.7,0.1,0.2\nb.png,0.1,0.2,0.7\n", 2).unwrap(), [2, 1]);
    }

    #[test]
    fn invalid_csv_is_rejected() {
        let error = |text: &str, rows| read(text.as_bytes(), rows).unwrap_err();
        assert_eq!(error("label\n0\n3\n", 2), "line 3: expected a label from 0 to 2, or a class name, found \"3\"");
        assert_eq!(
            error("label\n2\n0\ndog\n", 3),
            "line 4: expected a label from 0 to 2, as in the other rows, found \"dog\""
        );
        assert_eq!(
            error("label\ncat\ndog\n1\n", 3),
            "line 4: expected a class name, as in the other rows, found \"1\""
        );
        assert_eq!(error("label\n-1\n", 1), "line 2: expected a label from 0 to 2, or a class name, found \"-1\"");
        assert_eq!(error("label\n0\n", 2), "length: expected 2 predictions, one for each row of the dataset, found 1");
        assert_eq!(error("0,1,2\n0.1,NaN,0.2\n", 1), "line 2: expected finite scores, found NaN");
        assert_eq!(error("0,1,2\n0.1,x,0.2\n", 1), "line 2: expected a number, found \"x\"");
        assert_eq!(error("0,1,2\n0.1,0.2\n", 1), "line 2: expected 3 fields, as in the header, found 2");
        assert!(
            error("row,label\n0,1\n2,1\n", 2)
                .starts_with("line 3: expected row 1, because predictions are in the order")
        );
        assert!(error("0\n1\n", 2).starts_with("line 1: expected a column of labels (prediction, "));
        assert_eq!(error("\n", 1), "line 1: expected a header, found nothing");
        assert!(error("label\n", 1).starts_with("length"));
        assert!(read(b"\xff\xfe", 1).unwrap_err().starts_with("content: expected a .npy file, or CSV"));
    }

    #[test]
    fn a_file_with_several_possible_columns_is_refused() {
        // The first column is the truth, and every prediction is wrong.
        let truth = b"label,prediction\ncat,dog\ndog,cat\n";
        let error = read(truth, 2).unwrap_err();
        assert!(error.contains("set `column`") && error.ends_with("found \"label\" and \"prediction\""), "{error}");
        let classes = ["cat", "dog"];
        let column = |name: &str| PredictionOptions { column: Some(name.into()), ..PredictionOptions::default() };
        assert_eq!(read_with(truth, &classes, 2, &column("prediction")).unwrap(), [1, 0]);
        assert_eq!(read_with(truth, &classes, 2, &column("label")).unwrap(), [0, 1]);
        assert!(read_with(truth, &classes, 2, &column("class")).unwrap_err().contains("the column \"class\""));
        // Labels beside scores.
        let scores = b"label,cat,dog\n0,0.1,0.9\n";
        assert!(read_with(scores, &classes, 1, &PredictionOptions::default()).unwrap_err().contains("scores for each"));
        assert!(read(b"label,label\n0,1\n", 1).unwrap_err().contains("twice"));
    }

    #[test]
    fn classes_named_by_numbers_are_never_mixed_up() {
        // Folders in the order of their names: "10" is class 2.
        let classes = ["0", "1", "10", "2"];
        let form = |labels| PredictionOptions { labels: Some(labels), ..PredictionOptions::default() };
        let csv = b"label\n0\n1\n2\n".as_slice();
        let array = &npy("|u1", "(3,)", &[0, 1, 2]);
        for file in [csv, array] {
            let error = read_with(file, &classes, 3, &PredictionOptions::default()).unwrap_err();
            assert!(error.contains("class names or class numbers"), "{error}");
            assert!(error.ends_with("found \"2\", the name of a class and the number of class \"10\""), "{error}");
            assert_eq!(read_with(file, &classes, 3, &form(LabelForm::Names)).unwrap(), [0, 1, 3]);
            assert_eq!(read_with(file, &classes, 3, &form(LabelForm::Numbers)).unwrap(), [0, 1, 2]);
        }
        // A label that only one reading allows decides for all of them.
        assert_eq!(read_with(b"label\n0\n10\n2\n", &classes, 3, &PredictionOptions::default()).unwrap(), [0, 2, 3]);
        assert_eq!(read_with(b"label\n0\n3\n2\n", &classes, 3, &PredictionOptions::default()).unwrap(), [0, 3, 2]);
        // Where both readings agree there is nothing to decide.
        assert_eq!(read_with(b"label\n1\n0\n", &["0", "1"], 2, &PredictionOptions::default()).unwrap(), [1, 0]);
        let shuffled = ["1", "0"];
        let scores = b"0,1\n0.9,0.1\n";
        assert!(
            read_with(scores, &shuffled, 1, &PredictionOptions::default()).unwrap_err().contains("unambiguous columns")
        );
        assert_eq!(read_with(scores, &shuffled, 1, &form(LabelForm::Names)).unwrap(), [1]);
        assert_eq!(read_with(scores, &shuffled, 1, &form(LabelForm::Numbers)).unwrap(), [0]);
    }
}
