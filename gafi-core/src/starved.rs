//! Pulling samples that a consumer needs, and what it reports when a source has too few of a class.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use crate::error::{Error, Result};
use crate::exhausted::Exhausted;
use crate::model::SAMPLE_BATCH;
use crate::source::{Batch, SampleSource};
use crate::spec::ClassId;
use crate::tally::ClassTally;

/// Up to `max` further samples of `class`, at least one, for a consumer that needs `wanted` of each class in all.
///
/// # Errors
/// [`Error::Exhausted`] when the class has none left, naming every class with fewer than `wanted` as
/// [`Exhausted::with_others`] does; other errors of the source.
pub fn pull_wanted(source: &mut dyn SampleSource, class: ClassId, max: NonZeroUsize, wanted: u64) -> Result<Batch> {
    match source.pull(class, max) {
        Ok(Some(batch)) if !batch.is_empty() => Ok(batch),
        Ok(_) => Err(Exhausted::of(source, class, wanted).with_others(source, wanted)),
        Err(Error::Exhausted(exhausted)) => Err(exhausted.with_others(source, wanted)),
        Err(error) => Err(error),
    }
}

impl Exhausted {
    /// Exhaustion of `class`, of which `source` had fewer than `wanted` samples.
    pub fn of(source: &dyn SampleSource, class: ClassId, wanted: u64) -> Self {
        Self::new(source.classes(), source.tally(), BTreeMap::from([(class, wanted)]))
    }

    /// Tries the other classes of `source` too, so that one error names every class that fails. From each it pulls the
    /// samples still missing from `wanted` (`u64::MAX` for all there are), at most [`SAMPLE_BATCH`]. These samples are
    /// lost, so the consumer must fail.
    ///
    /// Returns [`Error::Exhausted`], or another error of the source.
    pub fn with_others(mut self, source: &mut dyn SampleSource, wanted: u64) -> Error {
        self.wanted.values_mut().for_each(|number| *number = wanted);
        let done = source.tally().classes;
        let others = ClassId::all(self.names.len()).filter(|class| !self.wanted.contains_key(class));
        let others: Vec<ClassId> = others.collect();
        let mut judged = BTreeMap::new();
        for &class in &others {
            let done = done.get(class.index()).map_or(0, ClassTally::handed_over);
            let mut missing = wanted.saturating_sub(done).min(SAMPLE_BATCH.get() as u64) as usize;
            while let Some(most) = NonZeroUsize::new(missing) {
                match source.pull(class, most) {
                    Ok(Some(batch)) if !batch.is_empty() => {
                        missing = missing.saturating_sub(batch.len());
                        continue;
                    }
                    Ok(_) => {}
                    Err(Error::Exhausted(other)) => drop(judged.insert(class, other.tally)),
                    Err(error) => return error,
                }
                self.wanted.insert(class, wanted);
                break;
            }
        }
        let mut handed_over = source.tally();
        for class in others {
            let tally = judged.get_mut(&class).unwrap_or(&mut handed_over);
            if let Some(counts) = tally.classes.get_mut(class.index()) {
                self.tally.classes[class.index()] = std::mem::take(counts);
            }
        }
        Error::Exhausted(Box::new(self))
    }
}
