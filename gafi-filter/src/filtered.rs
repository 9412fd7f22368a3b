//! `Filtered`: a source that hands over what a teacher recognises of another source.
//!
//! The teacher judges blocks, the consumer pulls as it likes, and an interrupted run has to go on to the same bytes. So
//! everything said here is a function of the stream of samples alone: each is judged in order, one by one, and what the
//! source tells of itself counts up to the last sample handed over, not up to what was judged ahead.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gafi_core::{Batch, ClassId, ClassTally, Error, ImageSpec, Result, SampleSource, Scorer, Tally};

use crate::rule::{FilterRule, Judge, OnExhausted};
use crate::scorer::{ask, fits};

/// Samples drawn and judged at a time.
pub const BLOCK: usize = 64;

/// Samples' worth of attempts that a class may fall behind before it counts as exhausted; see [`Filtered`].
pub const PATIENCE: u64 = 16;

/// The samples of `S` that pass, each with its confidence.
///
/// **Exhaustion.** A class of which e samples were handed over (backfill ones included) is exhausted by the sample that is
/// rejected as number d with d >= `max_attempts` · (e + [`PATIENCE`]). So at most `max_attempts` samples are drawn for each one
/// handed over, on average, and a class that the generator knows badly but well enough is not given up for a run of bad
/// luck at its start. What a [quota](crate::Quota) does not keep is rejected too. Then either every further pull is an error, or that very sample is let in, counted as such.
///
/// **Tally.** Counts its own draws from `S`, up to the last sample handed over.
///
/// **Position.** Class after class, for each the words of `S` where the last block begins, `S`'s tally there, how many
/// samples of the block were used, the own tally, and, under a [quota](crate::Quota), how many samples came to it and how many it
/// kept in each bin: [`SampleSource::seek`] needs no more, and ignores the tally given. It
/// asks of `S` that its position has equally many words for each class, class after class, as every source here has.
#[derive(Debug)]
pub struct Filtered<S, C> {
    inner: S,
    scorer: C,
    judge: Judge,
    options: FilterRule,
    classes: Vec<Class>,
    // Asks for a stop.
    stop: Arc<AtomicBool>,
}

/// Where a class stands: `used` samples after `origin` in the inner source.
#[derive(Debug, Clone)]
struct Mark {
    origin: Arc<Origin>,
    used: u64,
    done: Done,
}

/// What was done with the samples of a class so far.
#[derive(Debug, Clone)]
struct Done {
    tally: ClassTally,
    // What the quota has seen; empty without one.
    seen: Vec<u64>,
}

/// The inner source before a block.
#[derive(Debug)]
struct Origin {
    words: Vec<u64>,
    tally: ClassTally,
}

/// A sample that passed and waits to be pulled.
#[derive(Debug)]
struct Kept {
    id: u64,
    image: Vec<u8>,
    confidence: f32,
    probabilities: Vec<f32>,
    // Where the class stands once this sample is handed over.
    after: Mark,
}

#[derive(Debug)]
struct Class {
    // After the last sample handed over.
    mark: Mark,
    // After the last sample judged.
    judged: Done,
    kept: VecDeque<Kept>,
    // Drawn and not judged yet: there only after the teacher failed, so that a second try loses nothing.
    drawn: Option<(Arc<Origin>, Batch)>,
    // Samples to pass over after a seek.
    skip: u64,
    exhausted: bool,
    ended: bool,
}

impl Class {
    fn at(mark: Mark) -> Self {
        let (judged, skip) = (mark.done.clone(), mark.used);
        Self { mark, judged, kept: VecDeque::new(), drawn: None, skip, exhausted: false, ended: false }
    }
}

/// Words of a position after those of the inner source: its tally (3), samples used (1), the own tally (3). Those of the quota
/// follow.
const OWN_WORDS: usize = 7;

impl<S: SampleSource, C: Scorer> Filtered<S, C> {
    /// Filters `inner` by what `scorer` says.
    ///
    /// # Errors
    /// [`Error::Config`] for a rule out of its range or for another number of classes; [`Error::Input`] when the teacher judges other images or classes.
    pub fn new(inner: S, scorer: C, rule: FilterRule) -> Result<Self> {
        fits(&scorer, inner.image(), inner.classes().len())?;
        let judge = Judge::new(&rule, inner.classes().len())?;
        let (classes, stop) = (Vec::new(), Arc::default());
        let mut filtered = Self { judge, options: rule, inner, scorer, classes, stop };
        filtered.classes = (0..filtered.inner.classes().len())
            .map(|class| {
                let done = Done { tally: ClassTally::default(), seen: filtered.judge.unseen() };
                Ok(Class::at(Mark { origin: filtered.origin(class)?, used: 0, done }))
            })
            .collect::<Result<_>>()?;
        Ok(filtered)
    }

    /// The same, ending a pull with [`Error::Interrupted`] once `stop` is set: without a bound of attempts a class of which nothing
    /// passes is drawn for ever. Nothing is lost by it, and further pulls go on when `stop` is unset.
    #[must_use]
    pub fn until(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop, ..self }
    }

    fn origin(&self, class: usize) -> Result<Arc<Origin>> {
        let (position, classes) = (self.inner.position(), self.inner.classes().len());
        if !position.len().is_multiple_of(classes) {
            let why = format!("expected equally many words for each of {classes} classes, found {}", position.len());
            return Err(Error::other("asking a source for its position")(why));
        }
        let each = position.len() / classes;
        let words = position[class * each..(class + 1) * each].to_vec();
        let tally = self.inner.tally().classes.get(class).copied().unwrap_or_default();
        Ok(Arc::new(Origin { words, tally }))
    }

    /// Draws a block of `class` and keeps what passes.
    fn advance(&mut self, class: ClassId) -> Result<()> {
        let at = class.index();
        if self.classes[at].drawn.is_none() {
            let origin = self.origin(at)?;
            // The size of a block is the same whatever is asked for: a mark then means the same after a resume.
            let block = NonZeroUsize::new(BLOCK).unwrap_or(NonZeroUsize::MIN);
            match self.inner.pull(class, block)?.filter(|batch| !batch.is_empty()) {
                Some(batch) => {
                    whole(&batch, class, self.inner.image().bytes())?;
                    self.classes[at].drawn = Some((origin, batch));
                }
                None => self.classes[at].ended = true,
            }
        }
        let state = &mut self.classes[at];
        let Some((origin, batch)) = state.drawn.take() else { return Ok(()) };
        let skip = usize::try_from(state.skip).map_or(batch.len(), |skip| skip.min(batch.len()));
        let judged = if skip == batch.len() { Ok(()) } else { self.judge(class, &origin, &batch, skip) };
        let state = &mut self.classes[at];
        match judged {
            Ok(()) => state.skip -= skip as u64,
            Err(_) => state.drawn = Some((origin, batch)),
        }
        judged
    }

    /// Judges the samples of `batch` from `skip` on.
    fn judge(&mut self, class: ClassId, origin: &Arc<Origin>, batch: &Batch, skip: usize) -> Result<()> {
        let (bytes, classes) = (self.inner.image().bytes(), self.classes.len());
        let pixels = &batch.images[skip * bytes..];
        let probabilities = ask(&mut self.scorer, pixels, batch.len() - skip)?;
        let verdicts = probabilities
            .chunks_exact(classes)
            .zip(&batch.ids[skip..])
            .map(|(p, id)| self.judge.judge(p, class).map_err(Error::other(format!("sample {id} of {class}"))))
            .collect::<Result<Vec<_>>>()?;
        let state = &mut self.classes[class.index()];
        for (i, verdict) in verdicts.into_iter().enumerate() {
            let Done { tally, seen } = &mut state.judged;
            tally.drawn += 1;
            let handed_over = tally.accepted + tally.backfilled;
            let bound = self.options.max_attempts.saturating_mul(handed_over + PATIENCE);
            match self.options.on_exhausted {
                _ if self.judge.keeps(&verdict, class, seen) => tally.accepted += 1,
                _ if self.options.max_attempts == 0 || tally.drawn < bound => continue,
                OnExhausted::Backfill => tally.backfilled += 1,
                OnExhausted::Error => {
                    state.exhausted = true;
                    break;
                }
            }
            let row = skip + i;
            let keep = self.options.keep_probabilities;
            let all = if keep { &probabilities[i * classes..(i + 1) * classes] } else { &[] };
            state.kept.push_back(Kept {
                id: batch.ids[row],
                image: batch.images[row * bytes..(row + 1) * bytes].to_vec(),
                confidence: verdict.confidence,
                probabilities: all.iter().map(|p| p.clamp(0.0, 1.0)).collect(),
                after: Mark { origin: origin.clone(), used: row as u64 + 1, done: state.judged.clone() },
            });
        }
        Ok(())
    }
}

/// That `batch` has an image and an id for each label.
fn whole(batch: &Batch, class: ClassId, bytes: usize) -> Result<()> {
    let (n, images, ids) = (batch.len(), batch.images.len(), batch.ids.len());
    if images == n * bytes && ids == n {
        return Ok(());
    }
    let why = format!("expected {} bytes and {n} ids for {n} samples, found {images} and {ids}", n * bytes);
    Err(Error::other(format!("drawing samples of {class}"))(why))
}

impl<S: SampleSource, C: Scorer> SampleSource for Filtered<S, C> {
    fn image(&self) -> &ImageSpec {
        self.inner.image()
    }

    fn classes(&self) -> &[String] {
        self.inner.classes()
    }

    fn pull(&mut self, class: ClassId, max: NonZeroUsize) -> Result<Option<Batch>> {
        let at = class.index();
        if at >= self.classes.len() {
            let why = format!("expected a class below {}", self.classes.len());
            return Err(Error::other(format!("filtering samples of {class}"))(why));
        }
        while self.classes[at].kept.len() < max.get() && !self.classes[at].exhausted && !self.classes[at].ended {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            self.advance(class)?;
        }
        let state = &mut self.classes[at];
        let n = state.kept.len().min(max.get());
        if n == 0 {
            let ClassTally { drawn, accepted, backfilled } = state.judged.tally;
            let wanted = (accepted + backfilled).saturating_add(max.get() as u64);
            let name = || self.inner.classes()[at].clone();
            return match state.exhausted {
                true => Err(Error::Exhausted { class, name: name(), wanted, drawn, accepted }),
                false => Ok(None),
            };
        }
        let mut batch = Batch { labels: vec![class; n], ..Batch::default() };
        let (mut confidence, mut probabilities) = (Vec::with_capacity(n), Vec::new());
        for kept in state.kept.drain(..n) {
            batch.ids.push(kept.id);
            batch.images.extend_from_slice(&kept.image);
            confidence.push(kept.confidence);
            probabilities.extend_from_slice(&kept.probabilities);
            state.mark = kept.after;
        }
        batch.confidence = Some(confidence);
        batch.probabilities = self.options.keep_probabilities.then_some(probabilities);
        Ok(Some(batch))
    }

    fn tally(&self) -> Tally {
        Tally { classes: self.classes.iter().map(|class| class.mark.done.tally).collect() }
    }

    fn position(&self) -> Vec<u64> {
        let words = |t: ClassTally| [t.drawn, t.accepted, t.backfilled];
        let mut position = Vec::new();
        for Class { mark, .. } in &self.classes {
            position.extend_from_slice(&mark.origin.words);
            position.extend(words(mark.origin.tally));
            position.push(mark.used);
            position.extend(words(mark.done.tally));
            position.extend_from_slice(&mark.done.seen);
        }
        position
    }

    fn seek(&mut self, position: &[u64], _: &Tally) -> Result<()> {
        let each = self.origin(0)?.words.len();
        let own_words = OWN_WORDS + self.judge.unseen().len();
        let expected = (each + own_words) * self.classes.len();
        if position.len() != expected {
            let why = format!("expected {expected} words, found {}", position.len());
            return Err(Error::other("placing a filtered source")(why));
        }
        let tally = |w: &[u64]| ClassTally { drawn: w[0], accepted: w[1], backfilled: w[2] };
        let marks: Vec<Mark> = position
            .chunks_exact(each + own_words)
            .map(|words| {
                let (inner, own) = words.split_at(each);
                let origin = Arc::new(Origin { words: inner.to_vec(), tally: tally(own) });
                let done = Done { tally: tally(&own[4..]), seen: own[OWN_WORDS..].to_vec() };
                Mark { origin, used: own[3], done }
            })
            .collect();
        let inner: Vec<u64> = marks.iter().flat_map(|mark| mark.origin.words.iter().copied()).collect();
        self.inner.seek(&inner, &Tally { classes: marks.iter().map(|mark| mark.origin.tally).collect() })?;
        self.classes = marks.into_iter().map(Class::at).collect();
        Ok(())
    }
}
