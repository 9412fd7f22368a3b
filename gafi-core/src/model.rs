//! The traits that networks implement: `Generator`, `Scorer` and `Learner`. Techniques see only the traits, never the
//! framework behind them.

use std::num::NonZeroUsize;

use crate::control::RunControl;
use crate::error::{Error, Result};
use crate::rows::Rows;
use crate::spec::{ClassId, ImageSpec};
use crate::specs::ArchitectureSpec;

/// Number of images scored at a time. Results do not depend on it.
pub const INFERENCE_BATCH: usize = 256;

/// Number of samples generated or filtered at a time. Results do not depend on it.
pub const SAMPLE_BATCH: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// A class-conditional generative model at one checkpoint.
pub trait Generator: Send {
    /// Shape of its images.
    fn image(&self) -> &ImageSpec;

    /// Names of its classes.
    fn classes(&self) -> &[String];

    /// Length of a latent.
    fn latent_dim(&self) -> usize;

    /// Latents (n, d) and labels (n) to pixels (n, c, h, w). An image never depends on the batch it is in.
    fn generate(&mut self, latents: &[f32], labels: &[ClassId]) -> Result<Vec<u8>>;

    /// Pixels (n, c, h, w) of the requested samples; sources call this. The default uses the latents. A generator that draws
    /// its own, such as another program, uses the seeds instead.
    fn sample(&mut self, request: &SampleRequest<'_>) -> Result<Vec<u8>> {
        self.generate(request.latents, &vec![request.class; request.seeds.len()])
    }
}

/// A request for n samples of a class, each given by its seed and by its latent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleRequest<'a> {
    /// The class.
    pub class: ClassId,
    /// Index of the first sample within its stream and class; the others follow.
    pub first: u64,
    /// A seed for each sample, (n): a function of stream, class and index, and the only randomness allowed.
    pub seeds: &'a [u64],
    /// Standard deviation of each latent, (n).
    pub stds: &'a [f32],
    /// The latents, drawn with these `stds`, (n, [`Generator::latent_dim`]).
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

/// A classifier that scores images.
pub trait Scorer: Send {
    /// Shape of the images it takes.
    fn image(&self) -> &ImageSpec;

    /// Number of classes.
    fn classes(&self) -> usize;

    /// Pixels (n, c, h, w) to probabilities (n, classes), each row summing to 1. A row never depends on the batch it is in.
    fn score(&mut self, pixels: &[u8]) -> Result<Vec<f32>>;

    /// Length of an image's features; `None` for a scorer without features.
    fn feature_dim(&self) -> Option<usize> {
        None
    }

    /// The probabilities of [`Scorer::score`] and, from the same pass, the features: the input of the last layer.
    ///
    /// # Errors
    /// For a scorer without features, see [`Scorer::feature_dim`].
    fn score_with_features(&mut self, _pixels: &[u8]) -> Result<Scored> {
        Err(Error::other("computing features")("this classifier gives probabilities only"))
    }
}

/// Probabilities and features of n images.
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

impl<S: Scorer + ?Sized> Scorer for &mut S {
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

/// The result of one epoch of training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpochReport {
    /// Mean loss over the epoch's images.
    pub loss: f64,
    /// Accuracy on the epoch's (augmented) images while training, in [0, 1].
    pub accuracy: f64,
    /// Number of images seen.
    pub images: u64,
}

/// A classifier in training. The order of images and their augmentation depend on the learner's seed, the epoch and the
/// position alone.
pub trait Learner: Send {
    /// Number of epochs planned.
    fn epochs(&self) -> u32;

    /// Number of epochs done.
    fn epoch(&self) -> u32;

    /// Trains one epoch on `data`.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when the loss is not a number; [`Error::Interrupted`] on a request to stop, which loses the epoch.
    fn train_epoch(&mut self, data: &dyn Rows, control: &RunControl) -> Result<EpochReport>;

    /// The current classifier, for evaluation.
    fn scorer(&mut self) -> Result<Box<dyn Scorer + '_>>;

    /// The complete training state.
    fn snapshot(&self) -> Result<Vec<u8>>;

    /// Resumes from a [`Learner::snapshot`].
    fn restore(&mut self, snapshot: &[u8]) -> Result<()>;

    /// The current classifier, as the safetensors file of a classifier artifact.
    fn weights(&self) -> Result<Vec<u8>>;

    /// A warm start before the first epoch: replaces the random weights with the [`Learner::weights`] of a learner of the same
    /// architecture.
    ///
    /// # Errors
    /// When the weights do not fit. [`Error::Config`] unless overridden.
    fn begin_with(&mut self, _weights: &[u8]) -> Result<()> {
        Err(Error::config("start", self.architecture(), "a learner that supports a warm start"))
    }

    /// The architecture, from which a loader builds the network around [`Learner::weights`].
    fn architecture(&self) -> ArchitectureSpec;
}
