//! A program as a generator.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gafi_core::stream::unit_f32;
use gafi_core::{ClassId, Error, Generator, ImageSpec, Result, SampleRequest, Stream};
use safetensors::tensor::Dtype;

use crate::failure::Mismatch;
use crate::link::Link;
use crate::program::Program;
use crate::protocol::{DrawRequest, GeneratorHello, Role, check_hello};
use crate::tensors;

/// Samples asked for at once where the program does not say.
const BATCH: usize = 256;

/// Levels of grey that an image may change by when it is made in a batch of another size: frameworks choose other kernels
/// then, and round otherwise. What a program draws wrongly changes by more.
const ROUNDING: u8 = 2;

/// A generator that is a program. It is ended when this goes.
#[derive(Debug)]
pub struct CommandGenerator {
    link: Link,
    hello: GeneratorHello,
    image: ImageSpec,
}

impl CommandGenerator {
    /// Starts `program`, whose `{artifact}` is the folder `artifact`, hears what it says of itself, and looks whether a sample
    /// depends on the batch that it is in. Once `stop` is set, whatever is asked ends with [`Error::Interrupted`].
    ///
    /// # Errors
    /// [`Error::Other`] around a [`crate::Failure`].
    pub fn start(program: &Program, artifact: Option<&Path>, stop: &Arc<AtomicBool>) -> Result<Self> {
        let (mut link, hello) = Link::open::<GeneratorHello>(program, Role::Generator, artifact, stop)?;
        let image = check_hello(&hello.classes, hello.image, hello.latent_dim)
            .map_err(|wrong| link.fail("its hello as a generator", wrong))?;
        let mut generator = Self { link, hello, image };
        generator.probe()?;
        Ok(generator)
    }

    /// What the program says of itself.
    pub fn hello(&self) -> &GeneratorHello {
        &self.hello
    }

    /// Ends the program because it is another than expected.
    pub(crate) fn refuse(&mut self, wrong: Mismatch) -> Error {
        self.link.fail("its hello as a generator", wrong)
    }

    /// Draws two samples together, then the second alone: a program that seeds once for a batch, or goes on where it
    /// stopped, makes another one.
    fn probe(&mut self) -> Result<()> {
        let (names, d) = (Stream::new(0).child("probe"), self.hello.latent_dim);
        let mut rng = names.rng();
        let latents: Vec<f32> = (0..2 * d).map(|_| 2.0 * unit_f32(&mut rng) - 1.0).collect();
        let draw = SampleRequest {
            class: ClassId(0),
            first: 0,
            seeds: &[names.at(0).seed(), names.at(1).seed()],
            stds: &[1.0; 2],
            latents: &latents,
        };
        let both = self.ask(&draw)?;
        let alone = self.ask(&SampleRequest {
            first: 1,
            seeds: &draw.seeds[1..],
            stds: &[1.0],
            latents: &latents[d..],
            ..draw
        })?;
        let off = both[self.image.bytes()..].iter().zip(&alone).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
        if off > ROUNDING {
            let expected = "the same image for the same seed and latent, in whatever batch and however often";
            let found = format!("one that differs by up to {off} of 255 when it is asked for alone");
            return Err(self.link.fail("one sample twice", Mismatch::new(expected, found)));
        }
        if off > 0 {
            tracing::warn!("a sample of the generator's program differs by {off} of 255 in a batch of another size");
        }
        Ok(())
    }

    fn ask(&mut self, draw: &SampleRequest<'_>) -> Result<Vec<u8>> {
        let (n, d) = (draw.seeds.len(), self.hello.latent_dim);
        let asked = format!("{n} samples of {} from number {} on", draw.class, draw.first);
        let latents = if d == 0 {
            None
        } else {
            let bytes: Vec<u8> = draw.latents.iter().flat_map(|z| z.to_le_bytes()).collect();
            let file = tensors::encode("latents", Dtype::F32, vec![n, d], &bytes)?;
            Some(self.link.write("latents.safetensors", &file)?)
        };
        let request = DrawRequest {
            class: draw.class.0,
            first: draw.first,
            count: n,
            seeds: draw.seeds,
            std: draw.stds,
            latents: latents.as_deref(),
        };
        // Bytes of the widest type that is allowed; which one it is, is checked with the shape.
        let answer = self.link.ask(request, &asked, n * self.image.bytes() * size_of::<f32>())?;
        tensors::images(&answer, n, &self.image, self.hello.values).map_err(|wrong| self.link.fail(&asked, wrong))
    }
}

impl Generator for CommandGenerator {
    fn image(&self) -> &ImageSpec {
        &self.image
    }

    fn classes(&self) -> &[String] {
        &self.hello.classes
    }

    fn latent_dim(&self) -> usize {
        self.hello.latent_dim
    }

    /// A program is asked by names, so this is always an error; see [`Generator::sample`].
    fn generate(&mut self, _latents: &[f32], _labels: &[ClassId]) -> Result<Vec<u8>> {
        Err(Error::other("asking a program for images of bare latents")("it is asked for samples by name"))
    }

    fn sample(&mut self, draw: &SampleRequest<'_>) -> Result<Vec<u8>> {
        let (n, d) = (draw.seeds.len(), self.hello.latent_dim);
        if draw.stds.len() != n || draw.latents.len() != n * d {
            let found = format!("{} deviations and {} values", draw.stds.len(), draw.latents.len());
            return Err(Error::config("latents", found, format!("{n} deviations and {n} latents of {d} values")));
        }
        if draw.class.index() >= self.hello.classes.len() {
            return Err(Error::config("label", draw.class, format!("a class below {}", self.hello.classes.len())));
        }
        if d == 0
            && !self.hello.std
            && let Some(std) = draw.stds.iter().find(|std| **std != 1.0)
        {
            let expected =
                "1: the generator's program draws its own latents and says that it honours no other deviation";
            return Err(Error::config("std", std, expected));
        }
        let batch = self.hello.batch.map_or(BATCH, std::num::NonZeroUsize::get);
        let mut pixels = Vec::with_capacity(n * self.image.bytes());
        for from in (0..n).step_by(batch) {
            let rows = from..n.min(from.saturating_add(batch));
            pixels.extend(self.ask(&SampleRequest {
                class: draw.class,
                first: draw.first.saturating_add(from as u64),
                seeds: &draw.seeds[rows.clone()],
                stds: &draw.stds[rows.clone()],
                latents: &draw.latents[rows.start * d..rows.end * d],
            })?);
        }
        Ok(pixels)
    }
}
