//! The configuration of a GAN and its training. Defaults are those of the released program for CIFAR-10;
//! [`GanConfig::small`] trains in minutes on a CPU.

use gafi_core::{Error, ImageSpec, Result, check_count};
use gafi_nn::{Dtype, EmaConfig};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::architecture::{Architecture, SmallConfig};
use crate::diffaugment::Augment;
use crate::guidance::GuidanceConfig;
use crate::length::{Checkpoints, GanSchedule, Length, MAX_CHECKPOINTS};
use crate::loss::Loss;

/// Largest values of a configuration, far above any published one. Larger ones are typos, and would overflow or abort on
/// allocation.
const MAX_BATCH: usize = 1 << 16;
const MAX_D_STEPS: u64 = 1000;
const MAX_SAMPLES: usize = 10_000;
const MAX_STANDING_BATCHES: usize = 100_000;
/// Maximum number of values in one layer's output for a batch: 16 GiB as f32.
const MAX_VALUES: usize = 1 << 32;

/// The buffers of a checkpoint: batch-norm statistics and spectral-norm vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum BatchNorm {
    /// Averaged as the weights are. Published.
    Averaged,
    /// Copied from the network in training, as in StudioGAN.
    Copied,
    /// Copied, then the batch-norm statistics are recomputed for the averaged weights over many batches of random size
    /// (standing statistics).
    Standing,
}

/// The configuration of the stage `train-gan`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
// `remote` derives associated functions; the trait impls below call them.
#[serde(deny_unknown_fields, default, remote = "Self")]
pub struct GanConfig {
    /// The networks.
    pub architecture: Architecture,
    /// Seed of everything random.
    pub seed: u64,
    /// Length of the training. Published: 500 epochs (CIFAR), 300 (Fashion-MNIST).
    pub length: Length,
    /// When checkpoints are written: after listed steps, or at an interval. The last step always writes one.
    pub checkpoints: Checkpoints,
    /// Real images per step, at least 2. Every discriminator update and the generator's update use the whole batch.
    /// Published: 192, which the released program writes as 64 times its three discriminator updates.
    #[cfg_attr(feature = "schema", schemars(range(min = 2)))]
    pub batch: usize,
    /// Drop the images left over after the last whole batch of an epoch, different ones each epoch; otherwise they begin
    /// the next epoch's first batch. Ignored with fewer images than a batch. Published: true.
    pub drop_last: bool,
    /// Discriminator updates per generator update, all on the same real batch; at least 1. Published: 3.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub d_steps: u64,
    /// Learning rate of the generator's Adam, above 0.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub g_lr: f64,
    /// Learning rate of the discriminator's Adam, above 0.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub d_lr: f64,
    /// Betas of both Adams, each from 0 to below 1.
    #[cfg_attr(feature = "schema", schemars(inner(range(min = 0, max = 1))))]
    pub betas: [f64; 2],
    /// Epsilon of both Adams, above 0.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub eps: f64,
    /// The losses.
    pub loss: Loss,
    /// Flip real images left to right, each with probability 1/2.
    pub flip: bool,
    /// DiffAugment's transformations; none by default.
    pub augment: Vec<Augment>,
    /// Number format of the training.
    pub dtype: Dtype,
    /// The moving average of the generator's weights. Checkpoints hold the average. Published: decay 0.9999 from step
    /// 1000 on.
    pub ema: EmaConfig,
    /// Batch-norm statistics and spectral-norm vectors of the checkpoints.
    pub bn: BatchNorm,
    /// Batches for standing statistics, each of `batch` / 2 to `batch` images; at least 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub standing_batches: usize,
    /// Interval in steps, at least 1, at which sample images are written, besides those of each checkpoint.
    #[cfg_attr(feature = "schema", schemars(example = 500, range(min = 1)))]
    pub sample_every: Option<u64>,
    /// Sample images of each class, at least 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub samples_per_class: usize,
    /// Also write checkpoint 0, the generator as initialised.
    pub save_untrained: bool,
    /// If given, a classifier in port `teacher` guides the generator. Absent by default; the paper's GANs have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<GuidanceConfig>,
}

/// Keys of earlier versions and their replacement.
const RENAMED: [(&str, &str); 5] = [
    ("steps", "length.steps"),
    ("epochs", "length.epochs"),
    ("checkpoint_every", "checkpoints.every.steps"),
    ("checkpoint_every_epochs", "checkpoints.every.epochs"),
    ("checkpoint_from_epoch", "checkpoints.from.epochs"),
];

/// Keys of earlier versions that never changed a result.
const REMOVED: [&str; 2] = ["save_every", "log_every"];

impl<'de> Deserialize<'de> for GanConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        use serde::de::Error as _;
        let tree = serde_json::Value::deserialize(deserializer)?;
        if let Some((old, new)) = RENAMED.iter().find(|(old, _)| tree.get(old).is_some()) {
            return Err(D::Error::custom(format!("the GAN's key {old} is now {new}")));
        }
        if let Some(old) = REMOVED.iter().find(|old| tree.get(old).is_some()) {
            return Err(D::Error::custom(format!("the GAN's key {old} no longer exists; remove it")));
        }
        if tree.get("bn").is_some_and(|bn| bn == "ema-buffers") {
            let hint = "the GAN's bn = \"ema-buffers\" is now \"copied\"; the released program uses \"averaged\"";
            return Err(D::Error::custom(hint));
        }
        Self::deserialize(tree).map_err(D::Error::custom)
    }
}

impl Serialize for GanConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl Default for GanConfig {
    /// The released program's values for CIFAR-10.
    fn default() -> Self {
        Self {
            architecture: Architecture::default(),
            seed: 0,
            length: Length::Epochs(500),
            checkpoints: Checkpoints::Every { every: Length::Epochs(10), from: Some(Length::Epochs(150)) },
            batch: 192,
            drop_last: true,
            d_steps: 3,
            g_lr: 2e-4,
            d_lr: 2e-4,
            betas: [0.5, 0.999],
            eps: 1e-6,
            loss: Loss::Hinge,
            flip: true,
            augment: Vec::new(),
            dtype: Dtype::F32,
            ema: EmaConfig { decay: 0.9999, start: 1000, warm_up: false },
            bn: BatchNorm::Averaged,
            standing_batches: 16,
            sample_every: None,
            samples_per_class: 10,
            save_untrained: false,
            guidance: None,
        }
    }
}

impl GanConfig {
    /// The small GAN for 32x32 grey images, trained in minutes on two cores. The preset `quickstart` trains it for 1,000 steps
    /// instead of 1,500.
    ///
    /// It differs from the default in its batch (64), learning rates (4e-4), betas (0.5, 0.99), two discriminator steps
    /// and an average of decay 0.999 with warm-up. Its batch norms have standing statistics: a short training leaves the
    /// averaged weights far behind the newest, whose running statistics would not suit them. It does not flip: all shoes
    /// of Fashion-MNIST point the same way.
    pub fn small() -> Self {
        Self {
            architecture: Architecture::Small(SmallConfig::default()),
            length: Length::Steps(1500),
            checkpoints: Checkpoints::every(Length::Steps(500)),
            batch: 64,
            d_steps: 2,
            flip: false,
            g_lr: 4e-4,
            d_lr: 4e-4,
            betas: [0.5, 0.99],
            ema: EmaConfig { decay: 0.999, start: 0, warm_up: true },
            bn: BatchNorm::Standing,
            ..Self::default()
        }
    }

    /// The steps of a training run on `rows` images, and its checkpoints.
    pub fn schedule(&self, rows: u64) -> GanSchedule {
        GanSchedule::new(self.length, &self.checkpoints, rows, self.batch as u64)
    }

    /// Checks every value, also against the shape of the images, their number and that of their classes.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key, its value and the allowed values.
    pub fn check(&self, image: &ImageSpec, classes: usize, rows: u64) -> Result<()> {
        self.architecture.check(image)?;
        self.check_values()?;
        if classes == 0 || rows == 0 {
            return Err(Error::config("train", format!("{rows} images of {classes} classes"), "at least one of each"));
        }
        let GanSchedule { steps, checkpoints, .. } = self.schedule(rows);
        if checkpoints.len() > MAX_CHECKPOINTS {
            let expected = format!("an interval that writes at most {MAX_CHECKPOINTS} checkpoints in {steps} steps");
            return Err(Error::config("checkpoints", "more", expected));
        }
        let values =
            self.batch.saturating_mul(image.bytes() / image.channels.max(1)).saturating_mul(self.architecture.width());
        if values > MAX_VALUES {
            let found = format!("{} images of {image} in networks of width {}", self.batch, self.architecture.width());
            return Err(Error::config("batch", found, "at most 2^32 values in the output of one layer"));
        }
        self.checkpoints.check(steps)
    }

    /// Checks every value that can be checked before the images are known.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key, its value and the allowed values.
    pub fn check_values(&self) -> Result<()> {
        if matches!(self.architecture, Architecture::PlainBigGan(_)) {
            let expected = "biggan-deep or small; a biggan can only be imported";
            return Err(Error::config("architecture.name", "biggan", expected));
        }
        // Batch norm needs at least two images for a variance.
        if !(2..=MAX_BATCH).contains(&self.batch) {
            return Err(Error::config("batch", self.batch, format!("2 to {MAX_BATCH}")));
        }
        self.length.check("length")?;
        check_count("d_steps", self.d_steps, MAX_D_STEPS)?;
        for (key, value) in [("g_lr", self.g_lr), ("d_lr", self.d_lr), ("eps", self.eps)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::config(key, value, "a number above 0"));
            }
        }
        let [beta1, beta2] = self.betas;
        for (key, value) in [("betas[0]", beta1), ("betas[1]", beta2), ("ema.decay", self.ema.decay)] {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::config(key, value, "0 or more, below 1"));
            }
        }
        self.checkpoints.check(match self.length {
            Length::Steps(steps) => steps,
            Length::Epochs(_) => u64::MAX,
        })?;
        if let Some(guidance) = &self.guidance {
            guidance.check()?;
        }
        check_count("sample_every", self.sample_every.unwrap_or(1), u64::MAX)?;
        check_count("samples_per_class", self.samples_per_class, MAX_SAMPLES)?;
        check_count("standing_batches", self.standing_batches, MAX_STANDING_BATCHES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::BigGanConfig;

    const IMAGE: ImageSpec = ImageSpec::new(3, 32, 32);

    #[test]
    fn the_default_is_the_published_schedule() {
        // CIFAR-10's training and validation images; the program's train_gan.py has batches of 64 * 3.
        let schedule = GanConfig::default().schedule(50_000);
        assert_eq!((schedule.steps_per_epoch, schedule.steps), (260, 130_000));
        assert_eq!(schedule.checkpoints.len(), 36);
        assert_eq!((schedule.checkpoints[0], schedule.checkpoints[1]), (150 * 260, 160 * 260));
        GanConfig::default().check(&IMAGE, 10, 50_000).unwrap();
        // Fashion-MNIST has 60,000 images and 300 epochs.
        let fashion = GanConfig { length: Length::Epochs(300), ..GanConfig::default() };
        assert_eq!(fashion.schedule(60_000).steps, 93_600);
    }

    /// The released program's configs/CIFAR10/BigGAN_deep.yaml.
    #[test]
    fn the_default_has_the_published_values() {
        let config = GanConfig::default();
        assert_eq!(
            config.architecture,
            Architecture::BigGanDeep(BigGanConfig { ch: 128, depth: 2, z: 128, shared: 128 })
        );
        assert_eq!((config.batch, config.d_steps, config.drop_last, config.flip), (64 * 3, 3, true, true));
        assert_eq!((config.g_lr, config.d_lr, config.betas, config.eps), (2e-4, 2e-4, [0.5, 0.999], 1e-6));
        assert_eq!((config.loss, config.length, config.bn), (Loss::Hinge, Length::Epochs(500), BatchNorm::Averaged));
        assert_eq!(config.ema, EmaConfig { decay: 0.9999, start: 1000, warm_up: false });
        assert!(config.augment.is_empty());
    }

    /// The tables in the released program's models/big_gan.py, which are StudioGAN's.
    #[test]
    fn networks_have_the_published_widths() {
        let config = BigGanConfig::default();
        assert_eq!(config.generator_widths(32), [512; 4]);
        assert_eq!(config.generator_widths(64), [2048, 1024, 512, 256, 128]);
        assert_eq!(config.generator_widths(128), [2048, 2048, 1024, 512, 256, 128]);
        assert_eq!(config.discriminator_widths(32), [(512, true), (512, true), (512, false)]);
        assert_eq!(config.discriminator_widths(64), [256, 512, 1024, 2048].map(|width| (width, true)));
        assert_eq!(config.discriminator_widths(128), [256, 512, 1024, 2048, 2048].map(|width| (width, true)));
    }

    #[test]
    fn configurations_survive_json_and_unknown_keys_are_refused() {
        for config in [GanConfig::default(), GanConfig::small()] {
            let json = serde_json::to_value(&config).unwrap();
            assert_eq!(serde_json::from_value::<GanConfig>(json).unwrap(), config);
        }
        let parse = |text: &str| serde_json::from_str::<GanConfig>(text);
        let config = parse(r#"{"architecture": {"name": "biggan-deep", "ch": 16}, "length": {"steps": 7}}"#).unwrap();
        assert_eq!(config.length, Length::Steps(7));
        assert_eq!(config.architecture, Architecture::BigGanDeep(BigGanConfig { ch: 16, ..BigGanConfig::default() }));
        assert!(parse(r#"{"architecture": {"name": "small", "ch": 16}}"#).unwrap_err().to_string().contains("ch"));
        assert!(parse(r#"{"stepz": 16}"#).unwrap_err().to_string().contains("stepz"));
    }

    #[test]
    fn old_keys_are_refused_with_the_new_name() {
        let error = |key: &str| {
            let tree = serde_json::json!({ key: 7 });
            serde_json::from_value::<GanConfig>(tree).unwrap_err().to_string()
        };
        assert_eq!(error("steps"), "the GAN's key steps is now length.steps");
        assert_eq!(
            error("checkpoint_from_epoch"),
            "the GAN's key checkpoint_from_epoch is now checkpoints.from.epochs"
        );
        assert_eq!(error("log_every"), "the GAN's key log_every no longer exists; remove it");
        let error = serde_json::from_str::<GanConfig>(r#"{"bn": "ema-buffers"}"#).unwrap_err().to_string();
        assert!(error.contains("copied") && error.contains("averaged"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_errors_naming_the_key() {
        let error = |change: &dyn Fn(&mut GanConfig), image: &ImageSpec| {
            let mut config = GanConfig::small();
            change(&mut config);
            config.check(image, 10, 100).unwrap_err().to_string()
        };
        assert_eq!(error(&|c| c.batch = 1, &IMAGE), "batch = 1: expected 2 to 65536");
        assert_eq!(error(&|c| c.g_lr = f64::NAN, &IMAGE), "g_lr = NaN: expected a number above 0");
        assert_eq!(error(&|c| c.betas[1] = 1.0, &IMAGE), "betas[1] = 1: expected 0 or more, below 1");
        assert!(error(&|_| (), &ImageSpec::new(1, 28, 28)).starts_with("architecture.g = [64, 32, 16]: expected"));
        assert!(error(&|_| (), &ImageSpec::new(1, 28, 32)).starts_with("image = 1x28x32: expected square"));
        assert!(error(&|c| c.architecture = Architecture::default(), &ImageSpec::new(1, 16, 16)).contains("found 16"));
        assert!(error(&|c| c.checkpoints = Checkpoints::At(vec![9999]), &IMAGE).contains("steps from 1 to 1500"));
        assert!(
            error(&|c| c.length = Length::Steps(0), &IMAGE).starts_with("length.steps = 0: expected 1 to 1000000000")
        );
        let every = |c: &mut GanConfig| c.checkpoints = Checkpoints::every(Length::Epochs(0));
        assert_eq!(error(&every, &IMAGE), "checkpoints.every.epochs = 0: expected 1 to 1000000000");
        // The number of images decides how many steps an epoch has: 100 images, one step of batch 64.
        let checkpoints = Checkpoints::At(vec![11]);
        let epochs = GanConfig { length: Length::Epochs(10), checkpoints, ..GanConfig::small() };
        epochs.check_values().unwrap();
        assert_eq!(
            epochs.check(&IMAGE, 10, 100).unwrap_err().to_string(),
            "checkpoints = 11: expected steps from 1 to 10"
        );
    }
}
