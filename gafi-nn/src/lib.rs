//! Neural networks of GaFi on Candle: layers, ResNet, optimisers, and the classifier's training.
//!
//! - [`Params`], [`Scope`], [`layers`]: named parameters and what uses them
//! - [`Optimizer`] ([`Sgdw`], [`Adam`]), [`Ema`], [`schedule`]: how they move, with a state that can be saved
//! - [`ResNet`], [`ResNetLearner`], [`ResNetScorer`]: the classifier, in training and at work
//! - [`TrainClassifier`], [`Evaluate`]: the stages; [`register`] makes their networks known to a host program
//! - [`device::select`], [`pixels`], [`checkpoint`], [`augment`]: the rest
//!
//! ```
//! use gafi_core::{ClassId, Context, ImageSpec, Learner, LearnerSpec, MemoryDataset, ModelLoaders, Rows, Split};
//! use gafi_nn::{ArchitectureConfig, ClassifierConfig, device};
//! let classes: Vec<String> = vec!["dark".into(), "light".into()];
//! let image = ImageSpec::new(1, 8, 8);
//! let mut data = MemoryDataset::new(image, classes.clone(), Split::Train);
//! for i in 0..16u8 {
//!     data.push(&[if i % 2 == 0 { i } else { 255 - i }; 64], ClassId(u32::from(i % 2)));
//! }
//! let architecture = ArchitectureConfig { depth: 8, width: 2, ..Default::default() };
//! let config = ClassifierConfig { architecture, epochs: 2, batch: 8, ..Default::default() };
//! let loaders = gafi_nn::register(ModelLoaders::default(), &device::select("cpu")?);
//! let cx = Context::new(loaders);
//! let mut learner = cx.models.new_learner(&LearnerSpec::of(&config)?, image, &classes, 7)?;
//! let report = learner.train_epoch(&data, &cx)?;
//! assert_eq!(report.images, 16);
//! let mut pixels = vec![0; 2 * 64];
//! data.read(&[0, 1], &mut pixels)?;
//! assert_eq!(learner.scorer()?.score(&pixels)?.len(), 4);
//! # Ok::<(), gafi_core::Error>(())
//! ```

pub mod augment;
pub mod checkpoint;
mod config;
pub mod device;
mod dtype;
mod ema;
mod error;
pub mod layers;
mod learner;
mod optim;
mod params;
pub mod pixels;
mod resnet;
pub mod schedule;
mod scorer;
mod stage;

pub use config::{ClassifierConfig, Distill, OptimizerKind, register};
pub use dtype::Dtype;
pub use ema::{Ema, EmaConfig};
pub use error::{Error, Result};
pub use layers::Mode;
pub use learner::{ResNetLearner, smoothed_cross_entropy};
pub use optim::{Adam, Optimizer, Sgdw};
pub use params::{Init, Params, Scope};
pub use resnet::{ArchitectureConfig, ArchitectureName, MIN_SIZE, ResNet};
pub use scorer::ResNetScorer;
pub use stage::{EVALUATION, Evaluate, EvaluationRecord, TrainClassifier};
