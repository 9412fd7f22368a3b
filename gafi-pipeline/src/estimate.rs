//! How long a pipeline will take on this machine, from a short measurement of the configured networks.

use std::time::Instant;

use anyhow::Result;
use candle_core::Tensor;
use gafi_core::{
    ClassId, DatasetInfo, Generator as _, ImageSpec, Learner as _, MemoryDataset, RunControl, Split, Stream,
};
use gafi_data::{Import, ImportConfig};
use gafi_gan::Sampler;
use gafi_gan::players::Players;
use gafi_gan::spectral::bake;
use gafi_nn::{ClassifierConfig, ResNetLearner};
use serde::Serialize;

use crate::config::PipelineConfig;
use crate::host::Host;

/// Images in a measured batch, at most, on a CPU: what a batch costs is proportional to them there.
const CPU_BATCH: usize = 16;
/// Images in the first measurement on a CPU, ...
const FEW: usize = 2;
/// ... which is enough if it takes so many seconds: large networks should not keep a dry run busy for minutes.
const ENOUGH_S: f64 = 0.1;
/// Calls of one measurement, at most.
const CALLS: u32 = 4;

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
    pub fn of(data: &ImportConfig, host: &Host) -> Result<Self> {
        let here = ImportConfig { offline: true, ..data.clone() };
        let import = Import::new(&here, Split::Train, host.cx())?;
        Ok(Self { train: import.preview()?, val: import.with_split(Split::Val).preview()?.rows() })
    }
}

impl Costs {
    /// Measures them, on random images: about a second a network of usual size.
    ///
    /// # Errors
    /// What the networks say.
    pub fn measure(host: &Host, config: &PipelineConfig, scene: &Scene) -> Result<Self> {
        let (image, classes) = (scene.train.image, scene.train.classes.len());
        let (student_image_s, student_judges_s) = classifier(host, &config.student, &image, classes)?;
        let (teacher_image_s, teacher_judges_s) = classifier(host, &config.teacher, &image, classes)?;
        let (gan_step_s, sample_s) = gan(host, config, &image, classes)?;
        Ok(Self { student_image_s, teacher_image_s, student_judges_s, teacher_judges_s, gan_step_s, sample_s })
    }
}

/// Seconds of `work` on one image, in batches of `configured` or, on a CPU, of fewer.
fn per_image(host: &Host, configured: usize, mut work: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let mut timed = |n: usize| -> Result<f64> {
        host.cx().checkpoint()?;
        let begun = Instant::now();
        work(n)?;
        host.device().synchronize()?;
        Ok(begun.elapsed().as_secs_f64() / n as f64)
    };
    let most = if host.device().is_cpu() { configured.min(CPU_BATCH) } else { configured };
    let few = if host.device().is_cpu() { most.min(FEW) } else { most };
    // The first call warms up.
    timed(few)?;
    let rough = timed(few)?;
    if few == most || rough * few as f64 > ENOUGH_S {
        return Ok(rough);
    }
    timed(most)?;
    timed(most)
}

/// Seconds to train a classifier on one image, and to have it judge one.
fn classifier(host: &Host, config: &ClassifierConfig, image: &ImageSpec, classes: usize) -> Result<(f64, f64)> {
    let names: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
    let pixels: Vec<u8> = (0..image.bytes()).map(|i| (i * 31 % 251) as u8).collect();
    let rows = |n: usize| {
        let mut rows = MemoryDataset::new(*image, names.clone(), Split::Train);
        (0..n).for_each(|row| rows.push(&pixels, ClassId((row % classes) as u32)));
        rows
    };
    // A call is an epoch of one batch.
    let config = ClassifierConfig { epochs: CALLS, distill: None, ..config.clone() };
    let batch = config.batch;
    let mut learner = ResNetLearner::new(config, *image, classes, 0, host.device())?;
    // Without the progress of an epoch, which this is none.
    let quiet = RunControl { stop: host.cx().stop.clone(), ..RunControl::default() };
    let trained = per_image(host, batch, |n| Ok(learner.train_epoch(&rows(n), &quiet).map(drop)?))?;
    let mut scorer = learner.scorer()?;
    let judged = per_image(host, batch, |n| Ok(scorer.score(rows(n).images()).map(drop)?))?;
    Ok((trained, judged))
}

/// Seconds of a step of the GAN, and of one sample.
fn gan(host: &Host, config: &PipelineConfig, image: &ImageSpec, classes: usize) -> Result<(f64, f64)> {
    let (gan, device) = (&config.gan, host.device());
    let mut players = Players::new(gan, image, classes, device, &Stream::new(0))?;
    let latent = gan.architecture.latent();
    let wave = |len: usize| -> Vec<f32> { (0..len).map(|i| (i as f32 * 0.731).sin()).collect() };
    let labels = |n: usize| (0..n).map(|row| (row % classes) as u32);
    let step = per_image(host, gan.batch, |n| {
        let x = Tensor::from_vec(wave(n * image.bytes()), (n, image.channels, image.height, image.width), device)?;
        let z = Tensor::from_vec(wave(n * latent), (n, latent), device)?;
        let y = Tensor::from_vec(labels(n).collect(), n, device)?;
        for _ in 0..gan.d_steps {
            players.update_discriminator(&x, &y, &z, None)?;
        }
        players.update_generator(&y, &z, None)?;
        Ok(players.ema.update(&players.g_params, 1)?)
    })?;
    let names: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
    let mut sampler = Sampler::new(&gan.architecture, image, &names, device)?;
    sampler.load(&bake(&players.ema.weights()?)?)?;
    let sample = per_image(host, gan.batch, |n| {
        let labels: Vec<ClassId> = labels(n).map(ClassId).collect();
        Ok(sampler.generate(&wave(n * latent), &labels).map(drop)?)
    })?;
    Ok((step * gan.batch as f64, sample))
}
