//! The acceptance rule, a pure function, and its configuration.

use gafi_core::{ClassId, Error, Result, argmax};
use serde::{Deserialize, Serialize};

/// Default of [`FilterRule::max_attempts`]: give up on a class when fewer than one sample in 100 passes.
pub const MAX_ATTEMPTS: u64 = 100;

/// Rounding may take a probability this far out of [0, 1]; anything beyond is not a probability.
const SLACK: f32 = 1e-4;

/// What happens to a class when too few of its samples pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnExhausted {
    /// An error that names the class.
    #[default]
    Error,
    /// Rejected samples fill the class, and are counted.
    Backfill,
}

/// How the attempts to fill a class are bounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Attempts {
    /// By `max_attempts`, on average for each sample kept.
    #[default]
    PerSample,
    /// In rounds for each class and set, as in the paper's released program. The first round has as many candidates as the set
    /// needs, each later one twice as many as are missing (or as many as the first, while nothing has passed). After `max_rounds`
    /// rounds the class is exhausted; a backfill fills the rest of this set with the next samples, unfiltered, and the next set
    /// starts over. The released program instead adds the last round's candidates again, including those that passed, which
    /// repeats images.
    Rounds,
}

/// Which samples pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Accept {
    /// Those that the teacher recognises as the requested class with enough confidence: the paper's rule.
    #[default]
    Recognised,
    /// All. The teacher still judges them, for its confidence and probabilities.
    Any,
}

/// Whether a value is the default, which is not serialised.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How [`crate::Filtered`] judges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct FilterRule {
    /// Which samples pass. With "any", the threshold must stay 0.
    #[serde(skip_serializing_if = "is_default")]
    pub accept: Accept,
    /// Probability of the requested class that a sample has to exceed, in [0, 1). At 0 the class still has to be the most
    /// likely one.
    #[cfg_attr(feature = "schema", schemars(range(min = 0), extend("exclusiveMaximum" = 1)))]
    pub threshold: f64,
    /// How the attempts to fill a class are bounded.
    #[serde(skip_serializing_if = "is_default")]
    pub attempts: Attempts,
    /// Samples of a class that may be drawn for each one kept, on average, before the class is exhausted; 0 for no
    /// bound. Ignored with `attempts = "rounds"`.
    pub max_attempts: u64,
    /// With `attempts = "rounds"`: rounds for each class and set; 0 for no bound. Published: no bound, 10 for CIFAR-100.
    #[serde(skip_serializing_if = "is_default")]
    pub max_rounds: u64,
    /// With `attempts = "rounds"`: samples of a class in a set, at least 1. A pipeline sets it.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub per_set: Option<u64>,
    /// What happens to an exhausted class.
    pub on_exhausted: OnExhausted,
    /// Whether to keep the teacher's probabilities of all classes with the samples.
    pub keep_probabilities: bool,
}

impl Default for FilterRule {
    /// The paper's rule with threshold 0; [`MAX_ATTEMPTS`], then an error.
    fn default() -> Self {
        Self {
            accept: Accept::default(),
            threshold: 0.0,
            attempts: Attempts::default(),
            max_attempts: MAX_ATTEMPTS,
            max_rounds: 0,
            per_set: None,
            on_exhausted: OnExhausted::default(),
            keep_probabilities: false,
        }
    }
}

impl FilterRule {
    /// The paper's rule with a threshold in [0, 1), everything else at its default.
    pub fn with_threshold(threshold: f64) -> Self {
        Self { threshold, ..Self::default() }
    }

    /// Checks that all values are in range.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check(&self) -> Result<()> {
        if self.per_set == Some(0) {
            return Err(Error::config("per_set", 0, "at least 1"));
        }
        if self.attempts != Attempts::Rounds && self.max_rounds > 0 {
            return Err(Error::config("max_rounds", self.max_rounds, "0, or attempts = \"rounds\""));
        }
        self.rule().map(drop)
    }

    /// The acceptance rule.
    ///
    /// # Errors
    /// [`Error::Config`] for a threshold out of range, or one beside `accept = "any"`.
    pub fn rule(&self) -> Result<Rule> {
        match self.accept {
            Accept::Recognised => Rule::new(self.threshold),
            Accept::Any if self.threshold != 0.0 => {
                Err(Error::config("threshold", self.threshold, "0, because accept = \"any\" has no threshold"))
            }
            Accept::Any => Ok(Rule::any()),
        }
    }
}

/// Accepts a sample that was requested as class c if c is the most likely class (the first on a tie) and its probability
/// exceeds the threshold (Lampis et al. 2023, arXiv 2305.10118; the paper's released program does the same); or accepts
/// every sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    // None accepts every sample.
    threshold: Option<f64>,
}

/// The judgement of one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Verdict {
    /// Whether the sample passes.
    pub accepted: bool,
    /// The most likely class, the first on a tie.
    pub predicted: ClassId,
    /// Probability of the requested class, in [0, 1].
    pub confidence: f32,
}

impl Rule {
    /// The rule with a threshold.
    ///
    /// # Errors
    /// [`Error::Config`] unless it is in [0, 1): from 1 on nothing could pass.
    pub fn new(threshold: f64) -> Result<Self> {
        if (0.0..1.0).contains(&threshold) {
            return Ok(Self { threshold: Some(threshold) });
        }
        Err(Error::config("threshold", threshold, "a number of at least 0 and below 1"))
    }

    /// The rule that accepts every sample.
    pub fn any() -> Self {
        Self { threshold: None }
    }

    /// Judges a sample requested as `class` by the teacher's probabilities (classes).
    ///
    /// # Errors
    /// [`Error::Other`] when a value is not a probability, or `class` has no value.
    pub fn judge(&self, probabilities: &[f32], class: ClassId) -> Result<Verdict> {
        let wrong = |why: String| Error::other(format!("judging a sample of {class}"))(why);
        if let Some(at) = probabilities.iter().position(|p| !(-SLACK..=1.0 + SLACK).contains(p)) {
            let found = probabilities[at];
            return Err(wrong(format!("expected probabilities from 0 to 1, found {found} for class {at}")));
        }
        let Some(&confidence) = probabilities.get(class.index()) else {
            return Err(wrong(format!("expected a probability of each class, found {}", probabilities.len())));
        };
        // `argmax` always finds a class here: there are probabilities, and none of them is NaN.
        let predicted = argmax(probabilities).map_or(class, |at| ClassId(at as u32));
        let accepted = self.threshold.is_none_or(|threshold| predicted == class && f64::from(confidence) > threshold);
        Ok(Verdict { accepted, predicted, confidence: confidence.clamp(0.0, 1.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(threshold: f64, probabilities: &[f32], class: u32) -> bool {
        Rule::new(threshold).unwrap().judge(probabilities, ClassId(class)).unwrap().accepted
    }

    #[test]
    fn accepts_the_likeliest_class_above_the_threshold() {
        assert!(accepted(0.0, &[0.2, 0.5, 0.3], 1));
        assert!(!accepted(0.0, &[0.2, 0.5, 0.3], 2));
        assert!(accepted(0.49, &[0.2, 0.5, 0.3], 1));
        assert!(!accepted(0.5, &[0.2, 0.5, 0.3], 1), "exceeds, not reaches");
        assert!(!accepted(0.9, &[0.1, 0.9], 1), "0.9 as f32 is a little below 0.9, and equal is not enough anyway");
    }

    #[test]
    fn ties_go_to_the_first_class() {
        assert!(accepted(0.0, &[0.5, 0.5], 0));
        assert!(!accepted(0.0, &[0.5, 0.5], 1));
        assert!(!accepted(0.0, &[0.0, 0.0], 0), "a probability of 0 exceeds nothing");
    }

    #[test]
    fn tolerates_rounding_and_refuses_other_values() {
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
            let error = FilterRule::with_threshold(bad).check().unwrap_err();
            assert!(error.is_usage() && error.to_string().starts_with("threshold = "), "{error}");
        }
        FilterRule::with_threshold(0.999).check().unwrap();
    }

    #[test]
    fn any_sample_passes_and_is_judged() {
        let rule = FilterRule { accept: Accept::Any, ..FilterRule::default() };
        let verdict = rule.rule().unwrap().judge(&[0.9, 0.1], ClassId(1)).unwrap();
        assert_eq!(verdict, Verdict { accepted: true, predicted: ClassId(0), confidence: 0.1 });
        assert!(rule.rule().unwrap().judge(&[f32::NAN, 0.1], ClassId(1)).is_err());
        let error = FilterRule { threshold: 0.5, ..rule }.check().unwrap_err();
        assert_eq!(error.to_string(), "threshold = 0.5: expected 0, because accept = \"any\" has no threshold");
    }

    #[test]
    fn configuration_is_complete_and_strict() {
        let rule: FilterRule = serde_json::from_str(r#"{"threshold": 0.5, "on_exhausted": "backfill"}"#).unwrap();
        assert_eq!((rule.max_attempts, rule.on_exhausted), (MAX_ATTEMPTS, OnExhausted::Backfill));
        let written = r#"{"threshold":0.5,"max_attempts":100,"on_exhausted":"backfill","keep_probabilities":false}"#;
        assert_eq!(serde_json::to_string(&rule).unwrap(), written);
        let read = |text| serde_json::from_str::<FilterRule>(text);
        assert!(read(r#"{"treshold": 0.5}"#).unwrap_err().to_string().contains("treshold"));
        let any =
            r#"{"accept":"any","threshold":0.0,"max_attempts":100,"on_exhausted":"error","keep_probabilities":true}"#;
        assert_eq!(serde_json::to_string(&read(any).unwrap()).unwrap(), any);
        assert!(read(r#"{"threshold": "high"}"#).is_err());
    }
}
