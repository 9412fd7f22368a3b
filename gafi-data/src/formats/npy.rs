//! Single NumPy arrays: the header, arrays of labels and arrays of floats. `npz.rs` reads archives of them.
//!
//! The crates `npyz` and `ndarray-npy` parse the header, a line of text, with a Python grammar that takes 30 s to compile (opt-level
//! 1, one core), and don't bound its length. So the format is parsed here.
//!
//! The format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::io::Read;
use std::path::Path;

use gafi_core::{Error, Result};

use super::labels::{LabelColumn, Names, number, whole};
use crate::source::{expect_end, read_bytes};

/// How many bytes of an array are read at once.
const CHUNK: u64 = 1 << 16;

/// The first bytes of every array.
pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";

/// The header of an array.
pub(crate) struct Header {
    /// NumPy's type code without the byte order: "u1", "i8", "f4".
    pub(crate) kind: String,
    pub(crate) big_endian: bool,
    /// Fortran order: the first dimension changes fastest.
    pub(crate) fortran: bool,
    pub(crate) shape: Vec<usize>,
}

impl Header {
    /// Width of a value in bytes; `None` for a type without a fixed width.
    pub(crate) fn width(&self) -> Option<u64> {
        let width: u64 = self.kind.get(1..)?.parse().ok()?;
        // NumPy counts the characters of a string, of 4 bytes each.
        if self.kind.starts_with('U') { width.checked_mul(4) } else { Some(width) }
    }

    /// Length of all values in bytes; `None` on overflow, or for a type without a fixed width.
    pub(crate) fn bytes(&self) -> Option<u64> {
        let width = self.width()?;
        self.shape.iter().try_fold(width, |n, &side| n.checked_mul(side as u64))
    }

    /// The number in the bytes of a value.
    pub(crate) fn number(&self, raw: &[u8]) -> f64 {
        number(&self.kind, self.big_endian, raw)
    }

    /// The string in the bytes of a value, in UTF-32 or UTF-8, without its padding of zeros.
    fn text(&self, raw: &[u8]) -> Option<String> {
        if !self.kind.starts_with('U') {
            return Some(std::str::from_utf8(raw).ok()?.trim_end_matches('\0').to_owned());
        }
        let (characters, _) = raw.as_chunks::<4>();
        let code = |c: &[u8; 4]| if self.big_endian { u32::from_be_bytes(*c) } else { u32::from_le_bytes(*c) };
        let text: Option<String> = characters.iter().map(|c| char::from_u32(code(c))).collect();
        Some(text?.trim_end_matches('\0').to_owned())
    }

    /// Whether a value is 1 to [`LABEL_MAX`] bytes wide.
    fn is_narrow(&self) -> bool {
        self.width().is_some_and(|width| (1..=LABEL_MAX).contains(&width))
    }
}

/// Reads the header of the array `name`, leaving `array` at its first value.
pub(crate) fn read_header(array: &mut impl Read, path: &Path, name: &str) -> Result<Header> {
    let place = || format!("{name}, header");
    let head = read_bytes(array, 8, path, place)?;
    if !head.starts_with(MAGIC) {
        return Err(Error::format(path, place(), "NumPy's magic string \\x93NUMPY", head.escape_ascii().to_string()));
    }
    let length = match head[6] {
        1 => read_bytes(array, 2, path, place)?,
        2 | 3 => read_bytes(array, 4, path, place)?,
        v => return Err(Error::format(path, place(), "version 1, 2 or 3 of NumPy's format", format!("version {v}"))),
    };
    let length = length.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
    let text = read_bytes(array, length.min(1 << 16), path, place)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    parse_header(&text)
        .ok_or_else(|| Error::format(path, place(), "{'descr': …, 'fortran_order': False, 'shape': …}", text.trim()))
}

/// Parses `{'descr': '|u1', 'fortran_order': False, 'shape': (60000, 28, 28), }`; `None` for structured types.
fn parse_header(text: &str) -> Option<Header> {
    let value = |key: &str| Some(text.split_once(key)?.1.trim_start().strip_prefix(':')?.trim_start());
    let descr = value("'descr'")?.strip_prefix('\'')?.split_once('\'')?.0;
    let order = value("'fortran_order'")?;
    let fortran = order.starts_with("True");
    if !fortran && !order.starts_with("False") {
        return None;
    }
    let shape = value("'shape'")?.strip_prefix('(')?.split_once(')')?.0;
    let shape = shape.split(',').map(str::trim).filter(|n| !n.is_empty());
    let shape = shape.map(|n| n.parse().ok()).collect::<Option<Vec<usize>>>()?;
    let kind = descr.trim_start_matches(['<', '>', '|', '=']);
    Some(Header { kind: kind.into(), big_endian: descr.starts_with('>'), fortran, shape })
}

/// A shape the way NumPy prints it: `(5,)`, `(5, 28, 28)`.
pub(crate) fn show_shape(shape: &[usize]) -> String {
    match shape {
        [n] => format!("({n},)"),
        _ => format!("({})", shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// Passes the index and the bytes of each value to `f`. The array must end after the last value.
///
/// The header alone decides how much is read, so callers first check its shape, and that its values have a width.
pub(crate) fn each_value(
    array: &mut impl Read,
    header: &Header,
    path: &Path,
    name: &str,
    mut f: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<()> {
    let (Some(width), Some(mut left)) = (header.width(), header.bytes()) else {
        let found = show_shape(&header.shape);
        return Err(Error::format(path, format!("{name}, header"), "a shape that fits into memory", found));
    };
    let mut at = 0;
    while left > 0 {
        // A chunk ends between two values.
        let bytes = read_bytes(array, left.min(CHUNK.next_multiple_of(width)), path, || name.into())?;
        left -= bytes.len() as u64;
        for value in bytes.chunks_exact(width as usize) {
            f(at, value)?;
            at += 1;
        }
    }
    expect_end(array, path, &format!("{name}, after its last value"))
}

/// Widest label in bytes: a string of 1,024 characters.
const LABEL_MAX: u64 = 4096;

/// Reads labels: integers, whole floats, booleans or strings of shape (`rows`) or (`rows`, 1). With `one_hot`, also one-hot rows of
/// shape (`rows`, classes).
pub(crate) fn labels(
    array: &mut impl Read,
    header: &Header,
    rows: usize,
    one_hot: bool,
    path: &Path,
    name: &str,
) -> Result<LabelColumn> {
    let place = || format!("{name}, header");
    let columns = match header.shape[..] {
        [n] if n == rows => 1,
        [n, columns] if n == rows && (columns == 1 || columns > 1 && one_hot) => columns,
        _ => {
            let expected = format!("shape ({rows}) or ({rows}, 1), a label for each row");
            return Err(Error::format(path, place(), expected, show_shape(&header.shape)));
        }
    };
    let is_text = header.kind.starts_with(['U', 'S']);
    let known =
        matches!(header.kind.as_str(), "b1" | "u1" | "u2" | "u4" | "u8" | "i1" | "i2" | "i4" | "i8" | "f4" | "f8");
    if columns > 1 && is_text || !known && !is_text {
        let expected = "integers, whole floats, booleans or strings";
        return Err(Error::format(path, place(), expected, format!("dtype {}", header.kind)));
    }
    if !header.is_narrow() {
        let expected = format!("labels of 1 to {LABEL_MAX} bytes");
        return Err(Error::format(path, place(), expected, format!("dtype {}", header.kind)));
    }
    let mut names = Names::default();
    let mut values = Vec::new();
    // For one-hot rows: the class of each row, once a 1 is found.
    let mut hot: Vec<Option<u32>> = if columns > 1 { vec![None; rows] } else { Vec::new() };
    let multi = |row: usize, found: String| {
        let expected = format!(
            "one label for each row: integers of shape ({rows}), or one-hot rows; a multi-label set cannot be imported, \
             because each image has one class"
        );
        Error::format(path, format!("{name}[{row}]"), expected, found)
    };
    each_value(array, header, path, name, |at, raw| {
        if is_text {
            let text = header.text(raw).filter(|text| !text.is_empty());
            let text = text.ok_or_else(|| {
                Error::format(path, format!("{name}[{at}]"), "a class name", "an empty or invalid string")
            })?;
            values.push(names.number(&text));
            return Ok(());
        }
        let value = header.number(raw);
        if columns == 1 {
            let wrong = || Error::format(path, format!("{name}[{at}]"), "a label, 0 or more", value.to_string());
            values.push(whole(value).ok_or_else(wrong)?);
            return Ok(());
        }
        // Row and column follow from the position in the order of the array.
        let (row, column) = if header.fortran { (at % rows, at / rows) } else { (at / columns, at % columns) };
        match value {
            0.0 => {}
            1.0 if hot[row].is_none() => hot[row] = Some(column as u32),
            1.0 => return Err(multi(row, "a row with several ones".into())),
            other => return Err(multi(row, format!("a row with {other}"))),
        }
        Ok(())
    })?;
    for (row, class) in hot.into_iter().enumerate() {
        values.push(class.ok_or_else(|| multi(row, "a row of zeros".into()))?);
    }
    Ok(LabelColumn { values, names: is_text.then(|| names.into_names()) })
}

/// Reads class names from an array of strings of shape (n).
pub(crate) fn texts(array: &mut impl Read, header: &Header, path: &Path, name: &str) -> Result<Vec<String>> {
    let is_text = header.is_narrow() && header.kind.starts_with(['U', 'S']);
    if !is_text || !matches!(header.shape[..], [1..=NAMES_MAX]) {
        let expected = format!("1 to {NAMES_MAX} strings of at most {LABEL_MAX} bytes");
        let found = format!("dtype {}, shape {}", header.kind, show_shape(&header.shape));
        return Err(Error::format(path, format!("{name}, header"), expected, found));
    }
    let mut texts = Vec::new();
    each_value(array, header, path, name, |at, raw| {
        let wrong = || Error::format(path, format!("{name}[{at}]"), "a string", "invalid characters");
        texts.push(header.text(raw).ok_or_else(wrong)?);
        Ok(())
    })?;
    Ok(texts)
}

/// Maximum number of class names in an array.
const NAMES_MAX: usize = 100_000;

/// Passes the index and the values of each row to `f`. The array holds `float32` or `float64` of shape (`rows`, `columns`).
pub(crate) fn float_rows(
    array: &mut impl Read,
    header: &Header,
    (rows, columns): (usize, usize),
    path: &Path,
    name: &str,
    mut f: impl FnMut(usize, &[f64]) -> Result<()>,
) -> Result<()> {
    let place = format!("{name}, header");
    if header.fortran {
        return Err(Error::format(path, place, "rows in C order (np.ascontiguousarray)", "Fortran order"));
    }
    if header.shape != [rows, columns] {
        let expected = format!("scores of shape ({rows}, {columns}), or labels of an integer dtype");
        let found = format!("floats of shape {}", show_shape(&header.shape));
        return Err(Error::format(path, place, expected, found));
    }
    if !matches!(header.kind.as_str(), "f4" | "f8") {
        return Err(Error::format(path, place, "dtype float32 or float64", format!("dtype {}", header.kind)));
    }
    let mut row = Vec::with_capacity(columns);
    each_value(array, header, path, name, |at, raw| {
        row.push(header.number(raw));
        if row.len() == columns {
            f(at / columns, &row)?;
            row.clear();
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_written_by_numpy_are_parsed() {
        let h = parse_header("{'descr': '|u1', 'fortran_order': False, 'shape': (60000, 28, 28), }   \n").unwrap();
        assert_eq!((h.kind.as_str(), h.big_endian, &h.shape[..]), ("u1", false, &[60000, 28, 28][..]));
        let h = parse_header("{'descr': '>i8', 'fortran_order': False, 'shape': (5,), }").unwrap();
        assert_eq!((h.kind.as_str(), h.big_endian, &h.shape[..]), ("i8", true, &[5][..]));
        assert!(parse_header("{'descr': '|u1', 'fortran_order': True, 'shape': (5, 2, 2), }").unwrap().fortran);
        assert!(parse_header("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (5,), }").is_none());
        assert!(parse_header("").is_none());
    }
}
