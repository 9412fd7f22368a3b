//! Class-conditional GANs on Candle: BigGAN-Deep and a small projection GAN, their training, checkpoints and sampler.
//!
//! - [`TrainGan`]: the stage, from a dataset to a generator artifact; [`GanConfig`] is all that can be chosen
//! - [`train()`]: the training loop; [`Players`]: the two networks with their optimisers, one update of each
//! - [`ImportGenerator`]: the stage that takes a generator trained elsewhere
//! - [`GeneratorNet`], [`DiscriminatorNet`]: the networks of [`Architecture`], made of [`blocks`]
//! - [`Spectral`]: spectral normalisation; [`Pass`]: how a network is run; [`Loss`]; [`diff_augment`]
//! - [`Sampler`]: a checkpoint as a [`gafi_core::Generator`]; [`register`] tells the host program of it
//!
//! ```no_run
//! use std::path::Path;
//! use gafi_core::{Artifact, Context, Inputs, execute};
//! use gafi_gan::{GanConfig, TrainGan};
//! let stage = TrainGan { config: GanConfig::small(), device: candle_core::Device::Cpu };
//! let data = Artifact::open(Path::new("fashion-mnist/train"))?;
//! let gan = execute(&stage, &Inputs::new().with("train", &data), Path::new("gan"), &Context::default())?;
//! # Ok::<(), gafi_core::Error>(())
//! ```

mod batches;
mod biggan;
pub mod blocks;
mod config;
mod diffaugment;
mod discriminator;
mod generator;
mod grid;
pub mod import;
mod info;
mod loss;
mod network;
mod pass;
mod players;
mod sampler;
mod small;
mod spectral;
mod stage;
mod train;

pub use biggan::{PlainBigGanConfig, PlainBigGanGenerator};
pub use config::{ARCHITECTURES, Architecture, BatchNorm, BigGanConfig, GanConfig, Schedule, SmallConfig};
pub use diffaugment::{Augment, Draws, diff_augment};
pub use discriminator::BigGanDiscriminator;
pub use generator::BigGanGenerator;
pub use grid::{GRID_GAP, png_grid};
pub use import::{ImportGenerator, ImportGeneratorConfig, Origin};
pub use info::{CheckpointInfo, GeneratorInfo, TRAINING};
pub use loss::Loss;
pub use network::{DiscriminatorNet, GeneratorNet};
pub use pass::{Form, Pass, Statistics};
pub use players::{DUpdate, Players};
pub use sampler::{Sampler, register};
pub use small::{SmallDiscriminator, SmallGenerator};
pub use spectral::{SPECTRAL_EPS, Spectral, bake};
pub use stage::TrainGan;
pub use train::train;
