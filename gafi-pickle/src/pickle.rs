//! [`Pickle`]: a parsed pickle, and how to get at its values.

use std::collections::BTreeMap;

use crate::value::{Id, Value};

/// A parsed pickle.
#[derive(Debug)]
pub struct Pickle<'a> {
    pub(crate) values: Vec<Value<'a>>,
    // The state (`__setstate__`) of each object that has one.
    pub(crate) states: BTreeMap<Id, Id>,
    pub(crate) root: Id,
}

impl<'a> Pickle<'a> {
    /// The pickled object.
    pub fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    /// Position of the pickled object.
    pub fn root_id(&self) -> Id {
        self.root
    }

    /// The value at `id`, which must come from this pickle.
    pub fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    /// The state that `BUILD` sets on an object after the call that creates it.
    pub fn state(&self, id: Id) -> Option<Id> {
        self.states.get(&id).copied()
    }

    /// A string, or bytes that are valid UTF-8.
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

    /// The value of `key` in a dictionary. Keys may be strings or bytes; of equal keys the last one wins, as in Python.
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

    /// Describes a value, for error messages.
    pub fn describe(&self, value: &Value<'a>) -> String {
        let mut value = value;
        // The callable of a call may itself be a call; a message needs only a few levels.
        for _ in 0..4 {
            let Value::Call(callable, _) = value else { break };
            value = self.get(*callable);
        }
        match value {
            Value::Int(int) => int.to_string(),
            Value::Bool(bool) => bool.to_string(),
            Value::Text(text) => format!("the string {text:?}"),
            Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Value::Tuple(items) => format!("a tuple of {} values", items.len()),
            Value::Dict(_) => "a dictionary".into(),
            Value::Global(module, name) => format!("{module}.{name}"),
            Value::Call(..) => "the result of a call".into(),
            Value::Persistent(_) => "a persistent id".into(),
            Value::List(items) => format!("a list of {} values", items.len()),
            Value::Other => "None, a float or an integer of more than 64 bits".into(),
        }
    }
}
