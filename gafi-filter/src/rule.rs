//! The rule of acceptance, pure, and its configuration.

use gafi_core::{ClassId, Error, Result, argmax};
use serde::{Deserialize, Serialize};

/// [`FilterRule::max_attempts`] where nothing else is said: a class of which one sample in a hundred passes is worth no
/// more waiting.
pub const MAX_ATTEMPTS: u64 = 100;

/// A probability may leave [0, 1] by as much, which rounding explains; beyond it the scorer gives something else.
const SLACK: f32 = 1e-4;

/// What happens to a class of which too few samples pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnExhausted {
    /// An error that names the class.
    #[default]
    Error,
    /// Samples that did not pass are let in, and counted.
    LetIn,
}

/// How [`crate::Filtered`] judges.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterRule {
    /// Probability that the class asked for has to exceed, in [0, 1). At 0 the class still has to be the likeliest.
    pub threshold: f64,
    /// Samples of a class that may be drawn for each one handed over, on average; 0 for any number. See
    /// [`crate::Filtered`] for when a class counts as exhausted.
    pub max_attempts: u64,
    /// What happens then.
    pub on_exhausted: OnExhausted,
    /// Whether the teacher's probabilities of all classes go with the samples.
    pub keep_probabilities: bool,
}

impl Default for FilterRule {
    /// Threshold 0, [`MAX_ATTEMPTS`], then an error.
    fn default() -> Self {
        Self {
            threshold: 0.0,
            max_attempts: MAX_ATTEMPTS,
            on_exhausted: OnExhausted::default(),
            keep_probabilities: false,
        }
    }
}

impl FilterRule {
    /// Whether its values are in their ranges.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check(&self) -> Result<()> {
        Rule::new(self.threshold).map(|_| ())
    }
}

/// Accepts a sample that was asked for as class c iff c is the likeliest class (the first of equals) and its probability
/// exceeds the threshold (Lampis et al. 2023, arXiv 2305.10118; method of the released program).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    threshold: f64,
}

/// What [`Rule::judge`] found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// Whether the sample passes.
    pub accepted: bool,
    /// Probability of the class asked for, in [0, 1].
    pub confidence: f32,
}

impl Rule {
    /// The rule with a threshold.
    ///
    /// # Errors
    /// [`Error::Config`] unless it is in [0, 1): from 1 on nothing could pass.
    pub fn new(threshold: f64) -> Result<Self> {
        if (0.0..1.0).contains(&threshold) {
            return Ok(Self { threshold });
        }
        Err(Error::config("threshold", threshold, "a probability from 0 up to, not including, 1"))
    }

    /// Judges a sample asked for as `class` by the probabilities (classes) that the teacher gives.
    ///
    /// # Errors
    /// [`Error::Other`] when one is no probability: not a number, or outside of [0, 1]; or when there is none for `class`.
    pub fn judge(&self, probabilities: &[f32], class: ClassId) -> Result<Verdict> {
        let wrong = |why: String| Error::other(format!("judging a sample of {class}"))(why);
        if let Some(at) = probabilities.iter().position(|p| !(-SLACK..=1.0 + SLACK).contains(p)) {
            let found = probabilities[at];
            return Err(wrong(format!("expected probabilities from 0 to 1, found {found} for class {at}")));
        }
        let Some(&confidence) = probabilities.get(class.index()) else {
            return Err(wrong(format!("expected a probability of each class, found {}", probabilities.len())));
        };
        let likeliest = argmax(probabilities) == Some(class.index());
        Ok(Verdict {
            accepted: likeliest && f64::from(confidence) > self.threshold,
            confidence: confidence.clamp(0.0, 1.0),
        })
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
            let error = FilterRule { threshold: bad, ..FilterRule::default() }.check().unwrap_err();
            assert!(error.is_usage() && error.to_string().starts_with("threshold = "), "{error}");
        }
        FilterRule { threshold: 0.999, ..FilterRule::default() }.check().unwrap();
    }

    #[test]
    fn configuration_is_complete_and_strict() {
        let rule: FilterRule = serde_json::from_str(r#"{"threshold": 0.5, "on_exhausted": "let-in"}"#).unwrap();
        assert_eq!((rule.max_attempts, rule.on_exhausted), (MAX_ATTEMPTS, OnExhausted::LetIn));
        let written = r#"{"threshold":0.5,"max_attempts":100,"on_exhausted":"let-in","keep_probabilities":false}"#;
        assert_eq!(serde_json::to_string(&rule).unwrap(), written);
        assert!(
            serde_json::from_str::<FilterRule>(r#"{"treshold": 0.5}"#).unwrap_err().to_string().contains("treshold")
        );
    }
}
