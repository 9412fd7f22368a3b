//! The `architecture` of ONNX artifacts: which tensors are used, and how values are scaled.

use serde::{Deserialize, Serialize};

use crate::config::{ClassifierConfig, Scores};

/// Name of the architecture, of generators and of classifiers.
pub(crate) const ARCHITECTURE: &str = "onnx";

/// The `architecture` of a generator artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GeneratorArchitecture {
    /// [`ARCHITECTURE`].
    pub(crate) name: String,
    /// The input of latents.
    pub(crate) latents: String,
    /// The input of labels.
    pub(crate) labels: String,
    /// The output of images.
    pub(crate) images: String,
    /// The values of black and of white.
    pub(crate) range: [f64; 2],
}

impl GeneratorArchitecture {
    pub(crate) fn new(latents: &str, labels: &str, images: &str, range: [f64; 2]) -> Self {
        let [latents, labels, images] = [latents, labels, images].map(str::to_owned);
        Self { name: ARCHITECTURE.into(), latents, labels, images, range }
    }
}

/// The `architecture` of a classifier artifact; fields as in [`ClassifierConfig`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClassifierArchitecture {
    /// [`ARCHITECTURE`].
    pub(crate) name: String,
    pub(crate) images: String,
    pub(crate) scores: String,
    pub(crate) features: Option<String>,
    pub(crate) range: [f64; 2],
    pub(crate) mean: Vec<f64>,
    pub(crate) std: Vec<f64>,
    pub(crate) gives: Scores,
}

impl ClassifierArchitecture {
    pub(crate) fn new(images: &str, scores: &str, features: Option<&str>, config: &ClassifierConfig) -> Self {
        Self {
            name: ARCHITECTURE.into(),
            images: images.into(),
            scores: scores.into(),
            features: features.map(Into::into),
            range: config.range,
            mean: config.mean.clone(),
            std: config.std.clone(),
            gives: config.gives,
        }
    }
}
