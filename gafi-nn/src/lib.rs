//! Image classifiers on Candle, and the parts that GaFi's networks share: named parameters, layers, optimisers,
//! averages.
//!
//! ```
//! use gafi_core::{ClassId, ImageSpec, Learner, MemoryDataset, RunControl, Split};
//! use gafi_nn::{ClassifierConfig, ResNetConfig, ClassifierLearner, device};
//!
//! let image = ImageSpec::new(1, 8, 8);
//! let mut data = MemoryDataset::new(image, vec!["dark".into(), "light".into()], Split::Train);
//! for i in 0..16u8 {
//!     data.push(&[if i % 2 == 0 { i } else { 255 - i }; 64], ClassId(u32::from(i % 2)));
//! }
//! let architecture = ResNetConfig { depth: 8, width: 2 };
//! let architecture = architecture.into();
//! let config = ClassifierConfig { architecture, epochs: 2, batch: 8, ..Default::default() };
//! let mut learner = ClassifierLearner::new(config, image, 2, 7, &device::select("auto")?)?; // 2 classes, seed 7
//! let report = learner.train_epoch(&data, &RunControl::default())?;
//! assert_eq!(report.images, 16);
//! let probabilities = learner.scorer()?.score(data.images())?;
//! assert_eq!(probabilities.len(), 16 * 2);
//! # Ok::<(), gafi_core::Error>(())
//! ```
//!
//! - [`TrainClassifier`] and [`Evaluate`] are the stages `train-classifier` and `evaluate`; [`ClassifierConfig`]
//!   configures a training. [`register()`] makes learner and scorer known to a host program.
//! - [`ClassifierLearner`] trains a [`ResNet`] or an [`Airbench`]; [`ClassifierScorer`] scores images with a trained one.
//! - For your own networks: [`Params`] and [`Scope`] hold named parameters, [`layers`] use them, an [`Optimizer`]
//!   ([`Sgdw`], [`Sgd`], [`Adam`]) updates them, [`Ema`] averages them, and [`checkpoint`] saves them.
//! - For programs on Candle: networks implement [`ModuleT`](candle_core::ModuleT), [`TensorRows`] feeds a `candle_datasets::Batcher`, and
//!   with the feature `candle-nn` weights come from a `VarBuilder` and parameters are in a `VarMap`.

mod airbench;
pub mod augment;
mod candle;
pub mod checkpoint;
mod classifier;
mod config;
pub mod device;
mod dtype;
mod ema;
mod error;
pub mod layers;
mod learner;
mod lookahead;
pub mod loss;
mod muon;
mod optim;
mod params;
pub mod pixels;
mod register;
pub mod resnet;
pub mod schedule;
mod scorer;
mod stage;
mod training_set;
mod tta;

pub use airbench::{Airbench, AirbenchConfig};
pub use candle::TensorRows;
pub use classifier::{ClassifierArchitecture, ClassifierNet, Stages};
pub use config::{ClassifierConfig, Distill, OptimizerKind};
pub use dtype::Dtype;
pub use ema::{Ema, EmaConfig};
pub use error::{Error, Result};
pub use learner::ClassifierLearner;
pub use lookahead::LookaheadConfig;
pub use muon::MuonConfig;
pub use optim::{Adam, Optimizer, Sgd, Sgdw};
pub use params::{Init, Params, Scope};
pub use register::register;
pub use resnet::{ResNet, ResNetConfig};
pub use scorer::ClassifierScorer;
pub use stage::{Evaluate, EvaluationRecord, TrainClassifier};
pub use tta::{Tta, TtaScorer};
