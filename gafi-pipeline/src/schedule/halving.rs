//! The lengths of the students of [`crate::Strategy::Halving`].

use gafi_expand::StdRange;

use super::job::{Method, Round};
use crate::config::{PipelineConfig, Strategy};

/// One in this many values advances to the next round of successive halving, where it trains this many times as long. The first
/// round uses closed-form classifiers.
const ETA: usize = 4;
/// The longest student trains for a student's epochs divided by this.
const LONGEST: u32 = 2;
/// The search takes at most the grid's epochs divided by this.
pub(super) const SHARE: u64 = 5;

/// The rounds of a search by halving. Its students are as long as its share of the grid's epochs allows; the shortest trains
/// for one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Halving {
    /// Rounds over the checkpoints; empty if screening leaves one.
    pub(super) rounds: Vec<Round>,
    /// Epochs of a student in every other step.
    pub(super) short: u32,
}

impl Halving {
    /// Plans a search over this many checkpoints.
    pub(super) fn plan(checkpoints: usize, config: &PipelineConfig) -> Self {
        let epochs = config.student.epochs.max(1);
        let grid = grid_trainings(checkpoints, config) * u64::from(epochs);
        let plans = (1..=(epochs / LONGEST).max(1)).rev().map(|shortest| Self::with(checkpoints, config, shortest));
        let mut affordable = plans.filter(|plan| plan.epochs(config) * SHARE <= grid);
        affordable.next().unwrap_or_else(|| Self::with(checkpoints, config, 1))
    }

    fn with(checkpoints: usize, config: &PipelineConfig, short: u32) -> Self {
        let longest = (config.student.epochs / LONGEST).max(1);
        let mut rounds = Vec::new();
        let mut students = kept(checkpoints);
        let mut epochs = short;
        while students > 1 {
            rounds.push(Round { students, epochs });
            students = students.div_ceil(ETA);
            epochs = (epochs * ETA as u32).min(longest);
        }
        Self { rounds, short }
    }

    /// Maximum number of epochs of all its students together.
    pub(super) fn epochs(&self, config: &PipelineConfig) -> u64 {
        let bisected = bisected(config.search.stds.len()) + bisected(config.search.thresholds.len());
        let rounds = self.rounds.iter().map(|round| round.students as u64 * u64::from(round.epochs));
        bisected as u64 * u64::from(self.short) + rounds.sum::<u64>()
    }
}

/// How a step searches standard deviations or thresholds. Closed-form classifiers show neither what wider latents are worth to a
/// network nor what stricter thresholds are (docs/log/results.md).
pub(super) fn value_method(strategy: Strategy, halving: &Halving) -> Method {
    match strategy {
        Strategy::Grid => Method::Full,
        Strategy::Halving => Method::Bisect { epochs: halving.short },
    }
}

/// How many of `values` are left after screening.
pub(super) fn kept(values: usize) -> usize {
    values.div_ceil(ETA)
}

/// Maximum number of students in a bisection over this many values: two neighbours per round.
pub(super) fn bisected(values: usize) -> usize {
    values.min(2 * (values.max(1).ilog2() as usize + 1))
}

/// Students of a search by grid. The second and third grid may hold a value that was tried before: std 1, threshold 0.
pub(super) fn grid_trainings(checkpoints: usize, config: &PipelineConfig) -> u64 {
    let stds = &config.search.stds;
    let thresholds = &config.search.thresholds;
    let repeated = usize::from(has_one(stds)) + usize::from(thresholds.contains(&0.0));
    (checkpoints + stds.len() + thresholds.len() - repeated) as u64
}

pub(super) fn has_one(stds: &[StdRange]) -> bool {
    stds.iter().any(|std| std.bounds() == (1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset;

    #[test]
    fn halving_takes_at_most_a_fifth_of_the_grids_epochs() {
        let plan = |name: &str, checkpoints: usize| {
            let config: PipelineConfig = serde_json::from_value(preset(Some(name)).unwrap()).unwrap();
            let grid = grid_trainings(checkpoints, &config) * u64::from(config.student.epochs);
            let plan = Halving::plan(checkpoints, &config);
            assert!(plan.epochs(&config) * SHARE <= grid, "{name}: {plan:?}");
            plan
        };
        // Checkpoints without students, three stds and three thresholds at a fifth of the length.
        assert_eq!(plan("cpu", 3), Halving { rounds: vec![], short: 2 });
        let paper = plan("paper-cifar10", 36);
        assert_eq!(paper.rounds.iter().map(|round| round.students).collect::<Vec<_>>(), [9, 3]);
        assert_eq!((bisected(21), bisected(10)), (10, 8));
        for name in ["paper-cifar100", "paper-fashion-mnist", "paper-dermamnist"] {
            plan(name, 15);
        }
    }
}
