//! A program as a generator.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gafi_core::stream::unit_f32;
use gafi_core::{ClassId, Error, Generator, ImageSpec, Result, SampleRequest, Stream};
use safetensors::tensor::Dtype;

use crate::connection::Connection;
use crate::failure::Mismatch;
use crate::program::Program;
use crate::protocol::{DrawRequest, GeneratorHello, Role, check_hello};
use crate::tensors;

/// Number of grey levels by which a pixel may change with the batch size, because frameworks then choose kernels that round
/// differently. An image that depends on its batch changes by more.
const ROUNDING: u8 = 2;

/// A generator that runs as a program. Dropping it ends the program.
#[derive(Debug)]
pub struct CommandGenerator {
    connection: Connection,
    pub(crate) hello: GeneratorHello,
    image: ImageSpec,
}

impl CommandGenerator {
    /// Starts `program`, reads its hello message, and checks that a sample does not depend on its batch. `{artifact}`
    /// in an argument becomes the folder `artifact`. Once `stop` is set, a request ends with [`Error::Interrupted`].
    ///
    /// # Errors
    /// [`Error::Config`] for a program that cannot be started at all, [`Error::Other`] around a [`crate::Failure`] for
    /// one that breaks the protocol.
    pub fn start(program: &Program, artifact: Option<&Path>, stop: &Arc<AtomicBool>) -> Result<Self> {
        let (mut connection, hello) = Connection::open::<GeneratorHello>(program, Role::Generator, artifact, stop)?;
        let image = check_hello(&hello.classes, hello.image, hello.latent_dim)
            .map_err(|wrong| connection.fail(Role::Generator.hello(), wrong))?;
        let mut generator = Self { connection, hello, image };
        generator.check_batches()?;
        Ok(generator)
    }

    /// Kills the program because its hello message is not the expected one.
    pub(crate) fn refuse(&mut self, wrong: Mismatch) -> Error {
        self.connection.fail(Role::Generator.hello(), wrong)
    }

    /// Requests two samples together, then the second alone: a program that seeds once per batch, or keeps one random
    /// generator for all requests, returns another image.
    fn check_batches(&mut self) -> Result<()> {
        let d = self.hello.latent_dim;
        let names = Stream::new(0).child("probe");
        let mut rng = names.rng();
        let latents: Vec<f32> = (0..2 * d).map(|_| 2.0 * unit_f32(&mut rng) - 1.0).collect();
        let seeds = [names.at(0).seed(), names.at(1).seed()];
        let pair = SampleRequest { class: ClassId(0), first: 0, seeds: &seeds, stds: &[1.0; 2], latents: &latents };
        let second = SampleRequest { first: 1, seeds: &seeds[1..], stds: &[1.0], latents: &latents[d..], ..pair };
        let together = self.request(&pair)?;
        let alone = self.request(&second)?;
        let off = together[self.image.bytes()..].iter().zip(&alone).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
        if off > ROUNDING {
            let expected = "the same image for the same seed and latent in every batch";
            let found = format!("pixels that differ by up to {off} of 255 when the sample is requested alone");
            return Err(self.connection.fail("the same sample in two batches", Mismatch::new(expected, found)));
        }
        if off > 0 {
            tracing::warn!(
                "the generator's program: pixels of a sample change by up to {off} of 255 with the batch size"
            );
        }
        Ok(())
    }

    /// Requests samples in one batch.
    fn request(&mut self, samples: &SampleRequest<'_>) -> Result<Vec<u8>> {
        let n = samples.seeds.len();
        let d = self.hello.latent_dim;
        let what = format!("{n} samples of {}, from index {} on", samples.class, samples.first);
        let latents = if d == 0 {
            None
        } else {
            let bytes: Vec<u8> = samples.latents.iter().flat_map(|z| z.to_le_bytes()).collect();
            let file = tensors::encode("latents", Dtype::F32, vec![n, d], &bytes)?;
            Some(self.connection.write("latents.safetensors", &file)?)
        };
        let request = DrawRequest {
            class: samples.class.0,
            first: samples.first,
            count: n,
            seeds: samples.seeds,
            std: samples.stds,
            latents: latents.as_deref(),
        };
        // Room for the wider of the two types; the type itself is checked with the shape.
        let answer = self.connection.request(request, &what, n * self.image.bytes() * size_of::<f32>())?;
        tensors::images(&answer, n, &self.image, self.hello.values).map_err(|wrong| self.connection.fail(&what, wrong))
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

    /// Always an error, because a program needs the seeds of [`Generator::sample`].
    fn generate(&mut self, _latents: &[f32], _labels: &[ClassId]) -> Result<Vec<u8>> {
        Err(Error::other("generating images from latents alone")(
            "a program also needs the samples' seeds: call `sample`",
        ))
    }

    fn sample(&mut self, samples: &SampleRequest<'_>) -> Result<Vec<u8>> {
        let n = samples.seeds.len();
        let d = self.hello.latent_dim;
        if samples.stds.len() != n || samples.latents.len() != n * d {
            let found = format!("{} stds and {} values of latents", samples.stds.len(), samples.latents.len());
            return Err(Error::config("latents", found, format!("{n} stds and {n} latents of {d} values")));
        }
        if samples.class.index() >= self.hello.classes.len() {
            return Err(Error::config("label", samples.class, format!("a class below {}", self.hello.classes.len())));
        }
        if d == 0
            && !self.hello.std
            && let Some(std) = samples.stds.iter().find(|std| **std != 1.0)
        {
            let expected =
                "1, because the generator's program draws its own latents and its hello message does not set \"std\"";
            return Err(Error::config("std", std, expected));
        }
        let batch = self.hello.batch();
        let mut pixels = Vec::with_capacity(n * self.image.bytes());
        for from in (0..n).step_by(batch) {
            let rows = from..n.min(from.saturating_add(batch));
            pixels.extend(self.request(&SampleRequest {
                class: samples.class,
                first: samples.first.saturating_add(from as u64),
                seeds: &samples.seeds[rows.clone()],
                stds: &samples.stds[rows.clone()],
                latents: &samples.latents[rows.start * d..rows.end * d],
            })?);
        }
        Ok(pixels)
    }
}
