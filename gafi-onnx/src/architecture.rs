//! The `architecture` of ONNX artifacts: which tensors are used, and how values are scaled.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::arrangement::Arrangement;
use crate::config::{Layout, Scores};

/// Name of the architecture, of generators and of classifiers.
pub(crate) const ARCHITECTURE: &str = "onnx";

/// The `architecture` of a generator artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    #[serde(flatten)]
    pub(crate) more: More,
}

/// Keys that most files don't need: absent for tensors (N, C, H, W) and without constants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct More {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) layout: Option<Layout>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shape: Option<[usize; 3]>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) constants: BTreeMap<String, f64>,
}

impl More {
    pub(crate) fn new(arrangement: &Arrangement, constants: &BTreeMap<String, f64>) -> Self {
        let (layout, shape) = arrangement.explicit;
        Self { layout, shape, constants: constants.clone() }
    }
}

/// The `architecture` of a classifier artifact; fields as in [`crate::ClassifierConfig`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    #[serde(flatten)]
    pub(crate) more: More,
}
