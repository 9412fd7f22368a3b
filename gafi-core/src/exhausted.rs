//! Classes of which a source has too few samples, and how the teacher classifies those.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use crate::confusion::{Confusion, Diagnosis, class_name, percent};
use crate::spec::ClassId;
use crate::tally::{ClassTally, Tally};

/// Maximum number of classes listed in the message.
const LISTED: usize = 10;
/// Maximum number of predicted classes listed for each of them.
const PREDICTED: usize = 3;
/// The threshold is to blame if at least this share of the rejected samples has the right class.
const RECOGNISED: f64 = 0.5;

/// The classes of which a source has too few samples; see [`crate::Error::Exhausted`].
///
/// Its message has a line for each of them (for ten at most), and a line of diagnosis or advice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exhausted {
    pub(crate) names: Vec<String>,
    // For exhausted classes up to the last sample judged, for others up to the last one handed over.
    pub(crate) tally: Tally,
    // Samples wanted of each exhausted class; `u64::MAX` for as many as there are.
    pub(crate) wanted: BTreeMap<ClassId, u64>,
}

impl Exhausted {
    /// The classes in `wanted` are exhausted; its values are the samples wanted of each, `u64::MAX` for all. `names` are the names
    /// of all classes, and `tally` their counts.
    pub fn new(names: &[String], mut tally: Tally, wanted: BTreeMap<ClassId, u64>) -> Self {
        tally.classes.resize(names.len(), ClassTally::default());
        Self { names: names.to_vec(), tally, wanted }
    }

    /// The exhausted classes in order, each with the samples wanted of it (`u64::MAX` for all) and its counts.
    pub fn classes(&self) -> impl Iterator<Item = (ClassId, u64, &ClassTally)> {
        let classes = self.wanted.iter();
        classes.filter_map(|(&class, &wanted)| Some((class, wanted, self.tally.classes.get(class.index())?)))
    }

    /// What the teacher's predictions suggest.
    pub fn diagnosis(&self) -> Option<Diagnosis> {
        let mut confusion = Confusion::new(self.names.len());
        for (class, tally) in ClassId::all(self.names.len()).zip(&self.tally.classes) {
            // Sources without a teacher accept everything, which says nothing about the classes.
            if self.tally.classes.iter().any(|tally| !tally.rejected_as.is_empty()) {
                confusion.add(class, class, tally.accepted);
                tally.rejected_as.iter().for_each(|(&predicted, &count)| confusion.add(class, predicted, count));
            }
        }
        confusion.diagnose().or_else(|| {
            let own = |(class, _, tally): (ClassId, u64, &ClassTally)| tally.rejected_as.get(&class).map(|&n| n as f64);
            let recognised: f64 = self.classes().filter_map(own).sum();
            let rejected: f64 = self.classes().map(|(.., tally)| tally.rejected() as f64).sum();
            let share = recognised / rejected;
            (share >= RECOGNISED).then_some(Diagnosis::ThresholdTooHigh { share })
        })
    }

    /// The line of a class.
    fn line(&self, f: &mut Formatter<'_>, class: ClassId, wanted: u64, tally: &ClassTally) -> fmt::Result {
        let name = class_name(&self.names, class);
        write!(f, "{class} ({name}) is exhausted: ")?;
        if wanted < u64::MAX {
            write!(f, "wanted {wanted} sample{}, ", if wanted == 1 { "" } else { "s" })?;
        }
        write!(f, "accepted {} of {} drawn", tally.accepted, tally.drawn)?;
        let rejected = tally.rejected() as f64;
        let mut predicted: Vec<_> = tally.rejected_as.iter().filter(|(predicted, _)| **predicted != class).collect();
        predicted.sort_by_key(|&(_, &count)| std::cmp::Reverse(count));
        let item = |what: &str, count: f64| format!("{what} ({})", percent(count / rejected));
        let (first, others) = predicted.split_at(predicted.len().min(PREDICTED));
        let mut items: Vec<_> =
            first.iter().map(|&(&class, &count)| item(&class_name(&self.names, class), count as f64)).collect();
        if !others.is_empty() {
            let what =
                if others.len() == 1 { "1 other class".into() } else { format!("{} other classes", others.len()) };
            items.push(item(&what, others.iter().map(|&(_, &count)| count as f64).sum()));
        }
        if let Some(&below) = tally.rejected_as.get(&class) {
            items.push(item(&format!("{name} below the threshold"), below as f64));
        }
        if !items.is_empty() {
            write!(f, "; the teacher classifies the rest as {}", items.join(", "))?;
        }
        f.write_str(".\n")
    }
}

impl Display for Exhausted {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (class, wanted, tally) in self.classes().take(LISTED) {
            self.line(f, class, wanted, tally)?;
        }
        if self.wanted.len() > LISTED {
            writeln!(f, "{} more classes are exhausted.", self.wanted.len() - LISTED)?;
        }
        let rejected = self.classes().any(|(.., tally)| tally.drawn > tally.accepted);
        match self.diagnosis() {
            Some(diagnosis) => f.write_str(&diagnosis.describe(&self.names)),
            None if rejected => f.write_str(
                "Use a lower threshold, a higher max_attempts, on_exhausted = \"backfill\", or a generator or teacher that knows \
                 the class better",
            ),
            None => f.write_str("The source has no more samples: request fewer, or use a larger set"),
        }
    }
}

impl std::error::Error for Exhausted {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, samples drawn and accepted, and the rejected ones by predicted class.
    type Counts<'a> = (&'a str, u64, u64, &'a [(u32, u64)]);

    fn exhausted(classes: &[Counts<'_>], failed: &[u32]) -> Exhausted {
        let names: Vec<String> = classes.iter().map(|class| class.0.into()).collect();
        let tally = |&(_, drawn, accepted, rejected): &(&str, u64, u64, &[(u32, u64)])| {
            let rejected_as = rejected.iter().map(|&(class, count)| (ClassId(class), count)).collect();
            ClassTally { rejected_as, ..ClassTally::new(drawn, accepted, 0) }
        };
        let tally = Tally { classes: classes.iter().map(tally).collect() };
        Exhausted::new(&names, tally, failed.iter().map(|&class| (ClassId(class), 50)).collect())
    }

    #[test]
    fn a_class_lists_what_its_samples_are_taken_for() {
        let cat: &[(u32, u64)] = &[(0, 10), (1, 40), (2, 5), (3, 30), (4, 1), (5, 14)];
        let names = [
            ("cat\u{7}", 100, 0, cat),
            ("b", 0, 0, &[]),
            ("c", 0, 0, &[]),
            ("d", 0, 0, &[]),
            ("e", 0, 0, &[]),
            ("f", 0, 0, &[]),
        ];
        let text = exhausted(&names, &[0]).to_string();
        let line = "class 0 (cat\\u0007) is exhausted: wanted 50 samples, accepted 0 of 100 drawn; the teacher \
                    classifies the rest as b (40 %), d (30 %), f (14 %), 2 other classes (6 %), cat\\u0007 below the threshold (10 %).";
        assert_eq!(text.lines().next(), Some(line));
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with("Use a lower threshold, a higher max_attempts, on_exhausted = \"backfill\", or a generator or teacher that knows the class better"), "{text}");
    }

    #[test]
    fn each_cause_has_its_own_line() {
        let last = |classes: &[Counts<'_>], failed: &[u32]| {
            exhausted(classes, failed).to_string().lines().last().unwrap().to_string()
        };
        // Class b passes; with it, the others show that everything is classified as b.
        let text = last(&[("a", 99, 0, &[(1, 99)]), ("b", 64, 64, &[]), ("c", 99, 0, &[(1, 99)])], &[0, 2]);
        assert!(text.contains("classifies 100 % of the samples as b: the generator looks untrained"), "{text}");
        let alike: &[(u32, u64)] = &[(0, 30), (1, 35), (2, 35)];
        let text = last(&[("a", 100, 0, alike), ("b", 100, 0, alike), ("c", 100, 0, alike)], &[0, 1, 2]);
        assert!(text.contains("ignore its label"), "{text}");
        let text = last(&[("a", 50, 0, &[(1, 50)]), ("b", 50, 0, &[(2, 50)]), ("c", 50, 20, &[(0, 30)])], &[0, 1]);
        assert!(
            text.starts_with("Labels look shifted by one: class 0 (a) is classified as class 1 (b) in 100 %"),
            "{text}"
        );
        let text = last(&[("a", 100, 2, &[(0, 90), (1, 8)]), ("b", 64, 60, &[(1, 4)])], &[0]);
        assert!(text.starts_with("The teacher recognises 92 % of the rejected samples, but not above"), "{text}");
        let text = last(&[("a", 20, 20, &[]), ("b", 20, 20, &[])], &[0, 1]);
        assert_eq!(text, "The source has no more samples: request fewer, or use a larger set");
    }

    #[test]
    fn many_classes_are_counted() {
        let classes = [("x", 9, 0, &[][..]); 25];
        let text = exhausted(&classes, &(0..25).collect::<Vec<_>>()).to_string();
        assert_eq!(text.lines().count(), 12, "{text}");
        assert!(text.contains("class 9 (x)") && text.contains("\n15 more classes are exhausted.\n"), "{text}");
    }

    #[test]
    fn a_tally_survives_its_cursor() {
        let tally =
            ClassTally { rejected_as: [(ClassId(3), 9), (ClassId(70_000), 1)].into(), ..ClassTally::new(12, 2, 1) };
        assert_eq!(ClassTally::from_cursor(&tally.to_cursor()).unwrap(), tally);
        for bad in [vec![], vec![1, 2], vec![1, 2, 3, 4], vec![1, 2, 3, 1 << 40, 1], vec![u64::MAX, 2, 3]] {
            let cursor = crate::cursor::Cursor::list(bad);
            assert!(ClassTally::from_cursor(&cursor).is_err(), "{cursor:?}");
        }
    }
}
