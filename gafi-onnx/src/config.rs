//! The configuration of an import: what an ONNX file does not contain.

use std::collections::BTreeMap;

use gafi_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// The configuration of a generator.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeneratorConfig {
    /// The input of latents, floats (N, d) or (N, d, 1, 1). Default: the only float input, or the first if both are floats.
    pub latents: Option<String>,
    /// The input of labels: class numbers (N) or one-hot (N, classes), integers or floats. Default: the other input.
    pub labels: Option<String>,
    /// Values of further inputs, by name. Every element of the input has this value.
    pub constants: BTreeMap<String, f64>,
    /// The output of images. Default: the first.
    pub images: Option<String>,
    /// Where the channels of the images are. Default: first in (N, C, H, W), last in (N, H, W, C).
    pub layout: Option<Layout>,
    /// Channels, height and width of an image. Default: from the shape of the output; a flat one is taken as a square.
    pub shape: Option<[usize; 3]>,
    /// The values of black and of white in the images. Default: 0 and 1 after a sigmoid, else -1 and 1.
    pub range: Option<[f64; 2]>,
    /// Names of the classes in the order of their labels. With one-hot labels, which have a known length, the default
    /// is "0", "1" and so on.
    pub classes: Vec<String>,
    /// Number of generator updates in training, which names the checkpoint.
    pub step: u64,
}

/// Where the channels of an image are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// First: (N, C, H, W), as in PyTorch.
    Nchw,
    /// Last: (N, H, W, C), as in TensorFlow.
    Nhwc,
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Self::Nchw { "nchw" } else { "nhwc" })
    }
}

/// The configuration of a classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierConfig {
    /// The input of images. Default: the only input that is not in `constants`.
    pub images: Option<String>,
    /// Values of further inputs, by name. Every element of the input has this value.
    pub constants: BTreeMap<String, f64>,
    /// Where the channels of the images are. Default: first in (N, C, H, W), last in (N, H, W, C).
    pub layout: Option<Layout>,
    /// Channels, height and width of an image. Default: from the shape of the input; a flat one is taken as a square.
    pub shape: Option<[usize; 3]>,
    /// The output of scores, (N, classes). Default: the first.
    pub scores: Option<String>,
    /// The output of features, (N, ...). Default: the second, if there is one.
    pub features: Option<String>,
    /// The values of black and of white before normalisation. Default: 0 and 1.
    pub range: [f64; 2],
    /// Mean to subtract, one value or one per channel. Default: 0.
    pub mean: Vec<f64>,
    /// Standard deviation to divide by, one value or one per channel. Default: 1.
    pub std: Vec<f64>,
    /// What the output of scores gives. Default: logits.
    pub gives: Scores,
    /// Names of the classes in the order of the scores. Default: "0", "1" and so on.
    pub classes: Vec<String>,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self {
            images: None,
            constants: BTreeMap::new(),
            layout: None,
            shape: None,
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

/// The scores of a classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scores {
    /// Values before the softmax.
    Logits,
    /// Values after the softmax.
    Probabilities,
}

/// Checks the values of black and white.
pub(crate) fn check_range(range: [f64; 2]) -> Result<[f32; 2]> {
    let [black, white] = range;
    // Comparisons with NaN are false.
    if black < white && (white - black).is_finite() {
        return Ok([black as f32, white as f32]);
    }
    Err(Error::config("range", format!("{range:?}"), "two finite numbers, the second above the first"))
}

/// Factor and offset of each channel that map an 8-bit value v to the network's input:
/// (black + v / 255 (white - black) - mean) / std.
pub(crate) fn scaling(config: &ClassifierConfig, channels: usize) -> Result<Vec<[f32; 2]>> {
    check_range(config.range)?;
    let [black, white] = config.range;
    let per_channel = |key: &str, values: &[f64], default: f64| -> Result<Vec<f64>> {
        match values {
            [] => Ok(vec![default; channels]),
            [one] => Ok(vec![*one; channels]),
            all if all.len() == channels => Ok(all.to_vec()),
            _ => {
                let expected = format!("one value, or {channels} values, one per channel");
                Err(Error::config(key, format!("{values:?}"), expected))
            }
        }
    };
    let mean = per_channel("mean", &config.mean, 0.0)?;
    let std = per_channel("std", &config.std, 1.0)?;
    if !mean.iter().all(|m| m.is_finite()) {
        return Err(Error::config("mean", format!("{mean:?}"), "finite values"));
    }
    if !std.iter().all(|s| s.is_finite() && *s > 0.0) {
        return Err(Error::config("std", format!("{std:?}"), "finite values above 0"));
    }
    let affine = |(m, s): (&f64, &f64)| [((white - black) / 255.0 / s) as f32, ((black - m) / s) as f32];
    Ok(mean.iter().zip(&std).map(affine).collect())
}

/// The given class names, or their indices.
pub(crate) fn class_names(given: &[String], count: usize) -> Result<Vec<String>> {
    if given.is_empty() {
        return Ok((0..count).map(|class| class.to_string()).collect());
    }
    if given.len() != count {
        return Err(Error::config("classes", given.join(", "), format!("{count} names, one per class of the file")));
    }
    Ok(given.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_scaled_as_in_torchvision() {
        let config = ClassifierConfig { mean: vec![0.5, 0.25], std: vec![0.5], ..ClassifierConfig::default() };
        let channels = scaling(&config, 2).unwrap();
        let at = |channel: usize, v: f32| channels[channel][0] * v + channels[channel][1];
        assert_eq!((at(0, 0.0), at(0, 255.0), at(1, 0.0), at(1, 255.0)), (-1.0, 1.0, -0.5, 1.5));
        let config = ClassifierConfig { range: [-1.0, 1.0], ..ClassifierConfig::default() };
        assert_eq!(scaling(&config, 1).unwrap(), [[2.0 / 255.0, -1.0]]);
    }

    #[test]
    fn bad_ranges_and_normalisations_are_refused() {
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
