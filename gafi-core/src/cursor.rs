//! `Cursor`: where a class of a source stands, so that a later process can resume there.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Where one class of a source stands: numbers of the source itself, and the cursors of the sources that it wraps.
///
/// It is opaque to everybody but the source that made it. A consumer stores it with serde and hands it back to
/// [`crate::SampleSource::seek`] of a source of the same configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    state: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inner: Vec<Self>,
}

impl Cursor {
    /// The cursor of a source with these numbers, around the cursors of the sources it wraps.
    pub fn new<const N: usize>(state: [u64; N], inner: Vec<Self>) -> Self {
        Self { state: state.to_vec(), inner }
    }

    /// The numbers, and the cursors of the `inner` wrapped sources. `source` names the source in the error.
    ///
    /// # Errors
    /// [`Error::Other`] when it has other numbers of them: it is the cursor of another source.
    pub fn parts<const N: usize>(&self, source: &str, inner: usize) -> Result<([u64; N], &[Self])> {
        match self.state.as_slice().try_into() {
            Ok(state) if self.inner.len() == inner => Ok((state, &self.inner)),
            _ => {
                let found = format!("{} numbers, {} cursors", self.state.len(), self.inner.len());
                let why = format!("expected a cursor of {N} numbers around {inner} cursors, found {found}");
                Err(Error::other(format!("resuming {source}"))(why))
            }
        }
    }
}
