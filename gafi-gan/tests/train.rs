//! The stage `train-gan`: it learns, resumes after interruption, and stops when the training diverges.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use gafi_core::stream::unit_f32;
use gafi_core::*;
use gafi_gan::*;
use gafi_nn::{ClassifierConfig, EmaConfig, ResNetConfig, TrainClassifier};

const SIZE: usize = 8;

/// An image of one of two classes: a bright upper part or a bright left part, with varying edge and noise.
fn picture(class: usize, stream: &Stream) -> Vec<u8> {
    let mut rng = stream.rng();
    let edge = 3 + (unit_f32(&mut rng) * 3.0) as usize;
    let light = 170.0 + 60.0 * unit_f32(&mut rng);
    let value = |at: usize| if at < edge { light } else { 40.0 };
    let pixel = |i: usize| value(if class == 0 { i / SIZE } else { i % SIZE });
    (0..SIZE * SIZE).map(|i| (pixel(i) + 20.0 * (unit_f32(&mut rng) - 0.5)) as u8).collect()
}

#[derive(Debug)]
struct MakeData {
    split: Split,
}

impl Stage for MakeData {
    fn info(&self) -> StageInfo {
        StageInfo { name: "make-data", revision: 1, ports: &[], output: Kind::Dataset }
    }
    fn config(&self) -> serde_json::Value {
        serde_json::json!(self.split)
    }
    fn check(&self, _: &Inputs) -> Result<()> {
        Ok(())
    }
    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, _: &Context) -> Result<()> {
        let info = DatasetInfo::new(ImageSpec::new(1, SIZE, SIZE), vec!["top".into(), "left".into()], self.split);
        let (mut writer, _) = DatasetWriter::begin(out, info)?;
        let mut batch = Batch::default();
        for i in 0..400u64 {
            batch.labels.push(ClassId(i as u32 % 2));
            batch.images.extend(picture(i as usize % 2, &Stream::new(77).at(i)));
            batch.ids.push(i / 2);
        }
        writer.push(&batch, serde_json::Value::Null)?;
        writer.finish()?;
        Ok(())
    }
}

fn data(dir: &Path) -> Artifact {
    execute(&MakeData { split: Split::Train }, &Inputs::new(), &dir.join("data"), &Context::default()).unwrap().artifact
}

fn tiny() -> GanConfig {
    GanConfig {
        architecture: Architecture::Small(SmallConfig {
            z: 8,
            shared: 4,
            g: vec![16],
            d: vec![16],
            // Without it, a discriminator of 16 channels makes so small a generator oscillate.
            spectral_head: true,
        }),
        length: Length::Steps(12),
        batch: 16,
        flip: false,
        ema: EmaConfig { decay: 0.9, start: 0, warm_up: true },
        standing_batches: 3,
        checkpoints: Checkpoints::every(Length::Steps(5)),
        samples_per_class: 3,
        ..GanConfig::small()
    }
}

fn run(config: &GanConfig, data: &Artifact, dest: &Path, cx: &Context) -> Result<Artifact> {
    guided(config, data, None, dest, cx)
}

fn guided(
    config: &GanConfig,
    data: &Artifact,
    teacher: Option<&Artifact>,
    dest: &Path,
    cx: &Context,
) -> Result<Artifact> {
    let stage = TrainGan { config: config.clone(), device: Device::Cpu };
    let mut inputs = Inputs::new().with("train", data);
    if let Some(teacher) = teacher {
        inputs = inputs.with("teacher", teacher);
    }
    Ok(execute(&stage, &inputs, dest, cx)?.artifact)
}

/// A classifier of the two classes, trained for two epochs.
fn teacher(dir: &Path, data: &Artifact) -> Artifact {
    let val = execute(&MakeData { split: Split::Val }, &Inputs::new(), &dir.join("val"), &Context::default()).unwrap();
    let loaders = gafi_nn::register(ModelLoaders::default(), &Device::Cpu);
    let stage = TrainClassifier {
        classifier: ClassifierConfig {
            architecture: ResNetConfig { depth: 8, width: 4 }.into(),
            epochs: 2,
            batch: 40,
            ..ClassifierConfig::default()
        },
        ..TrainClassifier::default()
    };
    let inputs = Inputs::new().with("train", data).with("val", &val.artifact);
    execute(&stage, &inputs, &dir.join("teacher"), &Context::new(loaders)).unwrap().artifact
}

#[test]
fn samples_look_like_their_class() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let config = GanConfig {
        length: Length::Steps(250),
        batch: 32,
        g_lr: 2e-3,
        d_lr: 2e-3,
        ema: EmaConfig { decay: 0.95, start: 0, warm_up: true },
        checkpoints: Checkpoints::At(vec![]),
        ..tiny()
    };
    let gan = run(&config, &data, &dir.path().join("gan"), &Context::default()).unwrap();
    let mut sampler = Sampler::open(&gan, None, &Device::Cpu).unwrap();
    let rows = Dataset::open(&data).unwrap();
    let means = |images: &[u8]| -> Vec<f64> {
        let n = (images.len() / (SIZE * SIZE)) as f64;
        (0..SIZE * SIZE)
            .map(|p| images.iter().skip(p).step_by(SIZE * SIZE).map(|&v| f64::from(v)).sum::<f64>() / n)
            .collect()
    };
    let apart =
        |a: &[f64], b: &[f64]| (a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / a.len() as f64).sqrt();
    let real: Vec<Vec<f64>> = (0..2)
        .map(|class| {
            let of: Vec<usize> = (0..rows.len()).filter(|&row| rows.label(row) == ClassId(class)).collect();
            let mut images = vec![0; of.len() * SIZE * SIZE];
            rows.read(&of, &mut images).unwrap();
            means(&images)
        })
        .collect();
    let spread = apart(&real[0], &real[1]);
    for class in 0..2 {
        let z = normal(100 * 8, 5 + class as u64);
        let images = sampler.generate(&z, &[ClassId(class); 100]).unwrap();
        let fake = means(&images);
        let (own, other) = (apart(&fake, &real[class as usize]), apart(&fake, &real[1 - class as usize]));
        assert!(
            own < 0.45 * spread && own < 0.5 * other,
            "class {class}: distance {own:.1} to its own mean, {other:.1} to the other"
        );
        // Different latents give different images.
        let first = &images[..SIZE * SIZE];
        let differ = images.chunks(SIZE * SIZE).filter(|image| {
            let gap = image.iter().zip(first).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>();
            gap > 2 * (SIZE * SIZE) as u64
        });
        assert!(differ.count() > 50, "class {class}: samples are nearly equal");
    }
}

/// `n` standard normal values by the Box-Muller transform.
fn normal(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Stream::new(seed).rng();
    (0..n)
        .map(|_| {
            let (u, v) = (1.0 - unit_f32(&mut rng), unit_f32(&mut rng));
            (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
        })
        .collect()
}

/// A context that requests a stop after a number of steps.
fn stopping(after: u64) -> Context {
    let stop = Arc::new(AtomicBool::new(false));
    let progress = Arc::new(StopAfter { after, stop: stop.clone() });
    Context { control: RunControl { progress, stop, wait: false }, ..Context::default() }
}

struct StopAfter {
    after: u64,
    stop: Arc<AtomicBool>,
}

impl Progress for StopAfter {
    fn log(&self, _: &str) {}
    fn begin(&self, _: &str, _: Option<u64>) -> Box<dyn Task> {
        Box::new(Counted(self.after, self.stop.clone()))
    }
}

struct Counted(u64, Arc<AtomicBool>);

impl Task for Counted {
    fn advance(&mut self, n: u64) {
        self.0 = self.0.saturating_sub(n);
        if self.0 == 0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
    fn note(&mut self, _: &str) {}
}

#[test]
fn a_resumed_training_equals_an_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let mut config = tiny();
    config.augment = vec![Augment::Colour, Augment::Translation, Augment::Cutout];
    config.d_steps = 2;
    config.flip = true;
    config.sample_every = Some(3);
    config.save_untrained = true;
    let whole = run(&config, &data, &dir.path().join("whole"), &Context::default()).unwrap();
    let names: Vec<_> = whole.manifest().files.keys().cloned().collect();
    let expected = [
        "checkpoint-00000000.safetensors",
        "checkpoint-00000005.safetensors",
        "checkpoint-00000010.safetensors",
        "checkpoint-00000012.safetensors",
        "samples-00000000.png",
        "samples-00000003.png",
        "samples-00000005.png",
        "samples-00000006.png",
        "samples-00000009.png",
        "samples-00000010.png",
        "samples-00000012.png",
        "training.safetensors",
    ];
    assert_eq!(names, expected);

    // Stopped after 7 steps: resumes from there.
    let cut = dir.path().join("cut");
    assert!(matches!(run(&config, &data, &cut, &stopping(7)), Err(Error::Interrupted)));
    assert!(!cut.exists());
    let resumed = run(&config, &data, &cut, &Context::default()).unwrap();
    assert_eq!(resumed.id(), whole.id());

    // Stopped after 5 steps, with a half-written file of a later step.
    let killed = dir.path().join("killed");
    assert!(run(&config, &data, &killed, &stopping(5)).is_err());
    std::fs::write(dir.path().join(".killed.partial/samples-00000006.png"), "half").unwrap();
    let resumed = run(&config, &data, &killed, &Context::default()).unwrap();
    assert_eq!(resumed.id(), whole.id());
}

#[test]
fn a_guided_training_resumes_and_needs_its_classifier() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let teacher = teacher(dir.path(), &data);
    let plain = tiny();
    let config = GanConfig { guidance: Some(GuidanceConfig { moments: 10.0, cross_entropy: 0.3 }), ..tiny() };
    let cx = Context::default();
    let whole = guided(&config, &data, Some(&teacher), &dir.path().join("whole"), &cx).unwrap();
    let unguided = run(&plain, &data, &dir.path().join("plain"), &cx).unwrap();
    let last = |gan: &Artifact| gan.read("checkpoint-00000012.safetensors").unwrap();
    assert_ne!(last(&whole), last(&unguided), "guidance changes the weights");

    let cut = dir.path().join("cut");
    assert!(matches!(guided(&config, &data, Some(&teacher), &cut, &stopping(7)), Err(Error::Interrupted)));
    let resumed = guided(&config, &data, Some(&teacher), &cut, &cx).unwrap();
    assert_eq!(resumed.id(), whole.id());

    let dest = dir.path().join("refused");
    let missing = run(&config, &data, &dest, &cx).unwrap_err().to_string();
    assert!(missing.contains("teacher") && missing.contains("guidance"), "{missing}");
    let needless = guided(&plain, &data, Some(&teacher), &dest, &cx).unwrap_err().to_string();
    assert!(needless.contains("teacher") && needless.contains("guidance"), "{needless}");
    let config = GanConfig { guidance: Some(GuidanceConfig { moments: -1.0, cross_entropy: 0.0 }), ..tiny() };
    let negative = guided(&config, &data, Some(&teacher), &dest, &cx).unwrap_err().to_string();
    assert!(negative.contains("guidance.moments"), "{negative}");
}

#[test]
fn checkpoints_and_samples_do_not_change_the_weights_but_the_seed_does() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let hash = |config: &GanConfig, name: &str| {
        let gan = run(config, &data, &dir.path().join(name), &Context::default()).unwrap();
        gan.manifest().files["training.safetensors"].blake3.clone()
    };
    let base = hash(&tiny(), "base");
    let often = Checkpoints::every(Length::Steps(3));
    assert_eq!(hash(&GanConfig { checkpoints: often, sample_every: Some(1), ..tiny() }, "often"), base);
    assert_ne!(hash(&GanConfig { seed: 1, ..tiny() }, "other"), base);
}

#[test]
fn checkpoints_open_by_step_and_missing_or_damaged_ones_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let gan = run(
        &GanConfig { bn: BatchNorm::Averaged, save_untrained: true, ..tiny() },
        &data,
        &dir.path().join("gan"),
        &Context::default(),
    );
    let gan = gan.unwrap();
    let loaders = register(ModelLoaders::default(), &Device::Cpu);
    let z = normal(3 * 8, 1);
    let labels = [ClassId(0), ClassId(1), ClassId(0)];
    let images = |step| loaders.open_generator(&gan, step).unwrap().generate(&z, &labels).unwrap();
    assert_eq!(images(None), images(Some(12)));
    assert_ne!(images(None), images(Some(5)));
    let error = loaders.open_generator(&gan, Some(6)).err().unwrap().to_string();
    assert_eq!(error, "checkpoint = 6: expected one of the generator's: 0, 5, 10, 12");
    let untrained = images(Some(0));
    assert_ne!(untrained, images(Some(5)));
    assert!(
        Sampler::open(&data, None, &Device::Cpu).unwrap_err().to_string().contains("expected generator, found dataset")
    );

    // A row of ten samples for each class.
    let info: GeneratorInfo = gan.content().unwrap();
    let png =
        image::load_from_memory(&gan.read(info.checkpoints[3].samples.as_ref().unwrap()).unwrap()).unwrap().to_luma8();
    assert_eq!(png.dimensions(), (3 * 10 + 2, 2 * 10 + 2));

    // A damaged checkpoint.
    let file = gan.path().join("checkpoint-00000012.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = Sampler::open(&gan, None, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("checkpoint-00000012.safetensors") && error.contains("BLAKE3"), "{error}");
}

#[test]
fn a_diverged_training_stops_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let config = GanConfig { g_lr: 1e30, d_lr: 1e30, length: Length::Steps(60), ..tiny() };
    let error = run(&config, &data, &dir.path().join("gan"), &Context::default()).unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }), "{error}");
    assert!(!dir.path().join("gan").exists());
}

#[test]
fn images_of_another_size_are_refused_before_training() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let error = run(&GanConfig::small(), &data, &dir.path().join("gan"), &Context::default()).unwrap_err();
    assert!(error.is_usage() && error.to_string().starts_with("architecture.g = [64, 32, 16]"), "{error}");
}
