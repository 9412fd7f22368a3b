//! What can be chosen about a GAN and its training. Defaults are the published program's, for CIFAR-10;
//! [`GanConfig::small`] is what a CPU can do in minutes.

use gafi_core::{Error, ImageSpec, Result};
use gafi_nn::{Dtype, EmaConfig};
use serde::{Deserialize, Serialize};

use crate::biggan::PlainBigGanConfig;
use crate::diffaugment::Augment;
use crate::loss::Loss;

/// Which pair of networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "name")]
pub enum Architecture {
    /// BigGAN-Deep in StudioGAN's block order.
    #[serde(rename = "biggan-deep")]
    BigGanDeep(BigGanConfig),
    /// BigGAN, without the depth: generators imported from elsewhere. It is not trained here.
    #[serde(rename = "biggan")]
    PlainBigGan(PlainBigGanConfig),
    /// The small projection GAN.
    #[serde(rename = "small")]
    Small(SmallConfig),
}

impl Default for Architecture {
    fn default() -> Self {
        Self::BigGanDeep(BigGanConfig::default())
    }
}

/// Names of the architectures, as the configuration and manifests spell them.
pub const ARCHITECTURES: [&str; 3] = ["biggan-deep", "biggan", "small"];

impl Architecture {
    /// Length of a latent.
    pub fn latent(&self) -> usize {
        match self {
            Self::BigGanDeep(config) => config.z,
            Self::PlainBigGan(config) => config.z,
            Self::Small(config) => config.z,
        }
    }

    /// Whether networks for images of this shape can be built.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn check(&self, image: &ImageSpec) -> Result<()> {
        if image.height != image.width || !matches!(image.channels, 1 | 3) {
            return Err(Error::config("image", image, "square images of 1 or 3 channels (import can pad)"));
        }
        match self {
            Self::BigGanDeep(config) => config.check(image.height),
            Self::PlainBigGan(config) => config.check(image.height),
            Self::Small(config) => config.check(image.height),
        }
    }
}

/// BigGAN-Deep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct BigGanConfig {
    /// Base number of channels of both networks, a multiple of 4; published: 128.
    #[cfg_attr(feature = "schema", schemars(range(min = 4), extend("multipleOf" = 4)))]
    pub ch: usize,
    /// Blocks a stage; published: 2.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub depth: usize,
    /// Length of a latent; published: 128.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub z: usize,
    /// Length of the class embedding that all conditional batch norms share; published: 128.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub shared: usize,
}

impl Default for BigGanConfig {
    fn default() -> Self {
        Self { ch: 128, depth: 2, z: 128, shared: 128 }
    }
}

impl BigGanConfig {
    /// Channels before the first and after each stage of the generator, for images of `size` (StudioGAN's tables).
    pub fn generator_widths(&self, size: usize) -> Vec<usize> {
        let multiples: &[usize] = match size {
            64 => &[16, 8, 4, 2, 1],
            128 => &[16, 16, 8, 4, 2, 1],
            _ => &[4, 4, 4, 4],
        };
        multiples.iter().map(|m| m * self.ch).collect()
    }

    /// Channels after each stage of the discriminator, and whether the stage halves the size (StudioGAN's tables).
    pub fn discriminator_widths(&self, size: usize) -> Vec<(usize, bool)> {
        let stages: &[(usize, bool)] = match size {
            64 => &[(2, true), (4, true), (8, true), (16, true)],
            128 => &[(2, true), (4, true), (8, true), (16, true), (16, true)],
            _ => &[(4, true), (4, true), (4, false)],
        };
        stages.iter().map(|(m, down)| (m * self.ch, *down)).collect()
    }

    fn check(&self, size: usize) -> Result<()> {
        if !matches!(size, 32 | 64 | 128) {
            return Err(Error::config(
                "architecture.name",
                "biggan-deep",
                format!("images of 32, 64 or 128, found {size}"),
            ));
        }
        // The narrowest attention has 2 ch channels (4 ch at size 32) and its keys an eighth of that.
        if self.ch < 4 || !self.ch.is_multiple_of(4) {
            return Err(Error::config("architecture.ch", self.ch, "a multiple of 4, at least 4"));
        }
        positive("architecture.depth", self.depth)?;
        positive("architecture.z", self.z)?;
        positive("architecture.shared", self.shared)
    }
}

/// The small projection GAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SmallConfig {
    /// Length of a latent.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub z: usize,
    /// Length of the class embedding at the generator's input.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub shared: usize,
    /// Channels of the generator's stages, each doubling the size, from 4x4: three for images of 32, two for 16, one for 8.
    #[cfg_attr(feature = "schema", schemars(inner(range(min = 1))))]
    pub g: Vec<usize>,
    /// Channels of the discriminator's stages, each halving the size, as many. With half of the default's, the discriminator
    /// is too weak to notice that a class's images are all alike.
    #[cfg_attr(feature = "schema", schemars(inner(range(min = 1))))]
    pub d: Vec<usize>,
    /// Whether the discriminator's linear output and class embedding are spectrally normalised, as its convolutions are.
    pub spectral_head: bool,
}

impl Default for SmallConfig {
    fn default() -> Self {
        Self { z: 64, shared: 32, g: vec![64, 32, 16], d: vec![32, 64, 128], spectral_head: false }
    }
}

impl SmallConfig {
    fn check(&self, size: usize) -> Result<()> {
        positive("architecture.z", self.z)?;
        positive("architecture.shared", self.shared)?;
        for (key, widths) in [("architecture.g", &self.g), ("architecture.d", &self.d)] {
            let fits = !widths.is_empty() && widths.len() < 16 && 4usize << widths.len() == size;
            if !fits || widths.contains(&0) {
                let expected =
                    format!("positive widths, as many as {size} is doublings of 4 (images are {size}x{size})");
                return Err(Error::config(key, format!("{widths:?}"), expected));
            }
        }
        Ok(())
    }
}

/// Which batch-norm statistics a checkpoint carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum BatchNorm {
    /// The running ones of the network in training, as the published program copies them to the averaged weights.
    EmaBuffers,
    /// Standing statistics: computed anew for the averaged weights over many batches of random size.
    Standing,
}

/// A GAN's training: `train-gan`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct GanConfig {
    /// The networks.
    pub architecture: Architecture,
    /// Seed of everything random.
    pub seed: u64,
    /// Generator updates, at least 1; when absent, `epochs` counts.
    #[cfg_attr(feature = "schema", schemars(example = 1500))]
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub steps: Option<u64>,
    /// Passes over the real images, one batch a generator update; published: 500 (CIFAR), 300 (Fashion-MNIST).
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub epochs: u64,
    /// Real images a step, at least 2.
    #[cfg_attr(feature = "schema", schemars(range(min = 2)))]
    pub batch: usize,
    /// Discriminator updates for each generator update, all on the same real batch; at least 1. Published: 3.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub d_steps: u64,
    /// Adam's learning rate for the generator, above 0.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub g_lr: f64,
    /// Adam's learning rate for the discriminator, above 0.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub d_lr: f64,
    /// Adam's betas, for both; each 0 to below 1.
    #[cfg_attr(feature = "schema", schemars(inner(range(min = 0, max = 1))))]
    pub betas: [f64; 2],
    /// Adam's epsilon, for both; above 0.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub eps: f64,
    /// The losses.
    pub loss: Loss,
    /// Flip real images at random, left to right.
    pub flip: bool,
    /// DiffAugment's changes; none unless asked for.
    pub augment: Vec<Augment>,
    /// What the networks are trained in.
    pub dtype: Dtype,
    /// The average of the generator's weights, which is what is sampled from.
    pub ema: EmaConfig,
    /// Batch-norm statistics of the checkpoints.
    pub bn: BatchNorm,
    /// Batches that standing statistics are made of, of half to all of `batch` images each; at least 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub standing_batches: usize,
    /// Explicit steps of the checkpoints, from 1 to the last step, which always is one.
    #[cfg_attr(feature = "schema", schemars(inner(range(min = 1))))]
    pub checkpoints: Vec<u64>,
    /// Else: a checkpoint every so many steps, at least 1.
    #[cfg_attr(feature = "schema", schemars(example = 500))]
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub checkpoint_every: Option<u64>,
    /// Else: a checkpoint every so many epochs, at least 1...
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub checkpoint_every_epochs: u64,
    /// ... from this one on.
    pub checkpoint_from_epoch: u64,
    /// Also show samples every so many steps (they are shown at each checkpoint anyway); at least 1.
    #[cfg_attr(feature = "schema", schemars(example = 500))]
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub sample_every: Option<u64>,
    /// Columns of the grids of samples, at least 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub samples_per_class: usize,
    /// Save the state for resuming every so many steps, at least 1. Does not change the result.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub save_every: u64,
    /// Look at the losses, and whether they are finite, every so many steps, at least 1. Does not change the result.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub log_every: u64,
}

impl Default for GanConfig {
    /// The published program's values for CIFAR-10.
    fn default() -> Self {
        Self {
            architecture: Architecture::default(),
            seed: 0,
            steps: None,
            epochs: 500,
            batch: 64,
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
            bn: BatchNorm::EmaBuffers,
            standing_batches: 16,
            checkpoints: Vec::new(),
            checkpoint_every: None,
            checkpoint_every_epochs: 10,
            checkpoint_from_epoch: 150,
            sample_every: None,
            samples_per_class: 10,
            save_every: 500,
            log_every: 50,
        }
    }
}

/// When a training does what, in steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Generator updates in all.
    pub steps: u64,
    /// Updates that one pass over the data takes.
    pub steps_per_epoch: u64,
    /// After which updates a checkpoint is written, in order; the last is `steps`.
    pub checkpoints: Vec<u64>,
}

impl GanConfig {
    /// The small GAN as the quickstart trains it on 32x32 grey images, in minutes on two cores: hinge loss, Adam 4e-4 with
    /// betas (0.5, 0.99), two discriminator steps, average 0.999 with warm-up, standing statistics (they fit the averaged
    /// weights, which a short training leaves behind the newest ones), no flips (all shoes of Fashion-MNIST look one way).
    pub fn small() -> Self {
        Self {
            architecture: Architecture::Small(SmallConfig::default()),
            steps: Some(1500),
            d_steps: 2,
            flip: false,
            g_lr: 4e-4,
            d_lr: 4e-4,
            betas: [0.5, 0.99],
            ema: EmaConfig { decay: 0.999, start: 0, warm_up: true },
            bn: BatchNorm::Standing,
            checkpoint_every: Some(500),
            ..Self::default()
        }
    }

    /// When a training on `rows` images does what.
    pub fn schedule(&self, rows: u64) -> Schedule {
        let steps_per_epoch = (rows / (self.batch as u64).max(1)).max(1);
        let steps = self.steps.unwrap_or_else(|| self.epochs.saturating_mul(steps_per_epoch));
        let every = |every: u64, from: u64| -> Vec<u64> {
            let every = every.max(1);
            (from.div_ceil(every).max(1)..=steps / every).map(|k| k * every).collect()
        };
        let mut checkpoints = if !self.checkpoints.is_empty() {
            self.checkpoints.clone()
        } else if let Some(steps) = self.checkpoint_every {
            every(steps, 0)
        } else {
            let epochs = self.checkpoint_every_epochs.saturating_mul(steps_per_epoch);
            every(epochs, self.checkpoint_from_epoch.saturating_mul(steps_per_epoch))
        };
        checkpoints.retain(|&step| step > 0 && step < steps);
        checkpoints.push(steps);
        checkpoints.sort_unstable();
        checkpoints.dedup();
        Schedule { steps, steps_per_epoch, checkpoints }
    }

    /// Whether the values are in range and fit images of this shape, `classes` classes and `rows` rows.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key, its value and what is allowed.
    pub fn check(&self, image: &ImageSpec, classes: usize, rows: u64) -> Result<()> {
        self.architecture.check(image)?;
        self.check_values()?;
        if classes == 0 || rows == 0 {
            return Err(Error::config("train", format!("{rows} images of {classes} classes"), "at least one of each"));
        }
        self.check_checkpoints(self.schedule(rows).steps)
    }

    /// Whether the values are in range, as far as that can be told before the images are known.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key, its value and what is allowed.
    pub fn check_values(&self) -> Result<()> {
        if matches!(self.architecture, Architecture::PlainBigGan(_)) {
            return Err(Error::config("architecture.name", "biggan", "biggan-deep or small; a biggan is imported"));
        }
        // Batch norm needs two images to have a variance worth the name.
        if self.batch < 2 {
            return Err(Error::config("batch", self.batch, "at least 2"));
        }
        if self.steps.unwrap_or(self.epochs) == 0 {
            return Err(Error::config("steps", 0, "at least 1 (steps, or epochs)"));
        }
        positive("d_steps", self.d_steps as usize)?;
        for (key, lr) in [("g_lr", self.g_lr), ("d_lr", self.d_lr), ("eps", self.eps)] {
            if !(lr.is_finite() && lr > 0.0) {
                return Err(Error::config(key, lr, "a number above 0"));
            }
        }
        let [beta1, beta2] = self.betas;
        for (key, beta) in [("betas[0]", beta1), ("betas[1]", beta2), ("ema.decay", self.ema.decay)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::config(key, beta, "0 or more, below 1"));
            }
        }
        self.check_checkpoints(self.steps.unwrap_or(u64::MAX))?;
        positive("checkpoint_every", self.checkpoint_every.unwrap_or(1) as usize)?;
        positive("sample_every", self.sample_every.unwrap_or(1) as usize)?;
        positive("checkpoint_every_epochs", self.checkpoint_every_epochs as usize)?;
        positive("samples_per_class", self.samples_per_class)?;
        positive("save_every", self.save_every as usize)?;
        positive("log_every", self.log_every as usize)?;
        positive("standing_batches", self.standing_batches)
    }

    /// Whether every explicit checkpoint lies within so many steps.
    fn check_checkpoints(&self, steps: u64) -> Result<()> {
        match self.checkpoints.iter().find(|&&step| step == 0 || step > steps) {
            Some(step) => Err(Error::config("checkpoints", step, format!("steps from 1 to {steps}"))),
            None => Ok(()),
        }
    }
}

fn positive(key: &str, value: usize) -> Result<()> {
    if value == 0 { Err(Error::config(key, value, "at least 1")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: ImageSpec = ImageSpec::new(3, 32, 32);

    #[test]
    fn the_default_is_the_published_schedule() {
        let schedule = GanConfig::default().schedule(40_000);
        assert_eq!((schedule.steps_per_epoch, schedule.steps), (625, 312_500));
        assert_eq!(schedule.checkpoints.len(), 36);
        assert_eq!((schedule.checkpoints[0], schedule.checkpoints[1]), (150 * 625, 160 * 625));
        GanConfig::default().check(&IMAGE, 10, 40_000).unwrap();
    }

    #[test]
    fn checkpoints_by_list_and_by_steps_always_end_with_the_last() {
        let config = |list: &[u64], every| GanConfig {
            steps: Some(100),
            checkpoints: list.into(),
            checkpoint_every: every,
            ..GanConfig::small()
        };
        assert_eq!(config(&[], Some(40)).schedule(64).checkpoints, [40, 80, 100]);
        assert_eq!(config(&[], Some(50)).schedule(64).checkpoints, [50, 100]);
        assert_eq!(config(&[70, 30, 70], Some(50)).schedule(64).checkpoints, [30, 70, 100]);
        assert_eq!(config(&[], None).schedule(10).checkpoints, [100]);
    }

    #[test]
    fn a_config_survives_json_and_refuses_unknown_keys() {
        for config in [GanConfig::default(), GanConfig::small()] {
            let json = serde_json::to_value(&config).unwrap();
            assert_eq!(serde_json::from_value::<GanConfig>(json).unwrap(), config);
        }
        let parse = |text: &str| serde_json::from_str::<GanConfig>(text);
        let config = parse(r#"{"architecture": {"name": "biggan-deep", "ch": 16}, "steps": 7}"#).unwrap();
        assert_eq!(config.architecture, Architecture::BigGanDeep(BigGanConfig { ch: 16, ..BigGanConfig::default() }));
        assert!(parse(r#"{"architecture": {"name": "small", "ch": 16}}"#).unwrap_err().to_string().contains("ch"));
        assert!(parse(r#"{"stepz": 16}"#).unwrap_err().to_string().contains("stepz"));
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        let says = |change: &dyn Fn(&mut GanConfig), image: &ImageSpec| {
            let mut config = GanConfig::small();
            change(&mut config);
            config.check(image, 10, 100).unwrap_err().to_string()
        };
        assert_eq!(says(&|c| c.batch = 1, &IMAGE), "batch = 1: expected at least 2");
        assert_eq!(says(&|c| c.g_lr = f64::NAN, &IMAGE), "g_lr = NaN: expected a number above 0");
        assert_eq!(says(&|c| c.betas[1] = 1.0, &IMAGE), "betas[1] = 1: expected 0 or more, below 1");
        assert!(says(&|_| (), &ImageSpec::new(1, 28, 28)).starts_with("architecture.g = [64, 32, 16]: expected"));
        assert!(says(&|_| (), &ImageSpec::new(1, 28, 32)).starts_with("image = 1x28x32: expected square"));
        assert!(says(&|c| c.architecture = Architecture::default(), &ImageSpec::new(1, 16, 16)).contains("found 16"));
        assert!(says(&|c| c.checkpoints = vec![9999], &IMAGE).contains("steps from 1 to 1500"));
        assert!(says(&|c| c.steps = Some(0), &IMAGE).starts_with("steps = 0"));
        // Of epochs only the images tell how many steps they are: 100 rows make one of a batch of 64.
        let epochs = GanConfig { steps: None, epochs: 10, checkpoints: vec![11], ..GanConfig::small() };
        epochs.check_values().unwrap();
        assert_eq!(
            epochs.check(&IMAGE, 10, 100).unwrap_err().to_string(),
            "checkpoints = 11: expected steps from 1 to 10"
        );
    }
}
