//! Settings for each class of their own, from counts of what a teacher makes of some samples: pure functions.
//!
//! A setting for all classes treats them unequally: the same latents, the same threshold let most samples of an easy class
//! pass and few of a hard one. These find the setting of each class that comes to the same as a given one does for all.

use gafi_core::{ClassId, ClassTally, Error, Result, Tally};

/// Share of its samples that a class has accepted; nothing where none was drawn.
fn acceptance(tally: &ClassTally) -> Option<f64> {
    (tally.drawn > 0).then(|| tally.accepted as f64 / tally.drawn as f64)
}

/// The mean over the classes of the share that was accepted, in [0, 1]; classes of which nothing was drawn do not count.
pub fn mean_acceptance(tally: &Tally) -> f64 {
    let shares: Vec<f64> = tally.classes.iter().filter_map(acceptance).collect();
    shares.iter().sum::<f64>() / shares.len().max(1) as f64
}

/// For each class the setting under which the share accepted is nearest to `target`, as an index into `settings`: what was
/// drawn and accepted of each class under each, in the order from narrow to wide latents.
///
/// Of settings equally near it is the widest that reaches the target, so that a class of which everything passes is drawn as
/// wide as it bears, or, where none reaches it, the narrowest. The same number should be drawn in each case, whatever passes:
/// the tally of a source that stops at a quota of accepted samples flatters.
///
/// # Errors
/// [`Error::Other`] when the tables have different numbers of classes or nothing was ever drawn of one.
pub fn nearest_acceptance(settings: &[Tally], target: f64) -> Result<Vec<usize>> {
    let wrong = |why: String| Error::other("comparing what is accepted under several settings")(why);
    let classes = settings.first().map_or(0, |tally| tally.classes.len());
    if settings.is_empty() || settings.iter().any(|tally| tally.classes.len() != classes) {
        return Err(wrong(format!("expected the counts of {classes} classes for each of one or more settings")));
    }
    let choose = |class: ClassId| {
        let mut best: Option<(usize, f64)> = None;
        for (at, tally) in settings.iter().enumerate() {
            let Some(share) = acceptance(&tally.classes[class.index()]) else { continue };
            let nearer = best.is_none_or(|(_, best)| {
                let (old, new) = ((best - target).abs(), (share - target).abs());
                new < old || new == old && share >= target
            });
            if nearer {
                best = Some((at, share));
            }
        }
        best.map(|(at, _)| at).ok_or_else(|| wrong(format!("nothing was drawn of {class}")))
    };
    ClassId::all(classes).map(choose).collect()
}

/// For each class the threshold that the same share of its recognised samples exceeds as `threshold` is exceeded by in all
/// classes together. `recognised` holds, for each class, the confidences of the samples that the teacher takes for that class
/// (see [`crate::Verdict::recognised`]).
///
/// A class's threshold is 0 or a confidence below its highest: of these the one that comes nearest to the share, the lower
/// of two equally near. So it is never so high that nothing passes, however the confidences crowd. A class of which nothing
/// is recognised gets 0.
///
/// # Errors
/// [`Error::Config`] when `threshold` is none, or no sample exceeds it; [`Error::Other`] for a confidence outside of [0, 1].
pub fn matching_thresholds(recognised: &[Vec<f32>], threshold: f64) -> Result<Vec<f64>> {
    if let Some(bad) = recognised.iter().flatten().find(|c| !(0.0..=1.0).contains(*c)) {
        return Err(Error::other("matching thresholds")(format!("expected confidences from 0 to 1, found {bad}")));
    }
    let exceed =
        |confidences: &[f32], threshold: f64| confidences.iter().filter(|c| f64::from(**c) > threshold).count();
    let passing: usize = recognised.iter().map(|class| exceed(class, threshold)).sum();
    if !(0.0..1.0).contains(&threshold) || passing == 0 {
        return Err(Error::config("threshold", threshold, "a probability from 0 up that some samples exceed"));
    }
    let share = passing as f64 / recognised.iter().map(Vec::len).sum::<usize>() as f64;
    let matching = |class: &Vec<f32>| {
        let mut sorted = class.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let wanted = share * sorted.len() as f64;
        let highest = sorted.last().copied().unwrap_or_default();
        let mut best = (0.0, (exceed(&sorted, 0.0) as f64 - wanted).abs());
        for (at, &candidate) in sorted.iter().enumerate() {
            // Of equal ones only the last tells how many lie above.
            if candidate == highest || sorted[at + 1] == candidate {
                continue;
            }
            let off = ((sorted.len() - at - 1) as f64 - wanted).abs();
            if off < best.1 {
                best = (f64::from(candidate), off);
            }
        }
        best.0
    };
    Ok(recognised.iter().map(matching).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rule;
    use gafi_core::Stream;
    use gafi_core::stream::unit_f32;

    fn tally(shares: &[u64]) -> Tally {
        let class = |&accepted| ClassTally { drawn: 100, accepted, backfilled: 0 };
        Tally { classes: shares.iter().map(class).collect() }
    }

    #[test]
    fn easy_classes_are_drawn_wider() {
        // Three stds; an easy class, one as the mean, a hard one, one that always passes, one that never does.
        let settings = [tally(&[99, 90, 70, 100, 0]), tally(&[95, 75, 40, 100, 0]), tally(&[80, 45, 20, 100, 0])];
        assert_eq!(nearest_acceptance(&settings, 0.75).unwrap(), [2, 1, 0, 2, 0]);
        let even = [tally(&[75, 25, 25]), tally(&[25, 75, 25])];
        assert_eq!(nearest_acceptance(&even, 0.5).unwrap(), [0, 1, 0], "of equally near ones that above");
        assert_eq!(nearest_acceptance(&settings, 1.0).unwrap(), [0, 0, 0, 2, 0]);
        assert_eq!(nearest_acceptance(&settings, 0.0).unwrap(), [2, 2, 2, 2, 2], "0 reaches 0");
        assert!((mean_acceptance(&settings[1]) - 0.62).abs() < 1e-12);
    }

    #[test]
    fn class_without_samples_is_an_error_unless_elsewhere_it_has_some() {
        let (mut first, second) = (tally(&[50, 50]), tally(&[20, 20]));
        first.classes[1] = ClassTally::default();
        assert_eq!(mean_acceptance(&first), 0.5);
        assert_eq!(nearest_acceptance(&[first.clone(), second.clone()], 0.5).unwrap(), [0, 1]);
        assert!(nearest_acceptance(&[first], 0.5).is_err());
        assert!(nearest_acceptance(&[second, tally(&[1])], 0.5).is_err());
        assert!(nearest_acceptance(&[], 0.5).is_err());
        assert_eq!(mean_acceptance(&Tally::new(2)), 0.0);
    }

    #[test]
    fn thresholds_accept_the_same_share_of_each_class() {
        // An easy class, a hard one and one in between, of different sizes.
        let drawn = |class: u64, n: u64, of: fn(f32) -> f32| -> Vec<f32> {
            (0..n).map(|i| of(unit_f32(&mut Stream::new(1).at(class).at(i).rng()))).collect()
        };
        let classes =
            [drawn(0, 1000, |u| 1.0 - 0.1 * u), drawn(1, 400, |u| 0.3 + 0.6 * u), drawn(2, 700, |u| 0.5 + 0.5 * u)];
        let global = 0.8;
        let accepted = |t: &[f64]| -> Vec<usize> {
            let above = |(class, t): (&Vec<f32>, &f64)| class.iter().filter(|c| f64::from(**c) > *t).count();
            classes.iter().zip(t).map(above).collect()
        };
        let share = accepted(&[global; 3]).iter().sum::<usize>() as f64 / 2100.0;
        let thresholds = matching_thresholds(&classes, global).unwrap();
        for (n, class) in accepted(&thresholds).into_iter().zip(&classes) {
            assert!((n as f64 - share * class.len() as f64).abs() <= 0.5);
        }
        assert!(thresholds[0] > thresholds[2] && thresholds[2] > thresholds[1], "{thresholds:?}");
        Rule::new(thresholds).unwrap();
        assert_eq!(matching_thresholds(&classes, 0.0).unwrap(), [0.0; 3], "everything of each");
    }

    #[test]
    fn crowds_and_gaps() {
        // 4 of 9 exceed 0.9.
        let saturated = vec![1.0, 1.0, 1.0, 0.5];
        let hard = vec![0.4, 0.5, 0.6, 0.7];
        let thresholds = |classes: &[Vec<f32>], t| matching_thresholds(classes, t).unwrap();
        assert_eq!(thresholds(&[saturated.clone(), hard, vec![0.95]], 0.9), [0.5, 0.5, 0.0]);
        assert_eq!(
            thresholds(&[vec![1.0; 4], vec![], vec![0.5; 12]], 0.9),
            [0.0, 0.0, 0.0],
            "nothing tells them apart"
        );
        for t in [1.0, -0.1, f64::NAN] {
            assert!(matching_thresholds(std::slice::from_ref(&saturated), t).unwrap_err().is_usage());
        }
        assert!(matching_thresholds(&[vec![0.3]], 0.9).unwrap_err().is_usage());
        assert!(matching_thresholds(&[vec![f32::NAN, 0.4]], 0.1).is_err());
        assert!(matching_thresholds(&[], 0.1).is_err());
    }
}
