//! `Mixed`: several sources combined into one, such as the samples of several generators.

use std::num::{NonZeroU64, NonZeroUsize};

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::source::{Batch, SampleSource};
use crate::spec::{ClassId, ImageSpec};
use crate::tally::Tally;

/// The samples of N sources, which take turns of a fixed length.
///
/// **Order.** Sample i of a class, from 0, is the next one of source (i / `turn`) mod N, however many are pulled at a time. A
/// turn of 1 alternates between the sources; a turn as long as a generation of a renewed training set gives each generation
/// to one source. Turns count samples handed over, so a filtered generator with few accepted samples keeps an equal share and
/// draws more for it.
///
/// **End.** A class ends for good when the source whose turn it is has no sample left, even if the others have more, so that
/// the shares stay equal. When a source fails, the samples before the failure are handed over in a shorter batch, and the next
/// pull fails.
///
/// **Ids.** The id of a sample is its id in its source, times N, plus the index of the source. It still identifies the latent,
/// and is unique if ids are unique in each source.
///
/// **Columns.** Batches have confidence and probabilities if every source does. Sources that differ in this cause an error at
/// the first sample that reveals it.
///
/// **Tally.** The sums over the sources.
#[derive(Debug)]
pub struct Mixed<S> {
    sources: Vec<S>,
    turn: NonZeroU64,
    // Number of samples of each class handed over.
    handed_over: Vec<u64>,
    // Whether the sources have confidence and probabilities; `None` before the first sample.
    columns: Option<[bool; 2]>,
}

impl<S: SampleSource> Mixed<S> {
    /// Mixes `sources`, in turns of `turn` samples.
    ///
    /// # Errors
    /// [`Error::Config`] without a source; [`Error::Input`] when the images or classes of one differ from the first's.
    pub fn new(sources: Vec<S>, turn: NonZeroU64) -> Result<Self> {
        let Some(first) = sources.first() else {
            return Err(Error::config("sources", "[]", "at least one source to mix"));
        };
        let describe = |s: &S| s.image().of_classes(s.classes());
        let misfit = sources.iter().position(|s| s.image() != first.image() || s.classes() != first.classes());
        if let Some(at) = misfit {
            let expected = format!("{}, as source 0 has", describe(first));
            return Err(Error::input("mix", format!("source {at}"), expected, describe(&sources[at])));
        }
        let classes = first.classes().len();
        Ok(Self { sources, turn, handed_over: vec![0; classes], columns: None })
    }

    /// The source of the class's next sample, and the number of samples left in its turn.
    fn turn(&self, class: ClassId) -> (usize, u64) {
        let done = self.handed_over[class.index()];
        // Below the number of sources, so it fits.
        let source = (done / self.turn) % self.sources.len() as u64;
        (source as usize, self.turn.get() - done % self.turn)
    }

    /// At most `missing` samples of the source whose turn it is, with their ids in the mix.
    fn next(&mut self, class: ClassId, missing: NonZeroUsize) -> Result<Option<Batch>> {
        let (at, left) = self.turn(class);
        let max = usize::try_from(left).ok().and_then(NonZeroUsize::new).map_or(missing, |left| left.min(missing));
        let Some(mut batch) = self.sources[at].pull(class, max)?.filter(|batch| !batch.is_empty()) else {
            return Ok(None);
        };
        let n = batch.len();
        let sources = self.sources.len() as u64;
        let mixing = || format!("mixing samples of {class}, source {at}");
        let bytes = self.image().bytes();
        if n > max.get() || batch.ids.len() != n || batch.images.len() != n * bytes {
            let ids = batch.ids.len();
            let images = batch.images.len();
            let why = format!("expected at most {max} samples of {bytes} bytes with an id, found {n}, {images} bytes");
            return Err(Error::other(mixing())(format!("{why}, {ids} ids")));
        }
        for id in &mut batch.ids {
            let named = id.checked_mul(sources).and_then(|id| id.checked_add(at as u64));
            *id = named.ok_or("an id exceeds 64 bits").map_err(Error::other(mixing()))?;
        }
        let columns = [batch.confidence.is_some(), batch.probabilities.is_some()];
        if *self.columns.get_or_insert(columns) != columns {
            let why = "expected confidence and probabilities from every source or from none";
            return Err(Error::other(mixing())(why));
        }
        Ok(Some(batch))
    }
}

impl<S: SampleSource> SampleSource for Mixed<S> {
    fn image(&self) -> &ImageSpec {
        self.sources[0].image()
    }

    fn classes(&self) -> &[String] {
        self.sources[0].classes()
    }

    fn pull(&mut self, class: ClassId, max: NonZeroUsize) -> Result<Option<Batch>> {
        class.check_below(self.handed_over.len(), "mixing samples")?;
        let mut mix = Batch::default();
        while let Some(missing) = NonZeroUsize::new(max.get() - mix.len()) {
            let batch = match self.next(class, missing) {
                Ok(Some(batch)) => batch,
                // The next pull reports the failure, so that the samples already pulled are not lost.
                Err(_) if !mix.is_empty() => break,
                Err(error) => return Err(error),
                Ok(None) => break,
            };
            self.handed_over[class.index()] += batch.len() as u64;
            mix.append(&batch);
        }
        Ok(Some(mix).filter(|mix| !mix.is_empty()))
    }

    fn tally(&self) -> Tally {
        let mut sum = Tally::new(self.handed_over.len());
        for source in &self.sources {
            for (sum, part) in sum.classes.iter_mut().zip(&source.tally().classes) {
                *sum = std::mem::take(sum).plus(part);
            }
        }
        sum
    }

    fn cursor(&self, class: ClassId) -> Cursor {
        let inner = self.sources.iter().map(|source| source.cursor(class)).collect();
        Cursor::new([self.handed_over[class.index()]], inner)
    }

    fn seek(&mut self, class: ClassId, cursor: &Cursor) -> Result<()> {
        let ([handed_over], inner) = cursor.parts("a mix of sources", self.sources.len())?;
        for (source, cursor) in self.sources.iter_mut().zip(inner) {
            source.seek(class, cursor)?;
        }
        self.handed_over[class.index()] = handed_over;
        Ok(())
    }
}
