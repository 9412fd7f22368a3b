//! What the stages ask of networks, and how they get them: the traits `Generator`, `Scorer`, `Learner`, and the loaders
//! that the host program registers. No stage of a technique sees which framework answers.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::artifact::Artifact;
use crate::dataset::DatasetInfo;
use crate::error::{Error, Result};
use crate::rows::Rows;
use crate::source::SampleSource;
use crate::spec::{ClassId, ImageSpec};
use crate::stage::{Context, Inputs};

/// A class-conditional generative model at one checkpoint.
pub trait Generator: Send {
    /// Shape of its images.
    fn image(&self) -> &ImageSpec;

    /// Names of its classes.
    fn classes(&self) -> &[String];

    /// Length of a latent.
    fn latent_dim(&self) -> usize;

    /// Latents (n, d), row after row, and labels (n) to pixels (n, c, h, w). What a row becomes never depends on the
    /// batch it is in.
    fn generate(&mut self, latents: &[f32], labels: &[ClassId]) -> Result<Vec<u8>>;

    /// Pixels (n, c, h, w) of the requested samples; adapters call this. A generator that draws its own
    /// latents, as one of another program does, answers here from the names; any other from the latents alone.
    fn sample(&mut self, request: &SampleRequest<'_>) -> Result<Vec<u8>> {
        self.generate(request.latents, &vec![request.class; request.seeds.len()])
    }
}

/// Samples of one class that are asked for, each by its name and by its latent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleRequest<'a> {
    /// Their class.
    pub class: ClassId,
    /// Number of the first within its stream and class; the others follow it.
    pub first: u64,
    /// A number for each name (stream, class, index), (n): all randomness that a sample may depend on.
    pub seeds: &'a [u64],
    /// Standard deviation of each sample's latent, (n).
    pub stds: &'a [f32],
    /// The latents, drawn with these deviations, (n, [`Generator::latent_dim`]).
    pub latents: &'a [f32],
}

impl<G: Generator + ?Sized> Generator for Box<G> {
    fn image(&self) -> &ImageSpec {
        (**self).image()
    }
    fn classes(&self) -> &[String] {
        (**self).classes()
    }
    fn latent_dim(&self) -> usize {
        (**self).latent_dim()
    }
    fn generate(&mut self, latents: &[f32], labels: &[ClassId]) -> Result<Vec<u8>> {
        (**self).generate(latents, labels)
    }
    fn sample(&mut self, request: &SampleRequest<'_>) -> Result<Vec<u8>> {
        (**self).sample(request)
    }
}

/// A classifier that judges.
pub trait Scorer: Send {
    /// Shape of the images it takes.
    fn image(&self) -> &ImageSpec;

    /// Number of classes it knows.
    fn classes(&self) -> usize;

    /// Pixels (n, c, h, w) to probabilities (n, classes), each row summing to 1. What a row gets never depends on the
    /// batch it is in.
    fn score(&mut self, pixels: &[u8]) -> Result<Vec<f32>>;

    /// Length of an image's features, where the scorer gives them.
    fn feature_dim(&self) -> Option<usize> {
        None
    }

    /// [`Scorer::score`] and, from the same pass, what the last layer sees. Neither depends on the batch.
    ///
    /// # Errors
    /// When the scorer gives no features, which is what [`Scorer::feature_dim`] tells beforehand.
    fn score_with_features(&mut self, _pixels: &[u8]) -> Result<Scored> {
        Err(Error::other("asking a scorer for features")("it gives probabilities only"))
    }
}

/// What a [`Scorer`] says of n images.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scored {
    /// Probabilities (n, classes).
    pub probabilities: Vec<f32>,
    /// Features (n, [`Scorer::feature_dim`]).
    pub features: Vec<f32>,
}

impl<S: Scorer + ?Sized> Scorer for Box<S> {
    fn image(&self) -> &ImageSpec {
        (**self).image()
    }
    fn classes(&self) -> usize {
        (**self).classes()
    }
    fn score(&mut self, pixels: &[u8]) -> Result<Vec<f32>> {
        (**self).score(pixels)
    }
    fn feature_dim(&self) -> Option<usize> {
        (**self).feature_dim()
    }
    fn score_with_features(&mut self, pixels: &[u8]) -> Result<Scored> {
        (**self).score_with_features(pixels)
    }
}

/// What one epoch of training came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpochReport {
    /// Mean loss over the epoch's images.
    pub loss: f64,
    /// Share of the epoch's (augmented) images that were classified right while training, in [0, 1].
    pub accuracy: f64,
    /// Images seen.
    pub images: u64,
}

/// A classifier that learns, epoch after epoch. Which image comes when, and how it is augmented, depends on the learner's
/// seed, the epoch and the position alone.
pub trait Learner: Send {
    /// Epochs planned in all.
    fn epochs(&self) -> u32;

    /// Epochs done.
    fn epoch(&self) -> u32;

    /// Trains one epoch on `data`.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when the loss is not a number, [`Error::Interrupted`] when asked to stop: the epoch is lost then.
    fn train_epoch(&mut self, data: &dyn Rows, cx: &Context) -> Result<EpochReport>;

    /// The classifier as it stands, to evaluate.
    fn scorer(&mut self) -> Result<Box<dyn Scorer + '_>>;

    /// All of the training state.
    fn snapshot(&self) -> Result<Vec<u8>>;

    /// Goes back to a [`Learner::snapshot`].
    fn restore(&mut self, snapshot: &[u8]) -> Result<()>;

    /// The classifier as it stands, as the safetensors file of a classifier artifact.
    fn weights(&self) -> Result<Vec<u8>>;

    /// Begins with `weights`, the [`Learner::weights`] of another of the same architecture, in place of random ones: a warm
    /// start. Asked before the first epoch.
    ///
    /// # Errors
    /// [`Error::Config`] unless overridden; what it says to weights that do not fit.
    fn begin_with(&mut self, weights: &[u8]) -> Result<()> {
        let _ = weights;
        Err(Error::config(START_PORT, self.architecture(), "a learner that can begin with given weights"))
    }

    /// What a loader has to know to build the network around [`Learner::weights`]: an object with a `name`.
    fn architecture(&self) -> Value;
}

/// What a classifier artifact says of itself. Its weights are in [`WEIGHTS_FILE`].
#[derive(Debug, Clone, PartialEq, serde::Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierInfo {
    /// Name and hyper-parameters of the network.
    pub architecture: Value,
    /// Shape of the images it takes.
    pub image: ImageSpec,
    /// Names of its classes.
    pub classes: Vec<String>,
}

/// The file that holds a classifier's weights.
pub const WEIGHTS_FILE: &str = "weights.safetensors";

/// Name of the port for a classifier that a training begins with.
pub const START_PORT: &str = "start";

/// Has `learner` begin with the classifier at port [`START_PORT`] of `stage`, if there is one.
///
/// # Errors
/// [`Error::Input`] when its images or classes are not those of `val`; what the learner says to its weights.
pub fn warm_start(learner: &mut dyn Learner, inputs: &Inputs, val: &DatasetInfo, stage: &str) -> Result<()> {
    let Some(start) = inputs.get(START_PORT) else { return Ok(()) };
    let info: ClassifierInfo = start.content()?;
    if (info.image, &info.classes) != (val.image, &val.classes) || info.architecture != learner.architecture() {
        let of = |architecture: &Value, image: &ImageSpec, classes: &[String]| {
            format!("a {architecture} for {image} images of classes {}", classes.join(", "))
        };
        return Err(Error::Input {
            stage: stage.into(),
            port: START_PORT.into(),
            expected: of(&learner.architecture(), &val.image, &val.classes),
            found: of(&info.architecture, &info.image, &info.classes),
        });
    }
    learner.begin_with(&start.read(WEIGHTS_FILE)?)
}

/// Opens a scorer from a classifier artifact.
pub type OpenScorer = Box<dyn Fn(&Artifact) -> Result<Box<dyn Scorer>> + Send + Sync>;
/// Opens a generator at a checkpoint (the last one when `None`).
pub type OpenGenerator = Box<dyn Fn(&Artifact, Option<u64>) -> Result<Box<dyn Generator>> + Send + Sync>;
/// Makes an untrained learner of a configuration, for images of a shape, the named classes, and a seed.
pub type NewLearner = Box<dyn Fn(&Value, ImageSpec, &[String], u64) -> Result<Box<dyn Learner>> + Send + Sync>;
/// Makes a source of a configuration and a stage's inputs.
pub type OpenSource = Box<dyn Fn(&Value, &Inputs, &Context) -> Result<Box<dyn SampleSource>> + Send + Sync>;

/// The loaders that a host program has registered, by the name of the architecture (of the `kind`, for sources).
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
    /// [`Error::UnknownArchitecture`], and what the loader says.
    pub fn open_scorer(&self, artifact: &Artifact) -> Result<Box<dyn Scorer>> {
        find(&self.scorers, "scorer", &architecture(&artifact.manifest().content))?(artifact)
    }

    /// Opens the generator of a generator artifact at `checkpoint`, its last one when `None`.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`], and what the loader says.
    pub fn open_generator(&self, artifact: &Artifact, checkpoint: Option<u64>) -> Result<Box<dyn Generator>> {
        find(&self.generators, "generator", &architecture(&artifact.manifest().content))?(artifact, checkpoint)
    }

    /// Makes an untrained learner; `config.architecture.name` says which.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`], and what the loader says.
    pub fn new_learner(
        &self,
        config: &Value,
        image: ImageSpec,
        classes: &[String],
        seed: u64,
    ) -> Result<Box<dyn Learner>> {
        find(&self.learners, "learner", &architecture(config))?(config, image, classes, seed)
    }

    /// Makes a source of samples; `config.kind` says which.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`], and what the loader says.
    pub fn open_source(&self, config: &Value, inputs: &Inputs, cx: &Context) -> Result<Box<dyn SampleSource>> {
        let kind = config.get("kind").and_then(Value::as_str).unwrap_or_default();
        find(&self.sources, "source", kind)?(config, inputs, cx)
    }
}

fn architecture(content: &Value) -> String {
    let name = content.get("architecture").and_then(|a| a.get("name")).and_then(Value::as_str);
    name.unwrap_or_default().into()
}

fn find<'a, T>(map: &'a BTreeMap<String, T>, what: &'static str, name: &str) -> Result<&'a T> {
    map.get(name).ok_or_else(|| Error::UnknownArchitecture {
        what,
        name: name.into(),
        known: if map.is_empty() { "none".into() } else { map.keys().cloned().collect::<Vec<_>>().join(", ") },
    })
}
