//! `Plan`: which images are replaced at which epoch. It is a pure function, so a resumed run has the same plan.

use gafi_core::stream::permutation;
use gafi_core::{ClassId, Error, Result, Stream, check_positive};
use serde::{Deserialize, Serialize};

/// How a synthetic set is renewed (Lampis et al. 2023, arXiv 2305.10118). The paper searches with period 10 and factor 1; its
/// final students have period 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Renewal {
    /// Epochs between renewals, at least 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub period: u32,
    /// Share of each class that a renewal replaces, in (0, 1].
    #[cfg_attr(feature = "schema", schemars(range(max = 1), extend("exclusiveMinimum" = 0)))]
    pub factor: f64,
}

/// The plan for a set of `classes` times `per_class` rows; row `class * per_class + slot` holds a sample of `class`.
///
/// Generation 0 fills the set at epoch 0. Generation g > 0 starts at epoch g · `period` and replaces
/// round(`factor` · `per_class`) rows of each class, drawn for each generation. Without a renewal the set stays the same.
#[derive(Debug, Clone)]
pub struct Plan {
    period: Option<u32>,
    classes: usize,
    per_class: usize,
    // Rows of each class that a renewal replaces.
    share: usize,
    stream: Stream,
}

impl Plan {
    /// A plan that draws the replaced rows from `stream`.
    ///
    /// # Errors
    /// [`Error::Config`] for a value out of range, or a factor so small that no row would be replaced.
    pub fn new(renewal: Option<Renewal>, classes: usize, per_class: usize, stream: Stream) -> Result<Self> {
        check_positive("per_class", per_class)?;
        let mut plan = Self { period: None, classes, per_class, share: 0, stream };
        if let Some(Renewal { period, factor }) = renewal {
            if period == 0 {
                return Err(Error::config("recycle.period", 0, "at least 1 epoch"));
            }
            if !(factor > 0.0 && factor <= 1.0) {
                return Err(Error::config("recycle.factor", factor, "a share above 0 and up to 1"));
            }
            plan.share = (factor * per_class as f64).round() as usize;
            if plan.share == 0 {
                let least = format!("a share that replaces at least one of the {per_class} samples of a class");
                return Err(Error::config("recycle.factor", factor, least));
            }
            plan.period = Some(period);
        }
        Ok(plan)
    }

    /// Number of rows of each class.
    pub fn per_class(&self) -> usize {
        self.per_class
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The generation of epoch `epoch`, from 0.
    pub fn generation(&self, epoch: u32) -> u64 {
        self.period.map_or(0, |period| u64::from(epoch / period))
    }

    /// The generation that starts at `epoch`, if any.
    pub fn begins(&self, epoch: u32) -> Option<u64> {
        let generation = self.generation(epoch);
        (epoch == 0 || generation != self.generation(epoch - 1)).then_some(generation)
    }

    /// Whether `generation` replaces every row, and needs nothing of the previous one.
    pub fn replaces_all(&self, generation: u64) -> bool {
        generation == 0 || self.share == self.per_class
    }

    /// Number of samples of each class drawn up to and including `generation`.
    pub fn drawn_by(&self, generation: u64) -> u64 {
        (self.per_class as u64).saturating_add(generation.saturating_mul(self.share as u64))
    }

    /// The slots of `class`, in 0..`per_class`, that `generation` replaces, ascending.
    pub fn slots(&self, generation: u64, class: ClassId) -> Vec<usize> {
        if self.replaces_all(generation) {
            return (0..self.per_class).collect();
        }
        let mut slots = permutation(self.per_class, &self.stream.at(generation).at(u64::from(class.0)));
        slots.truncate(self.share);
        slots.sort_unstable();
        slots
    }

    /// The rows that `generation` replaces, ascending.
    pub fn replaced(&self, generation: u64) -> Vec<usize> {
        let of = |class: ClassId| {
            self.slots(generation, class).into_iter().map(move |slot| class.index() * self.per_class + slot)
        };
        ClassId::all(self.classes).flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(period: u32, factor: f64, classes: usize, per_class: usize) -> Plan {
        Plan::new(Some(Renewal { period, factor }), classes, per_class, Stream::new(3)).unwrap()
    }

    #[test]
    fn generations_start_every_period() {
        let plan = plan(4, 0.5, 2, 10);
        let begins: Vec<_> = (0..10).filter_map(|e| plan.begins(e).map(|g| (e, g))).collect();
        assert_eq!(begins, [(0, 0), (4, 1), (8, 2)]);
        assert_eq!((0..10).map(|e| plan.generation(e)).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]);
        assert_eq!((plan.drawn_by(0), plan.drawn_by(2)), (10, 20));
    }

    #[test]
    fn without_renewal_only_the_first_epoch_fills() {
        let plan = Plan::new(None, 2, 10, Stream::new(3)).unwrap();
        assert_eq!((0..100).filter_map(|e| plan.begins(e)).collect::<Vec<_>>(), [0]);
        assert_eq!(plan.replaced(0), (0..20).collect::<Vec<_>>());
        assert!(plan.replaces_all(0) && !plan.replaces_all(1));
    }

    proptest! {
        #[test]
        fn renewals_are_balanced_and_of_the_right_size(
            factor in 0.05f64..=1.0, classes in 1usize..6, per_class in 10usize..60, generation in 1u64..500,
        ) {
            let plan = plan(1, factor, classes, per_class);
            let rows = plan.replaced(generation);
            let share = (factor * per_class as f64).round() as usize;
            prop_assert_eq!(rows.len(), share * classes);
            prop_assert!(rows.is_sorted_by(|a, b| a < b), "each row once, ascending");
            for class in 0..classes {
                prop_assert_eq!(rows.iter().filter(|&row| row / per_class == class).count(), share);
            }
            prop_assert_eq!(rows, plan.replaced(generation));
        }
    }

    #[test]
    fn every_generation_draws_other_rows() {
        let plan = plan(1, 0.25, 2, 20);
        assert_ne!(plan.slots(1, ClassId(0)), plan.slots(2, ClassId(0)));
        assert_ne!(plan.slots(1, ClassId(0)), plan.slots(1, ClassId(1)));
        let mut turns = [0; 20];
        for generation in 1..=400 {
            for slot in plan.slots(generation, ClassId(1)) {
                turns[slot] += 1;
            }
        }
        assert!(turns.iter().all(|t| (60..140).contains(t)), "expected about 100 each: {turns:?}");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let new = |period, factor| Plan::new(Some(Renewal { period, factor }), 2, 10, Stream::new(0));
        for (period, factor, key) in [
            (0, 1.0, "recycle.period = 0"),
            (1, 0.0, "recycle.factor = 0"),
            (1, -1.0, "recycle.factor = -1"),
            (1, 1.01, "recycle.factor = 1.01"),
            (1, f64::NAN, "recycle.factor = NaN"),
            (1, 0.04, "recycle.factor = 0.04"),
        ] {
            let error = new(period, factor).unwrap_err();
            assert!(error.is_usage() && error.to_string().starts_with(key), "{error}");
        }
        assert_eq!(new(1, 0.05).unwrap().replaced(1).len(), 2);
        assert!(Plan::new(None, 2, 0, Stream::new(0)).unwrap_err().to_string().starts_with("per_class = 0"));
    }
}
