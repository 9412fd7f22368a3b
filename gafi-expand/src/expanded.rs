//! `Expanded`: a source of samples made of a generator.

use std::num::NonZeroUsize;

use gafi_core::{Batch, ClassId, Error, Generator, ImageSpec, Result, SampleRequest, SampleSource, Stream, Tally};

use crate::latents::{ClassStds, draw_latent, draw_seed};

/// Samples generated at a time where nothing else is said.
pub const BLOCK: usize = 64;

/// An endless source of a generator's samples, with latents drawn wide.
///
/// Sample `index` of a class has the latent of that name (see [`draw_latent`]), scaled by its class's standard deviation and
/// no other's, and the id `index`, from 0 upwards. The
/// generator is asked for whole blocks and what is not yet pulled is kept, so neither ids nor pixels depend on how many are
/// pulled at a time. Every sample passes: its tally's `accepted` equals `drawn`. Its position is the next id of each class;
/// the tally follows from it, so [`SampleSource::seek`] does not need the one it is given.
#[derive(Debug)]
pub struct Expanded<G> {
    generator: G,
    std: ClassStds,
    stream: Stream,
    block: usize,
    starts: Vec<u64>,
    classes: Vec<Class>,
}

/// One class: the id of the first sample not handed over yet, and samples generated ahead from there on.
#[derive(Debug, Clone, Default)]
struct Class {
    next: u64,
    ready: usize,
    images: Vec<u8>,
}

impl<G: Generator> Expanded<G> {
    /// Samples of `generator`, their latents drawn from `stream` (see [`crate::latent_stream`]) with `std`.
    ///
    /// # Errors
    /// [`Error::Config`] when `std` cannot be drawn from, or is one for each of other classes than the generator's.
    pub fn new(generator: G, std: impl Into<ClassStds>, stream: Stream) -> Result<Self> {
        let (classes, std) = (generator.classes().len(), std.into());
        std.check(classes)?;
        let (starts, classes) = (vec![0; classes], vec![Class::default(); classes]);
        Ok(Self { generator, std, stream, block: BLOCK, starts, classes })
    }

    /// Generates `block` samples at a time; [`BLOCK`] unless told. Changes speed and memory, never a sample.
    pub fn with_block(mut self, block: NonZeroUsize) -> Self {
        self.block = block.get();
        self
    }

    /// Begins each class at the id given for it instead of 0: two sources of the same stream whose ids do not overlap
    /// share no latent.
    ///
    /// # Errors
    /// [`Error::Other`] unless `starts` has one id a class.
    pub fn starting_at(mut self, starts: &[u64]) -> Result<Self> {
        self.jump(starts)?;
        self.starts = starts.to_vec();
        Ok(self)
    }

    fn jump(&mut self, to: &[u64]) -> Result<()> {
        if to.len() != self.classes.len() {
            let why = format!("expected one id for each of {} classes, found {}", self.classes.len(), to.len());
            return Err(Error::other("placing a source of generated samples")(why));
        }
        self.classes = to.iter().map(|&next| Class { next, ..Class::default() }).collect();
        Ok(())
    }

    /// Generates the next block of `class`; `false` when it has used up all ids.
    fn generate(&mut self, class: ClassId) -> Result<bool> {
        let state = &mut self.classes[class.index()];
        let (from, d) = (state.next + state.ready as u64, self.generator.latent_dim());
        let n = usize::try_from(u64::MAX - from).map_or(self.block, |left| left.min(self.block));
        if n == 0 {
            return Ok(false);
        }
        // There is one: `new` counted them.
        let std = self.std.of(class).unwrap_or_default();
        let mut latents = vec![0.0; n * d];
        let (mut seeds, mut stds) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for (i, id) in (from..from + n as u64).enumerate() {
            stds.push(draw_latent(&self.stream, std, class, id, &mut latents[i * d..(i + 1) * d]));
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
        // Generated first and handed over afterwards, so that an error on the way loses nothing.
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

    fn position(&self) -> Vec<u64> {
        self.classes.iter().map(|class| class.next).collect()
    }

    fn seek(&mut self, position: &[u64], _: &Tally) -> Result<()> {
        if let Some((at, start)) = position.iter().zip(&self.starts).find(|(at, start)| at < start) {
            let why = format!("expected an id from {start} on, where the source begins, found {at}");
            return Err(Error::other("placing a source of generated samples")(why));
        }
        self.jump(position)
    }
}
