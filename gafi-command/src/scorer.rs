//! A program as a scorer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gafi_core::stream::below;
use gafi_core::{Error, ImageSpec, Result, Scored, Scorer, Stream};
use safetensors::tensor::Dtype;

use crate::failure::Mismatch;
use crate::link::Link;
use crate::program::Program;
use crate::protocol::{Role, ScoreRequest, ScorerHello, check_hello};
use crate::tensors;

/// Images given at once where the program does not say.
const BATCH: usize = 256;

/// What a probability may change by when its image is judged in a batch of another size: frameworks choose other kernels
/// then, and round otherwise.
const ROUNDING: f32 = 1e-3;

/// A classifier that is a program. It is ended when this goes.
#[derive(Debug)]
pub struct CommandScorer {
    link: Link,
    hello: ScorerHello,
    image: ImageSpec,
}

impl CommandScorer {
    /// Starts `program`, whose `{artifact}` is the folder `artifact`, hears what it says of itself, and looks whether an image's
    /// probabilities depend on the batch that it is in. Once `stop` is set, whatever is asked ends with [`Error::Interrupted`].
    ///
    /// # Errors
    /// [`Error::Other`] around a [`crate::Failure`].
    pub fn start(program: &Program, artifact: Option<&Path>, stop: &Arc<AtomicBool>) -> Result<Self> {
        let (mut link, hello) = Link::open::<ScorerHello>(program, Role::Scorer, artifact, stop)?;
        let image = check_hello(&hello.classes, hello.image, hello.feature_dim)
            .map_err(|wrong| link.fail("its hello as a scorer", wrong))?;
        let mut scorer = Self { link, hello, image };
        scorer.probe()?;
        Ok(scorer)
    }

    /// What the program says of itself.
    pub fn hello(&self) -> &ScorerHello {
        &self.hello
    }

    /// Ends the program because it is another than expected.
    pub(crate) fn refuse(&mut self, wrong: Mismatch) -> Error {
        self.link.fail("its hello as a scorer", wrong)
    }

    /// Has two images of noise judged together, then the second alone.
    fn probe(&mut self) -> Result<()> {
        let mut rng = Stream::new(0).child("probe").rng();
        let bytes = self.image.bytes();
        let noise: Vec<u8> = (0..2 * bytes).map(|_| below(&mut rng, 256) as u8).collect();
        let (both, alone) = (self.ask(&noise, false)?, self.ask(&noise[bytes..], false)?);
        let second = &both.probabilities[self.classes()..];
        let off = second.iter().zip(&alone.probabilities).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        if off > ROUNDING {
            let expected = "the same probabilities for the same image, in whatever batch and however often";
            let found = format!("one that differs by {off} when the image is judged alone");
            return Err(self.link.fail("its opinion of one image twice", Mismatch::new(expected, found)));
        }
        if off > 0.0 {
            tracing::warn!("a probability of the scorer's program differs by {off} in a batch of another size");
        }
        Ok(())
    }

    fn ask(&mut self, pixels: &[u8], features: bool) -> Result<Scored> {
        let n = pixels.len() / self.image.bytes();
        let asked = format!("its opinion of {n} images");
        let ImageSpec { channels, height, width } = self.image;
        let file = tensors::encode("images", Dtype::U8, vec![n, channels, height, width], pixels)?;
        let images = self.link.write("images.safetensors", &file)?;
        let dim = if features { self.hello.feature_dim } else { 0 };
        let values = n.saturating_mul(self.classes() + self.hello.feature_dim) * size_of::<f32>();
        let answer = self.link.ask(ScoreRequest { count: n, images: &images, features }, &asked, values)?;
        tensors::scores(&answer, n, self.hello.classes.len(), dim).map_err(|wrong| self.link.fail(&asked, wrong))
    }

    fn batches(&mut self, pixels: &[u8], features: bool) -> Result<Scored> {
        let bytes = self.image.bytes();
        if !pixels.len().is_multiple_of(bytes) {
            let expected = format!("whole images of {bytes} bytes ({})", self.image);
            return Err(Error::config("pixels", format!("{} bytes", pixels.len()), expected));
        }
        let batch = self.hello.batch.map_or(BATCH, std::num::NonZeroUsize::get);
        let mut all = Scored::default();
        for pixels in pixels.chunks(batch.saturating_mul(bytes)) {
            let scored = self.ask(pixels, features)?;
            all.probabilities.extend(scored.probabilities);
            all.features.extend(scored.features);
        }
        Ok(all)
    }
}

impl Scorer for CommandScorer {
    fn image(&self) -> &ImageSpec {
        &self.image
    }

    fn classes(&self) -> usize {
        self.hello.classes.len()
    }

    fn score(&mut self, pixels: &[u8]) -> Result<Vec<f32>> {
        Ok(self.batches(pixels, false)?.probabilities)
    }

    fn feature_dim(&self) -> Option<usize> {
        Some(self.hello.feature_dim).filter(|&dim| dim > 0)
    }

    fn score_with_features(&mut self, pixels: &[u8]) -> Result<Scored> {
        if self.hello.feature_dim == 0 {
            return Err(Error::other("asking a program for features")("it says that it gives none"));
        }
        self.batches(pixels, true)
    }
}
