//! Reads the predictions of an external classifier from a file: a label per row, or a score per class, of which the highest
//! wins.
//!
//! The file has one prediction for each row of a dataset, in order. A file that starts like `.npy` is read as such, anything
//! else as CSV. Scores may be probabilities or logits.

use std::collections::BTreeMap;
use std::path::Path;

use gafi_core::{ClassId, Error, Result};

use crate::formats::npy::{self, show_shape};

/// What error messages call the array of a `.npy` file.
const ARRAY: &str = "array";
/// Names of the CSV column of labels.
const LABELS: [&str; 3] = ["label", "prediction", "predicted"];
/// Name of the CSV column of row numbers, which are checked.
const ROW: &str = "row";

/// Reads the predictions for `rows` rows of a dataset with these classes.
///
/// A `.npy` file holds integer labels of shape (n), or scores of shape (n, classes) as `float32` or `float64`. A CSV file has a
/// header. It either has a column `label`, `prediction` or `predicted` with class numbers or names, or a column of scores for
/// each class, headed by the class's name or number. An optional column `row` counts from 0.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] with the line or element when the number of rows differs, a label is not a class, a score
/// is not finite, or the file is in neither format.
pub fn read_predictions(path: &Path, classes: &[String], rows: u64) -> Result<Vec<ClassId>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let labels =
        if bytes.starts_with(npy::MAGIC) { array(&bytes, path, classes)? } else { csv(&bytes, path, classes)? };
    if labels.len() as u64 != rows {
        let expected = format!("{rows} predictions, one for each row of the dataset");
        return Err(Error::format(path, "length", expected, labels.len().to_string()));
    }
    Ok(labels)
}

fn array(mut bytes: &[u8], path: &Path, classes: &[String]) -> Result<Vec<ClassId>> {
    let header = npy::read_header(&mut bytes, path, ARRAY)?;
    if header.kind.starts_with('f') {
        if !matches!(header.shape[..], [_, columns] if columns == classes.len()) {
            let expected = format!("scores of shape (n, {}), or labels of an integer dtype", classes.len());
            let found = format!("floats of shape {}", show_shape(&header.shape));
            return Err(Error::format(path, format!("{ARRAY}, header"), expected, found));
        }
        let scores = npy::floats(&mut bytes, &header, path, ARRAY)?;
        let best = |(row, scores)| highest(scores, path, || format!("{ARRAY}[{row}]"));
        return scores.chunks_exact(classes.len()).enumerate().map(best).collect();
    }
    let labels = npy::labels(&mut bytes, &header, path, ARRAY)?;
    let known = |(row, label)| label_of(label, classes, path, || format!("{ARRAY}[{row}]"));
    labels.into_iter().enumerate().map(known).collect()
}

/// The class with the highest score; ties go to the first.
fn highest(scores: &[f64], path: &Path, place: impl Fn() -> String) -> Result<ClassId> {
    if let Some(bad) = scores.iter().find(|score| !score.is_finite()) {
        return Err(Error::format(path, place(), "finite scores", bad.to_string()));
    }
    let best = (1..scores.len()).fold(0, |best, at| if scores[at] > scores[best] { at } else { best });
    Ok(ClassId(best as u32))
}

fn label_of(label: u32, classes: &[String], path: &Path, place: impl Fn() -> String) -> Result<ClassId> {
    if (label as usize) < classes.len() {
        return Ok(ClassId(label));
    }
    Err(Error::format(
        path,
        place(),
        format!("a label from 0 to {}", classes.len().saturating_sub(1)),
        label.to_string(),
    ))
}

/// Which columns of a CSV file hold the predictions.
enum Columns {
    /// The label is in this column.
    Label(usize),
    /// The scores are in these columns, in label order.
    Scores(Vec<usize>),
}

fn csv(bytes: &[u8], path: &Path, classes: &[String]) -> Result<Vec<ClassId>> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Error::format(path, "content", "a .npy file, or CSV in UTF-8", e.to_string()))?;
    let mut lines = text.trim_start_matches('\u{feff}').lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let Some((_, header)) = lines.next() else {
        return Err(Error::format(path, "line 1", "a header", "nothing"));
    };
    let header = fields(header);
    let columns = columns(&header, path, classes)?;
    let counted = header.iter().position(|name| name == ROW);
    let mut labels = Vec::new();
    for (line, text) in lines {
        let place = || format!("line {}", line + 1);
        let fields = fields(text);
        if fields.len() != header.len() {
            let expected = format!("{} fields, as in the header", header.len());
            return Err(Error::format(path, place(), expected, fields.len().to_string()));
        }
        if let Some(at) = counted
            && fields[at].parse() != Ok(labels.len())
        {
            let expected = format!("row {}, as rows are in the order of the dataset", labels.len());
            return Err(Error::format(path, place(), expected, fields[at].clone()));
        }
        labels.push(match &columns {
            Columns::Label(at) => match classes.iter().position(|name| *name == fields[*at]) {
                Some(class) => ClassId(class as u32),
                None => {
                    let label = fields[*at].parse().map_err(|_| {
                        let expected = format!("a label from 0 to {}, or a class name", classes.len() - 1);
                        Error::format(path, place(), expected, format!("{:?}", fields[*at]))
                    })?;
                    label_of(label, classes, path, place)?
                }
            },
            Columns::Scores(columns) => {
                let number = |&at: &usize| {
                    let field = &fields[at];
                    field.parse().map_err(|_| Error::format(path, place(), "a number", format!("{field:?}")))
                };
                highest(&columns.iter().map(number).collect::<Result<Vec<f64>>>()?, path, place)?
            }
        });
    }
    Ok(labels)
}

fn columns(header: &[String], path: &Path, classes: &[String]) -> Result<Columns> {
    if let Some(at) = header.iter().position(|name| LABELS.contains(&name.as_str())) {
        return Ok(Columns::Label(at));
    }
    // Names come first: a classifier may number its classes in another order.
    let by_name: BTreeMap<&str, usize> = header.iter().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    let named: Option<Vec<usize>> = classes.iter().map(|name| by_name.get(name.as_str()).copied()).collect();
    let numbered = || (0..classes.len()).map(|class| by_name.get(class.to_string().as_str()).copied()).collect();
    named.or_else(numbered).map(Columns::Scores).ok_or_else(|| {
        let expected = format!("a column `label`, or a column for each class: {}", classes.join(", "));
        Error::format(path, "line 1", expected, header.join(", "))
    })
}

/// The fields of a line. A field in double quotes may contain commas, and `""` for a quote.
fn fields(line: &str) -> Vec<String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut letters = line.chars().peekable();
    while let Some(c) = letters.next() {
        match c {
            '"' if quoted && letters.peek() == Some(&'"') => field.extend(letters.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field).trim().to_owned()),
            c => field.push(c),
        }
    }
    fields.push(field.trim().to_owned());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `bytes` and reads them as predictions for `rows` rows of three classes.
    fn read(bytes: &[u8], rows: u64) -> Result<Vec<u32>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let classes = ["cat".to_owned(), "dog".to_owned(), "eel, young".to_owned()];
        let labels = read_predictions(file.path(), &classes, rows);
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
        assert_eq!(error(&labels, 2), "array[1]: expected a label from 0 to 2, found 3");
        assert!(
            error(&npy("|i1", "(1,)", &[255]), 1).contains("array[0]: expected a label, 0 or more, found a negative")
        );
        let short = error(&npy("|u1", "(2,)", &[0, 1]), 3);
        assert_eq!(short, "length: expected 3 predictions, one for each row of the dataset, found 2");
        for bad in [f64::NAN, f64::INFINITY] {
            let bytes = npy("<f8", "(2, 3)", &le(&[0.0, 0.5, 0.5, 0.0, bad, 1.0], f64::to_le_bytes));
            assert_eq!(error(&bytes, 2), format!("array[1]: expected finite scores, found {bad}"));
        }
        let two = npy("<f4", "(1, 2)", &[0; 8]);
        assert!(error(&two, 1).contains("expected scores of shape (n, 3), or labels"));
        assert!(error(&npy("<f8", "(3,)", &[0; 24]), 3).contains("found floats of shape (3,)"));
        assert!(error(&npy("<f2", "(1, 3)", &[0; 6]), 1).contains("dtype float32 or float64, found dtype f2"));
        assert!(error(&npy("|u1", "(2, 3)", &[0; 6]), 2).contains("shape (n) or (n, 1)"));
        assert!(error(&labels[..labels.len() - 1], 2).contains("the end of the file"));
        assert!(error(&[&labels[..], &[0]].concat(), 2).contains("more bytes"));
        assert!(error(b"\x93NUMPY\x09\x00\x00\x00", 2).contains("version 1, 2 or 3"));
    }

    #[test]
    fn csv_labels_and_scores_are_read() {
        assert_eq!(read(b"label\n2\n0\ndog\n\"eel, young\"\n", 4).unwrap(), [2, 0, 1, 2]);
        assert_eq!(read(b"\xef\xbb\xbfrow,prediction\r\n0, 1\r\n1,cat\r\n\r\n", 2).unwrap(), [1, 0]);
        assert_eq!(read(b"0,1,2\n0.1,0.2,0.7\n1e-3,0,0\n", 2).unwrap(), [2, 0]);
        // Columns are matched by name in any order; others are ignored.
        assert_eq!(read(b"file,\"eel, young\",cat,dog\na.png,0.7,0.1,0.2\nb.png,0.1,0.2,0.7\n", 2).unwrap(), [2, 1]);
    }

    #[test]
    fn invalid_csv_is_rejected() {
        let error = |text: &str, rows| read(text.as_bytes(), rows).unwrap_err();
        assert_eq!(error("label\n0\n3\n", 2), "line 3: expected a label from 0 to 2, found 3");
        assert_eq!(error("label\n-1\n", 1), "line 2: expected a label from 0 to 2, or a class name, found \"-1\"");
        assert_eq!(error("label\n0\n", 2), "length: expected 2 predictions, one for each row of the dataset, found 1");
        assert_eq!(error("0,1,2\n0.1,NaN,0.2\n", 1), "line 2: expected finite scores, found NaN");
        assert_eq!(error("0,1,2\n0.1,x,0.2\n", 1), "line 2: expected a number, found \"x\"");
        assert_eq!(error("0,1,2\n0.1,0.2\n", 1), "line 2: expected 3 fields, as in the header, found 2");
        assert!(error("row,label\n0,1\n2,1\n", 2).starts_with("line 3: expected row 1, as rows are in the order"));
        assert!(error("0\n1\n", 2).starts_with("line 1: expected a column `label`, or a column for each class: cat"));
        assert_eq!(error("\n", 1), "line 1: expected a header, found nothing");
        assert!(error("label\n", 1).starts_with("length"));
        assert!(read(b"\xff\xfe", 1).unwrap_err().starts_with("content: expected a .npy file, or CSV"));
    }
}
