//! The artifacts of ONNX files: their manifest content, and the loaders.

use gafi_core::{
    ArchitectureSpec, Artifact, CheckpointInfo, ClassifierInfo, Error, GeneratorInfo, ModelLoaders, Result,
};
use serde::Serialize;

use crate::architecture::{ARCHITECTURE, ClassifierArchitecture, GeneratorArchitecture};
use crate::config::{ClassifierConfig, GeneratorConfig};
use crate::generator::OnnxGenerator;
use crate::model::{FILE, Model};
use crate::scorer::OnnxScorer;

impl OnnxGenerator {
    /// The manifest content of this generator.
    pub(crate) fn info(&self, step: u64) -> Result<GeneratorInfo> {
        Ok(GeneratorInfo {
            architecture: ArchitectureSpec::of(&self.architecture)?,
            image: self.arrangement.image,
            classes: self.classes.clone(),
            latent_dim: self.latent_dim,
            std: None,
            checkpoints: vec![CheckpointInfo { step, file: Some(FILE.into()), samples: None }],
            extra: Default::default(),
        })
    }

    /// Opens a generator artifact, at its only checkpoint.
    ///
    /// # Errors
    /// [`Error::Format`] for another kind of artifact, or when its manifest does not match the file; [`Error::Config`]
    /// for another checkpoint.
    pub fn open(artifact: &Artifact, step: Option<u64>) -> Result<Self> {
        let info = GeneratorInfo::of(artifact)?;
        let step = info.checkpoint(step)?.step;
        let architecture: GeneratorArchitecture = info.architecture.parse()?;
        let config = GeneratorConfig {
            latents: Some(architecture.latents),
            labels: Some(architecture.labels),
            constants: architecture.more.constants,
            images: Some(architecture.images),
            layout: architecture.more.layout,
            shape: architecture.more.shape,
            range: Some(architecture.range),
            classes: info.classes.clone(),
            step,
        };
        let generator = Self::new(&Model::open(artifact)?, &config)?;
        check_content(artifact, &info, &generator.info(step)?)?;
        Ok(generator)
    }
}

impl OnnxScorer {
    /// The manifest content of this classifier.
    pub(crate) fn info(&self) -> Result<ClassifierInfo> {
        let architecture = ArchitectureSpec::of(&self.architecture)?;
        Ok(ClassifierInfo { architecture, image: self.arrangement.image, classes: self.classes.clone() })
    }

    /// Opens a classifier artifact.
    ///
    /// # Errors
    /// [`Error::Format`] for another kind of artifact, or when its manifest does not match the file.
    pub fn open(artifact: &Artifact) -> Result<Self> {
        let info = ClassifierInfo::of(artifact)?;
        let architecture: ClassifierArchitecture = info.architecture.parse()?;
        let config = ClassifierConfig {
            images: Some(architecture.images),
            constants: architecture.more.constants,
            layout: architecture.more.layout,
            shape: architecture.more.shape,
            scores: Some(architecture.scores),
            features: architecture.features,
            range: architecture.range,
            mean: architecture.mean,
            std: architecture.std,
            gives: architecture.gives,
            classes: info.classes.clone(),
        };
        let scorer = Self::new(&Model::open(artifact)?, &config)?;
        check_content(artifact, &info, &scorer.info()?)?;
        Ok(scorer)
    }
}

/// Registers the loaders of ONNX artifacts.
pub fn register(loaders: ModelLoaders) -> ModelLoaders {
    loaders
        .with_generator(ARCHITECTURE, Box::new(|artifact, step| Ok(Box::new(OnnxGenerator::open(artifact, step)?))))
        .with_scorer(ARCHITECTURE, Box::new(|artifact| Ok(Box::new(OnnxScorer::open(artifact)?))))
}

/// Checks that the manifest describes the file.
fn check_content<T: PartialEq + Serialize>(artifact: &Artifact, manifest: &T, file: &T) -> Result<()> {
    if manifest == file {
        return Ok(());
    }
    let text = |value: &T| serde_json::to_string(value).unwrap_or_default();
    Err(Error::format(artifact.path(), "content", format!("{}, as its file has", text(file)), text(manifest)))
}
