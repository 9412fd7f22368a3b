//! What a file does not say of itself, and what its tensors are taken for.

use gafi_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// The name of the architecture, of generators and of classifiers.
pub const ARCHITECTURE: &str = "onnx";

/// How a generator's file is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeneratorConfig {
    /// The input that takes latents, (N, d) or (N, d, 1, 1); when absent, the one of floats, or the first of two.
    pub latents: Option<String>,
    /// The input that takes labels: integers (N), or floats (N, classes), which are given one-hot; when absent, the one
    /// of integers, or the second.
    pub labels: Option<String>,
    /// The output that gives images, (N, C, H, W); when absent, the first.
    pub images: Option<String>,
    /// The values of black and of white in the images.
    pub range: [f64; 2],
    /// Names of the classes in the order of their labels. "0", "1" and so on when empty, which only one-hot labels
    /// allow: they say how many there are.
    pub classes: Vec<String>,
    /// Generator updates that the training had done, the checkpoint's name.
    pub step: u64,
}

impl Default for GeneratorConfig {
    fn default() -> Self {
        Self { latents: None, labels: None, images: None, range: [-1.0, 1.0], classes: Vec::new(), step: 0 }
    }
}

/// How a classifier's file is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierConfig {
    /// The input that takes images, (N, C, H, W); when absent, the only one.
    pub images: Option<String>,
    /// The output that gives scores, (N, classes); when absent, the first.
    pub scores: Option<String>,
    /// The output that gives features, (N, ...); when absent, the second, or none where there is one output.
    pub features: Option<String>,
    /// What black and white are before [`ClassifierConfig::mean`] is taken off.
    pub range: [f64; 2],
    /// Mean that each channel is made free of, one value or one a channel; 0 when empty.
    pub mean: Vec<f64>,
    /// Deviation that each channel is divided by, one value or one a channel; 1 when empty.
    pub std: Vec<f64>,
    /// What the scores are.
    pub gives: Scores,
    /// Names of the classes in the order of the scores; "0", "1" and so on when empty.
    pub classes: Vec<String>,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self {
            images: None,
            scores: None,
            features: None,
            range: [0.0, 1.0],
            mean: Vec::new(),
            std: Vec::new(),
            gives: Scores::Logits,
            classes: Vec::new(),
        }
    }
}

/// What a classifier's scores are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scores {
    /// Numbers that a softmax turns into probabilities.
    Logits,
    /// Probabilities.
    Probabilities,
}

/// Black and white as they are computed with.
pub(crate) fn check_range(range: [f64; 2]) -> Result<[f32; 2]> {
    let [black, white] = range;
    // NaN is smaller than nothing.
    if black < white && (white - black).is_finite() {
        return Ok([black as f32, white as f32]);
    }
    Err(Error::config("range", format!("{range:?}"), "two finite numbers: black, and white above it"))
}

/// One factor and one offset a channel, by which 8 bits become what the network was trained on:
/// (black + v / 255 (white - black) - mean) / std.
pub(crate) fn scaling(config: &ClassifierConfig, channels: usize) -> Result<Vec<[f32; 2]>> {
    check_range(config.range)?;
    let [black, white] = config.range;
    let each = |key: &str, values: &[f64], absent: f64| -> Result<Vec<f64>> {
        match values {
            [] => Ok(vec![absent; channels]),
            [one] => Ok(vec![*one; channels]),
            all if all.len() == channels => Ok(all.to_vec()),
            _ => Err(Error::config(key, format!("{values:?}"), format!("one value, or {channels}, one a channel"))),
        }
    };
    let (mean, std) = (each("mean", &config.mean, 0.0)?, each("std", &config.std, 1.0)?);
    if !mean.iter().all(|m| m.is_finite()) {
        return Err(Error::config("mean", format!("{mean:?}"), "finite values"));
    }
    if !std.iter().all(|s| s.is_finite() && *s > 0.0) {
        return Err(Error::config("std", format!("{std:?}"), "finite values above 0"));
    }
    let affine = |(m, s): (&f64, &f64)| [((white - black) / 255.0 / s) as f32, ((black - m) / s) as f32];
    Ok(mean.iter().zip(&std).map(affine).collect())
}

/// The names given, or numbers.
pub(crate) fn class_names(given: &[String], count: usize) -> Result<Vec<String>> {
    if given.is_empty() {
        return Ok((0..count).map(|class| class.to_string()).collect());
    }
    if given.len() != count {
        return Err(Error::config(
            "classes",
            given.join(", "),
            format!("{count} names, as many as the file has classes"),
        ));
    }
    Ok(given.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_scaled_as_torchvision_does() {
        let config = ClassifierConfig { mean: vec![0.5, 0.25], std: vec![0.5], ..ClassifierConfig::default() };
        let channels = scaling(&config, 2).unwrap();
        let at = |channel: usize, v: f32| channels[channel][0] * v + channels[channel][1];
        assert_eq!((at(0, 0.0), at(0, 255.0), at(1, 0.0), at(1, 255.0)), (-1.0, 1.0, -0.5, 1.5));
        let config = ClassifierConfig { range: [-1.0, 1.0], ..ClassifierConfig::default() };
        assert_eq!(scaling(&config, 1).unwrap(), [[2.0 / 255.0, -1.0]]);
    }

    #[test]
    fn senseless_numbers_are_refused() {
        for range in [[1.0, 1.0], [1.0, 0.0], [f64::NAN, 1.0], [0.0, f64::INFINITY]] {
            assert!(check_range(range).is_err(), "{range:?}");
        }
        let with = |mean: &[f64], std: &[f64]| ClassifierConfig {
            mean: mean.to_vec(),
            std: std.to_vec(),
            ..ClassifierConfig::default()
        };
        for config in [with(&[0.1, 0.2], &[]), with(&[], &[0.0]), with(&[], &[-1.0]), with(&[f64::NAN], &[])] {
            assert!(scaling(&config, 3).is_err(), "{config:?}");
        }
    }
}
