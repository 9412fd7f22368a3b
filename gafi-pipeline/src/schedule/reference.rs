//! The references: the student's classifier trained on real images.

use gafi_nn::{ClassifierConfig, TrainClassifier};
use serde::Serialize;

/// A reference: the student's classifier trained on real images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReferenceSpec {
    /// The synthetic set that it is a reference for, as a multiple of the usual one.
    pub times: u32,
    /// Real images of each class.
    pub per_class: u64,
    /// Its training.
    pub training: TrainClassifier,
}

impl ReferenceSpec {
    /// A reference with as many real images as `times` sets of `per_class` have. Where the smallest class has fewer, all of its
    /// images are used and seen more often, so the number of steps is the same.
    pub(super) fn new(student: &ClassifierConfig, times: u32, per_class: u64, real: &[u64], seed: u64) -> Self {
        let student = ClassifierConfig { distill: None, ..student.clone() };
        let wanted = per_class * u64::from(times);
        let smallest = real.iter().copied().min().unwrap_or(0);
        let per_class = wanted.min(smallest).max(1);
        let epochs = (u64::from(student.epochs) * wanted).div_ceil(per_class).min(u32::MAX.into()) as u32;
        // Nothing is drawn where all images are used.
        let drawn = real.iter().any(|&count| count != per_class).then_some(per_class as usize);
        let training = TrainClassifier { classifier: student.rescaled(epochs), seed, per_class: drawn };
        Self { times, per_class, training }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_takes_as_many_steps_as_the_students() {
        let student = ClassifierConfig::default();
        let reference = |times, per_class| {
            let spec = ReferenceSpec::new(&student, times, per_class, &[90, 60], 0);
            let classifier = spec.training.classifier;
            (spec.per_class, classifier.epochs, classifier.milestones)
        };
        let milestones = |epochs: f64| vec![0.6 * epochs, 0.8 * epochs];
        assert_eq!(reference(1, 60), (60, 100, milestones(100.0)), "there are as many");
        assert_eq!(reference(1, 30), (30, 100, milestones(100.0)));
        // Half as many: seen twice as often, at any size.
        assert_eq!(reference(1, 120), (60, 200, milestones(200.0)));
        assert_eq!(reference(2, 60), (60, 200, milestones(200.0)));
    }
}
