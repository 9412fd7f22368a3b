//! Reads the data in Python's pickles (protocols 2 to 5) without running their code: numbers, strings, bytes, containers and
//! NumPy arrays. A class or function is only a name, and a call is recorded instead of made.
//!
//! ```
//! // pickle.dumps({"labels": [1, 0]}, 2)
//! let bytes = b"\x80\x02}q\x00X\x06\x00\x00\x00labelsq\x01]q\x02(K\x01K\x00es.";
//! let pickle = gafi_pickle::Pickle::parse(bytes).unwrap();
//! let labels = pickle.entry(pickle.root_id(), "labels").unwrap();
//! assert_eq!(pickle.integers(labels), Ok(vec![1, 0]));
//! ```
//!
//! All values are in one list and refer to each other by position. A value that is used a thousand times is stored once, and
//! deeply nested values cannot overflow the stack, because neither parsing nor dropping recurses. A pickle may have up to 2^22
//! opcodes, whose values take at most 256 MiB.
#![deny(missing_docs, unsafe_code)]

mod numpy;
mod parser;
mod pickle;
mod value;

pub use numpy::{Array, Kind};
pub use pickle::Pickle;
pub use value::{Fault, Id, Value};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_every_kind_are_read() {
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
        assert_eq!(fault(b""), "0: expected 1 more byte, found the end of the pickle after 0 bytes");
        assert_eq!(
            fault(b"\x80\x02X\xf0\xff\xff\xffa"),
            "2: expected 4294967280 more bytes, found the end of the pickle after 1 bytes"
        );
        assert_eq!(
            fault(b"\x80\x06."),
            "0: expected a protocol from 2 to 5 (pickle the object again with protocol=2 to 5), found protocol 6"
        );
        assert_eq!(fault(b"N0."), "1: expected an opcode that pickled data uses, found byte 0x30");
        assert_eq!(fault(b"."), "0: expected a value on the stack, found an empty stack");
        assert_eq!(fault(b"N(R."), "2: expected a value on the stack, found an empty stack");
        assert_eq!(fault(b"Nt."), "1: expected a mark on the stack, found no mark");
        assert_eq!(fault(b"h\x07."), "0: expected an earlier value in memo slot 7, found an empty slot");
        assert_eq!(fault(b"}(Nu."), "3: expected pairs of a key and a value, found an odd number of values, 1");
        assert_eq!(fault(b"X\x01\0\0\0\xff."), "0: expected a string in UTF-8, found invalid bytes");
        assert_eq!(
            fault(b"ctorch\nFloat"),
            "0: expected a module and a name, each on a line, found the end of the pickle"
        );
    }
}

// Compiles and runs the README's example as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
