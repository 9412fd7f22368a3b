//! How a classifier is trained: one flat table, the paper's student by default.

use candle_core::Device;
use gafi_core::{Error, ImageSpec, LearnerSpec, ModelLoaders};
use serde::{Deserialize, Serialize};

use crate::augment::AugmentConfig;
use crate::dtype::Dtype;
use crate::ema::EmaConfig;
use crate::error::Result;
use crate::learner::ResNetLearner;
use crate::optim::{Adam, Optimizer, Sgdw};
use crate::params::Params;
use crate::resnet::{ArchitectureConfig, MIN_SIZE};
use crate::schedule::{Schedule, ScheduleKind};
use crate::scorer::ResNetScorer;

/// Which optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// [`Sgdw`], of `momentum`, `nesterov`, `weight_decay`.
    Sgdw,
    /// [`Adam`], of `betas` and `eps`; without weight decay.
    Adam,
}

/// Distillation from soft labels (Hinton, Vinyals and Dean 2015, arXiv 1503.02531): with the teacher's probabilities p and the
/// network's logits z the loss is `(1 - weight) * cross-entropy(label, z) + weight * T^2 * cross-entropy(p^(1/T), z / T)`,
/// p^(1/T) scaled to sum 1: the softmax of the teacher's logits over T.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Distill {
    /// Share of the soft labels in the loss, above 0 and up to 1.
    #[cfg_attr(feature = "schema", schemars(range(max = 1), extend("exclusiveMinimum" = 0)))]
    pub weight: f64,
    /// The temperature T, above 0.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub temperature: f64,
}

impl Default for Distill {
    /// Soft labels alone, at a temperature of 4: on Fashion-MNIST's validation images students of generated images did two points
    /// better so than at 1 (docs/log/results.md).
    fn default() -> Self {
        Self { weight: 1.0, temperature: 4.0 }
    }
}

/// A training of a classifier. Keys that are left out have the paper's values (its students').
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierConfig {
    /// The network.
    pub architecture: ArchitectureConfig,
    /// Epochs in all, at least 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub epochs: u32,
    /// Images a step, at least 1. The last step of an epoch has what is left.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub batch: usize,
    /// Highest learning rate, above 0.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub lr: f64,
    /// How it moves.
    pub schedule: ScheduleKind,
    /// Where `milestones` multiply the rate by 0.1: from 1 on an epoch, below 1 a share of all epochs; rising.
    pub milestones: Vec<f64>,
    /// Epochs of linear warm-up before the milestones' constant rate, 0 to all of them.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub warm_up: f64,
    /// Share of the training in which a one-cycle rises, 0 to below 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 0), extend("exclusiveMaximum" = 1)))]
    pub rise: f64,
    /// Which optimiser.
    pub optimizer: OptimizerKind,
    /// SGDW: momentum, 0 to below 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 0), extend("exclusiveMaximum" = 1)))]
    pub momentum: f64,
    /// SGDW: Nesterov's look-ahead.
    pub nesterov: bool,
    /// SGDW: what is taken off every weight in each step, as a share of it, NOT times the learning rate; 0 to below 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 0), extend("exclusiveMaximum" = 1)))]
    pub weight_decay: f64,
    /// Adam: decays of the two moments, 0 to below 1.
    #[cfg_attr(feature = "schema", schemars(inner(range(min = 0, max = 1))))]
    pub betas: [f64; 2],
    /// Adam: added to the root of the second moment, above 0.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub eps: f64,
    /// What happens to the images.
    pub augment: AugmentConfig,
    /// Share of the target spread over all classes, 0 to below 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 0), extend("exclusiveMaximum" = 1)))]
    pub label_smoothing: f64,
    /// When given, the network also learns from a teacher's probabilities, which the set must then hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill: Option<Distill>,
    /// What the network is trained in.
    pub dtype: Dtype,
    /// When given, the classifier is the average of the weights over the steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<EmaConfig>,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self {
            architecture: ArchitectureConfig::default(),
            epochs: 100,
            batch: 128,
            lr: 0.1,
            schedule: ScheduleKind::Milestones,
            milestones: vec![60.0, 80.0],
            warm_up: 0.0,
            rise: 0.3,
            optimizer: OptimizerKind::Sgdw,
            momentum: 0.9,
            nesterov: true,
            weight_decay: 1e-4,
            betas: [0.9, 0.999],
            eps: 1e-8,
            augment: AugmentConfig::default(),
            label_smoothing: 0.0,
            distill: None,
            dtype: Dtype::F32,
            ema: None,
        }
    }
}

impl ClassifierConfig {
    /// From the configuration of another stage.
    ///
    /// # Errors
    /// [`Error::Config`] when a key is unknown, or a value of the wrong type or out of range.
    pub fn from_spec(spec: &LearnerSpec) -> gafi_core::Result<Self> {
        let config: Self = spec.parse()?;
        config.check()?;
        Ok(config)
    }

    /// Whether all values are in range.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key (below `classifier.`), its value and what is allowed.
    pub fn check(&self) -> gafi_core::Result<()> {
        self.architecture.check("classifier.architecture")?;
        let refuse = |ok: bool, key: &str, value: &dyn std::fmt::Display, expected: &str| {
            if ok { Ok(()) } else { Err(Error::config(format!("classifier.{key}"), value, expected)) }
        };
        let share = |x: f64| (0.0..1.0).contains(&x);
        let below_one = "0 to below 1";
        refuse(self.epochs > 0, "epochs", &self.epochs, "at least 1")?;
        refuse(self.batch > 0, "batch", &self.batch, "at least 1")?;
        refuse(self.lr > 0.0 && self.lr.is_finite(), "lr", &self.lr, "a finite number above 0")?;
        let rising = self.milestones.is_sorted_by(|a, b| a < b) && self.milestones.iter().all(|m| *m > 0.0);
        refuse(rising, "milestones", &format!("{:?}", self.milestones), "rising numbers above 0")?;
        let warm = self.warm_up >= 0.0 && self.warm_up <= f64::from(self.epochs);
        refuse(warm, "warm_up", &self.warm_up, "0 to the number of epochs")?;
        refuse(share(self.rise), "rise", &self.rise, below_one)?;
        refuse(share(self.momentum), "momentum", &self.momentum, below_one)?;
        refuse(share(self.weight_decay), "weight_decay", &self.weight_decay, below_one)?;
        refuse(
            self.betas.iter().all(|b| share(*b)),
            "betas",
            &format!("{:?}", self.betas),
            "two numbers, 0 to below 1",
        )?;
        refuse(self.eps > 0.0 && self.eps.is_finite(), "eps", &self.eps, "a finite number above 0")?;
        refuse((0.0..=1.0).contains(&self.augment.erase), "augment.erase", &self.augment.erase, "0 to 1")?;
        refuse(self.augment.crop <= 1024, "augment.crop", &self.augment.crop, "0 to 1024 pixels")?;
        refuse(share(self.label_smoothing), "label_smoothing", &self.label_smoothing, below_one)?;
        if let Some(Distill { weight, temperature }) = &self.distill {
            refuse(*weight > 0.0 && *weight <= 1.0, "distill.weight", weight, "above 0 and up to 1")?;
            let finite = *temperature > 0.0 && temperature.is_finite();
            refuse(finite, "distill.temperature", temperature, "a finite number above 0")?;
        }
        if let Some(ema) = &self.ema {
            refuse(share(ema.decay), "ema.decay", &ema.decay, below_one)?;
        }
        Ok(())
    }

    /// Whether this classifier can learn images of shape `image` in `classes` classes.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check_data(&self, image: &ImageSpec, classes: usize) -> gafi_core::Result<()> {
        if image.height < MIN_SIZE || image.width < MIN_SIZE {
            return Err(Error::config("image", image, format!("at least {MIN_SIZE}x{MIN_SIZE} pixels")));
        }
        if classes < 2 {
            return Err(Error::config("classes", classes, "at least 2"));
        }
        Ok(())
    }

    /// The schedule of the learning rate.
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

    /// The same training stretched, or shrunk, to `epochs`: what is given in epochs keeps its place in it.
    #[must_use]
    pub fn lasting(self, epochs: u32) -> Self {
        let before = f64::from(self.epochs.max(1));
        // Multiplied first: a place that is a whole epoch again is exactly that one.
        let moved = |place: f64| place * f64::from(epochs) / before;
        let milestone = |&m: &f64| match moved(m) {
            _ if m < 1.0 => m,
            // Below 1 it would be read as a share, so it becomes the share that it was.
            early if early < 1.0 => m / before,
            epoch => epoch,
        };
        let milestones = match self.schedule {
            ScheduleKind::Milestones => self.milestones.iter().map(milestone).collect(),
            // They mean nothing here, and trainings that are equal without them have equal fingerprints.
            ScheduleKind::OneCycle => self.milestones.clone(),
        };
        Self { epochs, milestones, warm_up: moved(self.warm_up), ..self }
    }

    /// A fresh optimiser of `params`.
    pub fn optimizer(&self, params: &Params) -> Result<Box<dyn Optimizer>> {
        Ok(match self.optimizer {
            OptimizerKind::Sgdw => Box::new(Sgdw::new(params, self.momentum, self.nesterov, self.weight_decay)?),
            OptimizerKind::Adam => Box::new(Adam::new(params, self.betas[0], self.betas[1], self.eps)?),
        })
    }
}

/// Registers this crate's classifiers: learners and scorers of the architecture `resnet`, on `device`.
pub fn register(loaders: ModelLoaders, device: &Device) -> ModelLoaders {
    let (for_learners, for_scorers) = (device.clone(), device.clone());
    loaders
        .with_learner(
            ArchitectureConfig::NAME,
            Box::new(move |config, image, classes, seed| {
                let config = ClassifierConfig::from_spec(config)?;
                Ok(Box::new(ResNetLearner::new(config, image, classes.len(), seed, &for_learners)?))
            }),
        )
        .with_scorer(
            ArchitectureConfig::NAME,
            Box::new(move |artifact| Ok(Box::new(ResNetScorer::open(artifact, &for_scorers)?))),
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(value: &Value) -> gafi_core::Result<ClassifierConfig> {
        ClassifierConfig::from_spec(&LearnerSpec::of(value)?)
    }

    #[test]
    fn nothing_said_is_the_papers_student() {
        let config = read(&json!({"architecture": {"name": "resnet"}})).unwrap();
        assert_eq!(config, ClassifierConfig::default());
        assert_eq!((config.architecture.depth, config.architecture.width, config.epochs), (20, 64, 100));
        let value = serde_json::to_value(&config).unwrap();
        assert_eq!(read(&value).unwrap(), config);
    }

    #[test]
    fn another_length_keeps_the_shape_of_the_rates() {
        let student = ClassifierConfig { warm_up: 5.0, ..ClassifierConfig::default() };
        let of = |epochs| {
            let moved = student.clone().lasting(epochs);
            moved.check().unwrap();
            (moved.milestones, moved.warm_up)
        };
        assert_eq!(of(100), (vec![60.0, 80.0], 5.0), "its own length");
        assert_eq!(of(10), (vec![6.0, 8.0], 0.5));
        assert_eq!(of(150), (vec![90.0, 120.0], 7.5));
        // Of a single epoch the milestones would lie within the first, where a number is a share.
        assert_eq!(of(1), (vec![0.6, 0.8], 0.05));
        let shares = ClassifierConfig { milestones: vec![0.6, 0.8], ..ClassifierConfig::default() };
        assert_eq!(shares.clone().lasting(7).milestones, shares.milestones);
        let cycle = ClassifierConfig { schedule: ScheduleKind::OneCycle, ..ClassifierConfig::default() };
        assert_eq!(cycle.clone().lasting(7), ClassifierConfig { epochs: 7, ..cycle });
    }

    #[test]
    fn wrong_values_are_named() {
        let says = |value: Value| {
            let error = read(&value).unwrap_err();
            assert!(error.is_usage());
            error.to_string()
        };
        assert_eq!(says(json!({"epochs": 0})), "classifier.epochs = 0: expected at least 1");
        assert_eq!(says(json!({"momentum": 1.0})), "classifier.momentum = 1: expected 0 to below 1");
        assert!(says(json!({"lr": -0.5})).contains("classifier.lr = -0.5"));
        assert!(says(json!({"milestones": [80, 60]})).contains("rising"));
        assert!(says(json!({"augment": {"erase": 2}})).contains("classifier.augment.erase"));
        assert!(says(json!({"distill": {"weight": 0}})).contains("classifier.distill.weight"));
        assert!(says(json!({"distill": {"temperature": -1}})).contains("classifier.distill.temperature"));
        assert!(says(json!({"ema": {"decay": 1.5}})).contains("classifier.ema.decay"));
        assert!(says(json!({"architecture": {"depth": 21}})).contains("classifier.architecture.depth = 21"));
        assert!(says(json!({"learning_rate": 1})).contains("learning_rate"));
        assert!(says(json!({"optimizer": "lion"})).contains("lion"));
        assert!(says(json!({"augment": {"mixup": 1}})).contains("mixup"));
    }
}
