//! Counts of the samples of each class that a source drew, accepted and rejected.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::spec::ClassId;

/// Counts of a source for one class.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassTally {
    /// Samples generated or read.
    pub drawn: u64,
    /// Samples that a filter, if any, accepted.
    pub accepted: u64,
    /// Rejected samples that fill an exhausted class.
    pub backfilled: u64,
    /// Rejected samples, including backfilled ones, by the class that the teacher predicts. The count under
    /// the requested class is of samples that the teacher recognises, but with a probability not above the threshold.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rejected_as: BTreeMap<ClassId, u64>,
}

impl ClassTally {
    /// Counts of a source without a teacher.
    pub const fn new(drawn: u64, accepted: u64, backfilled: u64) -> Self {
        Self { drawn, accepted, backfilled, rejected_as: BTreeMap::new() }
    }

    /// Samples handed over: accepted and backfilled ones.
    pub const fn handed_over(&self) -> u64 {
        self.accepted.saturating_add(self.backfilled)
    }

    /// Samples that a teacher rejected.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected_as.values().fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// The sum of the counts of both.
    pub(crate) fn plus(mut self, other: &Self) -> Self {
        for (mine, theirs) in [
            (&mut self.drawn, other.drawn),
            (&mut self.accepted, other.accepted),
            (&mut self.backfilled, other.backfilled),
        ] {
            *mine = mine.saturating_add(theirs);
        }
        for (&class, &count) in &other.rejected_as {
            let mine = self.rejected_as.entry(class).or_default();
            *mine = mine.saturating_add(count);
        }
        self
    }
}

/// Counts of a source for every class.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tally {
    /// One entry per class.
    pub classes: Vec<ClassTally>,
}

impl Tally {
    /// All zero, for `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self { classes: vec![ClassTally::default(); classes] }
    }

    /// The sum over the classes, without the predictions for rejected samples, which belong to their class.
    pub fn total(&self) -> ClassTally {
        let sum = self.classes.iter().fold(ClassTally::default(), ClassTally::plus);
        ClassTally { rejected_as: BTreeMap::new(), ..sum }
    }
}
