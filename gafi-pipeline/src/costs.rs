//! Measures what training and sampling cost on this machine, on a few batches of random images.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Instant;

use anyhow::{Context as _, Result};
use candle_core::Tensor;
use gafi_core::{
    Artifact, ClassId, Generator as _, INFERENCE_BATCH, ImageSpec, Learner as _, MemoryDataset, RunControl,
    SAMPLE_BATCH, SampleSource as _, Split, Stream,
};
use gafi_expand::{Expanded, StdRange, latent_stream};
use gafi_gan::players::Players;
use gafi_gan::spectral::bake;
use gafi_gan::{Guidance, RealMoments, Sampler};
use gafi_nn::{ClassifierConfig, ClassifierLearner, ClassifierNet, Params};
use serde::Serialize;

use crate::config::PipelineConfig;
use crate::data::DataSummary;
use crate::host::Host;

/// Images of a batch of a generator that is not trained.
const GIVEN_BATCH: usize = 16;
/// Images in the first measurement on a CPU. Each further one has [`GROWTH`] times as many, up to the configured batch, which shares
/// fixed costs among more images.
const FEW: usize = 2;
const GROWTH: usize = 4;
/// A measurement of this many seconds is long enough, so that large networks don't keep a dry run busy for minutes.
const ENOUGH_S: f64 = 0.5;
/// Maximum number of calls in all measurements of a network, each an epoch of a schedule.
const CALLS: u32 = 32;

/// The costs of a pipeline's networks on one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Costs {
    /// Seconds to train a student on one image.
    pub student_image_s: f64,
    /// Seconds to train the teacher on one image.
    pub teacher_image_s: f64,
    /// Seconds for a student to score one image.
    pub student_judges_s: f64,
    /// Seconds for the teacher to score one image.
    pub teacher_judges_s: f64,
    /// Seconds of a GAN's step: the updates of its discriminator and one of its generator. 0 if none is trained.
    pub gan_step_s: f64,
    /// Seconds to generate one sample.
    pub sample_s: f64,
    /// Bytes of a student's weights.
    pub student_bytes: u64,
    /// Bytes of the teacher's weights.
    pub teacher_bytes: u64,
    /// Bytes of a generator's checkpoint.
    pub checkpoint_bytes: u64,
}

impl Costs {
    /// Measures the costs, which takes about a second for each network of usual size. `given` are the generators that are not trained.
    ///
    /// # Errors
    /// When a network cannot be built or fails.
    pub fn measure(host: &Host, config: &PipelineConfig, data: &DataSummary, given: &[Artifact]) -> Result<Self> {
        let classes = data.classes.len();
        let student = Measured::classifier(host, &config.student, &data.image, classes)?;
        let teacher = Measured::classifier(host, &config.teacher, &data.image, classes)?;
        let generator = match given.first() {
            Some(generator) => Measured::given(host, generator)?,
            None => Measured::gan(host, config, &data.image, classes)?,
        };
        Ok(Self {
            student_image_s: student.train_s,
            teacher_image_s: teacher.train_s,
            student_judges_s: student.infer_s,
            teacher_judges_s: teacher.infer_s,
            gan_step_s: generator.train_s,
            sample_s: generator.infer_s,
            student_bytes: student.bytes,
            teacher_bytes: teacher.bytes,
            checkpoint_bytes: generator.bytes,
        })
    }
}

/// The costs of one network.
struct Measured {
    /// Seconds of training: per image for a classifier, per step for a GAN.
    train_s: f64,
    /// Seconds of inference for one image.
    infer_s: f64,
    /// Bytes of its weights.
    bytes: u64,
}

impl Measured {
    fn classifier(host: &Host, config: &ClassifierConfig, image: &ImageSpec, classes: usize) -> Result<Self> {
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
        let mut learner = ClassifierLearner::new(config, *image, classes, 0, host.device())?;
        // Silent: the progress bar of an epoch would mislead.
        let quiet = RunControl { stop: host.cx().stop.clone(), ..RunControl::default() };
        let train_s = per_image(host, batch, |n| Ok(learner.train_epoch(&rows(n), &quiet).map(drop)?))?;
        let bytes = bytes(&learner.params().state()?);
        let mut scorer = learner.scorer()?;
        let infer_s = per_image(host, INFERENCE_BATCH, |n| Ok(scorer.score(rows(n).images()).map(drop)?))?;
        Ok(Self { train_s, infer_s, bytes })
    }

    fn gan(host: &Host, config: &PipelineConfig, image: &ImageSpec, classes: usize) -> Result<Self> {
        let gan = &config.gan;
        let device = host.device();
        let mut players = Players::new(gan, image, classes, device, &Stream::new(0))?;
        if let Some(guidance) = gan.guidance {
            let mut params = Params::new(device, Stream::new(1));
            let net = ClassifierNet::new(&mut params.root(), &config.teacher.architecture, image, classes)?;
            let mut real =
                MemoryDataset::new(*image, (0..classes).map(|class| class.to_string()).collect(), Split::Train);
            let pixels = vec![0; image.bytes()];
            (0..classes).for_each(|class| real.push(&pixels, ClassId(class as u32)));
            let moments = RealMoments::of(&net, &real, &Stream::new(2), device, host.cx())?;
            players.guidance = Some(Guidance::new(guidance, net, moments));
        }
        let latent = gan.architecture.latent();
        let wave = |len: usize| -> Vec<f32> { (0..len).map(|i| (i as f32 * 0.731).sin()).collect() };
        let labels = |n: usize| (0..n).map(|row| (row % classes) as u32);
        let image_s = per_image(host, gan.batch, |n| {
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
        let infer_s = per_image(host, SAMPLE_BATCH.get(), |n| {
            let labels: Vec<ClassId> = labels(n).map(ClassId).collect();
            Ok(sampler.generate(&wave(n * latent), &labels).map(drop)?)
        })?;
        Ok(Self { train_s: image_s * gan.batch as f64, infer_s, bytes: bytes(&sampler.state()?) })
    }

    /// A generator that is not trained.
    fn given(host: &Host, generator: &Artifact) -> Result<Self> {
        let generator = host.cx().models.open_generator(generator, None)?;
        let mut source = Expanded::new(generator, StdRange::default(), latent_stream(0))?;
        let infer_s = per_image(host, GIVEN_BATCH, |n| {
            let n = NonZeroUsize::new(n).context("an empty batch")?;
            Ok(source.pull(ClassId(0), n).map(drop)?)
        })?;
        Ok(Self { train_s: 0.0, infer_s, bytes: 0 })
    }
}

/// Bytes of the values of `tensors`.
fn bytes(tensors: &BTreeMap<String, Tensor>) -> u64 {
    tensors.values().map(|tensor| (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64).sum()
}

/// Seconds of `work` for one image, in batches of `configured` or, on a CPU, of fewer.
fn per_image(host: &Host, configured: usize, mut work: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let mut timed = |n: usize| -> Result<f64> {
        host.cx().checkpoint()?;
        let start = Instant::now();
        work(n)?;
        host.device().synchronize()?;
        Ok(start.elapsed().as_secs_f64() / n as f64)
    };
    let mut n = if host.device().is_cpu() { configured.min(FEW) } else { configured };
    loop {
        // The first call warms up.
        timed(n)?;
        let image_s = timed(n)?;
        if n == configured || image_s * n as f64 > ENOUGH_S {
            return Ok(image_s);
        }
        n = configured.min(n * GROWTH);
    }
}
