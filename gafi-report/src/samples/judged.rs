//! Samples of a generator with the teacher's predictions.

use std::num::NonZeroUsize;

use anyhow::{Context as _, Result};
use gafi_core::{ClassId, Context, ImageSpec, SAMPLE_BATCH, SampleSource, Scored, Scorer, Task, argmax};
use gafi_expand::StdRange;
use gafi_pipeline::GafiSource;

use super::origin::Origin;
use crate::thumbnail::{Thumbnail, data_url};

/// Bins of [`Confidences`]: one for each percent.
pub(crate) const BINS: usize = 100;

/// Samples of one class and the teacher's predictions for them.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) n: usize,
    images: Vec<u8>,
    scored: Scored,
}

/// The teacher's confidence in samples of one class.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Confidences {
    /// Samples drawn.
    pub(crate) drawn: u64,
    /// Samples whose most likely class is the requested one, by its probability: those in bin `i` pass every threshold up to
    /// `i` / [`BINS`], and no higher one.
    pub(crate) recognised: Vec<u64>,
    /// The other samples, by the probability of the requested class.
    pub(crate) others: Vec<u64>,
}

impl Confidences {
    /// Samples that pass the threshold `percent` / [`BINS`].
    pub(crate) fn kept(&self, percent: usize) -> u64 {
        self.recognised.iter().skip(percent).sum()
    }
}

impl Judged {
    /// The first `n` unfiltered samples of each of `classes`, with `std` instead of the source's own.
    ///
    /// # Errors
    /// When a network fails; [`gafi_core::Error::Interrupted`].
    pub(super) fn draw(
        origin: &Origin,
        std: Option<f64>,
        classes: &[usize],
        n: usize,
        teacher: &mut dyn Scorer,
        cx: &Context,
        task: &mut dyn Task,
    ) -> Result<Vec<Self>> {
        let block = NonZeroUsize::new(n.min(SAMPLE_BATCH.get())).context("expected at least one sample per class")?;
        let std = std.map_or(origin.source.std, StdRange::Fixed);
        let source = GafiSource { std, ..origin.source.clone() };
        let mut samples = source.open_unfiltered(&origin.inputs(), cx)?.with_block(block);
        let mut found = Vec::new();
        for &class in classes {
            let mut judged = Self::default();
            while let Some(more) = NonZeroUsize::new((n - judged.n).min(block.get())) {
                cx.checkpoint()?;
                let Some(batch) = samples.pull(ClassId(class as u32), more)? else { break };
                let scored = score(teacher, &batch.images)?;
                judged.n += batch.len();
                judged.images.extend(batch.images);
                judged.scored.probabilities.extend(scored.probabilities);
                judged.scored.features.extend(scored.features);
                task.advance(more.get() as u64);
            }
            found.push(judged);
        }
        Ok(found)
    }

    /// The teacher's probabilities for sample `i`.
    pub(super) fn probabilities(&self, i: usize) -> &[f32] {
        let classes = self.scored.probabilities.len() / self.n.max(1);
        &self.scored.probabilities[i * classes..(i + 1) * classes]
    }

    /// The teacher's features of sample `i`; empty if it has none.
    pub(super) fn features(&self, i: usize) -> &[f32] {
        let dim = self.scored.features.len() / self.n.max(1);
        &self.scored.features[i * dim..(i + 1) * dim]
    }

    /// A picture of sample `i`.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub(super) fn thumbnail(&self, i: usize, image: &ImageSpec) -> Result<Thumbnail> {
        let class = argmax(self.probabilities(i)).unwrap_or(0);
        let bytes = image.bytes();
        let png = data_url(&self.images[i * bytes..(i + 1) * bytes], image)?;
        Ok(Thumbnail { png, class, probability: self.probabilities(i).get(class).copied().unwrap_or(0.0) })
    }

    /// The teacher's confidence in these samples, requested as `class`.
    pub(super) fn confidences(&self, class: usize) -> Confidences {
        let mut found = Confidences { drawn: self.n as u64, recognised: vec![0; BINS], others: vec![0; BINS] };
        for i in 0..self.n {
            let probabilities = self.probabilities(i);
            let p = f64::from(probabilities[class]);
            // The highest threshold that the sample passes: the filter compares with `>`, in f64.
            let bin = (0..BINS).rev().find(|&k| p > k as f64 / BINS as f64);
            match bin {
                Some(bin) if argmax(probabilities) == Some(class) => found.recognised[bin] += 1,
                bin => found.others[bin.unwrap_or(0)] += 1,
            }
        }
        found
    }
}

/// Probabilities, and features if the teacher has them.
fn score(teacher: &mut dyn Scorer, images: &[u8]) -> Result<Scored> {
    if teacher.feature_dim().is_some() {
        return Ok(teacher.score_with_features(images)?);
    }
    Ok(Scored { probabilities: teacher.score(images)?, features: Vec::new() })
}

#[cfg(test)]
mod tests {
    use gafi_filter::Rule;

    use super::*;

    #[test]
    fn the_slider_keeps_what_the_filter_keeps() {
        let right = [0.0f32, 0.005, 0.01, 0.29, 0.3, 0.5, 0.500_001, 0.9, 0.99, 0.999_9, 1.0];
        let probabilities: Vec<f32> = right.iter().flat_map(|p| [*p, 1.0 - p]).collect();
        let scored = Scored { probabilities, ..Scored::default() };
        let judged = Judged { n: right.len(), scored, ..Judged::default() };
        let found = judged.confidences(0);
        for percent in 0..BINS {
            let rule = Rule::new(percent as f64 / BINS as f64).unwrap();
            let accepted = |i: &usize| rule.judge(judged.probabilities(*i), ClassId(0)).unwrap().accepted;
            let passed = (0..judged.n).filter(accepted).count();
            assert_eq!(found.kept(percent), passed as u64, "{percent} %");
        }
        let all: u64 = found.recognised.iter().chain(&found.others).sum();
        assert_eq!((all, found.drawn), (right.len() as u64, right.len() as u64));
    }
}
