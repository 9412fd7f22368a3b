//! The values of a pickle, and the error for bytes that are not one.

/// Position of a value in a [`Pickle`](crate::Pickle).
pub type Id = u32;

/// A value. Strings and bytes are slices of the pickle.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// An integer of at most 64 bits.
    Int(i64),
    /// A boolean.
    Bool(bool),
    /// A string.
    Text(&'a str),
    /// Bytes, or a `str` of Python 2.
    Bytes(&'a [u8]),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list.
    List(Vec<Id>),
    /// A dictionary: keys and values.
    Dict(Vec<(Id, Id)>),
    /// A class or function: its module and its name.
    Global(&'a str, &'a str),
    /// A call that is recorded, not made: the callable, and a tuple of arguments.
    Call(Id, Id),
    /// A reference to an object outside the pickle, by its key. PyTorch stores tensors this way.
    Persistent(Id),
    /// A value that no reader needs: `None`, a float, an integer of more than 64 bits.
    Other,
}

/// What is wrong with a pickle, and where.
#[derive(Debug, PartialEq)]
pub struct Fault {
    /// Position of the opcode in the pickle, in bytes.
    pub at: usize,
    /// What was expected there.
    pub expected: String,
    /// What was found.
    pub found: String,
}
