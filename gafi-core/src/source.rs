//! The supply of samples. Pull, not push: quotas are per class, and the consumer knows when it has enough.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::spec::{ClassId, ImageSpec};

/// Some samples. Images are 8-bit from the moment they are generated, so that what flows in memory is, byte for byte,
/// what would be written to disk.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Class of each sample, (n).
    pub labels: Vec<ClassId>,
    /// Pixels, (n, c, h, w).
    pub images: Vec<u8>,
    /// Number of each sample within its stream and class, (n): the name that its latent was drawn from.
    pub ids: Vec<u64>,
    /// Probability that the teacher gives to the class asked for, (n), in [0, 1].
    pub confidence: Option<Vec<f32>>,
    /// Probabilities that the teacher gives to each class, (n, classes).
    pub probabilities: Option<Vec<f32>>,
}

impl Batch {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The samples of `rows`, in that order. `bytes` is the size of one image, `classes` their number.
    ///
    /// # Panics
    /// If a row is not there.
    pub fn select(&self, rows: &[usize], bytes: usize, classes: usize) -> Self {
        let mut images = Vec::with_capacity(rows.len() * bytes);
        for &r in rows {
            images.extend_from_slice(&self.images[r * bytes..(r + 1) * bytes]);
        }
        let probabilities = self
            .probabilities
            .as_ref()
            .map(|p| rows.iter().flat_map(|&r| p[r * classes..(r + 1) * classes].iter().copied()).collect());
        Self {
            labels: rows.iter().map(|&r| self.labels[r]).collect(),
            images,
            // Rows of a set that another program wrote need not be numbered.
            ids: if self.ids.is_empty() { Vec::new() } else { rows.iter().map(|&r| self.ids[r]).collect() },
            confidence: self.confidence.as_ref().map(|c| rows.iter().map(|&r| c[r]).collect()),
            probabilities,
        }
    }
}

/// What a source did for one class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassTally {
    /// Samples generated, or read.
    pub drawn: u64,
    /// Samples that passed.
    pub accepted: u64,
    /// Samples that did not pass and were let in all the same, because the class was exhausted.
    pub backfilled: u64,
}

impl ClassTally {
    /// The sum of both.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            drawn: self.drawn.saturating_add(other.drawn),
            accepted: self.accepted.saturating_add(other.accepted),
            backfilled: self.backfilled.saturating_add(other.backfilled),
        }
    }
}

/// What a source did, per class.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tally {
    /// One entry a class.
    pub classes: Vec<ClassTally>,
}

impl Tally {
    /// Nothing drawn yet for any of `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self { classes: vec![ClassTally::default(); classes] }
    }

    /// The sum over the classes.
    pub fn total(&self) -> ClassTally {
        self.classes.iter().copied().fold(ClassTally::default(), ClassTally::plus)
    }
}

/// A class-conditional supply of samples.
pub trait SampleSource: Send {
    /// Shape of its images.
    fn image(&self) -> &ImageSpec;

    /// Names of its classes.
    fn classes(&self) -> &[String];

    /// Up to `max` further samples of `class`; `None` when there are no more, for good. The order of ids never depends on
    /// `max`: pulling 2 + 3 gives what pulling 5 gives.
    fn pull(&mut self, class: ClassId, max: NonZeroUsize) -> Result<Option<Batch>>;

    /// What was drawn, accepted and let in so far.
    fn tally(&self) -> Tally;

    /// Where each class stands, for [`SampleSource::seek`] after a resume.
    fn position(&self) -> Vec<u64>;

    /// Goes on from a [`SampleSource::position`] and its tally, in a source of the same configuration.
    fn seek(&mut self, position: &[u64], tally: &Tally) -> Result<()>;
}

impl<S: SampleSource + ?Sized> SampleSource for Box<S> {
    fn image(&self) -> &ImageSpec {
        (**self).image()
    }
    fn classes(&self) -> &[String] {
        (**self).classes()
    }
    fn pull(&mut self, class: ClassId, max: NonZeroUsize) -> Result<Option<Batch>> {
        (**self).pull(class, max)
    }
    fn tally(&self) -> Tally {
        (**self).tally()
    }
    fn position(&self) -> Vec<u64> {
        (**self).position()
    }
    fn seek(&mut self, position: &[u64], tally: &Tally) -> Result<()> {
        (**self).seek(position, tally)
    }
}
