//! What happens to each judged sample of a class, and when the class is exhausted.

use gafi_core::{ClassId, ClassTally};

use crate::rule::{Attempts, FilterRule, OnExhausted};

/// Head start of a class, in samples, before it can be exhausted; see [`crate::Filtered`].
pub const PATIENCE: u64 = 16;

/// What happens to a judged sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Handed over.
    Kept,
    /// Rejected.
    Dropped,
    /// Rejected, and the class has no attempts left.
    Exhausted,
}

/// The position of a class in the rounds of its current set; see [`Attempts::Rounds`]. Unused with [`Attempts::PerSample`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rounds {
    /// The current round, from 1; above `max_rounds` while the set is filled without judgement.
    pub(crate) round: u64,
    /// Candidates left in this round.
    pub(crate) left: u64,
}

impl Rounds {
    /// The first round of a set of `per_set` samples.
    pub(crate) fn first(per_set: u64) -> Self {
        Self { round: 1, left: per_set }
    }
}

impl FilterRule {
    /// Decides on the next sample of a class, which passes or not, and counts it in `tally` and `rounds`. `rejected_as` is the class
    /// that the teacher predicts for a rejected sample.
    pub(crate) fn decide(
        &self,
        passes: bool,
        rejected_as: Option<ClassId>,
        tally: &mut ClassTally,
        rounds: &mut Rounds,
    ) -> Fate {
        let drawn = tally.drawn;
        let fate = match self.attempts {
            Attempts::PerSample => self.decide_per_sample(passes, tally),
            Attempts::Rounds => self.decide_in_rounds(passes, tally, rounds),
        };
        // A sample after the last round exhausts the class without counting as drawn.
        if let Some(class) = rejected_as.filter(|_| tally.drawn > drawn) {
            *tally.rejected_as.entry(class).or_default() += 1;
        }
        fate
    }

    fn decide_per_sample(&self, passes: bool, tally: &mut ClassTally) -> Fate {
        tally.drawn += 1;
        let bound = self.max_attempts.saturating_mul(tally.handed_over() + PATIENCE);
        if passes {
            tally.accepted += 1;
        } else if self.max_attempts == 0 || tally.drawn < bound {
            return Fate::Dropped;
        } else if self.on_exhausted == OnExhausted::Backfill {
            tally.backfilled += 1;
        } else {
            return Fate::Exhausted;
        }
        Fate::Kept
    }

    fn decide_in_rounds(&self, passes: bool, tally: &mut ClassTally, rounds: &mut Rounds) -> Fate {
        let per_set = self.per_set.unwrap_or(1);
        let over = self.max_rounds > 0 && rounds.round > self.max_rounds;
        if over && self.on_exhausted == OnExhausted::Error {
            return Fate::Exhausted;
        }
        tally.drawn += 1;
        if over {
            tally.backfilled += 1;
        } else {
            tally.accepted += u64::from(passes);
            rounds.left = rounds.left.saturating_sub(1);
        }
        let kept = over || passes;
        let filled = tally.handed_over() % per_set;
        if kept && filled == 0 {
            *rounds = Rounds::first(per_set);
        } else if rounds.left == 0 && !over {
            // Twice what is missing; the program doubles only once something has passed.
            let factor = if filled == 0 { 1 } else { 2 };
            *rounds = Rounds { round: rounds.round.saturating_add(1), left: (per_set - filled).saturating_mul(factor) };
        }
        if kept { Fate::Kept } else { Fate::Dropped }
    }
}
