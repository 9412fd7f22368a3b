//! `Expanded`: a generator as an endless source of samples.

use std::num::NonZeroUsize;

use gafi_core::{
    Batch, ClassId, Cursor, Error, Generator, ImageSpec, Result, SAMPLE_BATCH, SampleRequest, SampleSource, Stream,
    Tally,
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
    starts: Vec<u64>,
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
        let classes = generator.classes().len();
        let starts = vec![0; classes];
        let classes = vec![Class::default(); classes];
        Ok(Self { generator, std, stream, block: SAMPLE_BATCH, starts, classes })
    }

    /// Sets how many samples are generated at a time; the default is [`SAMPLE_BATCH`]. This affects speed and memory, but not
    /// the samples.
    pub fn with_block(mut self, block: NonZeroUsize) -> Self {
        self.block = block;
        self
    }

    /// Starts each class at its id in `starts` instead of 0. Two sources of the same stream whose ids do not overlap share
    /// no latent.
    ///
    /// # Errors
    /// [`Error::Other`] unless there is one id for each class.
    pub fn starting_at(mut self, starts: &[u64]) -> Result<Self> {
        if starts.len() != self.classes.len() {
            let why = format!("expected one id for each of {} classes, found {}", self.classes.len(), starts.len());
            return Err(Error::other("starting a source of generated samples")(why));
        }
        self.classes = starts.iter().map(|&next| Class { next, ..Class::default() }).collect();
        self.starts = starts.to_vec();
        Ok(self)
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
        let expected = n * self.generator.image().bytes();
        if images.len() != expected {
            let why = format!("expected {expected} bytes for {n} images, found {}", images.len());
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
        if class.index() >= self.classes.len() {
            let why = format!("expected a class below {}", self.classes.len());
            return Err(Error::other(format!("generating samples of {class}"))(why));
        }
        // Generate everything before handing anything over, so that an error loses no samples.
        while self.classes[class.index()].ready < max.get() && self.generate(class)? {}
        let bytes = self.generator.image().bytes();
        let state = &mut self.classes[class.index()];
        let n = state.ready.min(max.get());
        if n == 0 {
            return Ok(None);
        }
        let rest = state.images.split_off(n * bytes);
        let images = std::mem::replace(&mut state.images, rest);
        let ids = (state.next..state.next + n as u64).collect();
        state.next += n as u64;
        state.ready -= n;
        Ok(Some(Batch { labels: vec![class; n], images, ids, ..Batch::default() }))
    }

    fn tally(&self) -> Tally {
        let mut tally = Tally::new(self.classes.len());
        for ((tally, class), start) in tally.classes.iter_mut().zip(&self.classes).zip(&self.starts) {
            tally.drawn = class.next - start;
            tally.accepted = tally.drawn;
        }
        tally
    }

    fn cursor(&self, class: ClassId) -> Cursor {
        Cursor::new([self.classes[class.index()].next], Vec::new())
    }

    fn seek(&mut self, class: ClassId, cursor: &Cursor) -> Result<()> {
        let ([next], _) = cursor.parts("a source of generated samples", 0)?;
        let start = self.starts[class.index()];
        if next < start {
            let why = format!("expected an id of {class} from {start} on, where the source starts, found {next}");
            return Err(Error::other("resuming a source of generated samples")(why));
        }
        self.classes[class.index()] = Class { next, ..Class::default() };
        Ok(())
    }
}
