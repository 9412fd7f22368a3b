//! Reads the data in Python's pickles (protocols 2 to 5) without running code from them: numbers, texts, bytes, containers and
//! NumPy arrays. A class or function is a name, and a call of one is kept as a call.
//!
//! ```
//! // pickle.dumps({"labels": [1, 0]}, 2)
//! let bytes = b"\x80\x02}q\x00X\x06\x00\x00\x00labelsq\x01]q\x02(K\x01K\x00es.";
//! let pickle = gafi_pickle::Pickle::parse(bytes).unwrap();
//! let labels = pickle.entry(pickle.root_id(), "labels").unwrap();
//! assert_eq!(pickle.integers(labels), Ok(vec![1, 0]));
//! ```
//!
//! Values are in one list and refer to each other by position. So a value that is used a thousand times is stored once, and
//! neither parsing nor dropping recurses, however deep values nest. A pickle may have 2^22 opcodes, which need at most 256 MiB.
#![deny(missing_docs, unsafe_code)]

mod numpy;

pub use numpy::{Array, Kind};

use std::collections::BTreeMap;

/// Most opcodes of a pickle. CIFAR-100's training images have 300,000.
const OPCODES_MAX: usize = 1 << 22;

/// Position of a value in a [`Pickle`].
pub type Id = u32;

/// A value. Texts and bytes are slices of the pickle.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// An integer of at most 64 bits.
    Int(i64),
    /// A boolean.
    Bool(bool),
    /// A text.
    Text(&'a str),
    /// Bytes, or a text of Python 2.
    Bytes(&'a [u8]),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list.
    List(Vec<Id>),
    /// A dictionary: keys and values.
    Dict(Vec<(Id, Id)>),
    /// A class or function: its module and its name.
    Global(&'a str, &'a str),
    /// A call of the first value with the second one, a tuple of arguments.
    Call(Id, Id),
    /// An object outside of the pickle, by its key.
    Persistent(Id),
    /// Something else that no reader needs: `None`, a float, a longer integer.
    Other,
}

/// A fault at a byte of the pickle.
#[derive(Debug, PartialEq)]
pub struct Fault {
    /// Position of the byte.
    pub at: usize,
    /// What was expected there.
    pub expected: String,
    /// What was found.
    pub found: String,
}

/// A parsed pickle.
#[derive(Debug)]
pub struct Pickle<'a> {
    values: Vec<Value<'a>>,
    // The states that objects were given after the call that made them.
    states: BTreeMap<Id, Id>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Parses `bytes`.
    ///
    /// # Errors
    /// A [`Fault`] at the first byte that a pickle of data doesn't have.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut parser = Parser {
            bytes,
            at: 0,
            opcode_at: 0,
            values: vec![Value::Other, Value::Tuple(Vec::new())],
            states: BTreeMap::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
        };
        let mut opcodes = 0;
        while parser.step()? {
            opcodes += 1;
            if opcodes > OPCODES_MAX {
                return Err(parser.fault(format!("at most {OPCODES_MAX} opcodes"), "more"));
            }
        }
        let root = parser.pop()?;
        Ok(Self { values: parser.values, states: parser.states, root })
    }

    /// The pickled object.
    pub fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    /// Position of the pickled object.
    pub fn root_id(&self) -> Id {
        self.root
    }

    /// The value at a position that this pickle gave.
    pub fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    /// The state that an object was given after the call that made it.
    pub fn state(&self, id: Id) -> Option<Id> {
        self.states.get(&id).copied()
    }

    /// A text, or bytes that are one.
    pub fn text(&self, id: Id) -> Option<&'a str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The items of a list or tuple.
    pub fn items(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::List(items) | Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The value of a key in a dictionary; the last one, as in Python. Keys may be texts or bytes.
    pub fn entry(&self, dict: Id, key: &str) -> Option<Id> {
        let Value::Dict(items) = self.get(dict) else { return None };
        items.iter().rev().find(|(name, _)| self.text(*name) == Some(key)).map(|(_, value)| *value)
    }

    /// A list of integers, or a one-dimensional array of them.
    ///
    /// # Errors
    /// What was found instead.
    pub fn integers(&self, id: Id) -> Result<Vec<i64>, String> {
        if let Some(items) = self.items(id) {
            let integer = |item: &Id| match self.get(*item) {
                Value::Int(int) => Ok(*int),
                other => Err(format!("a list with {}", self.describe(other))),
            };
            return items.iter().map(integer).collect();
        }
        self.array(id)?.integers()
    }

    /// What a value is, for errors.
    pub fn describe(&self, value: &Value<'a>) -> String {
        let mut value = value;
        // The callable of a call may be a call; a few levels are enough for an error.
        for _ in 0..4 {
            let Value::Call(callable, _) = value else { break };
            value = self.get(*callable);
        }
        match value {
            Value::Int(int) => int.to_string(),
            Value::Bool(bool) => bool.to_string(),
            Value::Text(text) => format!("the text {text:?}"),
            Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Value::Tuple(items) => format!("a tuple of {} values", items.len()),
            Value::Dict(_) => "a dictionary".into(),
            Value::Global(module, name) => format!("{module}.{name}"),
            Value::Call(..) => "the result of a call".into(),
            Value::Persistent(_) => "a storage".into(),
            Value::List(items) => format!("a list of {} values", items.len()),
            Value::Other => "another value".into(),
        }
    }
}

// Values without content are stored once, at the start of the list.
const OTHER: Id = 0;
const EMPTY_TUPLE: Id = 1;

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    // Where the current opcode is.
    opcode_at: usize,
    values: Vec<Value<'a>>,
    states: BTreeMap<Id, Id>,
    stack: Vec<Id>,
    // Heights of the stack at which a mark was set.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl<'a> Parser<'a> {
    fn fault(&self, expected: impl Into<String>, found: impl Into<String>) -> Fault {
        Fault { at: self.opcode_at, expected: expected.into(), found: found.into() }
    }

    /// The next `n` bytes. `n` may come from the file, so it is compared with what is left.
    fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let rest = &self.bytes[self.at..];
        let Some(taken) = rest.get(..n) else {
            let expected = if n == 1 { "another byte".into() } else { format!("{n} more bytes") };
            return Err(self.fault(expected, format!("the end of the pickle after {}", rest.len())));
        };
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        // `take` returns as many bytes as asked for.
        Ok(self.take(N)?.first_chunk().copied().unwrap_or([0; N]))
    }

    fn text(&self, bytes: &'a [u8]) -> Result<&'a str, Fault> {
        std::str::from_utf8(bytes).map_err(|_| self.fault("text in UTF-8", "other bytes"))
    }

    /// The bytes up to the next line break, which is skipped.
    fn line(&mut self) -> Result<&'a str, Fault> {
        let Some(length) = self.bytes[self.at..].iter().position(|b| *b == b'\n') else {
            return Err(self.fault("a module and a name, each on a line", "the end of the pickle"));
        };
        let line = self.take(length + 1)?;
        self.text(&line[..length])
    }

    /// The next bytes, whose number is stored before them in 1 byte.
    fn take_short(&mut self) -> Result<&'a [u8], Fault> {
        let [length] = self.array()?;
        self.take(length.into())
    }

    /// The next bytes, whose number is stored before them in 4 bytes.
    fn take_word(&mut self) -> Result<&'a [u8], Fault> {
        let length = u32::from_le_bytes(self.array()?);
        self.take(length as usize)
    }

    /// The next bytes, whose number is stored before them in 8 bytes.
    fn take_long(&mut self) -> Result<&'a [u8], Fault> {
        let length = u64::from_le_bytes(self.array()?);
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Id, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = if self.stack.len() > floor { self.stack.pop() } else { None };
        top.ok_or_else(|| self.fault("a value on the stack", "none"))
    }

    /// The values above the last mark, which is removed.
    fn pop_to_mark(&mut self) -> Result<Vec<Id>, Fault> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.fault("a mark on the stack", "none")),
        }
    }

    /// The value at the top, which stays.
    fn top(&mut self) -> Result<Id, Fault> {
        let top = self.pop()?;
        self.stack.push(top);
        Ok(top)
    }

    fn tuple(&mut self, n: usize) -> Result<(), Fault> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
    }

    /// Adds `items`, keys and values in turn, to the dictionary at the top. Objects of other classes accept them too, and
    /// drop them.
    fn set_items(&mut self, items: &[Id]) -> Result<(), Fault> {
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err(self.fault("keys and values in turn", format!("{} values", items.len())));
        };
        let top = self.top()?;
        if let Value::Dict(content) = &mut self.values[top as usize] {
            content.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        }
        Ok(())
    }

    /// The bytes that Python 3 stores as a text in protocol 2, `_codecs.encode(text, "latin1")`, if they are those of the text in the
    /// pickle: in ASCII.
    fn encoded(&self, callable: Id, args: Id) -> Option<&'a [u8]> {
        let (Value::Global("_codecs", "encode"), Value::Tuple(args)) =
            (&self.values[callable as usize], &self.values[args as usize])
        else {
            return None;
        };
        match (&self.values[*args.first()? as usize], &self.values[*args.get(1)? as usize]) {
            (Value::Text(text), Value::Text("latin1" | "latin-1")) if text.is_ascii() => Some(text.as_bytes()),
            _ => None,
        }
    }

    fn call(&mut self) -> Result<(), Fault> {
        let args = self.pop()?;
        let callable = self.pop()?;
        let is_dict =
            matches!(self.values[callable as usize], Value::Global("collections", "OrderedDict" | "defaultdict"));
        self.push(match self.encoded(callable, args) {
            Some(bytes) => Value::Bytes(bytes),
            None if is_dict => Value::Dict(Vec::new()),
            None => Value::Call(callable, args),
        });
        Ok(())
    }

    fn remember(&mut self, key: u32) -> Result<(), Fault> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), Fault> {
        let Some(&id) = self.memo.get(&key) else {
            return Err(self.fault(format!("a value remembered as {key}"), "none"));
        };
        self.stack.push(id);
        Ok(())
    }

    /// Adds `items` to the list at the top. Objects of other classes accept them too, and drop them.
    fn append(&mut self, items: &[Id]) -> Result<(), Fault> {
        let top = self.top()?;
        if let Value::List(content) = &mut self.values[top as usize] {
            content.extend_from_slice(items);
        }
        Ok(())
    }

    /// Runs one opcode; false after the last one. The opcodes: <https://github.com/python/cpython/blob/3.12/Lib/pickletools.py>.
    fn step(&mut self) -> Result<bool, Fault> {
        self.opcode_at = self.at;
        let [opcode] = self.array()?;
        match opcode {
            // PROTO
            0x80 => match self.array::<1>()? {
                [2..=5] => {}
                [version] => {
                    let expected = "a protocol from 2 to 5 (pickle it again with one of them)";
                    return Err(self.fault(expected, format!("protocol {version}")));
                }
            },
            // STOP
            b'.' => return Ok(false),
            // MARK
            b'(' => self.marks.push(self.stack.len()),
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.stack.push(OTHER),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            // BINFLOAT
            b'G' => {
                self.take(8)?;
                self.stack.push(OTHER);
            }
            // BININT, BININT1, BININT2, LONG1
            b'J' => {
                let int = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(int.into()));
            }
            b'K' => {
                let [int] = self.array()?;
                self.push(Value::Int(int.into()));
            }
            b'M' => {
                let int = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(int.into()));
            }
            0x8a => {
                let [length] = self.array()?;
                let bytes = self.take(length.into())?;
                if bytes.len() > 8 {
                    self.stack.push(OTHER);
                } else {
                    // In two's complement, so the last byte has the sign.
                    let sign = if bytes.last().is_some_and(|b| b & 0x80 != 0) { -1 } else { 0 };
                    self.push(Value::Int(bytes.iter().rev().fold(sign, |int, b| int << 8 | i64::from(*b))));
                }
            }
            // FRAME
            0x95 => drop(self.array::<8>()?),
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8
            b'X' | 0x8c | 0x8d => {
                let bytes = match opcode {
                    b'X' => self.take_word()?,
                    0x8c => self.take_short()?,
                    _ => self.take_long()?,
                };
                let text = self.text(bytes)?;
                self.push(Value::Text(text));
            }
            // BINBYTES, BINSTRING, SHORT_BINBYTES, SHORT_BINSTRING, BINBYTES8, BYTEARRAY8
            b'B' | b'T' | b'C' | b'U' | 0x8e | 0x96 => {
                let bytes = match opcode {
                    b'B' | b'T' => self.take_word()?,
                    b'C' | b'U' => self.take_short()?,
                    _ => self.take_long()?,
                };
                self.push(Value::Bytes(bytes));
            }
            // GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(module, name));
            }
            // STACK_GLOBAL
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.values[module as usize], &self.values[name as usize]) {
                    (&Value::Text(module), &Value::Text(name)) => self.push(Value::Global(module, name)),
                    _ => return Err(self.fault("a module and a name", "other values")),
                }
            }
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.stack.push(EMPTY_TUPLE),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items));
            }
            // EMPTY_LIST, APPEND, APPENDS
            b']' => self.push(Value::List(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(&items)?;
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => self.push(Value::Dict(Vec::new())),
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)?;
            }
            // REDUCE, NEWOBJ
            b'R' | 0x81 => self.call()?,
            // BUILD
            b'b' => {
                let state = self.pop()?;
                let object = self.top()?;
                self.states.insert(object, state);
            }
            // BINPERSID
            b'Q' => {
                let key = self.pop()?;
                self.push(Value::Persistent(key));
            }
            // MEMOIZE
            0x94 => self.remember(self.memo.len() as u32)?,
            // BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
            b'q' => {
                let [key] = self.array()?;
                self.remember(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.remember(key)?;
            }
            b'h' => {
                let [key] = self.array()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)?;
            }
            opcode => return Err(self.fault("an opcode of a pickle of data", format!("byte {opcode:#04x}"))),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_a_pickle_are_found() {
        // pickle.dumps({"a": (1, -2, 300), "b": [None, 1.5], "c": 2**40, "d": -1 - 2**33}, 2), shortened.
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01J\xfe\xff\xff\xffM\x2c\x01\x87X\x01\x00\x00\x00b](NG\
            \x3f\xf8\0\0\0\0\0\0eX\x01\x00\x00\x00c\x8a\x06\0\0\0\0\0\x01X\x01\x00\x00\x00d\x8a\x05\xff\xff\xff\xff\xfdu.";
        let pickle = Pickle::parse(bytes).unwrap();
        let Value::Dict(items) = pickle.root() else { panic!("{:?}", pickle.root()) };
        let items: Vec<_> = items.iter().map(|(key, value)| (pickle.get(*key), pickle.get(*value))).collect();
        let Value::Tuple(tuple) = items[0].1 else { panic!("{items:?}") };
        let tuple: Vec<_> = tuple.iter().map(|id| pickle.get(*id).clone()).collect();
        assert_eq!(tuple, [Value::Int(1), Value::Int(-2), Value::Int(300)]);
        assert!(matches!(items[1], (&Value::Text("b"), Value::List(items)) if items.len() == 2));
        assert_eq!(items[2], (&Value::Text("c"), &Value::Int(1 << 40)));
        assert_eq!(items[3], (&Value::Text("d"), &Value::Int(-1 - (1 << 33))));
    }

    #[test]
    fn faults_name_the_byte() {
        let fault = |bytes: &[u8]| {
            let Fault { at, expected, found } = Pickle::parse(bytes).unwrap_err();
            format!("{at}: expected {expected}, found {found}")
        };
        assert_eq!(fault(b""), "0: expected another byte, found the end of the pickle after 0");
        assert_eq!(
            fault(b"\x80\x02X\xf0\xff\xff\xffa"),
            "2: expected 4294967280 more bytes, found the end of the pickle after 1"
        );
        assert_eq!(
            fault(b"\x80\x06."),
            "0: expected a protocol from 2 to 5 (pickle it again with one of them), found protocol 6"
        );
        assert_eq!(fault(b"N0."), "1: expected an opcode of a pickle of data, found byte 0x30");
        assert_eq!(fault(b"."), "0: expected a value on the stack, found none");
        assert_eq!(fault(b"N(R."), "2: expected a value on the stack, found none");
        assert_eq!(fault(b"Nt."), "1: expected a mark on the stack, found none");
        assert_eq!(fault(b"h\x07."), "0: expected a value remembered as 7, found none");
        assert_eq!(fault(b"}(Nu."), "3: expected keys and values in turn, found 1 values");
        assert_eq!(fault(b"X\x01\0\0\0\xff."), "0: expected text in UTF-8, found other bytes");
        assert_eq!(
            fault(b"ctorch\nFloat"),
            "0: expected a module and a name, each on a line, found the end of the pickle"
        );
    }
}
