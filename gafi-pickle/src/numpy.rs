//! NumPy arrays in pickles: [`Array`], and how to find its parts.

use std::borrow::Cow;

use crate::{Id, Pickle, Value};

/// The type of the values of an [`Array`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Unsigned integers.
    Unsigned,
    /// Signed integers, in two's complement.
    Signed,
    /// Floating-point numbers.
    Float,
    /// Booleans.
    Bool,
}

/// A NumPy array. Its shape matches the length of its data.
#[derive(Debug, Clone, PartialEq)]
pub struct Array<'a> {
    /// Type of the values.
    pub kind: Kind,
    /// Width of a value in bytes: 1, 2, 4 or 8.
    pub width: usize,
    /// Big-endian: the first byte of a value is the most significant.
    pub big_endian: bool,
    /// Length of each dimension.
    pub shape: Vec<usize>,
    /// Fortran order: the first dimension changes fastest.
    pub fortran: bool,
    /// The bytes of all values.
    pub data: Cow<'a, [u8]>,
}

impl Array<'_> {
    /// The values of a one-dimensional array of integers.
    ///
    /// # Errors
    /// A description of the array, if it is something else.
    pub fn integers(&self) -> Result<Vec<i64>, String> {
        if self.shape.len() != 1 || !matches!(self.kind, Kind::Unsigned | Kind::Signed) {
            return Err(format!("an array of {:?} of shape {:?}", self.kind, self.shape));
        }
        let integer = |value: &[u8]| {
            let fold = |int: i64, byte: &u8| int << 8 | i64::from(*byte);
            let highest = if self.big_endian { value.first() } else { value.last() };
            let negative = self.kind == Kind::Signed && highest.is_some_and(|b| b & 0x80 != 0);
            let start = if negative { -1 } else { 0 };
            if self.big_endian { value.iter().fold(start, fold) } else { value.iter().rev().fold(start, fold) }
        };
        Ok(self.data.chunks_exact(self.width).map(integer).collect())
    }
}

impl<'a> Pickle<'a> {
    /// The NumPy array at `id`. In protocols 2 to 4 that is an empty array with a state, in protocol 5 a call with the data.
    ///
    /// # Errors
    /// A description of what was found instead.
    pub fn array(&self, id: Id) -> Result<Array<'a>, String> {
        let other = || self.describe(self.get(id));
        let &Value::Call(callable, args) = self.get(id) else { return Err(other()) };
        let (shape, dtype, fortran, data) = match self.get(callable) {
            Value::Global("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
                // The state: (version, shape, dtype, Fortran order, data).
                let Some(&[_, shape, dtype, fortran, data]) = self.state(id).and_then(|state| self.items(state)) else {
                    return Err("an array without data".into());
                };
                (shape, dtype, *self.get(fortran) == Value::Bool(true), data)
            }
            Value::Global("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => match self.items(args) {
                Some(&[data, dtype, shape, order]) => (shape, dtype, self.text(order) == Some("F"), data),
                _ => return Err("an array without data".into()),
            },
            _ => return Err(other()),
        };
        let (kind, width, big_endian) = self.dtype(dtype)?;
        let sides = self.items(shape).ok_or("an array without a shape")?;
        let side = |side: &Id| match self.get(*side) {
            Value::Int(int) => usize::try_from(*int).map_err(|_| format!("an array with a dimension of length {int}")),
            other => Err(format!("an array whose shape contains {}", self.describe(other))),
        };
        let shape = sides.iter().map(side).collect::<Result<Vec<usize>, String>>()?;
        let data = self.bytes(data)?;
        let claimed = shape.iter().try_fold(width, |n, side| n.checked_mul(*side));
        if claimed != Some(data.len()) {
            return Err(format!("an array of shape {shape:?} in {} bytes", data.len()));
        }
        Ok(Array { kind, width, big_endian, shape, fortran, data })
    }

    /// Type, width in bytes, and whether the byte order is big-endian.
    fn dtype(&self, id: Id) -> Result<(Kind, usize, bool), String> {
        let found = || format!("an array of {}", self.describe(self.get(id)));
        let &Value::Call(callable, args) = self.get(id) else { return Err(found()) };
        if *self.get(callable) != Value::Global("numpy", "dtype") {
            return Err(found());
        }
        let name = self.items(args).and_then(|args| self.text(*args.first()?)).ok_or_else(found)?;
        // The state: (version, byte order, ...). The byte order is one of "<", ">", "|" and "=".
        let state = self.state(id).and_then(|state| self.items(state));
        let big_endian = state.and_then(|state| self.text(*state.get(1)?)) == Some(">");
        let kind = match name {
            "u1" | "u2" | "u4" | "u8" => Kind::Unsigned,
            "i1" | "i2" | "i4" | "i8" => Kind::Signed,
            "f2" | "f4" | "f8" => Kind::Float,
            "b1" => Kind::Bool,
            other => return Err(format!("an array of dtype {other}")),
        };
        Ok((kind, usize::from(name.as_bytes()[1] - b'0'), big_endian))
    }

    /// Bytes, or a call `_codecs.encode(text, "latin1")`, which is how Python 3 stores bytes in protocol 2.
    fn bytes(&self, id: Id) -> Result<Cow<'a, [u8]>, String> {
        match self.get(id) {
            Value::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
            &Value::Call(callable, args) if *self.get(callable) == Value::Global("_codecs", "encode") => {
                let text =
                    self.items(args).and_then(|args| self.text(*args.first()?)).ok_or("an array without data")?;
                let bytes = text.chars().map(|c| u8::try_from(u32::from(c))).collect::<Result<_, _>>();
                Ok(Cow::Owned(bytes.map_err(|_| "an array with data outside Latin-1")?))
            }
            other => Err(format!("an array with {} instead of bytes", self.describe(other))),
        }
    }
}
