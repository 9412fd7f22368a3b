//! The references: classifiers trained on real images.

use gafi_nn::{ClassifierConfig, TrainClassifier};
use serde::Serialize;

use crate::config::{Labels, PipelineConfig};
use crate::names::{SUBSET_ROW, real_name};

/// A kind of reference with the student's classifier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum RealKind {
    /// For sets of so many times the usual size.
    Usual {
        /// That multiple.
        times: u32,
    },
    /// `per_class` images of each class, the same ones in every epoch.
    Subset,
}

impl RealKind {
    /// Its row.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Usual { times } => real_name(*times),
            Self::Subset => SUBSET_ROW.into(),
        }
    }
}

impl PipelineConfig {
    /// The references beside the teacher, in the order of the results table.
    pub(crate) fn references(&self) -> Vec<RealKind> {
        let times = std::iter::once(1).chain(self.larger_sets());
        let mut kinds: Vec<_> = times.map(|times| RealKind::Usual { times }).collect();
        kinds.extend(self.real_subset.then_some(RealKind::Subset));
        kinds
    }
}

/// A reference: a classifier trained on real images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReferenceSpec {
    /// Its row.
    pub name: String,
    /// The synthetic set that it is a reference for, as a multiple of the usual one.
    pub times: u32,
    /// The labels that it learns from.
    pub labels: Labels,
    /// Real images of each class that it sees in an epoch; `None` for all of them.
    pub per_class: Option<u64>,
    /// Its training.
    pub training: TrainClassifier,
}

impl ReferenceSpec {
    /// A classifier that sees every real training image in each epoch.
    pub(super) fn of_all(name: &str, classifier: &ClassifierConfig, seed: u64) -> Self {
        let training = TrainClassifier { classifier: classifier.clone(), seed, per_class: None, per_epoch: None };
        Self { name: name.into(), times: 1, labels: Labels::Hard, per_class: None, training }
    }

    /// A reference with as many real images as `times` sets of `per_class` have. Where the smallest class has fewer, all of its
    /// images are used and seen more often, so the number of steps is the same.
    pub(super) fn of_subset(
        name: String,
        student: &ClassifierConfig,
        times: u32,
        per_class: u64,
        real: &[u64],
        seed: u64,
    ) -> Self {
        let student = ClassifierConfig { distill: None, ..student.clone() };
        let wanted = per_class * u64::from(times);
        let smallest = real.iter().copied().min().unwrap_or(0);
        let per_class = wanted.min(smallest).max(1);
        let epochs = (u64::from(student.epochs) * wanted).div_ceil(per_class).min(u32::MAX.into()) as u32;
        // Nothing is drawn where all images are used.
        let drawn = real.iter().any(|&count| count != per_class).then_some(per_class as usize);
        let training =
            TrainClassifier { classifier: student.rescaled(epochs), seed, per_class: drawn, per_epoch: None };
        Self { name, times, labels: Labels::Hard, per_class: Some(per_class), training }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_takes_as_many_steps_as_the_students() {
        let student = ClassifierConfig::default();
        let reference = |times, per_class| {
            let spec = ReferenceSpec::of_subset("real".into(), &student, times, per_class, &[90, 60], 0);
            let classifier = spec.training.classifier;
            (spec.per_class.unwrap(), classifier.epochs, classifier.milestones)
        };
        let shares: Vec<f64> = student.milestones.iter().map(|milestone| milestone / 100.0).collect();
        let milestones = |epochs: f64| shares.iter().map(|share| share * epochs).collect::<Vec<_>>();
        assert_eq!(reference(1, 60), (60, 100, milestones(100.0)), "there are as many");
        assert_eq!(reference(1, 30), (30, 100, milestones(100.0)));
        // Half as many: seen twice as often, at any size.
        assert_eq!(reference(1, 120), (60, 200, milestones(200.0)));
        assert_eq!(reference(2, 60), (60, 200, milestones(200.0)));
    }
}
