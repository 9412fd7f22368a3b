//! An upper bound on the cost of a job.

use serde::Serialize;

/// An upper bound on the cost of a job. Sums saturate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CostBound {
    /// Networks trained.
    pub trainings: u64,
    /// Epochs of classifiers, all together.
    pub epochs: u64,
    /// Steps of GANs, all together.
    pub steps: u64,
    /// Training images of classifiers, counted each time they are seen.
    pub images: u64,
    /// Validation images, counted each time they are evaluated.
    pub evaluated: u64,
    /// Samples kept for students and for screening, without those that a filter rejects.
    pub samples: u64,
    /// Of `samples`, those that a filter accepts.
    pub filtered: u64,
    /// Checkpoints of generators written.
    pub checkpoints: u64,
    /// Rows of datasets written.
    pub rows: u64,
}

impl std::ops::Add for CostBound {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            trainings: self.trainings.saturating_add(other.trainings),
            epochs: self.epochs.saturating_add(other.epochs),
            steps: self.steps.saturating_add(other.steps),
            images: self.images.saturating_add(other.images),
            evaluated: self.evaluated.saturating_add(other.evaluated),
            samples: self.samples.saturating_add(other.samples),
            filtered: self.filtered.saturating_add(other.filtered),
            checkpoints: self.checkpoints.saturating_add(other.checkpoints),
            rows: self.rows.saturating_add(other.rows),
        }
    }
}

impl std::iter::Sum for CostBound {
    fn sum<I: Iterator<Item = Self>>(bounds: I) -> Self {
        bounds.fold(Self::default(), |all, bound| all + bound)
    }
}
