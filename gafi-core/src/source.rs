//! Sources of samples. Consumers pull, because only they know when a class has enough samples.

use std::num::NonZeroUsize;

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::spec::{ClassId, ImageSpec};
use crate::tally::{ClassTally, Tally};

/// A batch of samples. Images are 8-bit from the moment they are generated, so that images in memory equal those written
/// to disk, byte for byte.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Class of each sample, (n).
    pub labels: Vec<ClassId>,
    /// Pixels, (n, c, h, w).
    pub images: Vec<u8>,
    /// Index of each sample within its stream and class, (n), which identifies its latent. Empty for rows without one.
    pub ids: Vec<u64>,
    /// The teacher's probability of the requested class, (n), in [0, 1].
    pub confidence: Option<Vec<f32>>,
    /// The teacher's probability of every class, (n, classes).
    pub probabilities: Option<Vec<f32>>,
}

impl Batch {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Appends the samples of `other`. Unless this batch is empty, both must have the same columns.
    pub fn append(&mut self, other: &Self) {
        self.labels.extend_from_slice(&other.labels);
        self.images.extend_from_slice(&other.images);
        self.ids.extend_from_slice(&other.ids);
        for (all, more) in [(&mut self.confidence, &other.confidence), (&mut self.probabilities, &other.probabilities)]
        {
            if let Some(more) = more {
                all.get_or_insert_default().extend_from_slice(more);
            }
        }
    }
}

impl ClassId {
    /// Checks that this is one of the `classes` classes of a source. `action` is what the source does, for the error: "filtering
    /// samples".
    ///
    /// # Errors
    /// [`Error::Other`].
    pub fn check_below(self, classes: usize, action: &str) -> Result<()> {
        if self.index() < classes {
            return Ok(());
        }
        Err(Error::other(format!("{action} of {self}"))(format!("expected a class below {classes}")))
    }
}

impl ClassTally {
    /// As part of a source's cursor.
    pub fn to_cursor(&self) -> Cursor {
        let rejected = self.rejected_as.iter().flat_map(|(class, &count)| [u64::from(class.0), count]);
        Cursor::list([self.drawn, self.accepted, self.backfilled].into_iter().chain(rejected).collect())
    }

    /// From [`ClassTally::to_cursor`].
    ///
    /// # Errors
    /// When it is the cursor of something else, or a count is above 2^48, which no source reaches.
    pub fn from_cursor(cursor: &Cursor) -> Result<Self> {
        let wrong =
            |found: String| Error::other("resuming a tally")(format!("expected 3 counts and pairs, found {found}"));
        let numbers = cursor.numbers();
        let length = || wrong(format!("{} numbers", numbers.len()));
        let (&[drawn, accepted, backfilled], pairs) = numbers.split_first_chunk().ok_or_else(length)?;
        let (pairs, []) = pairs.as_chunks() else { return Err(length()) };
        // Counts below this bound can be added to without overflow.
        if let Some(count) = numbers.iter().find(|&&number| number > 1 << 48) {
            return Err(wrong(count.to_string()));
        }
        let pair = |&[class, count]: &[u64; 2]| {
            let class = u32::try_from(class).map_err(|_| wrong(format!("class {class}")))?;
            Ok((ClassId(class), count))
        };
        let rejected_as = pairs.iter().map(pair).collect::<Result<_>>()?;
        Ok(Self { drawn, accepted, backfilled, rejected_as })
    }
}

/// A class-conditional source of samples.
pub trait SampleSource: Send {
    /// Shape of its images.
    fn image(&self) -> &ImageSpec;

    /// Names of its classes.
    fn classes(&self) -> &[String];

    /// One to `max` further samples of `class`; `None` when the class has ended for good, which an empty batch means too. The samples
    /// never depend on `max`: pulling 2 and then 3 gives the same as pulling 5.
    fn pull(&mut self, class: ClassId, max: NonZeroUsize) -> Result<Option<Batch>>;

    /// Counts of samples drawn, accepted and backfilled so far.
    fn tally(&self) -> Tally;

    /// The position within `class` after the samples handed over so far, its tally included.
    fn cursor(&self, class: ClassId) -> Cursor;

    /// Resumes `class` at a [`SampleSource::cursor`] of a source of the same configuration.
    ///
    /// # Errors
    /// When it is the cursor of another source, or out of range.
    fn seek(&mut self, class: ClassId, cursor: &Cursor) -> Result<()>;

    /// The cursor of every class.
    fn cursors(&self) -> Vec<Cursor> {
        ClassId::all(self.classes().len()).map(|class| self.cursor(class)).collect()
    }

    /// Resumes every class at its cursor.
    ///
    /// # Errors
    /// As [`SampleSource::seek`], and when there is not one cursor for each class.
    fn seek_all(&mut self, cursors: &[Cursor]) -> Result<()> {
        let classes = self.classes().len();
        if cursors.len() != classes {
            let why = format!("expected a cursor for each of {classes} classes, found {}", cursors.len());
            return Err(Error::other("resuming a source")(why));
        }
        ClassId::all(classes).zip(cursors).try_for_each(|(class, cursor)| self.seek(class, cursor))
    }
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
    fn cursor(&self, class: ClassId) -> Cursor {
        (**self).cursor(class)
    }
    fn seek(&mut self, class: ClassId, cursor: &Cursor) -> Result<()> {
        (**self).seek(class, cursor)
    }
}
