//! A program as a scorer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gafi_core::stream::below;
use gafi_core::{Error, ImageSpec, Result, Scored, Scorer, Stream};
use safetensors::tensor::Dtype;

use crate::connection::Connection;
use crate::failure::Mismatch;
use crate::program::Program;
use crate::protocol::{Role, ScoreRequest, ScorerHello, check_hello};
use crate::tensors;

/// How much a probability may change with the batch size, since frameworks then choose kernels that round differently.
const ROUNDING: f32 = 1e-3;

/// A classifier that runs as a program. Dropping it ends the program.
#[derive(Debug)]
pub struct CommandScorer {
    connection: Connection,
    pub(crate) hello: ScorerHello,
    image: ImageSpec,
}

impl CommandScorer {
    /// Starts `program`, reads its hello message, and checks that the probabilities of an image do not depend on its
    /// batch. `{artifact}` in an argument becomes the folder `artifact`. Once `stop` is set, a request ends with
    /// [`Error::Interrupted`].
    ///
    /// # Errors
    /// [`Error::Config`] for a program that cannot be started at all, [`Error::Other`] around a [`crate::Failure`] for
    /// one that breaks the protocol.
    pub fn start(program: &Program, artifact: Option<&Path>, stop: &Arc<AtomicBool>) -> Result<Self> {
        let (mut connection, hello) = Connection::open::<ScorerHello>(program, Role::Scorer, artifact, stop)?;
        let image = check_hello(&hello.classes, hello.image, hello.feature_dim)
            .map_err(|wrong| connection.fail(Role::Scorer.hello(), wrong))?;
        let mut scorer = Self { connection, hello, image };
        scorer.check_batches()?;
        Ok(scorer)
    }

    /// Kills the program because its hello message is not the expected one.
    pub(crate) fn refuse(&mut self, wrong: Mismatch) -> Error {
        self.connection.fail(Role::Scorer.hello(), wrong)
    }

    /// Scores two images of noise together, then the second alone.
    fn check_batches(&mut self) -> Result<()> {
        let mut rng = Stream::new(0).child("probe").rng();
        let bytes = self.image.bytes();
        let noise: Vec<u8> = (0..2 * bytes).map(|_| below(&mut rng, 256) as u8).collect();
        let together = self.request(&noise, false)?;
        let alone = self.request(&noise[bytes..], false)?;
        let second = &together.probabilities[self.classes()..];
        let off = second.iter().zip(&alone.probabilities).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        if off > ROUNDING {
            let expected = "the same probabilities for the same image in every batch";
            let found = format!("a probability that differs by {off} when the image is scored alone");
            return Err(self
                .connection
                .fail("scores of the same image in two batches", Mismatch::new(expected, found)));
        }
        if off > 0.0 {
            tracing::warn!(
                "the scorer's program: a probability changes by {off} with the batch size ({ROUNDING} is allowed)"
            );
        }
        Ok(())
    }

    /// Scores images in one batch.
    fn request(&mut self, pixels: &[u8], features: bool) -> Result<Scored> {
        let n = pixels.len() / self.image.bytes();
        let what = format!("scores of {n} images");
        let ImageSpec { channels, height, width } = self.image;
        let file = tensors::encode("images", Dtype::U8, vec![n, channels, height, width], pixels)?;
        let images = self.connection.write("images.safetensors", &file)?;
        let dim = if features { self.hello.feature_dim } else { 0 };
        let values = n.saturating_mul(self.classes() + self.hello.feature_dim) * size_of::<f32>();
        let answer = self.connection.request(ScoreRequest { count: n, images: &images, features }, &what, values)?;
        tensors::scores(&answer, n, self.hello.classes.len(), dim).map_err(|wrong| self.connection.fail(&what, wrong))
    }

    fn score_all(&mut self, pixels: &[u8], features: bool) -> Result<Scored> {
        let bytes = self.image.bytes();
        if !pixels.len().is_multiple_of(bytes) {
            let expected = format!("whole images of {bytes} bytes ({})", self.image);
            return Err(Error::config("pixels", format!("{} bytes", pixels.len()), expected));
        }
        let mut all = Scored::default();
        for pixels in pixels.chunks(self.hello.batch().saturating_mul(bytes)) {
            let scored = self.request(pixels, features)?;
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
        Ok(self.score_all(pixels, false)?.probabilities)
    }

    fn feature_dim(&self) -> Option<usize> {
        Some(self.hello.feature_dim).filter(|&dim| dim > 0)
    }

    fn score_with_features(&mut self, pixels: &[u8]) -> Result<Scored> {
        if self.hello.feature_dim == 0 {
            let why = "its hello message has no \"feature_dim\"";
            return Err(Error::other("requesting features from the scorer's program")(why));
        }
        self.score_all(pixels, true)
    }
}
