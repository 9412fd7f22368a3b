//! The configuration of a classifier's training: one flat table. Defaults are those of the paper's students.

use gafi_core::{Error, ImageSpec};
use serde::{Deserialize, Serialize};

use crate::augment::{AugmentConfig, CropFill};
use crate::classifier::ClassifierArchitecture;
use crate::dtype::Dtype;
use crate::ema::EmaConfig;
use crate::error::Result;
use crate::layers::check_image;
use crate::lookahead::LookaheadConfig;
use crate::muon::{Muon, MuonConfig};
use crate::optim::{Adam, Optimizer, Sgd, Sgdw};
use crate::params::Params;
use crate::schedule::{Schedule, ScheduleKind};

/// Maximum number of epochs of a training run.
const MAX_EPOCHS: u32 = 1_000_000;
/// Maximum number of images per step.
const MAX_BATCH: usize = 1 << 16;
/// Maximum number of values in one layer's output for a batch: 16 GiB as f32. More is a typo, and the allocation would abort.
const MAX_VALUES: usize = 1 << 32;

/// The optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OptimizerKind {
    /// SGD with decoupled weight decay; uses `momentum`, `nesterov` and `weight_decay`.
    Sgdw,
    /// PyTorch's SGD: the decay is part of the gradient, and the learning rate is applied outside the momentum
    /// buffer; uses `momentum`, `nesterov`, `weight_decay` and `bias_rate`.
    Sgd,
    /// Adam without weight decay; uses `betas` and `eps`.
    Adam,
    /// Muon for the filters of convolutions, which uses `muon`, and the optimiser `sgd` for all other parameters.
    Muon,
}

/// Distillation from soft labels (Hinton, Vinyals and Dean 2015, arXiv 1503.02531).
///
/// With the teacher's probabilities p, the network's logits z and the temperature T, the loss is `(1 - weight) *
/// cross-entropy(label, z) + weight * T^2 * cross-entropy(p^(1/T), z / T)`, where p^(1/T) is scaled to sum to 1: it is
/// the softmax of the teacher's logits divided by T.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Distill {
    /// Weight of the soft labels in the loss, above 0, at most 1.
    #[cfg_attr(feature = "schema", schemars(range(max = 1), extend("exclusiveMinimum" = 0)))]
    pub weight: f64,
    /// The temperature T, above 0.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub temperature: f64,
}

impl Default for Distill {
    /// Only soft labels, at temperature 4. On Fashion-MNIST's validation images, ResNet students trained on
    /// generated images reach 85.90 %, at temperature 1 83.85 % (one seed, the best std for each; docs/log/results.md).
    fn default() -> Self {
        Self { weight: 1.0, temperature: 4.0 }
    }
}

/// The configuration of a classifier's training. Keys left out have the values of the paper's students.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierConfig {
    /// The network.
    pub architecture: ClassifierArchitecture,
    /// Number of epochs, 1 to 1,000,000.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    pub epochs: u32,
    /// Images per step, 1 to 65,536. The last step of an epoch has the remaining images.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 65_536)))]
    pub batch: usize,
    /// Highest learning rate, above 0.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub lr: f64,
    /// Shape of the learning-rate schedule.
    pub schedule: ScheduleKind,
    /// Milestones, after which the learning rate is multiplied by 0.1, in ascending order. Each is a number of epochs (1
    /// or more) or a share of all epochs (below 1). Published: after 59 and 79 epochs, at the start of the 60th and 80th.
    pub milestones: Vec<f64>,
    /// Milestones: epochs of linear warm-up, from 0 to all epochs.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub warm_up: f64,
    /// One-cycle and triangular: share of the training in which the learning rate rises, 0 to below 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 0), extend("exclusiveMaximum" = 1)))]
    pub rise: f64,
    /// The optimiser.
    pub optimizer: OptimizerKind,
    /// SGDW and SGD: momentum, 0 to below 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 0), extend("exclusiveMaximum" = 1)))]
    pub momentum: f64,
    /// SGDW and SGD: whether to use Nesterov momentum.
    pub nesterov: bool,
    /// SGDW: share of each weight subtracted in each step, 0 to below 1; it is NOT multiplied by the learning rate. SGD: the
    /// share of each weight that is added to its gradient.
    #[cfg_attr(feature = "schema", schemars(range(min = 0), extend("exclusiveMaximum" = 1)))]
    pub weight_decay: f64,
    /// SGD: factor on the learning rate of batch-norm biases, above 0. Their weight decay is divided by it, so they shrink at the
    /// rate of other parameters. Published for `airbench`: 64.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    #[serde(skip_serializing_if = "is_one")]
    pub bias_rate: f64,
    /// Adam: decay of the two moments, each 0 to below 1.
    #[cfg_attr(feature = "schema", schemars(inner(range(min = 0, max = 1))))]
    pub betas: [f64; 2],
    /// Adam: added to the square root of the second moment, above 0.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub eps: f64,
    /// Muon: learning rate and momentum of convolution filters.
    #[serde(skip_serializing_if = "is_published")]
    pub muon: MuonConfig,
    /// Augmentation of the training images.
    pub augment: AugmentConfig,
    /// Label smoothing: share of the target spread over all classes, 0 to below 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 0), extend("exclusiveMaximum" = 1)))]
    pub label_smoothing: f64,
    /// Distillation from soft labels, which the dataset must hold or a teacher computes; absent by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill: Option<Distill>,
    /// Number format of the training.
    pub dtype: Dtype,
    /// If given, the classifier is a moving average of the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<EmaConfig>,
    /// If given, the weights are set to their moving average every few steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lookahead: Option<LookaheadConfig>,
    /// Airbench: epochs in which the bias of the whitening layer is trained. Published: 3.
    #[serde(skip_serializing_if = "is_three")]
    pub whitening_epochs: u32,
}

/// Newer keys are omitted at their default, so that the fingerprints of older configurations don't change.
fn is_one(value: &f64) -> bool {
    *value == 1.0
}

fn is_published(value: &MuonConfig) -> bool {
    *value == MuonConfig::default()
}

fn is_three(value: &u32) -> bool {
    *value == 3
}

impl Default for ClassifierConfig {
    /// The released program's values for its students; betas and eps of Adam, which it does not use, are PyTorch's defaults.
    fn default() -> Self {
        Self {
            architecture: ClassifierArchitecture::default(),
            epochs: 100,
            batch: 128,
            lr: 0.1,
            schedule: ScheduleKind::Milestones,
            milestones: vec![59.0, 79.0],
            warm_up: 0.0,
            rise: 0.3,
            optimizer: OptimizerKind::Sgdw,
            momentum: 0.9,
            nesterov: true,
            weight_decay: 1e-4,
            betas: [0.9, 0.999],
            eps: 1e-8,
            muon: MuonConfig::default(),
            augment: AugmentConfig::default(),
            label_smoothing: 0.0,
            distill: None,
            dtype: Dtype::F32,
            ema: None,
            lookahead: None,
            bias_rate: 1.0,
            whitening_epochs: 3,
        }
    }
}

impl ClassifierConfig {
    /// Checks all values.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key, prefixed by `classifier.`, its value and the allowed values.
    pub fn check(&self) -> gafi_core::Result<()> {
        self.architecture.check("classifier.architecture")?;
        let require = |ok: bool, key: &str, value: &dyn std::fmt::Display, expected: &str| {
            if ok { Ok(()) } else { Err(Error::config(format!("classifier.{key}"), value, expected)) }
        };
        let share = |key: &str, x: f64| require((0.0..1.0).contains(&x), key, &x, "0 to below 1");
        let positive = |key: &str, x: f64| require(x > 0.0 && x.is_finite(), key, &x, "a finite number above 0");
        require((1..=MAX_EPOCHS).contains(&self.epochs), "epochs", &self.epochs, "1 to 1000000")?;
        require((1..=MAX_BATCH).contains(&self.batch), "batch", &self.batch, "1 to 65536")?;
        positive("lr", self.lr)?;
        let ascending = self.milestones.is_sorted_by(|a, b| a < b) && self.milestones.iter().all(|m| *m > 0.0);
        require(ascending, "milestones", &format!("{:?}", self.milestones), "ascending numbers above 0")?;
        let warm = self.warm_up >= 0.0 && self.warm_up <= f64::from(self.epochs);
        require(warm, "warm_up", &self.warm_up, "0 to the number of epochs")?;
        share("rise", self.rise)?;
        share("momentum", self.momentum)?;
        share("weight_decay", self.weight_decay)?;
        positive("bias_rate", self.bias_rate)?;
        let betas = self.betas.iter().all(|beta| (0.0..1.0).contains(beta));
        require(betas, "betas", &format!("{:?}", self.betas), "two numbers, 0 to below 1")?;
        positive("eps", self.eps)?;
        positive("muon.lr", self.muon.lr)?;
        share("muon.momentum", self.muon.momentum)?;
        require((0.0..=1.0).contains(&self.augment.erase), "augment.erase", &self.augment.erase, "0 to 1")?;
        require(self.augment.crop <= 1024, "augment.crop", &self.augment.crop, "0 to 1024 pixels")?;
        share("label_smoothing", self.label_smoothing)?;
        if let Some(Distill { weight, temperature }) = &self.distill {
            require(*weight > 0.0 && *weight <= 1.0, "distill.weight", weight, "above 0 and at most 1")?;
            positive("distill.temperature", *temperature)?;
        }
        if let Some(ema) = &self.ema {
            share("ema.decay", ema.decay)?;
        }
        if let Some(lookahead) = &self.lookahead {
            require(lookahead.every > 0, "lookahead.every", &lookahead.every, "at least 1 step")?;
            share("lookahead.decay", lookahead.decay)?;
        }
        Ok(())
    }

    /// Checks that this classifier supports images of shape `image` in `classes` classes.
    ///
    /// # Errors
    /// [`Error::Config`] when an image has no channels or is too small for the architecture or the crop, there are fewer than two classes, or a
    /// batch is too large for any memory.
    pub fn check_data(&self, image: &ImageSpec, classes: usize) -> gafi_core::Result<()> {
        check_image(image, self.architecture.min_size())?;
        if self.augment.crop_fill == CropFill::Reflect && self.augment.crop >= image.height.min(image.width) {
            let expected = "less than the size of the image, which is mirrored";
            return Err(Error::config("augment.crop", self.augment.crop, expected));
        }
        if classes < 2 {
            return Err(Error::config("classes", classes, "at least 2"));
        }
        let factors = [self.batch, image.height, image.width, self.architecture.width()];
        let values = factors.iter().fold(1usize, |all, &n| all.saturating_mul(n));
        if values > MAX_VALUES {
            let found = format!("{} images of {image} in a network of width {}", self.batch, self.architecture.width());
            return Err(Error::config("batch", found, "at most 2^32 values in the output of the first layer"));
        }
        Ok(())
    }

    /// The learning-rate schedule.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            kind: self.schedule,
            lr: self.lr,
            epochs: self.epochs,
            milestones: self.milestones.clone(),
            warm_up: self.warm_up,
            rise: self.rise,
        }
    }

    /// The same training rescaled to `epochs`: milestones and warm-up given in epochs scale along.
    #[must_use]
    pub fn rescaled(self, epochs: u32) -> Self {
        let before = f64::from(self.epochs.max(1));
        // Multiplication first, so that whole epochs stay exact.
        let scaled = |epoch: f64| epoch * f64::from(epochs) / before;
        let milestone = |&m: &f64| match scaled(m) {
            _ if m < 1.0 => m,
            // A milestone below 1 is a share of all epochs.
            early if early < 1.0 => m / before,
            epoch => epoch,
        };
        let milestones = match self.schedule {
            ScheduleKind::Milestones => self.milestones.iter().map(milestone).collect(),
            // Unused there, and configurations that differ only in unused values must have equal fingerprints.
            ScheduleKind::OneCycle | ScheduleKind::Triangular => self.milestones.clone(),
        };
        Self { epochs, milestones, warm_up: scaled(self.warm_up), ..self }
    }

    /// Creates the optimiser of `params`.
    pub fn optimizer(&self, params: &Params) -> Result<Box<dyn Optimizer>> {
        let sgd = || Sgd::new(params, self.momentum, self.nesterov, self.weight_decay, self.bias_rate);
        Ok(match self.optimizer {
            OptimizerKind::Sgdw => Box::new(Sgdw::new(params, self.momentum, self.nesterov, self.weight_decay)?),
            OptimizerKind::Sgd => Box::new(sgd()?),
            OptimizerKind::Adam => Box::new(Adam::new(params, self.betas[0], self.betas[1], self.eps)?),
            OptimizerKind::Muon => Box::new(Muon::new(sgd()?, self.muon.momentum, self.muon.lr / self.lr)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::CropFill;
    use gafi_core::LearnerSpec;
    use serde_json::{Value, json};

    /// Reads and checks `value` as a configuration of the architecture `resnet`.
    fn read(value: &Value) -> gafi_core::Result<ClassifierConfig> {
        let mut value = value.clone();
        value["architecture"]["name"] = "resnet".into();
        let config: ClassifierConfig = LearnerSpec::of(&value)?.parse()?;
        config.check()?;
        Ok(config)
    }

    #[test]
    fn the_default_is_the_papers_student() {
        let config = read(&json!({"architecture": {"name": "resnet"}})).unwrap();
        assert_eq!(config, ClassifierConfig::default());
        let student = crate::resnet::ResNetConfig { depth: 20, width: 64 };
        assert_eq!((config.architecture, config.epochs), (student.into(), 100));
        // The released program's configs/*/ResNet20.yaml, train_classifier.py and utils/augmentation.py.
        assert_eq!(
            (config.optimizer, config.lr, config.momentum, config.nesterov),
            (OptimizerKind::Sgdw, 0.1, 0.9, true)
        );
        assert_eq!((config.batch, config.weight_decay), (128, 1e-4));
        let AugmentConfig { flip, alternate_flip, crop, crop_fill, cutout, erase } = config.augment;
        assert!(!alternate_flip);
        assert_eq!((flip, crop, crop_fill, cutout, erase), (true, 4, CropFill::Grey, true, 0.0));
        // Its callback counts epochs from 1 and lowers the rate before epochs 60 and 80.
        let rate = |epoch: u32| (config.schedule().lr(epoch - 1, 0, 1) * 1e6).round();
        assert_eq!([1, 59, 60, 79, 80, 100].map(rate), [1e5, 1e5, 1e4, 1e4, 1e3, 1e3]);
        let value = serde_json::to_value(&config).unwrap();
        assert_eq!(read(&value).unwrap(), config);
    }

    #[test]
    fn rescaling_moves_milestones_and_warm_up() {
        let student = ClassifierConfig { warm_up: 5.0, ..ClassifierConfig::default() };
        let of = |epochs| {
            let moved = student.clone().rescaled(epochs);
            moved.check().unwrap();
            (moved.milestones, moved.warm_up)
        };
        assert_eq!(of(100), (vec![59.0, 79.0], 5.0), "the same length");
        assert_eq!(of(10), (vec![5.9, 7.9], 0.5));
        assert_eq!(of(150), (vec![88.5, 118.5], 7.5));
        // Milestones within the first epoch become shares.
        assert_eq!(of(1), (vec![0.59, 0.79], 0.05));
        let shares = ClassifierConfig { milestones: vec![0.6, 0.8], ..ClassifierConfig::default() };
        assert_eq!(shares.clone().rescaled(7).milestones, shares.milestones);
        let cycle = ClassifierConfig { schedule: ScheduleKind::OneCycle, ..ClassifierConfig::default() };
        assert_eq!(cycle.clone().rescaled(7), ClassifierConfig { epochs: 7, ..cycle });
    }

    #[test]
    fn values_out_of_range_are_errors_naming_the_key() {
        let error_of = |value: Value| {
            let error = read(&value).unwrap_err();
            assert!(error.is_usage());
            error.to_string()
        };
        assert_eq!(error_of(json!({"epochs": 0})), "classifier.epochs = 0: expected 1 to 1000000");
        assert_eq!(error_of(json!({"momentum": 1.0})), "classifier.momentum = 1: expected 0 to below 1");
        assert!(error_of(json!({"lr": -0.5})).contains("classifier.lr = -0.5"));
        assert!(error_of(json!({"milestones": [80, 60]})).contains("ascending"));
        assert!(error_of(json!({"augment": {"erase": 2}})).contains("classifier.augment.erase"));
        assert!(error_of(json!({"distill": {"weight": 0}})).contains("classifier.distill.weight"));
        assert!(error_of(json!({"distill": {"temperature": -1}})).contains("classifier.distill.temperature"));
        assert!(error_of(json!({"ema": {"decay": 1.5}})).contains("classifier.ema.decay"));
        assert!(error_of(json!({"architecture": {"depth": 21}})).contains("classifier.architecture.depth = 21"));
        assert!(error_of(json!({"learning_rate": 1})).contains("learning_rate"));
        assert!(error_of(json!({"optimizer": "lion"})).contains("lion"));
        assert!(error_of(json!({"augment": {"mixup": 1}})).contains("mixup"));
    }
}
