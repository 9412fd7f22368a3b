//! `ModelLoaders` and `Context`: the networks and sources that a host program registered, and the environment in which a
//! stage runs.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::artifact::Artifact;
use crate::control::RunControl;
use crate::error::{Error, Result};
use crate::inputs::Inputs;
use crate::model::{Generator, Learner, Scorer};
use crate::source::SampleSource;
use crate::spec::ImageSpec;
use crate::specs::{ArchitectureSpec, LearnerSpec, SourceSpec};

/// The environment in which a stage runs: a [`RunControl`] and the registered networks. Nothing here changes a result.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Progress and the request to stop; `Context` dereferences to it.
    pub control: RunControl,
    /// Loaders of networks and sources.
    pub models: Arc<ModelLoaders>,
    /// Replace an artifact that already exists at the destination.
    pub force: bool,
}

impl Context {
    /// A silent context with these networks.
    pub fn new(models: ModelLoaders) -> Self {
        Self { models: Arc::new(models), ..Self::default() }
    }
}

impl Deref for Context {
    type Target = RunControl;
    fn deref(&self) -> &RunControl {
        &self.control
    }
}

impl DerefMut for Context {
    fn deref_mut(&mut self) -> &mut RunControl {
        &mut self.control
    }
}

/// Opens a scorer from a classifier artifact.
pub type OpenScorer = Box<dyn Fn(&Artifact) -> Result<Box<dyn Scorer>> + Send + Sync>;
/// Opens a generator at a checkpoint, the last one when `None`.
pub type OpenGenerator = Box<dyn Fn(&Artifact, Option<u64>) -> Result<Box<dyn Generator>> + Send + Sync>;
/// Creates an untrained learner for images of a shape and the named classes, from a seed.
pub type NewLearner = Box<dyn Fn(&LearnerSpec, ImageSpec, &[String], u64) -> Result<Box<dyn Learner>> + Send + Sync>;
/// Opens a source of samples from a stage's inputs.
pub type OpenSource = Box<dyn Fn(&SourceSpec, &Inputs, &Context) -> Result<Box<dyn SampleSource>> + Send + Sync>;

/// The loaders that a host program registered, by architecture; sources by kind.
#[derive(Default)]
pub struct ModelLoaders {
    scorers: BTreeMap<String, OpenScorer>,
    generators: BTreeMap<String, OpenGenerator>,
    learners: BTreeMap<String, NewLearner>,
    sources: BTreeMap<String, OpenSource>,
}

impl std::fmt::Debug for ModelLoaders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelLoaders")
            .field("scorers", &self.scorers.keys())
            .field("generators", &self.generators.keys())
            .field("learners", &self.learners.keys())
            .field("sources", &self.sources.keys())
            .finish()
    }
}

impl ModelLoaders {
    /// Registers scorers of the architecture `name`; a later registration replaces an earlier one.
    pub fn with_scorer(mut self, name: &str, open: OpenScorer) -> Self {
        self.scorers.insert(name.into(), open);
        self
    }

    /// Registers generators of the architecture `name`.
    pub fn with_generator(mut self, name: &str, open: OpenGenerator) -> Self {
        self.generators.insert(name.into(), open);
        self
    }

    /// Registers learners of the architecture `name`.
    pub fn with_learner(mut self, name: &str, new: NewLearner) -> Self {
        self.learners.insert(name.into(), new);
        self
    }

    /// Registers sources of the kind `name`.
    pub fn with_source(mut self, name: &str, open: OpenSource) -> Self {
        self.sources.insert(name.into(), open);
        self
    }

    /// Opens the scorer of a classifier artifact.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`], and errors of the loader.
    pub fn open_scorer(&self, artifact: &Artifact) -> Result<Box<dyn Scorer>> {
        find(&self.scorers, "scorer", &architecture(artifact))?(artifact)
    }

    /// Opens the generator of a generator artifact at `checkpoint`, its last one when `None`.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`], and errors of the loader.
    pub fn open_generator(&self, artifact: &Artifact, checkpoint: Option<u64>) -> Result<Box<dyn Generator>> {
        find(&self.generators, "generator", &architecture(artifact))?(artifact, checkpoint)
    }

    /// Creates an untrained learner.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`], and errors of the loader.
    pub fn new_learner(
        &self,
        spec: &LearnerSpec,
        image: ImageSpec,
        classes: &[String],
        seed: u64,
    ) -> Result<Box<dyn Learner>> {
        find(&self.learners, "learner", &spec.architecture.name)?(spec, image, classes, seed)
    }

    /// Opens a source of samples.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`], and errors of the loader.
    pub fn open_source(&self, spec: &SourceSpec, inputs: &Inputs, cx: &Context) -> Result<Box<dyn SampleSource>> {
        find(&self.sources, "source", &spec.kind)?(spec, inputs, cx)
    }
}

/// The name of an artifact's architecture; empty when its manifest names none.
fn architecture(artifact: &Artifact) -> String {
    let architecture = artifact.manifest().content.get("architecture").cloned().unwrap_or_default();
    serde_json::from_value::<ArchitectureSpec>(architecture).unwrap_or_default().name
}

fn find<'a, T>(map: &'a BTreeMap<String, T>, what: &'static str, name: &str) -> Result<&'a T> {
    map.get(name).ok_or_else(|| Error::UnknownArchitecture {
        what,
        name: name.into(),
        known: if map.is_empty() { "none".into() } else { map.keys().cloned().collect::<Vec<_>>().join(", ") },
    })
}
