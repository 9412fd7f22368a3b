//! Parses the pickles that `torch.save` writes (protocol 2), without running code from them.
//!
//! Values are in one list and refer to each other by position. So a value that is used a thousand times is stored once, and
//! neither parsing nor dropping recurses, however deep values nest. Memory is proportional to the length of the pickle.

use std::collections::BTreeMap;

/// Position of a value in [`Pickle::values`].
pub(super) type Id = u32;

/// A value. Texts are slices of the pickle.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Int(i64),
    Text(&'a str),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function: module and name, with a line break between them.
    Global(&'a str),
    /// A call of the first value with the second one, a tuple of arguments.
    Call(Id, Id),
    /// An object outside of the pickle, by its key.
    Persistent(Id),
    /// A list, whose items no reader needs.
    List,
    /// Something else that no reader needs: `None`, a boolean, a float, a long integer.
    Other,
}

/// A fault at a byte of the pickle.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) expected: String,
    pub(super) found: String,
}

/// A parsed pickle.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Parses `bytes`.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut parser = Parser {
            bytes,
            at: 0,
            opcode_at: 0,
            values: vec![Value::Other, Value::List, Value::Tuple(Vec::new())],
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
        };
        while parser.step()? {}
        let root = parser.pop()?;
        Ok(Self { values: parser.values, root })
    }

    /// The pickled object.
    pub(super) fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    pub(super) fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    /// What a value is, for errors.
    pub(super) fn describe(&self, value: &Value<'a>) -> String {
        let mut value = value;
        // The callable of a call may be a call; a few levels are enough for an error.
        for _ in 0..4 {
            let Value::Call(callable, _) = value else { break };
            value = self.get(*callable);
        }
        match value {
            Value::Int(int) => int.to_string(),
            Value::Text(text) => format!("the text {text:?}"),
            Value::Tuple(items) => format!("a tuple of {} values", items.len()),
            Value::Dict(_) => "a dictionary".into(),
            Value::Global(name) => name.replace('\n', "."),
            Value::Call(..) => "the result of a call".into(),
            Value::Persistent(_) => "a storage".into(),
            Value::List => "a list".into(),
            Value::Other => "another value".into(),
        }
    }
}

// Values without content are stored once, at the start of the list.
const OTHER: Id = 0;
const LIST: Id = 1;
const EMPTY_TUPLE: Id = 2;

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    // Where the current opcode is.
    opcode_at: usize,
    values: Vec<Value<'a>>,
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

    /// The next two lines, without the last line break.
    fn two_lines(&mut self) -> Result<&'a str, Fault> {
        let mut breaks = self.bytes[self.at..].iter().enumerate().filter(|(_, b)| **b == b'\n');
        let Some((end, _)) = breaks.nth(1) else {
            return Err(self.fault("a module and a name, each on a line", "the end of the pickle"));
        };
        let lines = self.take(end + 1)?;
        self.text(&lines[..end])
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

    fn call(&mut self) -> Result<(), Fault> {
        let args = self.pop()?;
        let callable = self.pop()?;
        let is_dict = matches!(
            self.values[callable as usize],
            Value::Global("collections\nOrderedDict" | "collections\ndefaultdict")
        );
        self.push(if is_dict { Value::Dict(Vec::new()) } else { Value::Call(callable, args) });
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

    /// Runs one opcode; false after the last one. The opcodes: <https://github.com/python/cpython/blob/3.12/Lib/pickletools.py>.
    fn step(&mut self) -> Result<bool, Fault> {
        self.opcode_at = self.at;
        match self.array::<1>()?[0] {
            // PROTO
            0x80 => match self.array::<1>()? {
                [2 | 3] => {}
                [version] => {
                    let expected = "protocol 2, the default of torch.save (save the file again with it)";
                    return Err(self.fault(expected, format!("protocol {version}")));
                }
            },
            // STOP
            b'.' => return Ok(false),
            // MARK
            b'(' => self.marks.push(self.stack.len()),
            // NONE, NEWTRUE, NEWFALSE
            b'N' | 0x88 | 0x89 => self.stack.push(OTHER),
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
            // BINUNICODE
            b'X' => {
                let length = u32::from_le_bytes(self.array()?);
                let bytes = self.take(length as usize)?;
                let text = self.text(bytes)?;
                self.push(Value::Text(text));
            }
            // BINBYTES, SHORT_BINBYTES
            b'B' => {
                let length = u32::from_le_bytes(self.array()?);
                self.take(length as usize)?;
                self.stack.push(OTHER);
            }
            b'C' => {
                let [length] = self.array()?;
                self.take(length.into())?;
                self.stack.push(OTHER);
            }
            // GLOBAL
            b'c' => {
                let name = self.two_lines()?;
                self.push(Value::Global(name));
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
            b']' => self.stack.push(LIST),
            b'a' => {
                self.pop()?;
                self.top()?;
            }
            b'e' => {
                self.pop_to_mark()?;
                self.top()?;
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
            // BUILD sets attributes, which no reader needs.
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            // BINPERSID
            b'Q' => {
                let key = self.pop()?;
                self.push(Value::Persistent(key));
            }
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
            opcode => return Err(self.fault("an opcode that torch.save writes", format!("byte {opcode:#04x}"))),
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
        assert_eq!(items[1], (&Value::Text("b"), &Value::List));
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
            fault(b"\x80\x04."),
            "0: expected protocol 2, the default of torch.save (save the file again with it), found protocol 4"
        );
        assert_eq!(fault(b"N0."), "1: expected an opcode that torch.save writes, found byte 0x30");
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
