//! `Cursor`: the position of a source within one class, from which a later process can resume.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::error::{Error, Result};

/// Largest number accepted from a file. No source counts that far, and sums of such numbers do not overflow.
const LARGEST: u64 = 1 << 56;

/// The position of a source within one class: the source's own counters, and the cursors of the sources it wraps.
///
/// Only the source that created it can interpret it. A consumer stores it with serde and passes it to
/// [`crate::SampleSource::seek`] of a source with the same configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    #[serde(deserialize_with = "numbers")]
    state: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inner: Vec<Self>,
}

impl Cursor {
    /// A cursor with the counters `state`, around the cursors of the wrapped sources.
    pub fn new<const N: usize>(state: [u64; N], inner: Vec<Self>) -> Self {
        Self { state: state.to_vec(), inner }
    }

    /// A cursor that is a list of numbers of any length.
    pub(crate) fn list(state: Vec<u64>) -> Self {
        Self { state, inner: Vec::new() }
    }

    /// The numbers of a [`Cursor::list`].
    pub(crate) fn numbers(&self) -> &[u64] {
        &self.state
    }

    /// The N counters, and the cursors of the `inner` wrapped sources. `source` names the source in the error.
    ///
    /// # Errors
    /// [`Error::Other`] when either count differs, so the cursor belongs to another kind of source.
    pub fn parts<const N: usize>(&self, source: &str, inner: usize) -> Result<([u64; N], &[Self])> {
        match self.state.as_slice().try_into() {
            Ok(state) if self.inner.len() == inner => Ok((state, &self.inner)),
            _ => {
                let found = format!("{} numbers and {} inner cursors", self.state.len(), self.inner.len());
                let why = format!("expected a cursor with {N} numbers and {inner} inner cursors, found {found}");
                Err(Error::other(format!("resuming {source}"))(why))
            }
        }
    }
}

fn numbers<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<u64>, D::Error> {
    let numbers = Vec::<u64>::deserialize(from)?;
    match numbers.iter().find(|&&number| number > LARGEST) {
        Some(number) => Err(D::Error::custom(format!("expected numbers of a cursor up to {LARGEST}, found {number}"))),
        None => Ok(numbers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_could_overflow_are_refused() {
        let read = |number: u64| {
            serde_json::from_str::<Cursor>(&format!(r#"{{"state":[0],"inner":[{{"state":[{number}]}}]}}"#))
        };
        assert_eq!(read(LARGEST).unwrap(), Cursor::new([0], vec![Cursor::new([LARGEST], Vec::new())]));
        assert!(read(LARGEST + 1).unwrap_err().to_string().contains("found 72057594037927937"));
    }
}
