//! A scorer from a closure, for teachers outside GaFi: in another framework, a remote service, a formula.

use gafi_core::{Error, ImageSpec, Result, Scorer};

/// A scorer that calls a closure; see [`scorer_fn`].
#[derive(Clone)]
pub struct ScorerFn<F> {
    image: ImageSpec,
    classes: usize,
    score: F,
}

impl<F> std::fmt::Debug for ScorerFn<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScorerFn").field("image", &self.image).field("classes", &self.classes).finish_non_exhaustive()
    }
}

/// A scorer of `classes` classes that calls `score`: pixels (n, c, h, w) to probabilities (n, classes), row after row.
pub fn scorer_fn<F>(image: ImageSpec, classes: usize, score: F) -> ScorerFn<F>
where
    F: FnMut(&[u8]) -> Result<Vec<f32>> + Send,
{
    ScorerFn { image, classes, score }
}

impl<F> Scorer for ScorerFn<F>
where
    F: FnMut(&[u8]) -> Result<Vec<f32>> + Send,
{
    fn image(&self) -> &ImageSpec {
        &self.image
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn score(&mut self, pixels: &[u8]) -> Result<Vec<f32>> {
        (self.score)(pixels)
    }
}

/// The probabilities of `n` images, checked to be one for each image and class.
pub(crate) fn score(scorer: &mut dyn Scorer, pixels: &[u8], n: usize) -> Result<Vec<f32>> {
    let expected = n * scorer.classes();
    let probabilities = scorer.score(pixels)?;
    if probabilities.len() == expected {
        return Ok(probabilities);
    }
    let why = format!("expected {expected} probabilities for {n} images, found {}", probabilities.len());
    Err(Error::other("judging samples")(why))
}

/// Checks that `scorer` takes such images and classes.
pub(crate) fn check_scorer(scorer: &dyn Scorer, image: &ImageSpec, classes: usize) -> Result<()> {
    if scorer.image() == image && scorer.classes() == classes && classes > 0 {
        return Ok(());
    }
    let expected = format!("a teacher of {} classes of {image} images", classes.max(1));
    let found = format!("{} classes of {} images", scorer.classes(), scorer.image());
    Err(Error::input("filter", "teacher", expected, found))
}
