//! How a teacher classifies the samples of each class, and what that says about the generator and its labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::spec::ClassId;
use crate::text::printable;

/// Minimum number of samples of a class. Rows of classes with fewer are ignored.
const ENOUGH: u64 = 16;
/// A class with more than this share of a row dominates it.
const DOMINANT: f64 = 0.5;
/// A generator looks untrained if one or two classes have at least this share of all samples.
const FEW: f64 = 0.9;
/// Rows are alike from this ratio on: the probability that two samples of different rows get the same prediction, divided by
/// that for two samples of the same row.
const ALIKE: f64 = 0.9;
/// Minimum number of pairs of samples with the same row and prediction. With fewer, the ratio above is noise: its relative
/// error is about 1 / sqrt(pairs).
const PAIRS: f64 = 100.0;
/// Maximum number of classes listed in a diagnosis.
const LISTED: usize = 6;

/// Samples by the requested class (a row for each class) and the class that a teacher predicts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Confusion {
    rows: Vec<BTreeMap<ClassId, u64>>,
}

/// What a [`Confusion`] looks like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Diagnosis {
    /// One or two classes are predicted, whatever was requested: an untrained generator.
    Untrained {
        /// The predicted classes, the most frequent first.
        predicted: Vec<ClassId>,
        /// Their share of the samples, in [0, 1].
        share: f64,
    },
    /// Predictions are spread over the classes, and alike for every requested one: the generator ignores its label.
    IgnoresLabel,
    /// Each class is classified as another one: labels are permuted.
    Permuted {
        /// Each such class, the class predicted for it, and the share of its samples with that prediction, in [0, 1].
        mapping: Vec<(ClassId, ClassId, f64)>,
        /// Whether each is classified as the next class, or each as the one before: labels are shifted by one.
        shifted: bool,
    },
    /// Most rejected samples are recognised as the requested class, but not above the threshold.
    ThresholdTooHigh {
        /// Their share of the rejected samples, in [0, 1].
        share: f64,
    },
}

/// A class with enough samples.
struct Row<'a> {
    class: ClassId,
    counts: &'a BTreeMap<ClassId, u64>,
    total: u64,
}

impl Row<'_> {
    /// The class predicted for more than half of the samples, with its share.
    fn dominant(&self) -> Option<(ClassId, f64)> {
        let (&class, &count) = self.counts.iter().max_by_key(|&(_, &count)| count)?;
        let share = count as f64 / self.total as f64;
        (share > DOMINANT).then_some((class, share))
    }
}

impl Confusion {
    /// An empty confusion of `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self { rows: vec![BTreeMap::new(); classes] }
    }

    /// Adds `count` samples that were requested as `requested` and are classified as `predicted`.
    ///
    /// # Panics
    /// If `requested` is out of range.
    pub fn add(&mut self, requested: ClassId, predicted: ClassId, count: u64) {
        if count > 0 {
            let total = self.rows[requested.index()].entry(predicted).or_default();
            *total = total.saturating_add(count);
        }
    }

    /// Whether the samples look like those of an untrained generator, of one that ignores its label, or of permuted labels; `None`
    /// when they look like none of these. A class counts from 16 samples on, and at least two classes must count.
    pub fn diagnose(&self) -> Option<Diagnosis> {
        let rows = ClassId::all(self.rows.len()).zip(&self.rows).map(|(class, counts)| {
            let total = counts.values().fold(0, |sum: u64, &count| sum.saturating_add(count));
            Row { class, counts, total }
        });
        let rows: Vec<Row> = rows.filter(|row| row.total >= ENOUGH).collect();
        permuted(&rows, self.rows.len()).or_else(|| alike(&rows, self.rows.len()))
    }
}

fn permuted(rows: &[Row], classes: usize) -> Option<Diagnosis> {
    let dominant = rows.iter().filter_map(|row| row.dominant().map(|(predicted, share)| (row.class, predicted, share)));
    let dominant: Vec<_> = dominant.collect();
    let mapping: Vec<_> = dominant.iter().copied().filter(|(class, predicted, _)| class != predicted).collect();
    if mapping.len() < 2 {
        return None;
    }
    let offset = |class: ClassId, predicted: ClassId| (predicted.index() + classes - class.index()) % classes;
    // The class at the end of a shifted list may be classified as anything. With two classes, a shift is a swap.
    let shifted = [(1, classes - 1), (classes - 1, 0)].into_iter().find_map(|(by, end)| {
        let shifted: Vec<_> = mapping.iter().copied().filter(|&(c, p, _)| offset(c, p) == by).collect();
        let all = rows.iter().all(|row| row.class.index() == end || shifted.iter().any(|m| m.0 == row.class));
        (classes > 2 && shifted.len() >= 2 && all).then_some(shifted)
    });
    if let Some(mapping) = shifted {
        return Some(Diagnosis::Permuted { mapping, shifted: true });
    }
    let distinct = dominant.iter().map(|(_, predicted, _)| predicted).collect::<BTreeSet<_>>().len() == dominant.len();
    let from: BTreeSet<ClassId> = mapping.iter().map(|m| m.0).collect();
    let to: BTreeSet<ClassId> = mapping.iter().map(|m| m.1).collect();
    (distinct && from == to).then_some(Diagnosis::Permuted { mapping, shifted: false })
}

fn alike(rows: &[Row], classes: usize) -> Option<Diagnosis> {
    let mut shares = BTreeMap::<ClassId, f64>::new();
    let (mut squares, mut within, mut pairs) = (0.0, 0.0, 0.0);
    for row in rows {
        let total = row.total as f64;
        for (&class, &count) in row.counts {
            let count = count as f64;
            let share = count / total;
            *shares.entry(class).or_default() += share;
            squares += share * share;
            // Pairs of two different samples, so that few samples give no bias.
            within += share * (count - 1.0) / (total - 1.0);
            pairs += count * (count - 1.0) / 2.0;
        }
    }
    let n = rows.len() as f64;
    if n < 2.0 || pairs < PAIRS {
        return None;
    }
    let across = (shares.values().map(|share| share * share).sum::<f64>() - squares) / (n * (n - 1.0));
    if across < ALIKE * within / n {
        return None;
    }
    let mut frequent: Vec<(ClassId, f64)> = shares.into_iter().map(|(class, share)| (class, share / n)).collect();
    frequent.sort_by(|a, b| b.1.total_cmp(&a.1));
    // Two classes out of two or three are not "few".
    let few = (1..=2.min(classes / 2)).map(|few| &frequent[..few.min(frequent.len())]);
    let few =
        few.map(|few| (few, few.iter().map(|(_, share)| share).sum())).find(|&(_, share): &(_, f64)| share >= FEW);
    Some(few.map_or(Diagnosis::IgnoresLabel, |(few, share)| Diagnosis::Untrained {
        predicted: few.iter().map(|(class, _)| *class).collect(),
        share,
    }))
}

/// The name of a class, fit for a message.
pub(crate) fn class_name(names: &[String], class: ClassId) -> String {
    names.get(class.index()).map_or_else(|| class.to_string(), printable)
}

/// A share in percent: "97 %", "< 1 %".
pub(crate) fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.01 { "< 1 %".into() } else { format!("{:.0} %", 100.0 * share) }
}

impl Diagnosis {
    /// What it means and what to do, in one or two sentences. `names` are the names of all classes.
    pub fn describe(&self, names: &[String]) -> String {
        match self {
            Self::Untrained { predicted, share } => {
                let predicted: Vec<String> = predicted.iter().map(|&class| class_name(names, class)).collect();
                format!(
                    "Whichever class is requested, the teacher classifies {} of the samples as {}: the generator looks \
                     untrained or ignores its label, or the teacher knows no other class. Use a later checkpoint or train \
                     longer, check that the label reaches the generator, and check the teacher's accuracy",
                    percent(*share),
                    predicted.join(" or ")
                )
            }
            Self::IgnoresLabel => {
                "Whichever class is requested, the teacher's predictions are spread in the same way: the generator seems to \
                 ignore its label, or the teacher cannot tell the classes apart. Check that the generator is \
                 conditional and that the label reaches it, and check the teacher's accuracy"
                    .into()
            }
            Self::Permuted { mapping, shifted } => {
                let how = if *shifted { "shifted by one" } else { "permuted" };
                let mut text = format!("Labels look {how}: ");
                for (i, &(class, predicted, share)) in mapping.iter().take(LISTED).enumerate() {
                    let before = if i > 0 { ", " } else { "" };
                    let (name, predicted_name) = (class_name(names, class), class_name(names, predicted));
                    // Writing to a String does not fail.
                    let _ = write!(
                        text,
                        "{before}{class} ({name}) is classified as {predicted} ({predicted_name}) in {}",
                        percent(share)
                    );
                }
                if mapping.len() > LISTED {
                    let _ = write!(text, ", and {} more", mapping.len() - LISTED);
                }
                text + ". Compare the order of the classes in generator, samples and teacher"
            }
            Self::ThresholdTooHigh { share } => format!(
                "The teacher recognises {} of the rejected samples, but not above the threshold: use a lower one, a higher max_attempts \
                 or on_exhausted = \"backfill\"",
                percent(*share)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `counts[c][p]` samples of class c are classified as class p.
    fn confusion(counts: &[&[u64]]) -> Confusion {
        let mut confusion = Confusion::new(counts[0].len());
        for (class, row) in ClassId::all(counts.len()).zip(counts) {
            ClassId::all(row.len()).zip(*row).for_each(|(predicted, &n)| confusion.add(class, predicted, n));
        }
        confusion
    }

    fn names() -> Vec<String> {
        ["ant", "bee", "cat", "dog\u{1b}", "eel"].map(String::from).to_vec()
    }

    fn describe(counts: &[&[u64]]) -> String {
        confusion(counts).diagnose().map_or("none".into(), |found| found.describe(&names()))
    }

    #[test]
    fn an_untrained_generator_gives_one_or_two_classes() {
        let one: [&[u64]; 5] = [&[1, 99, 0, 0, 0], &[0, 100, 0, 0, 0], &[0, 97, 3, 0, 0], &[0, 16, 0, 0, 0], &[0; 5]];
        let text = describe(&one);
        assert!(
            text.starts_with("Whichever class is requested, the teacher classifies 99 % of the samples as bee: "),
            "{text}"
        );
        let two: [&[u64]; 4] = [&[0, 60, 0, 36, 4], &[1, 57, 0, 42, 0], &[0, 65, 2, 33, 0], &[0, 61, 0, 39, 0]];
        let found = confusion(&two).diagnose();
        let Some(Diagnosis::Untrained { predicted, share }) = found else { panic!("{found:?}") };
        assert_eq!(predicted, [ClassId(1), ClassId(3)]);
        assert!((share - 0.9825).abs() < 1e-9, "{share}");
        assert!(describe(&two).contains("as bee or dog\\u001b: "), "escaped");
    }

    #[test]
    fn a_generator_that_ignores_its_label_spreads_every_class_alike() {
        let text =
            describe(&[&[40, 20, 10, 20, 10], &[36, 23, 9, 21, 11], &[41, 17, 13, 18, 11], &[38, 22, 10, 22, 8]]);
        assert!(text.contains("ignore its label"), "{text}");
        // Two of two classes are not few.
        assert_eq!(confusion(&[&[60, 40], &[57, 43]]).diagnose(), Some(Diagnosis::IgnoresLabel));
        // Many classes and few samples: 40 classes, each predicted for one in 40 samples.
        let mut spread = Confusion::new(40);
        for (class, predicted) in ClassId::all(40).flat_map(|c| ClassId::all(40).map(move |p| (c, p))) {
            spread.add(class, predicted, 2 + u64::from((class.0 * 7 + predicted.0 * 3) % 5 == 0));
        }
        assert_eq!(spread.diagnose(), Some(Diagnosis::IgnoresLabel));
    }

    #[test]
    fn shifted_and_permuted_labels_give_their_mapping() {
        let next: [&[u64]; 5] =
            [&[2, 97, 0, 0, 1], &[0, 3, 97, 0, 0], &[0, 0, 5, 95, 0], &[0, 0, 0, 9, 91], &[0, 0, 30, 30, 40]];
        let text = describe(&next);
        let expected = "Labels look shifted by one: class 0 (ant) is classified as class 1 (bee) in 97 %, class 1 (bee) is classified as class 2 \
                        (cat) in 97 %, class 2 (cat) is classified as class 3 (dog\\u001b) in 95 %, class 3 (dog\\u001b) is classified as class 4 \
                        (eel) in 91 %. Compare";
        assert!(text.starts_with(expected), "{text}");
        // The one before, around the end.
        let before =
            describe(&[&[0, 0, 0, 0, 20], &[20, 0, 0, 0, 0], &[0, 18, 0, 2, 0], &[0, 0, 20, 0, 0], &[0, 0, 0, 20, 0]]);
        assert!(before.contains("shifted by one: class 0 (ant) is classified as class 4 (eel) in 100 %"), "{before}");
        // Two classes are swapped, the others are right.
        let swapped =
            describe(&[&[80, 0, 20, 0, 0], &[0, 3, 0, 97, 0], &[9, 0, 91, 0, 0], &[0, 60, 0, 40, 0], &[0; 5]]);
        assert!(
            swapped.starts_with(
                "Labels look permuted: class 1 (bee) is classified as class 3 (dog\\u001b) in 97 %, class 3"
            ),
            "{swapped}"
        );
    }

    #[test]
    fn other_confusions_have_no_diagnosis() {
        // A weak generator: two classes are classified as a third.
        assert_eq!(
            describe(&[
                &[90, 5, 5, 0, 0],
                &[55, 30, 15, 0, 0],
                &[70, 0, 20, 5, 5],
                &[0, 10, 0, 60, 30],
                &[0, 0, 9, 1, 90]
            ]),
            "none"
        );
        // It follows its label a little.
        assert_eq!(describe(&[&[40, 20, 20, 20], &[20, 40, 20, 20], &[20, 20, 40, 20], &[20, 20, 20, 40]]), "none");
        // One chain of confusions among right classes.
        assert_eq!(
            describe(&[&[30, 70, 0, 0, 0], &[0, 30, 70, 0, 0], &[0, 0, 0, 0, 0], &[0, 0, 0, 99, 1], &[0, 0, 0, 1, 99]]),
            "none"
        );
        assert_eq!(describe(&[&[90, 10, 0], &[5, 25, 70], &[60, 0, 40]]), "none");
        // Too few samples, one class, nothing.
        assert_eq!(describe(&[&[0, 15, 0, 0, 0], &[0, 0, 15, 0, 0]]), "none");
        assert_eq!(describe(&[&[0, 0, 0, 0, 100], &[0; 5], &[0; 5], &[0; 5], &[0; 5]]), "none");
        assert_eq!(Confusion::new(0).diagnose(), None);
    }
}
