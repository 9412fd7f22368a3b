//! What an artifact of a file says of itself, and the loaders.

use gafi_core::{
    ArchitectureSpec, Artifact, CheckpointInfo, ClassifierInfo, Error, GeneratorInfo, Kind, ModelLoaders, Result,
};
use serde::{Deserialize, Serialize};

use crate::config::{ARCHITECTURE, ClassifierConfig, GeneratorConfig, Scores};
use crate::generator::OnnxGenerator;
use crate::model::{FILE, Model};
use crate::scorer::OnnxScorer;

/// How a generator's file is read: the `architecture` of its artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorArchitecture {
    /// [`ARCHITECTURE`].
    pub name: String,
    /// The input that takes latents.
    pub latents: String,
    /// The input that takes labels.
    pub labels: String,
    /// The output that gives images.
    pub images: String,
    /// The values of black and of white.
    pub range: [f64; 2],
}

impl GeneratorArchitecture {
    pub(crate) fn new(latents: &str, labels: &str, images: &str, range: [f64; 2]) -> Self {
        let [latents, labels, images] = [latents, labels, images].map(str::to_owned);
        Self { name: ARCHITECTURE.into(), latents, labels, images, range }
    }
}

/// How a classifier's file is read: the `architecture` of its artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierArchitecture {
    /// [`ARCHITECTURE`].
    pub name: String,
    /// The input that takes images.
    pub images: String,
    /// The output that gives scores.
    pub scores: String,
    /// The output that gives features.
    pub features: Option<String>,
    /// What black and white are before the mean is taken off.
    pub range: [f64; 2],
    /// As of [`ClassifierConfig`].
    pub mean: Vec<f64>,
    /// As of [`ClassifierConfig`].
    pub std: Vec<f64>,
    /// What the scores are.
    pub gives: Scores,
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

impl OnnxGenerator {
    /// What an artifact says of this generator.
    pub(crate) fn info(&self, step: u64) -> Result<GeneratorInfo> {
        use gafi_core::Generator as _;
        Ok(GeneratorInfo {
            architecture: ArchitectureSpec::of(self.architecture())?,
            image: *self.image(),
            classes: self.classes().to_vec(),
            latent_dim: self.latent_dim(),
            checkpoints: vec![CheckpointInfo { step, file: Some(FILE.into()), samples: None }],
            extra: Default::default(),
        })
    }

    /// Opens a generator artifact, at its only checkpoint.
    ///
    /// # Errors
    /// [`Error::Format`] when the artifact is none of an ONNX file or not what it says, [`Error::Config`] for another
    /// checkpoint.
    pub fn open(artifact: &Artifact, step: Option<u64>) -> Result<Self> {
        of_kind(artifact, Kind::Generator)?;
        let info: GeneratorInfo = artifact.content()?;
        let step = info.checkpoint(step)?.step;
        let read: GeneratorArchitecture = info.architecture.parse()?;
        let config = GeneratorConfig {
            latents: Some(read.latents),
            labels: Some(read.labels),
            images: Some(read.images),
            range: read.range,
            classes: info.classes.clone(),
            step,
        };
        let generator = Self::new(&Model::open(artifact)?, &config)?;
        confirm(artifact, &info, &generator.info(step)?)?;
        Ok(generator)
    }
}

impl OnnxScorer {
    /// What an artifact says of this classifier.
    pub(crate) fn info(&self) -> Result<ClassifierInfo> {
        use gafi_core::Scorer as _;
        let architecture = ArchitectureSpec::of(self.architecture())?;
        Ok(ClassifierInfo { architecture, image: *self.image(), classes: self.class_names().to_vec() })
    }

    /// Opens a classifier artifact.
    ///
    /// # Errors
    /// [`Error::Format`] when the artifact is none of an ONNX file or not what it says.
    pub fn open(artifact: &Artifact) -> Result<Self> {
        of_kind(artifact, Kind::Classifier)?;
        let info: ClassifierInfo = artifact.content()?;
        let read: ClassifierArchitecture = info
            .architecture
            .parse()
            .map_err(|e| Error::format(artifact.path(), "architecture", "an ONNX classifier", e.to_string()))?;
        let config = ClassifierConfig {
            images: Some(read.images),
            scores: Some(read.scores),
            features: read.features,
            range: read.range,
            mean: read.mean,
            std: read.std,
            gives: read.gives,
            classes: info.classes.clone(),
        };
        let scorer = Self::new(&Model::open(artifact)?, &config)?;
        confirm(artifact, &info, &scorer.info()?)?;
        Ok(scorer)
    }
}

fn of_kind(artifact: &Artifact, kind: Kind) -> Result<()> {
    if artifact.kind() == kind {
        return Ok(());
    }
    Err(Error::format(artifact.path(), "kind", kind.to_string(), artifact.kind().to_string()))
}

/// Registers the loaders of this crate.
pub fn register(loaders: ModelLoaders) -> ModelLoaders {
    loaders
        .with_generator(ARCHITECTURE, Box::new(|artifact, step| Ok(Box::new(OnnxGenerator::open(artifact, step)?))))
        .with_scorer(ARCHITECTURE, Box::new(|artifact| Ok(Box::new(OnnxScorer::open(artifact)?))))
}

/// Refuses an artifact whose manifest says `said` of a file that says `read` of itself.
fn confirm<T: PartialEq + std::fmt::Debug>(artifact: &Artifact, said: &T, read: &T) -> Result<()> {
    if said == read {
        return Ok(());
    }
    Err(Error::format(artifact.path(), "content", format!("{read:?}, as its file"), format!("{said:?}")))
}
