//! [`LabelColumn`]: labels that a file stores as numbers or as names; and [`number`], which reads numbers of any type.

use std::collections::HashMap;

use unicode_normalization::UnicodeNormalization;

use super::label_table::sort_classes;

/// The labels of a file. Names become classes once the names of all files are known; see [`LabelColumn::classes`].
#[derive(Debug, Default)]
pub(crate) struct LabelColumn {
    pub(crate) values: Vec<u32>,
    /// The names that `values` index, in order of appearance; `None` if the file stores numbers.
    pub(crate) names: Option<Vec<String>>,
}

impl LabelColumn {
    /// The classes of columns of names: the names in `train`, sorted, then those that only `others` have. `None` if all columns store
    /// numbers.
    pub(crate) fn classes(train: &[&Self], others: &[&Self]) -> Option<Vec<String>> {
        if train.iter().chain(others).all(|column| column.names.is_none()) {
            return None;
        }
        let sorted = |columns: &[&Self]| {
            let mut names: Vec<String> = columns.iter().flat_map(|c| c.names.iter().flatten().cloned()).collect();
            sort_classes(&mut names, String::as_str);
            names.dedup();
            names
        };
        let mut classes = sorted(train);
        let more: Vec<String> = sorted(others).into_iter().filter(|name| !classes.contains(name)).collect();
        classes.extend(more);
        Some(classes)
    }

    /// Turns indices of names into positions in `classes`, which must contain all names.
    pub(crate) fn number_by(&mut self, classes: &[String]) {
        let Some(names) = self.names.take() else { return };
        let place: HashMap<&str, u32> = classes.iter().zip(0..).map(|(name, at)| (name.as_str(), at)).collect();
        let places: Vec<u32> = names.iter().map(|name| place.get(name.as_str()).copied().unwrap_or(u32::MAX)).collect();
        self.values.iter_mut().for_each(|value| *value = places[*value as usize]);
    }
}

/// Numbers names in order of appearance.
#[derive(Debug, Default)]
pub(crate) struct Names {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl Names {
    /// The number of a name. Names that differ only in their Unicode normalization are one class, as in folders.
    pub(crate) fn number(&mut self, name: &str) -> u32 {
        let name: String = name.nfc().collect();
        *self.numbers.entry(name).or_insert_with_key(|name| {
            self.names.push(name.clone());
            self.names.len() as u32 - 1
        })
    }

    /// The names, in order of appearance.
    pub(crate) fn into_names(self) -> Vec<String> {
        self.names
    }
}

/// The number in the bytes of a value: an integer of 1 to 8 bytes, signed if `kind` starts with `i`, or a float of 4 or 8 bytes if it
/// starts with `f`.
pub(crate) fn number(kind: &str, big_endian: bool, raw: &[u8]) -> f64 {
    let mut bytes = [0; 8];
    let width = raw.len().min(8);
    bytes[..width].copy_from_slice(&raw[..width]);
    if big_endian {
        bytes[..width].reverse();
    }
    match (kind.as_bytes().first(), width) {
        (Some(b'f'), 4) => f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
        (Some(b'f'), 8) => f64::from_le_bytes(bytes),
        (Some(b'i'), 1..) => {
            // Extends the sign.
            let unused = 64 - 8 * width as u32;
            (i64::from_le_bytes(bytes) << unused >> unused) as f64
        }
        _ => u64::from_le_bytes(bytes) as f64,
    }
}

/// A floating-point number as a label; `None` unless it is a whole number, 0 or more.
pub(crate) fn whole(value: f64) -> Option<u32> {
    (value >= 0.0 && value <= f64::from(u32::MAX) && value.fract() == 0.0).then_some(value as u32)
}
