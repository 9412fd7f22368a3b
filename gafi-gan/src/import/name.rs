//! `Name`: where a tensor stands in a file of weights; and lists of names for errors.

use std::borrow::Borrow;

/// Name of a tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    /// Keys of the dictionaries around it, dotted; empty at the top level and in safetensors.
    pub(super) dict: String,
    /// Its name there.
    pub(super) name: String,
}

impl Name {
    /// With its dictionaries, dotted.
    pub(super) fn full(&self) -> String {
        joined(&self.dict, &self.name)
    }
}

/// Two parts of a name with a dot between them; either may be empty.
pub(super) fn joined(dict: &str, name: &str) -> String {
    if dict.is_empty() || name.is_empty() { format!("{dict}{name}") } else { format!("{dict}.{name}") }
}

/// The first `most` of `names`, and how many more there are.
pub(super) fn listed<S: Borrow<str>>(names: &[S], separator: &str, most: usize) -> String {
    let some = names[..names.len().min(most)].join(separator);
    if names.len() > most { format!("{some} and {} more", names.len() - most) } else { some }
}
