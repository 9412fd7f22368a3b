//! `Expanded`: a generator as an endless source of samples.

use std::num::NonZeroUsize;

use gafi_core::{
    Batch, ClassId, ClassTally, Cursor, Error, Generator, ImageSpec, Result, SAMPLE_BATCH, SampleRequest, SampleSource,
    Stream, Tally,
};

use crate::latents::{StdRange, draw_latent, draw_seed};

/// An endless source of a generator's samples, with latents of a given standard deviation.
///
/// Sample `index` of a class has the id `index`, counted from 0, and the latent that [`draw_latent`] gives for it. The
/// generator always generates whole blocks, and samples not yet pulled are kept, so neither ids nor pixels depend on how
/// many are pulled at a time. Every sample passes: `accepted` equals `drawn` in its tally.
#[derive(Debug)]
pub struct Expanded<G> {
    generator: G,
    std: StdRange,
    stream: Stream,
    block: NonZeroUsize,
    classes: Vec<Class>,
}

/// A class: the id of the next sample to hand over, and the images of those already generated from there on.
#[derive(Debug, Clone, Default)]
struct Class {
    next: u64,
    ready: usize,
    images: Vec<u8>,
}

impl<G: Generator> Expanded<G> {
    /// Samples of `generator`, with latents of standard deviation `std` drawn from `stream` (see [`crate::latent_stream`]).
    ///
    /// # Errors
    /// [`Error::Config`] when `std` is out of range.
    pub fn new(generator: G, std: StdRange, stream: Stream) -> Result<Self> {
        std.check()?;
        let classes = vec![Class::default(); generator.classes().len()];
        Ok(Self { generator, std, stream, block: SAMPLE_BATCH, classes })
    }

    /// Sets how many samples are generated at a time; the default is [`SAMPLE_BATCH`]. This affects speed and memory, but not
    /// the samples.
    pub fn with_block(mut self, block: NonZeroUsize) -> Self {
        self.block = block;
        self
    }

    /// Generates the next block of `class`; `false` once all ids are used up.
    fn generate(&mut self, class: ClassId) -> Result<bool> {
        let state = &mut self.classes[class.index()];
        let from = state.next + state.ready as u64;
        let d = self.generator.latent_dim();
        let block = self.block.get();
        let n = usize::try_from(u64::MAX - from).map_or(block, |left| left.min(block));
        if n == 0 {
            return Ok(false);
        }
        let mut latents = vec![0.0; n * d];
        let mut seeds = Vec::with_capacity(n);
        let mut stds = Vec::with_capacity(n);
        for (i, id) in (from..from + n as u64).enumerate() {
            stds.push(draw_latent(&self.stream, self.std, class, id, &mut latents[i * d..(i + 1) * d]));
            seeds.push(draw_seed(&self.stream, class, id));
        }
        let request = SampleRequest { class, first: from, seeds: &seeds, stds: &stds, latents: &latents };
        let images = self.generator.sample(&request)?;
        let image = self.generator.image();
        let expected = n * image.bytes();
        if images.len() != expected {
            let why = format!("expected {expected} bytes for {n} images of {image}, found {}", images.len());
            return Err(Error::other(format!("generating samples of {class}"))(why));
        }
        state.images.extend_from_slice(&images);
        state.ready += n;
        Ok(true)
    }
}

impl<G: Generator> SampleSource for Expanded<G> {
    fn image(&self) -> &ImageSpec {
        self.generator.image()
    }

    fn classes(&self) -> &[String] {
        self.generator.classes()
    }

    fn pull(&mut self, class: ClassId, max: NonZeroUsize) -> Result<Option<Batch>> {
        class.check_below(self.classes.len(), "generating samples")?;
        // Generate everything before handing anything over, so that an error loses no samples.
        while self.classes[class.index()].ready < max.get() && self.generate(class)? {}
        let bytes = self.generator.image().bytes();
        let state = &mut self.classes[class.index()];
        let n = state.ready.min(max.get());
        if n == 0 {
            return Ok(None);
        }
        // The class keeps no spare capacity: with many classes, that would add up.
        let rest = state.images.split_off(n * bytes);
        let images = std::mem::replace(&mut state.images, rest);
        let ids = (state.next..state.next + n as u64).collect();
        state.next += n as u64;
        state.ready -= n;
        Ok(Some(Batch { labels: vec![class; n], images, ids, ..Batch::default() }))
    }

    fn tally(&self) -> Tally {
        Tally { classes: self.classes.iter().map(|class| ClassTally::new(class.next, class.next, 0)).collect() }
    }

    fn cursor(&self, class: ClassId) -> Cursor {
        Cursor::new([self.classes[class.index()].next], Vec::new())
    }

    fn seek(&mut self, class: ClassId, cursor: &Cursor) -> Result<()> {
        let ([next], _) = cursor.parts("a source of generated samples", 0)?;
        self.classes[class.index()] = Class { next, ..Class::default() };
        Ok(())
    }
}
