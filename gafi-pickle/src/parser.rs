//! The parser: runs the opcodes of a pickle on a stack, and calls nothing.
//!
//! The opcodes: <https://github.com/python/cpython/blob/3.12/Lib/pickletools.py>.

use std::collections::BTreeMap;

use crate::pickle::Pickle;
use crate::value::{Fault, Id, Value};

/// Maximum number of opcodes of a pickle. CIFAR-100's training images have 300,000.
const OPCODES_MAX: usize = 1 << 22;

impl<'a> Pickle<'a> {
    /// Parses `bytes`: runs their opcodes up to `STOP`.
    ///
    /// # Errors
    /// A [`Fault`] at the first opcode that is unknown, truncated or out of place.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut parser = Parser { bytes, ..Parser::default() };
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
}

#[derive(Default)]
struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    // Position of the current opcode.
    opcode_at: usize,
    values: Vec<Value<'a>>,
    states: BTreeMap<Id, Id>,
    stack: Vec<Id>,
    // Height of the stack at each mark.
    marks: Vec<usize>,
    memo: BTreeMap<u64, Id>,
}

impl<'a> Parser<'a> {
    fn fault(&self, expected: impl Into<String>, found: impl Into<String>) -> Fault {
        Fault { at: self.opcode_at, expected: expected.into(), found: found.into() }
    }

    /// The next `n` bytes. `n` may come from the file, so it is checked before anything is allocated.
    fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let rest = &self.bytes[self.at..];
        let Some(taken) = rest.get(..n) else {
            let expected = if n == 1 { "1 more byte".into() } else { format!("{n} more bytes") };
            return Err(self.fault(expected, format!("the end of the pickle after {} bytes", rest.len())));
        };
        self.at += n;
        Ok(taken)
    }

    fn text(&self, bytes: &'a [u8]) -> Result<&'a str, Fault> {
        std::str::from_utf8(bytes).map_err(|_| self.fault("a string in UTF-8", "invalid bytes"))
    }

    /// The text up to the next line break, which is skipped.
    fn line(&mut self) -> Result<&'a str, Fault> {
        let Some(length) = self.bytes[self.at..].iter().position(|b| *b == b'\n') else {
            return Err(self.fault("a module and a name, each on a line", "the end of the pickle"));
        };
        let line = self.take(length + 1)?;
        self.text(&line[..length])
    }

    /// A little-endian unsigned integer of `width` bytes, at most 8.
    fn unsigned(&mut self, width: usize) -> Result<u64, Fault> {
        Ok(self.take(width)?.iter().rev().fold(0u64, |int, b| int << 8 | u64::from(*b)))
    }

    /// Bytes preceded by their length, which takes `width` bytes.
    fn take_sized(&mut self, width: usize) -> Result<&'a [u8], Fault> {
        let length = self.unsigned(width)?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Id, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = if self.stack.len() > floor { self.stack.pop() } else { None };
        top.ok_or_else(|| self.fault("a value on the stack", "an empty stack"))
    }

    /// Pops the last mark and the values above it.
    fn pop_to_mark(&mut self) -> Result<Vec<Id>, Fault> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.fault("a mark on the stack", "no mark")),
        }
    }

    /// The value on top of the stack, without popping it.
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

    /// Adds `items`, alternating keys and values, to the dictionary on top of the stack. Other objects ignore them.
    fn set_items(&mut self, items: &[Id]) -> Result<(), Fault> {
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err(self.fault("pairs of a key and a value", format!("an odd number of values, {}", items.len())));
        };
        let top = self.top()?;
        if let Value::Dict(content) = &mut self.values[top as usize] {
            content.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        }
        Ok(())
    }

    /// The bytes of a call `_codecs.encode(text, "latin1")`, which is how Python 3 stores bytes in protocol 2. Only ASCII, whose
    /// bytes are a slice of the pickle; other bytes stay a call.
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

    fn remember(&mut self, key: u64) -> Result<(), Fault> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), Fault> {
        let Some(&id) = self.memo.get(&key) else {
            return Err(self.fault(format!("an earlier value in memo slot {key}"), "an empty slot"));
        };
        self.stack.push(id);
        Ok(())
    }

    /// Adds `items` to the list on top of the stack. Other objects ignore them.
    fn append(&mut self, items: &[Id]) -> Result<(), Fault> {
        let top = self.top()?;
        if let Value::List(content) = &mut self.values[top as usize] {
            content.extend_from_slice(items);
        }
        Ok(())
    }

    /// Runs one opcode. Returns false for `STOP`.
    fn step(&mut self) -> Result<bool, Fault> {
        self.opcode_at = self.at;
        let opcode = self.take(1)?[0];
        match opcode {
            // PROTO
            0x80 => match self.unsigned(1)? {
                2..=5 => {}
                version => {
                    let expected = "a protocol from 2 to 5 (pickle the object again with protocol=2 to 5)";
                    return Err(self.fault(expected, format!("protocol {version}")));
                }
            },
            // STOP
            b'.' => return Ok(false),
            // MARK
            b'(' => self.marks.push(self.stack.len()),
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.push(Value::Other),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            // BINFLOAT
            b'G' => {
                self.take(8)?;
                self.push(Value::Other);
            }
            // BININT, BININT1, BININT2, LONG1
            b'J' | b'K' | b'M' => {
                let int = match opcode {
                    // The only signed one.
                    b'J' => i64::from(self.unsigned(4)? as i32),
                    b'K' => self.unsigned(1)? as i64,
                    _ => self.unsigned(2)? as i64,
                };
                self.push(Value::Int(int));
            }
            0x8a => {
                let bytes = self.take_sized(1)?;
                if bytes.len() > 8 {
                    self.push(Value::Other);
                } else {
                    // Two's complement, little-endian: the last byte has the sign.
                    let sign = if bytes.last().is_some_and(|b| b & 0x80 != 0) { -1 } else { 0 };
                    self.push(Value::Int(bytes.iter().rev().fold(sign, |int, b| int << 8 | i64::from(*b))));
                }
            }
            // FRAME
            0x95 => drop(self.unsigned(8)?),
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8
            b'X' | 0x8c | 0x8d => {
                let bytes = match opcode {
                    b'X' => self.take_sized(4)?,
                    0x8c => self.take_sized(1)?,
                    _ => self.take_sized(8)?,
                };
                let text = self.text(bytes)?;
                self.push(Value::Text(text));
            }
            // BINBYTES, BINSTRING, SHORT_BINBYTES, SHORT_BINSTRING, BINBYTES8, BYTEARRAY8
            b'B' | b'T' | b'C' | b'U' | 0x8e | 0x96 => {
                let bytes = match opcode {
                    b'B' | b'T' => self.take_sized(4)?,
                    b'C' | b'U' => self.take_sized(1)?,
                    _ => self.take_sized(8)?,
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
                    _ => return Err(self.fault("a module and a name as strings", "a value that is not a string")),
                }
            }
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.tuple(0)?,
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
            0x94 => self.remember(self.memo.len() as u64)?,
            // BINPUT, LONG_BINPUT
            b'q' | b'r' => {
                let key = self.unsigned(if opcode == b'q' { 1 } else { 4 })?;
                self.remember(key)?;
            }
            // BINGET, LONG_BINGET
            b'h' | b'j' => {
                let key = self.unsigned(if opcode == b'h' { 1 } else { 4 })?;
                self.recall(key)?;
            }
            opcode => return Err(self.fault("an opcode that pickled data uses", format!("byte {opcode:#04x}"))),
        }
        Ok(true)
    }
}
