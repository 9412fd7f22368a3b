//! `Filtered`: the samples of another source that a teacher accepts.
//!
//! The teacher scores blocks, the consumer pulls any number of samples, and an interrupted run has to resume to the same
//! bytes. So everything here depends on the order of samples alone: each is judged on its own, and tallies count up to the
//! last sample handed over, not up to the last one judged.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gafi_core::{
    Batch, ClassId, ClassTally, Cursor, Error, Exhausted, ImageSpec, Result, SAMPLE_BATCH, SampleSource, Scorer, Tally,
};

use crate::attempts::{Fate, Rounds};
use crate::rule::{Attempts, FilterRule, Rule};
use crate::scorer::{check_scorer, score};

/// The samples of a source that pass a [`FilterRule`], each with the teacher's confidence.
///
/// **Exhaustion.** Let e be the number of samples of a class handed over so far, backfilled ones included. The class is
/// exhausted when draw number d is rejected and d >= `max_attempts` · (e + [`crate::PATIENCE`]). So on average at most `max_attempts`
/// samples are drawn for each one handed over, and bad luck at the start does not exhaust a class that the generator can
/// produce. Then either every pull fails, or this rejected sample is backfilled. [`Attempts::Rounds`] bounds attempts in
/// another way.
///
/// **Tally.** Counts draws from the wrapped source up to the last sample handed over, or all draws once the wrapped
/// source has ended and no sample is left to hand over. [`Error::Exhausted`] counts up to the last sample judged.
#[derive(Debug)]
pub struct Filtered<S, C> {
    inner: S,
    scorer: C,
    rule: Rule,
    options: FilterRule,
    // Whether rejected samples are handed over instead of accepted ones.
    inverted: bool,
    classes: Vec<Class>,
    stop: Arc<AtomicBool>,
}

/// The position of a class: `used` samples after the cursor `origin` of the wrapped source.
#[derive(Debug, Clone)]
struct Mark {
    origin: Arc<Cursor>,
    used: u64,
    tally: ClassTally,
    rounds: Rounds,
}

/// A sample that passed and waits to be pulled.
#[derive(Debug)]
struct Kept {
    id: u64,
    image: Vec<u8>,
    confidence: f32,
    probabilities: Vec<f32>,
    // The position of the class once this sample is handed over.
    after: Mark,
}

#[derive(Debug)]
struct Class {
    // After the last sample handed over.
    mark: Mark,
    // After the last sample judged.
    judged: ClassTally,
    rounds: Rounds,
    kept: VecDeque<Kept>,
    // Drawn but not judged, because the teacher failed: a retry loses nothing.
    drawn: Option<(Arc<Cursor>, Batch)>,
    // Samples to skip after a seek.
    skip: u64,
    exhausted: bool,
    ended: bool,
}

impl Class {
    fn at(mark: Mark) -> Self {
        let (judged, rounds, skip) = (mark.tally.clone(), mark.rounds, mark.used);
        Self { mark, judged, rounds, kept: VecDeque::new(), drawn: None, skip, exhausted: false, ended: false }
    }
}

impl<S: SampleSource, C: Scorer> Filtered<S, C> {
    /// Filters `inner` with `scorer`.
    ///
    /// # Errors
    /// [`Error::Config`] for a rule out of range, or rounds without `per_set`; [`Error::Input`] when the scorer takes other images
    /// or classes.
    pub fn new(inner: S, scorer: C, options: FilterRule) -> Result<Self> {
        check_scorer(&scorer, inner.image(), inner.classes().len())?;
        options.check()?;
        let rounds = match (options.attempts, options.per_set) {
            (Attempts::Rounds, None) => {
                return Err(Error::config(
                    "per_set",
                    "unset",
                    "the samples of a class in a set, because attempts = \"rounds\"",
                ));
            }
            (Attempts::Rounds, Some(per_set)) => Rounds::first(per_set),
            (Attempts::PerSample, _) => Rounds::default(),
        };
        let start =
            |cursor| Class::at(Mark { origin: Arc::new(cursor), used: 0, tally: ClassTally::default(), rounds });
        let classes = inner.cursors().into_iter().map(start).collect();
        Ok(Self { rule: options.rule()?, options, inner, scorer, inverted: false, classes, stop: Arc::default() })
    }

    /// Ends a pull with [`Error::Interrupted`] once `stop` is set. Without a bound on attempts, a pull for a class whose
    /// samples never pass would otherwise run forever. Nothing is lost: pulls continue once `stop` is unset.
    #[must_use]
    pub fn until(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop, ..self }
    }

    /// Hands over the samples that the rule rejects, instead of those that it accepts.
    #[cfg(feature = "stage")]
    pub(crate) fn inverted(self) -> Self {
        Self { inverted: true, ..self }
    }

    /// Draws a block of `class` and keeps what passes.
    fn advance(&mut self, class: ClassId) -> Result<()> {
        let at = class.index();
        if self.classes[at].drawn.is_none() {
            let origin = Arc::new(self.inner.cursor(class));
            // The size of a block never depends on the pull, so that a mark means the same after a resume.
            match self.inner.pull(class, SAMPLE_BATCH)?.filter(|batch| !batch.is_empty()) {
                Some(batch) => {
                    check_batch(&batch, class, self.inner.image().bytes())?;
                    self.classes[at].drawn = Some((origin, batch));
                }
                None => self.classes[at].ended = true,
            }
        }
        let state = &mut self.classes[at];
        let Some((origin, batch)) = state.drawn.take() else { return Ok(()) };
        // A mark is never beyond the block that it starts from.
        let skip = usize::try_from(state.skip).ok().filter(|&skip| skip <= batch.len()).ok_or_else(|| {
            let why = format!("expected at most the {} samples of a block, found {}", batch.len(), state.skip);
            Error::other("resuming a filtered source")(why)
        })?;
        let judged = if skip == batch.len() { Ok(()) } else { self.judge(class, &origin, &batch, skip) };
        let state = &mut self.classes[at];
        match judged {
            Ok(()) => state.skip = 0,
            Err(_) => state.drawn = Some((origin, batch)),
        }
        judged
    }

    /// Judges the samples of `batch` from `skip` on.
    fn judge(&mut self, class: ClassId, origin: &Arc<Cursor>, batch: &Batch, skip: usize) -> Result<()> {
        let bytes = self.inner.image().bytes();
        let classes = self.classes.len();
        let probabilities = score(&mut self.scorer, &batch.images[skip * bytes..], batch.len() - skip)?;
        let verdicts = probabilities
            .chunks_exact(classes)
            .zip(&batch.ids[skip..])
            .map(|(p, id)| self.rule.judge(p, class).map_err(Error::other(format!("sample {id} of {class}"))))
            .collect::<Result<Vec<_>>>()?;
        let state = &mut self.classes[class.index()];
        for (i, verdict) in verdicts.into_iter().enumerate() {
            let passes = verdict.accepted != self.inverted;
            let rejected_as = (!verdict.accepted).then_some(verdict.predicted);
            match self.options.decide(passes, rejected_as, &mut state.judged, &mut state.rounds) {
                Fate::Kept => {}
                Fate::Dropped => continue,
                Fate::Exhausted => {
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
                after: Mark {
                    origin: origin.clone(),
                    used: row as u64 + 1,
                    tally: state.judged.clone(),
                    rounds: state.rounds,
                },
            });
        }
        Ok(())
    }

    /// Ends a class that has no judged samples left to hand over: an error if it is exhausted, else `None`.
    fn end(&mut self, class: ClassId, max: NonZeroUsize) -> Result<Option<Batch>> {
        let state = &mut self.classes[class.index()];
        let tally = state.judged.clone();
        if state.exhausted {
            let wanted = tally.handed_over().saturating_add(max.get() as u64);
            let mut all = Tally::new(class.index() + 1);
            all.classes[class.index()] = tally;
            let exhausted = Exhausted::new(self.inner.classes(), all, BTreeMap::from([(class, wanted)]));
            return Err(Error::Exhausted(Box::new(exhausted)));
        }
        state.mark = Mark { origin: Arc::new(self.inner.cursor(class)), used: 0, tally, rounds: state.rounds };
        Ok(None)
    }
}

/// Checks that `batch` has an image and an id for each label.
fn check_batch(batch: &Batch, class: ClassId, bytes: usize) -> Result<()> {
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
        class.check_below(self.classes.len(), "filtering samples")?;
        while self.classes[at].kept.len() < max.get() && !self.classes[at].exhausted && !self.classes[at].ended {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            self.advance(class)?;
        }
        let state = &mut self.classes[at];
        let n = state.kept.len().min(max.get());
        if n == 0 {
            return self.end(class, max);
        }
        let mut batch = Batch { labels: vec![class; n], ..Batch::default() };
        let mut confidence = Vec::with_capacity(n);
        let mut probabilities = Vec::new();
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
        Tally { classes: self.classes.iter().map(|class| class.mark.tally.clone()).collect() }
    }

    fn cursor(&self, class: ClassId) -> Cursor {
        let Mark { origin, used, tally, rounds } = &self.classes[class.index()].mark;
        let mut inner = vec![Cursor::clone(origin), tally.to_cursor()];
        if self.options.attempts == Attempts::Rounds {
            inner.push(Cursor::new([rounds.round, rounds.left], Vec::new()));
        }
        Cursor::new([*used], inner)
    }

    fn seek(&mut self, class: ClassId, cursor: &Cursor) -> Result<()> {
        let in_rounds = self.options.attempts == Attempts::Rounds;
        let ([used], inner) = cursor.parts("a filtered source", 2 + usize::from(in_rounds))?;
        let mut rounds = Rounds::default();
        if in_rounds {
            let ([round, left], _) = inner[2].parts("the rounds of a filtered source", 0)?;
            rounds = Rounds { round, left };
        }
        let tally = ClassTally::from_cursor(&inner[1])?;
        self.inner.seek(class, &inner[0])?;
        self.classes[class.index()] = Class::at(Mark { origin: Arc::new(inner[0].clone()), used, tally, rounds });
        Ok(())
    }
}
