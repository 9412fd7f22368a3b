//! The traits behind which networks stand: `Generator`, `Scorer` and `Learner`. No technique sees which framework
//! implements them.

use std::num::NonZeroUsize;

use crate::control::RunControl;
use crate::error::{Error, Result};
use crate::rows::Rows;
use crate::spec::{ClassId, ImageSpec};
use crate::specs::ArchitectureSpec;

/// Images that a scorer judges at a time. Results do not depend on it.
pub const INFERENCE_BATCH: usize = 256;

/// Samples that a source generates, or filters, at a time. Results do not depend on it.
pub const SAMPLE_BATCH: NonZeroUsize = NonZeroUsize::new(64).unwrap();

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
    fn train_epoch(&mut self, data: &dyn Rows, control: &RunControl) -> Result<EpochReport>;

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
        Err(Error::config("start", self.architecture(), "a learner that can begin with given weights"))
    }

    /// The architecture, from which a loader builds the network around [`Learner::weights`].
    fn architecture(&self) -> ArchitectureSpec;
}
