//! Single NumPy arrays: the header, arrays of labels and arrays of floats. `npz.rs` reads archives of them.
//!
//! The format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::io::Read;
use std::path::Path;

use gafi_core::{Error, Result};

use crate::source::{expect_end, read_bytes};

/// Bytes of an array that are read at once, a multiple of every width.
const CHUNK: u64 = 1 << 16;

/// The first bytes of every array.
pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";

/// The header of an array.
pub(crate) struct Header {
    /// NumPy's type code without the byte order: "u1", "i8", "f4".
    pub(crate) kind: String,
    big_endian: bool,
    pub(crate) shape: Vec<usize>,
}

impl Header {
    /// Bytes of all values; `None` if that is more than a number holds, or the type's width is unknown.
    pub(crate) fn bytes(&self) -> Option<u64> {
        let width: u64 = self.kind.get(1..)?.parse().ok()?;
        self.shape.iter().try_fold(width, |n, &side| n.checked_mul(side as u64))
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

/// Parses `{'descr': '|u1', 'fortran_order': False, 'shape': (60000, 28, 28), }`; `None` for structured types and arrays in
/// Fortran order.
fn parse_header(text: &str) -> Option<Header> {
    let value = |key: &str| Some(text.split_once(key)?.1.trim_start().strip_prefix(':')?.trim_start());
    let descr = value("'descr'")?.strip_prefix('\'')?.split_once('\'')?.0;
    if !value("'fortran_order'")?.starts_with("False") {
        return None;
    }
    let shape = value("'shape'")?.strip_prefix('(')?.split_once(')')?.0;
    let shape = shape.split(',').map(str::trim).filter(|n| !n.is_empty());
    let shape = shape.map(|n| n.parse().ok()).collect::<Option<Vec<usize>>>()?;
    let kind = descr.trim_start_matches(['<', '>', '|', '=']);
    Some(Header { kind: kind.into(), big_endian: descr.starts_with('>'), shape })
}

/// A shape the way NumPy prints it: `(5,)`, `(5, 28, 28)`.
pub(crate) fn show_shape(shape: &[usize]) -> String {
    match shape {
        [n] => format!("({n},)"),
        _ => format!("({})", shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// Passes each value of an array and its number to `f`, as `width` little-endian bytes; the array must end after the last.
/// Callers compare the shape with what they know before: here the header alone says how much is read.
fn each_value(
    array: &mut impl Read,
    header: &Header,
    width: usize,
    path: &Path,
    name: &str,
    mut f: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut left = header.bytes().ok_or_else(|| {
        Error::format(path, format!("{name}, header"), "a shape that fits into memory", show_shape(&header.shape))
    })?;
    let mut number = 0;
    while left > 0 {
        let mut bytes = read_bytes(array, left.min(CHUNK), path, || name.into())?;
        left -= bytes.len() as u64;
        for value in bytes.chunks_exact_mut(width) {
            if header.big_endian {
                value.reverse();
            }
            f(number, value)?;
            number += 1;
        }
    }
    expect_end(array, path, &format!("{name}, after its last value"))
}

/// Reads labels from an array of integers of shape (`rows`) or (`rows`, 1).
pub(crate) fn labels(array: &mut impl Read, header: &Header, rows: usize, path: &Path, name: &str) -> Result<Vec<u32>> {
    let place = format!("{name}, header");
    if !matches!(header.shape[..], [n] | [n, 1] if n == rows) {
        let expected = format!("shape ({rows}) or ({rows}, 1), a label for each row");
        return Err(Error::format(path, place, expected, show_shape(&header.shape)));
    }
    let (width, signed) = match header.kind.as_str() {
        "u1" | "u2" | "u4" | "u8" => (header.kind.as_bytes()[1] - b'0', false),
        "i1" | "i2" | "i4" | "i8" => (header.kind.as_bytes()[1] - b'0', true),
        other => return Err(Error::format(path, place, "an integer dtype", format!("dtype {other}"))),
    };
    let mut labels = Vec::new();
    each_value(array, header, usize::from(width), path, name, |row, raw| {
        let negative = signed && raw.last().is_some_and(|b| b & 0x80 != 0);
        let value = raw.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
        match u32::try_from(value) {
            Ok(label) if !negative => labels.push(label),
            _ => {
                let found = if negative { "a negative number".into() } else { value.to_string() };
                return Err(Error::format(path, format!("{name}[{row}]"), "a label, 0 or more", found));
            }
        }
        Ok(())
    })?;
    Ok(labels)
}

/// Passes each row of an array of `float32` or `float64` of shape (`rows`, `columns`) and its number to `f`.
pub(crate) fn float_rows(
    array: &mut impl Read,
    header: &Header,
    (rows, columns): (usize, usize),
    path: &Path,
    name: &str,
    mut f: impl FnMut(usize, &[f64]) -> Result<()>,
) -> Result<()> {
    let place = format!("{name}, header");
    if header.shape != [rows, columns] {
        let expected = format!("scores of shape ({rows}, {columns}), or labels of an integer dtype");
        let found = format!("floats of shape {}", show_shape(&header.shape));
        return Err(Error::format(path, place, expected, found));
    }
    let mut row = Vec::with_capacity(columns);
    let mut add = |number: usize, value: f64| {
        row.push(value);
        if row.len() < columns {
            return Ok(());
        }
        f(number / columns, &row)?;
        row.clear();
        Ok(())
    };
    match header.kind.as_str() {
        "f4" => each_value(array, header, 4, path, name, |number, raw| {
            add(number, f64::from(f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]])))
        }),
        "f8" => each_value(array, header, 8, path, name, |number, raw| {
            // `each_value` passes 8 bytes.
            add(number, raw.first_chunk().map_or(f64::NAN, |raw| f64::from_le_bytes(*raw)))
        }),
        other => Err(Error::format(path, place, "dtype float32 or float64", format!("dtype {other}"))),
    }
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
        assert!(parse_header("{'descr': '|u1', 'fortran_order': True, 'shape': (5, 2, 2), }").is_none());
        assert!(parse_header("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (5,), }").is_none());
        assert!(parse_header("").is_none());
    }
}
