//! The references: classifiers trained on real images.

use std::collections::BTreeSet;

use gafi_nn::{ClassifierConfig, Distill, TrainClassifier};
use serde::Serialize;

use crate::config::{Labels, PipelineConfig};
use crate::names::{REAL_ROW, SOFT_ROW, SUBSET_ROW, real_name};

/// A kind of reference besides the teacher.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum RealKind {
    /// The teacher itself as the row `real`.
    Teacher,
    /// Trained as long as a student whose set is `times` the usual one, on all real images in turn.
    Student {
        /// Size of the set as a multiple of the usual one.
        times: u32,
    },
    /// The same, for sets of the usual size, with the teacher's probabilities as labels.
    Soft(Distill),
    /// Trained as long as a student, on the same images in every epoch.
    Subset,
}

impl RealKind {
    /// Its row.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Teacher => REAL_ROW.into(),
            Self::Student { times } => real_name(*times),
            Self::Soft(_) => SOFT_ROW.into(),
            Self::Subset => SUBSET_ROW.into(),
        }
    }
}

impl PipelineConfig {
    /// The references besides the teacher, in the order of the results table. `real-soft` has the weight and temperature of the
    /// first variant with soft labels.
    pub(crate) fn references(&self) -> Vec<RealKind> {
        let mut kinds = Vec::new();
        if self.real_is_teacher() {
            kinds.push(RealKind::Teacher);
        } else {
            // The usual size, then each larger one of a variant.
            let sizes: BTreeSet<u32> = self.variants.iter().map(|variant| variant.times).chain([1]).collect();
            kinds.extend(sizes.into_iter().map(|times| RealKind::Student { times }));
        }
        let soft = self.variants.iter().find(|variant| variant.labels == Labels::Soft);
        kinds.extend(soft.map(|variant| RealKind::Soft(variant.distill)));
        kinds.extend(self.real_subset.then_some(RealKind::Subset));
        kinds
    }

    /// The row against which the gap of a row with `times` the usual set is measured.
    pub(crate) fn gap_from(&self, times: u32) -> String {
        if self.real_is_teacher() { REAL_ROW.into() } else { real_name(times) }
    }
}

/// A reference: a classifier trained on real images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReferenceSpec {
    /// Its row.
    pub name: String,
    /// The synthetic set that it is a reference for, as a multiple of the usual one.
    pub times: u32,
    /// The labels that it learns from; `Soft` needs the teacher.
    pub labels: Labels,
    /// Real images of each class that it sees in an epoch; `None` for all of them.
    pub per_class: Option<u64>,
    /// Its training.
    pub training: TrainClassifier,
}

impl ReferenceSpec {
    /// A classifier that sees every real training image in each epoch.
    pub(super) fn of_all(name: &str, classifier: &ClassifierConfig, seed: u64) -> Self {
        let training = TrainClassifier { classifier: classifier.clone(), seed, ..TrainClassifier::default() };
        Self { name: name.into(), times: 1, labels: Labels::Hard, per_class: None, training }
    }

    /// A classifier as long as a student whose sets have `times` * `per_class` images of each class. It sees as many real images
    /// per epoch, and continues with the next ones in the next epoch; a class with fewer images repeats them.
    pub(super) fn of_rotation(name: String, student: &ClassifierConfig, times: u32, per_class: u64, seed: u64) -> Self {
        let labels = if student.distill.is_some() { Labels::Soft } else { Labels::Hard };
        let per_class = per_class * u64::from(times);
        let per_epoch = Some(per_class as usize);
        let training = TrainClassifier { classifier: student.clone(), seed, per_epoch, ..TrainClassifier::default() };
        Self { name, times, labels, per_class: Some(per_class), training }
    }

    /// A classifier that learns from `per_class` real images of each class, the same ones in every epoch. Where the smallest
    /// class has fewer, all of its images are used and seen more often, so the number of steps is a student's.
    pub(super) fn of_subset(student: &ClassifierConfig, per_class: u64, smallest: u64, seed: u64) -> Self {
        let wanted = per_class;
        let per_class = wanted.min(smallest).max(1);
        let epochs = (u64::from(student.epochs) * wanted).div_ceil(per_class).min(u32::MAX.into()) as u32;
        let classifier = student.clone().rescaled(epochs);
        let training =
            TrainClassifier { classifier, seed, per_class: Some(per_class as usize), ..TrainClassifier::default() };
        Self { name: SUBSET_ROW.into(), times: 1, labels: Labels::Hard, per_class: Some(per_class), training }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RealTraining, Variant};

    #[test]
    fn a_reference_takes_as_many_steps_as_the_students() {
        let student = ClassifierConfig::default();
        let real = ReferenceSpec::of_rotation("real-2x".into(), &student, 2, 30, 0);
        assert_eq!((real.per_class, real.training.per_epoch, real.training.per_class), (Some(60), Some(60), None));
        assert_eq!(real.training.classifier, student, "the student's own training");
        let subset = |per_class| {
            let TrainClassifier { classifier, per_class, per_epoch, .. } =
                ReferenceSpec::of_subset(&student, per_class, 60, 0).training;
            assert_eq!(per_epoch, None);
            (per_class, classifier.epochs)
        };
        assert_eq!([subset(30), subset(60)], [(Some(30), 100), (Some(60), 100)]);
        assert_eq!(subset(120), (Some(60), 200), "half as many, seen twice as often");
    }

    #[test]
    fn larger_sets_and_soft_labels_have_references_of_their_own() {
        let variant = |name: &str| Variant { name: name.into(), ..Variant::default() };
        let soft = Variant { labels: Labels::Soft, ..variant("soft") };
        let mut config =
            PipelineConfig { variants: vec![soft, Variant { times: 3, ..variant("large") }], ..Default::default() };
        let names = |config: &PipelineConfig| config.references().iter().map(RealKind::name).collect::<Vec<_>>();
        assert_eq!(names(&config), ["real", "real-3x", "real-soft"]);
        assert_eq!(config.gap_from(3), "real-3x");
        config.real_subset = true;
        // The teacher saw all real images three times as often as any student.
        config.real = Some(RealTraining::Teacher);
        assert_eq!(names(&config), ["real", "real-soft", "real-subset"]);
        assert_eq!(config.gap_from(3), "real");
    }
}
