//! The rule of acceptance, pure, and its configuration.

use gafi_core::{ClassId, Error, Result, argmax};
use serde::{Deserialize, Serialize};

use crate::quota::{Gate, Quota};

/// [`FilterRule::max_attempts`] where nothing else is said: a class of which one sample in a hundred passes is worth no
/// more waiting.
pub const MAX_ATTEMPTS: u64 = 100;

/// A probability may leave [0, 1] by as much, which rounding explains; beyond it the scorer gives something else.
const SLACK: f32 = 1e-4;

/// What happens to a class of which too few samples pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnExhausted {
    /// An error that names the class.
    #[default]
    Error,
    /// Samples that did not pass are let in, and counted.
    Backfill,
}

/// Which samples pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Accept {
    /// Those that the teacher takes for the class asked for, and is sure enough of: the paper's rule.
    #[default]
    Recognised,
    /// All. They are judged none the less, so that the teacher's word goes with them.
    Any,
}

impl Accept {
    /// Whether it is the paper's rule, which configurations need not name.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Probabilities that the class asked for has to exceed.
///
/// Written as a number, or as a list with one for each class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "a number, or a list with one for each class")]
pub enum Thresholds {
    /// The same for every class.
    All(#[cfg_attr(feature = "schema", schemars(range(min = 0), extend("exclusiveMaximum" = 1)))] f64),
    /// One for each class.
    PerClass(#[cfg_attr(feature = "schema", schemars(inner(range(min = 0, max = 1))))] Vec<f64>),
}

impl Default for Thresholds {
    /// 0 for every class.
    fn default() -> Self {
        Self::All(0.0)
    }
}

impl From<f64> for Thresholds {
    fn from(threshold: f64) -> Self {
        Self::All(threshold)
    }
}

impl From<Vec<f64>> for Thresholds {
    fn from(thresholds: Vec<f64>) -> Self {
        Self::PerClass(thresholds)
    }
}

impl Thresholds {
    /// That of a class; none where there are fewer.
    pub fn of(&self, class: ClassId) -> Option<f64> {
        match self {
            Self::All(threshold) => Some(*threshold),
            Self::PerClass(thresholds) => thresholds.get(class.index()).copied(),
        }
    }

    fn values(&self) -> &[f64] {
        match self {
            Self::All(threshold) => std::slice::from_ref(threshold),
            Self::PerClass(thresholds) => thresholds,
        }
    }
}

/// How [`crate::Filtered`] judges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct FilterRule {
    /// Which samples pass. Where it is "any", the threshold stays 0.
    #[serde(skip_serializing_if = "Accept::is_default")]
    pub accept: Accept,
    /// Probability that the class asked for has to exceed, in [0, 1), or a list with one for each class. At 0 the class
    /// still has to be the likeliest.
    pub threshold: Thresholds,
    /// Samples of a class that may be drawn for each one handed over, on average; 0 for any number, which never ends where none
    /// passes. See [`crate::Filtered`] for when a class counts as exhausted.
    pub max_attempts: u64,
    /// What happens then.
    pub on_exhausted: OnExhausted,
    /// Whether the teacher's probabilities of all classes go with the samples.
    pub keep_probabilities: bool,
    /// Which of those that pass are kept, by the teacher's confidence; all of them when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
}

impl Default for FilterRule {
    /// The paper's rule with threshold 0; [`MAX_ATTEMPTS`], then an error.
    fn default() -> Self {
        Self {
            accept: Accept::default(),
            threshold: Thresholds::default(),
            max_attempts: MAX_ATTEMPTS,
            on_exhausted: OnExhausted::default(),
            keep_probabilities: false,
            quota: None,
        }
    }
}

impl FilterRule {
    /// Whether its values are in their ranges, where the number of classes is not known yet.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check(&self) -> Result<()> {
        self.rule()?;
        self.quota.as_ref().map_or(Ok(()), Quota::check)
    }

    /// The rule of acceptance.
    ///
    /// # Errors
    /// [`Error::Config`] for a threshold out of its range, or one where all are accepted.
    pub fn rule(&self) -> Result<Rule> {
        match self.accept {
            Accept::Recognised => Rule::new(self.threshold.clone()),
            Accept::Any => match self.threshold.values().iter().find(|t| **t != 0.0) {
                Some(t) => Err(Error::config("threshold", t, "0, as accept = \"any\" asks for none")),
                None => Ok(Rule::any()),
            },
        }
    }
}

/// A rule made ready for a number of classes: acceptance, then the quota.
#[derive(Debug)]
pub(crate) struct Judge {
    rule: Rule,
    // One for each class, or none at all.
    gates: Vec<Gate>,
}

impl Judge {
    pub(crate) fn new(rule: &FilterRule, classes: usize) -> Result<Self> {
        let accepts = rule.rule()?;
        if let Thresholds::PerClass(thresholds) = &rule.threshold
            && thresholds.len() != classes
        {
            let found = format!("{} values", thresholds.len());
            return Err(Error::config("threshold", found, format!("one for each of {classes} classes")));
        }
        let gates = rule.quota.as_ref().map_or(Ok(Vec::new()), |quota| quota.gates(&accepts, classes))?;
        Ok(Self { rule: accepts, gates })
    }

    /// See [`Rule::judge`].
    pub(crate) fn judge(&self, probabilities: &[f32], class: ClassId) -> Result<Verdict> {
        self.rule.judge(probabilities, class)
    }

    /// What the quota of a class has seen before its first sample; empty where there is no quota.
    pub(crate) fn unseen(&self) -> Vec<u64> {
        vec![0; self.gates.first().map_or(0, Gate::words)]
    }

    /// Whether the class's next sample, of this verdict, is kept. `seen` is what the class's quota has seen.
    pub(crate) fn keeps(&self, verdict: &Verdict, class: ClassId, seen: &mut [u64]) -> bool {
        verdict.accepted && self.gates.get(class.index()).is_none_or(|gate| gate.admits(seen, verdict.confidence))
    }
}

/// Accepts a sample that was asked for as class c iff c is the likeliest class (the first of equals) and its probability
/// exceeds the threshold (Lampis et al. 2023, arXiv 2305.10118; method of the released program); or any sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    // None: any.
    threshold: Option<Thresholds>,
}

/// What [`Rule::judge`] found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// Whether the sample passes.
    pub accepted: bool,
    /// Whether the class asked for is the likeliest, however likely.
    pub recognised: bool,
    /// Probability of the class asked for, in [0, 1].
    pub confidence: f32,
}

impl Rule {
    /// The rule with a threshold, or one for each class.
    ///
    /// # Errors
    /// [`Error::Config`] unless it is in [0, 1): from 1 on nothing could pass.
    pub fn new(threshold: impl Into<Thresholds>) -> Result<Self> {
        let threshold = threshold.into();
        match threshold.values().iter().find(|t| !(0.0..1.0).contains(*t)) {
            Some(bad) => Err(Error::config("threshold", bad, "a probability from 0 up to, not including, 1")),
            None => Ok(Self { threshold: Some(threshold) }),
        }
    }

    /// The rule that every sample passes.
    pub fn any() -> Self {
        Self { threshold: None }
    }

    /// Whether a sample of `class` can pass whose confidence is below `upper`.
    pub(crate) fn can_accept_below(&self, upper: f64, class: ClassId) -> bool {
        self.threshold.as_ref().is_none_or(|threshold| threshold.of(class).is_some_and(|t| t < upper))
    }

    /// Judges a sample asked for as `class` by the probabilities (classes) that the teacher gives.
    ///
    /// # Errors
    /// [`Error::Other`] when one is no probability: not a number, or outside of [0, 1]; or when there is none, or no
    /// threshold, for `class`.
    pub fn judge(&self, probabilities: &[f32], class: ClassId) -> Result<Verdict> {
        let wrong = |why: String| Error::other(format!("judging a sample of {class}"))(why);
        if let Some(at) = probabilities.iter().position(|p| !(-SLACK..=1.0 + SLACK).contains(p)) {
            let found = probabilities[at];
            return Err(wrong(format!("expected probabilities from 0 to 1, found {found} for class {at}")));
        }
        let Some(&confidence) = probabilities.get(class.index()) else {
            return Err(wrong(format!("expected a probability of each class, found {}", probabilities.len())));
        };
        let recognised = argmax(probabilities) == Some(class.index());
        let accepted = match &self.threshold {
            None => true,
            Some(threshold) => {
                let threshold =
                    threshold.of(class).ok_or_else(|| wrong("expected a threshold of each class".into()))?;
                recognised && f64::from(confidence) > threshold
            }
        };
        Ok(Verdict { accepted, recognised, confidence: confidence.clamp(0.0, 1.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(threshold: f64, probabilities: &[f32], class: u32) -> bool {
        Rule::new(threshold).unwrap().judge(probabilities, ClassId(class)).unwrap().accepted
    }

    #[test]
    fn likeliest_and_above_the_threshold() {
        assert!(accepted(0.0, &[0.2, 0.5, 0.3], 1));
        assert!(!accepted(0.0, &[0.2, 0.5, 0.3], 2));
        assert!(accepted(0.49, &[0.2, 0.5, 0.3], 1));
        assert!(!accepted(0.5, &[0.2, 0.5, 0.3], 1), "exceeds, not reaches");
        assert!(!accepted(0.9, &[0.1, 0.9], 1), "0.9 as f32 is a little below 0.9, and equal is not enough anyway");
    }

    #[test]
    fn first_of_equals_is_the_likeliest() {
        assert!(accepted(0.0, &[0.5, 0.5], 0));
        assert!(!accepted(0.0, &[0.5, 0.5], 1));
        assert!(!accepted(0.0, &[0.0, 0.0], 0), "a probability of 0 exceeds nothing");
    }

    #[test]
    fn rounding_is_forgiven_and_nonsense_is_not() {
        let rule = Rule::new(0.0).unwrap();
        assert_eq!(rule.judge(&[1.000_01, -0.000_01], ClassId(0)).unwrap().confidence, 1.0);
        assert_eq!(rule.judge(&[1.000_01, -0.000_01], ClassId(1)).unwrap().confidence, 0.0);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.5, 3.7] {
            let error = rule.judge(&[0.3, bad], ClassId(0)).unwrap_err();
            let why = std::error::Error::source(&error).unwrap().to_string();
            assert!(why.contains("for class 1"), "{why}");
        }
        assert!(rule.judge(&[0.3], ClassId(1)).is_err());
        assert!(rule.judge(&[], ClassId(0)).is_err());
    }

    #[test]
    fn threshold_is_a_probability_below_one() {
        for bad in [-0.1, 1.0, 1.5, f64::NAN] {
            for threshold in [bad.into(), vec![0.5, bad].into()] {
                let error = FilterRule { threshold, ..FilterRule::default() }.check().unwrap_err();
                assert!(error.is_usage() && error.to_string().starts_with("threshold = "), "{error}");
            }
        }
        FilterRule { threshold: 0.999.into(), ..FilterRule::default() }.check().unwrap();
    }

    #[test]
    fn classes_may_have_their_own_thresholds() {
        let rule = FilterRule { threshold: vec![0.8, 0.3].into(), ..FilterRule::default() };
        let judge = Judge::new(&rule, 2).unwrap();
        let verdict = |p: &[f32], class| judge.judge(p, ClassId(class)).unwrap();
        assert!(!verdict(&[0.7, 0.3], 0).accepted && verdict(&[0.7, 0.3], 0).recognised);
        assert!(verdict(&[0.4, 0.6], 1).accepted && !verdict(&[0.6, 0.4], 1).accepted);
        let error = Judge::new(&rule, 3).unwrap_err();
        assert_eq!(error.to_string(), "threshold = 2 values: expected one for each of 3 classes");
        assert!(rule.rule().unwrap().judge(&[0.1, 0.1, 0.8], ClassId(2)).is_err());
    }

    #[test]
    fn any_sample_passes_and_is_judged() {
        let rule = FilterRule { accept: Accept::Any, ..FilterRule::default() };
        let verdict = rule.rule().unwrap().judge(&[0.9, 0.1], ClassId(1)).unwrap();
        assert_eq!(verdict, Verdict { accepted: true, recognised: false, confidence: 0.1 });
        assert!(rule.rule().unwrap().judge(&[f32::NAN, 0.1], ClassId(1)).is_err());
        for threshold in [0.5.into(), vec![0.0, 0.5].into()] {
            let error = FilterRule { threshold, ..rule.clone() }.check().unwrap_err();
            assert_eq!(error.to_string(), "threshold = 0.5: expected 0, as accept = \"any\" asks for none");
        }
        FilterRule { threshold: vec![0.0; 2].into(), ..rule }.check().unwrap();
    }

    #[test]
    fn configuration_is_complete_and_strict() {
        let rule: FilterRule = serde_json::from_str(r#"{"threshold": 0.5, "on_exhausted": "backfill"}"#).unwrap();
        assert_eq!((rule.max_attempts, rule.on_exhausted), (MAX_ATTEMPTS, OnExhausted::Backfill));
        let written = r#"{"threshold":0.5,"max_attempts":100,"on_exhausted":"backfill","keep_probabilities":false}"#;
        assert_eq!(serde_json::to_string(&rule).unwrap(), written);
        assert!(
            serde_json::from_str::<FilterRule>(r#"{"treshold": 0.5}"#).unwrap_err().to_string().contains("treshold")
        );
        let more = r#"{"accept":"any","threshold":[0.0,0.0],"max_attempts":100,"on_exhausted":"error","keep_probabilities":true,"quota":{"edges":[0.5],"shares":[1.0,2.0]}}"#;
        let rule: FilterRule = serde_json::from_str(more).unwrap();
        assert_eq!(serde_json::to_string(&rule).unwrap(), more);
        let wrong = serde_json::from_str::<FilterRule>(r#"{"threshold": "high"}"#).unwrap_err().to_string();
        assert!(wrong.contains("a number, or a list with one for each class"), "{wrong}");
    }
}
