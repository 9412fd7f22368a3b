//! `Quota`: which of the accepted samples are kept, so that the teacher is as sure of them as it is of real images.
//!
//! A generator's samples that a teacher accepts crowd where it is surest: what is hard to tell is what they lack. A quota
//! says which share of the kept samples lies in which bin of confidence, and thins out the bins that the generator fills
//! too fast.

use gafi_core::{ClassId, Error, Result};
use serde::{Deserialize, Serialize};

use crate::rule::Rule;

/// Edges of bins for the confidences of a good teacher, which crowd near 1.
pub const CONFIDENCE_EDGES: [f64; 7] = [0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999];

/// Samples that bins may be ahead of their shares, all together, at any time. Without any, most samples would be rejected
/// for the order in which they come.
const AHEAD: u64 = 16;

/// Samples that may come for each one kept before those bins that have too few of them are waited for no more.
const WAIT: u64 = 8;

/// Shares of the bins of confidence among the kept samples of a class.
///
/// **Rule.** Let n samples of the class be kept so far, k of them in the bin that the sample at hand falls into, and let s be
/// that bin's share. An accepted sample, as number m of its class, is kept iff k < s · (max(n, m / 8) + 16).
///
/// **Guarantee.** It is a function of the order of the class's samples alone. As long as one accepted sample in 8 is kept, k < s ·
/// (n + 16) + 1 for each bin after any n, and k > s · n - 16 - bins: the histogram goes to the shares with 1 / n. A bin
/// that the generator fills so seldom that fewer are kept is waited for no more: the clock m / 8 goes on without it, all
/// that falls into it is kept, and the other bins keep their proportions. In the long run at least 1 / 8 of the overlap is
/// kept, the sum over the bins of the smaller of share and generator's share. Where they have nothing in common, nothing is
/// kept after the first few, and the class is exhausted like any other: what is not kept counts as rejected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Confidences that divide [0, 1] into bins, ascending, such as [`CONFIDENCE_EDGES`]; each belongs to the bin above it.
    pub edges: Vec<f64>,
    /// Share of each bin, one more than edges, in any unit: only proportions count. Bins that the threshold rules out count
    /// for nothing, whatever their share.
    pub shares: Shares,
}

/// Shares of all classes, or of each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "a list with one number for each bin, or a list of such lists, one for each class")]
pub enum Shares {
    /// The same for every class.
    All(Vec<f64>),
    /// One list for each class.
    PerClass(Vec<Vec<f64>>),
}

impl Quota {
    /// The histogram of real images: of those that `rule` accepts, the share that each bin between `edges` has in each of
    /// `classes` classes. `probabilities` (n, classes) are the teacher's, `labels` (n) what the images show; the teacher should
    /// not have been trained on them. A class of which none is accepted gets the histogram of all classes together.
    ///
    /// # Errors
    /// [`Error::Config`] for `edges` out of order; [`Error::Other`] when probabilities are not such, do not fit the
    /// labels, or no image is accepted.
    pub fn of(rule: &Rule, probabilities: &[f32], labels: &[ClassId], classes: usize, edges: &[f64]) -> Result<Self> {
        let wrong = |why: String| Error::other("counting the confidences of real images")(why);
        check_edges(edges)?;
        if probabilities.len() != labels.len() * classes || labels.iter().any(|label| label.index() >= classes) {
            let (n, found) = (labels.len(), probabilities.len());
            return Err(wrong(format!("expected {classes} probabilities for each of {n} labels, found {found}")));
        }
        let (mut all, mut each) = (vec![0.0; edges.len() + 1], vec![vec![0.0; edges.len() + 1]; classes]);
        for (p, &label) in probabilities.chunks_exact(classes.max(1)).zip(labels) {
            let verdict = rule.judge(p, label)?;
            if verdict.accepted {
                all[bin(edges, verdict.confidence)] += 1.0;
                each[label.index()][bin(edges, verdict.confidence)] += 1.0;
            }
        }
        let total: f64 = all.iter().sum();
        if total == 0.0 {
            return Err(wrong("none of them is accepted".into()));
        }
        let shares = each.into_iter().map(|counts| match counts.iter().sum::<f64>() {
            0.0 => all.iter().map(|n| n / total).collect(),
            total => counts.iter().map(|n| n / total).collect(),
        });
        Ok(Self { edges: edges.to_vec(), shares: Shares::PerClass(shares.collect()) })
    }

    /// Whether its values are in their ranges.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check(&self) -> Result<()> {
        check_edges(&self.edges)?;
        let bins = self.edges.len() + 1;
        let lists = match &self.shares {
            Shares::All(shares) => std::slice::from_ref(shares),
            Shares::PerClass(lists) => lists,
        };
        let fits = |shares: &Vec<f64>| {
            shares.len() == bins
                && shares.iter().all(|s| *s >= 0.0 && s.is_finite())
                && (shares.iter().sum::<f64>() > 0.0 && shares.iter().sum::<f64>().is_finite())
        };
        lists.iter().find(|shares| !fits(shares)).map_or(Ok(()), |shares| {
            let expected = format!("{bins} numbers, one for each bin, from 0 up, not all 0");
            Err(Error::config("quota.shares", format!("{shares:?}"), expected))
        })
    }

    /// What decides for each of `classes` classes, beside `rule`.
    pub(crate) fn gates(&self, rule: &Rule, classes: usize) -> Result<Vec<Gate>> {
        self.check()?;
        if let Shares::PerClass(lists) = &self.shares
            && lists.len() != classes
        {
            let found = format!("{} lists", lists.len());
            return Err(Error::config("quota.shares", found, format!("one for each of {classes} classes")));
        }
        let gate = |class: ClassId| {
            let shares = match &self.shares {
                Shares::All(shares) => shares,
                Shares::PerClass(lists) => &lists[class.index()],
            };
            let reached = |bin: usize| self.edges.get(bin).is_none_or(|&upper| rule.can_accept_below(upper, class));
            let shares: Vec<f64> =
                shares.iter().enumerate().map(|(bin, &s)| if reached(bin) { s } else { 0.0 }).collect();
            let total: f64 = shares.iter().sum();
            if total == 0.0 {
                let expected = format!("a share above the threshold of {class}");
                return Err(Error::config("quota.shares", "0", expected));
            }
            Ok(Gate { edges: self.edges.clone(), shares: shares.iter().map(|s| s / total).collect() })
        };
        ClassId::all(classes).map(gate).collect()
    }
}

/// The quota of one class.
#[derive(Debug)]
pub(crate) struct Gate {
    edges: Vec<f64>,
    // They sum to 1.
    shares: Vec<f64>,
}

impl Gate {
    /// Numbers that [`Gate::admits`] keeps: samples that came, and samples kept in each bin.
    pub(crate) fn words(&self) -> usize {
        1 + self.shares.len()
    }

    /// Whether an accepted sample is kept, and notes it in `seen`.
    pub(crate) fn admits(&self, seen: &mut [u64], confidence: f32) -> bool {
        let [came, kept @ ..] = seen else { return false };
        *came += 1;
        let clock = kept.iter().sum::<u64>().max(*came / WAIT) + AHEAD;
        let bin = bin(&self.edges, confidence);
        let open = (kept[bin] as f64) < self.shares[bin] * clock as f64;
        kept[bin] += u64::from(open);
        open
    }
}

fn bin(edges: &[f64], confidence: f32) -> usize {
    edges.partition_point(|&edge| edge <= f64::from(confidence))
}

fn check_edges(edges: &[f64]) -> Result<()> {
    if edges.iter().all(|e| *e > 0.0 && *e < 1.0) && edges.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    Err(Error::config("quota.edges", format!("{edges:?}"), "confidences between 0 and 1, ascending"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gafi_core::Stream;
    use gafi_core::stream::unit_f32;

    fn quota(edges: &[f64], shares: &[f64]) -> Quota {
        Quota { edges: edges.to_vec(), shares: Shares::All(shares.to_vec()) }
    }

    fn gate(edges: &[f64], shares: &[f64]) -> Gate {
        quota(edges, shares).gates(&Rule::new(0.0).unwrap(), 1).unwrap().remove(0)
    }

    /// `seen` after each of `n` samples whose confidences are `of` a uniform number.
    fn run(gate: &Gate, n: u64, of: impl Fn(f32) -> f32) -> Vec<Vec<u64>> {
        let mut seen = vec![0; gate.words()];
        let sample = |i| of(unit_f32(&mut Stream::new(5).at(i).rng()));
        (0..n).map(|i| (gate.admits(&mut seen, sample(i)), seen.clone()).1).collect()
    }

    #[test]
    fn histogram_is_that_of_the_shares_after_any_number() {
        let shares = [0.05, 0.15, 0.3, 0.5];
        let gate = gate(&[0.5, 0.8, 0.9], &[1.0, 3.0, 6.0, 10.0]);
        // What comes is much surer: 1/8 lies below 0.5, instead of 1/2.
        let skewed = run(&gate, 20_000, |u| u.powf(1.0 / 3.0));
        // And what comes from two thirds as sure.
        for seen in skewed.into_iter().chain(run(&gate, 20_000, |u| u)) {
            let n: u64 = seen[1..].iter().sum();
            assert!(8 * n + 1 >= seen[0], "one in 8 is kept: {seen:?}");
            for (&kept, share) in seen[1..].iter().zip(shares) {
                let (kept, n) = (kept as f64, n as f64);
                assert!(kept < share * (n + 16.0) + 1.0 && kept > share * n - 20.0, "{seen:?}");
            }
        }
    }

    #[test]
    fn few_are_rejected_where_the_shares_are_the_generators() {
        let last = run(&gate(&[0.25, 0.5, 0.75], &[1.0; 4]), 10_000, |u| u).pop().unwrap();
        let kept: u64 = last[1..].iter().sum();
        assert!(kept > 8500, "{last:?}");
    }

    #[test]
    fn bin_that_stays_empty_blocks_nothing() {
        // A third of the shares lies where nothing ever falls, and a sixth where one sample in a thousand does.
        let gate = gate(&[0.3, 0.301, 0.6], &[2.0, 1.0, 2.0, 1.0]);
        let last = run(&gate, 100_000, |u| 0.3 + 0.7 * u).pop().unwrap();
        let [came, never, rare, many, some] = last[..] else { panic!("{last:?}") };
        assert_eq!((came, never), (100_000, 0));
        assert!((80..250).contains(&rare), "all of the rare ones: {last:?}");
        // The clock shows one in 8.
        assert!(many.abs_diff(100_000 / 8 / 3) < 16 && some.abs_diff(100_000 / 8 / 6) < 16, "{last:?}");
    }

    #[test]
    fn edges_belong_above_and_the_threshold_rules_bins_out() {
        assert_eq!([0.0, 0.4999, 0.5, 0.99, 1.0].map(|c| bin(&[0.5, 0.75], c)), [0, 0, 1, 2, 2]);
        let shares = |rule: Rule| quota(&[0.5, 0.75], &[2.0, 1.0, 1.0]).gates(&rule, 1).unwrap().remove(0).shares;
        assert_eq!(shares(Rule::new(0.4).unwrap()), [0.5, 0.25, 0.25]);
        assert_eq!(shares(Rule::new(0.5).unwrap()), [0.0, 0.5, 0.5]);
        assert_eq!(shares(Rule::new(0.8).unwrap()), [0.0, 0.0, 1.0]);
        assert_eq!(shares(Rule::any()), [0.5, 0.25, 0.25]);
        let error = quota(&[0.5], &[1.0, 0.0]).gates(&Rule::new(0.9).unwrap(), 1).unwrap_err();
        assert_eq!(error.to_string(), "quota.shares = 0: expected a share above the threshold of class 0");
    }

    #[test]
    fn histogram_of_real_images() {
        let labels = [0, 0, 0, 1, 1].map(ClassId);
        let p = [0.9, 0.1, 0.6, 0.4, 0.2, 0.8, 0.1, 0.9, 0.7, 0.3];
        let of = |rule: &Rule| Quota::of(rule, &p, &labels, 2, &[0.5, 0.75]).unwrap().shares;
        let recognised = Rule::new(0.0).unwrap();
        assert_eq!(of(&recognised), Shares::PerClass(vec![vec![0.0, 0.5, 0.5], vec![0.0, 0.0, 1.0]]));
        let third = 1.0 / 3.0;
        assert_eq!(of(&Rule::any()), Shares::PerClass(vec![vec![third; 3], vec![0.5, 0.0, 0.5]]));
        // Of class 1 nothing exceeds 0.95, and of class 0 the first: the class without gets what all have.
        let strict = Rule::new(vec![0.7, 0.95]).unwrap();
        assert_eq!(of(&strict), Shares::PerClass(vec![vec![0.0, 0.0, 1.0]; 2]));

        assert!(Quota::of(&Rule::new(0.99).unwrap(), &p, &labels, 2, &[0.5]).is_err());
        assert!(Quota::of(&recognised, &p[1..], &labels, 2, &[0.5]).is_err());
        assert!(Quota::of(&recognised, &p[..5], &labels, 1, &[0.5]).is_err());
        assert!(Quota::of(&recognised, &p, &labels, 2, &[0.5, 0.5]).unwrap_err().is_usage());
    }

    #[test]
    fn written_for_all_or_each_and_checked() {
        let read = |shares: &str| {
            let text = format!(r#"{{"edges": [0.5], "shares": {shares}}}"#);
            serde_json::from_str::<Quota>(&text)
        };
        assert_eq!(read("[1, 2]").unwrap(), quota(&[0.5], &[1.0, 2.0]));
        let each = read("[[1, 2], [0.5, 0]]").unwrap();
        assert_eq!(serde_json::to_string(&each).unwrap(), r#"{"edges":[0.5],"shares":[[1.0,2.0],[0.5,0.0]]}"#);
        let rule = Rule::new(0.0).unwrap();
        assert_eq!(each.gates(&rule, 2).unwrap()[1].shares, [1.0, 0.0]);
        let error = each.gates(&rule, 3).unwrap_err().to_string();
        assert_eq!(error, "quota.shares = 2 lists: expected one for each of 3 classes");
        for bad in ["[1]", "[1, 2, 3]", "[0, 0]", "[1, -1]", "[]", "[[1, 2], [1]]", "[1e308, 1e308]"] {
            let error = read(bad).unwrap().gates(&rule, 2).unwrap_err();
            assert!(error.is_usage() && error.to_string().starts_with("quota.shares = "), "{error}");
        }
        assert!(read("\"real\"").unwrap_err().to_string().contains("one number for each bin"));
        for bad in [&[0.0][..], &[1.0], &[0.7, 0.5], &[f64::NAN], &[0.5, 0.5]] {
            assert!(quota(bad, &[1.0; 3][..=bad.len()]).check().unwrap_err().to_string().starts_with("quota.edges = "));
        }
    }
}
