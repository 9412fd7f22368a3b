//! How long a pipeline will take on this machine, from a short measurement of the configured networks.

use std::time::Instant;

use anyhow::Result;
use candle_core::Tensor;
use gafi_core::{ClassId, Context, DatasetInfo, Generator as _, ImageSpec, Learner as _, MemoryDataset, Split, Stream};
use gafi_data::{Import, ImportConfig};
use gafi_gan::{Players, Sampler, bake};
use gafi_nn::{ClassifierConfig, ResNetLearner};
use serde::Serialize;

use super::config::PipelineConfig;
use crate::session::Session;

/// Images in a measured batch, at most, on a CPU: what a batch costs is proportional to them there.
const CPU_BATCH: usize = 16;
/// Batches that are measured, after one that warms up.
const BATCHES: usize = 2;

/// What things cost on one device, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Costs {
    /// Training a student on one image.
    pub student_image_s: f64,
    /// Training the teacher on one.
    pub teacher_image_s: f64,
    /// A student's judgement of one.
    pub student_judges_s: f64,
    /// The teacher's.
    pub teacher_judges_s: f64,
    /// One step of a GAN: every update of its discriminator and the one of its generator.
    pub gan_step_s: f64,
    /// One sample of it.
    pub sample_s: f64,
}

/// The real images of a pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// Training images.
    pub train: DatasetInfo,
    /// Images that choose.
    pub val: u64,
}

impl Scene {
    /// That of `data`, where it is on this machine: nothing is downloaded.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub(crate) fn of(data: &ImportConfig, session: &Session) -> Result<Self> {
        let here = ImportConfig { offline: true, ..data.clone() };
        let import = Import::new(&here, Split::Train, &session.cx)?;
        Ok(Self { train: import.preview()?, val: import.with_split(Split::Val).preview()?.rows() })
    }
}

impl Costs {
    /// Measures them, on random images: about a second a network of usual size.
    ///
    /// # Errors
    /// What the networks say.
    pub(crate) fn measure(session: &Session, config: &PipelineConfig, scene: &Scene) -> Result<Self> {
        let (image, classes) = (scene.train.image, scene.train.classes.len());
        let (student_image_s, student_judges_s) = classifier(session, &config.student, &image, classes)?;
        let (teacher_image_s, teacher_judges_s) = classifier(session, &config.teacher, &image, classes)?;
        let (gan_step_s, sample_s) = gan(session, config, &image, classes)?;
        Ok(Self { student_image_s, teacher_image_s, student_judges_s, teacher_judges_s, gan_step_s, sample_s })
    }
}

fn batch(session: &Session, configured: usize) -> usize {
    if session.device.is_cpu() { configured.min(CPU_BATCH) } else { configured }
}

/// Seconds of `work`, the first call not counted, per call.
fn seconds(session: &Session, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    session.device.synchronize()?;
    let begun = Instant::now();
    for _ in 0..BATCHES {
        session.cx.checkpoint()?;
        work()?;
    }
    session.device.synchronize()?;
    Ok(begun.elapsed().as_secs_f64() / BATCHES as f64)
}

/// Seconds to train a classifier on one image, and to have it judge one.
fn classifier(session: &Session, config: &ClassifierConfig, image: &ImageSpec, classes: usize) -> Result<(f64, f64)> {
    let n = batch(session, config.batch);
    let names: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
    let mut rows = MemoryDataset::new(*image, names, Split::Train);
    let pixels: Vec<u8> = (0..image.bytes()).map(|i| (i * 31 % 251) as u8).collect();
    (0..n).for_each(|row| rows.push(&pixels, ClassId((row % classes) as u32)));
    let config = ClassifierConfig { batch: n, epochs: BATCHES as u32 + 1, distill: None, ..config.clone() };
    let mut learner = ResNetLearner::new(config, *image, classes, 0, &session.device)?;
    // Without the progress of an epoch, which this is none.
    let quiet = Context { stop: session.cx.stop.clone(), ..Context::default() };
    let trained = seconds(session, || Ok(learner.train_epoch(&rows, &quiet).map(drop)?))?;
    let mut scorer = learner.scorer()?;
    let judged = seconds(session, || Ok(scorer.score(rows.images()).map(drop)?))?;
    Ok((trained / n as f64, judged / n as f64))
}

/// Seconds of a step of the GAN, and of one sample.
fn gan(session: &Session, config: &PipelineConfig, image: &ImageSpec, classes: usize) -> Result<(f64, f64)> {
    let (gan, device) = (&config.gan, &session.device);
    let n = batch(session, gan.batch);
    let mut players = Players::new(gan, image, classes, device, &Stream::new(0))?;
    let latent = gan.architecture.latent();
    let wave = |len: usize| -> Vec<f32> { (0..len).map(|i| (i as f32 * 0.731).sin()).collect() };
    let x = Tensor::from_vec(wave(n * image.bytes()), (n, image.channels, image.height, image.width), device)?;
    let z = Tensor::from_vec(wave(n * latent), (n, latent), device)?;
    let labels: Vec<u32> = (0..n).map(|row| (row % classes) as u32).collect();
    let y = Tensor::from_slice(&labels, n, device)?;
    let step = seconds(session, || {
        for _ in 0..gan.d_steps {
            players.update_discriminator(&x, &y, &z, None)?;
        }
        players.update_generator(&y, &z, None)?;
        Ok(players.ema.update(&players.g_params, 1)?)
    })?;
    let names: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
    let mut sampler = Sampler::new(&gan.architecture, image, &names, device)?;
    sampler.load(&bake(&players.ema.weights()?)?)?;
    let labels: Vec<ClassId> = labels.into_iter().map(ClassId).collect();
    let sampled = seconds(session, || Ok(sampler.generate(&wave(n * latent), &labels).map(drop)?))?;
    // A step of `gan.batch` images, of which n were measured.
    Ok((step * gan.batch as f64 / n as f64, sampled / n as f64))
}
