//! Class-conditional GANs on Candle: BigGAN-Deep and a small projection GAN, their training, checkpoints and sampler.
//!
//! - [`TrainGan`]: the stage, from a dataset to a generator artifact; [`GanConfig`] is all that can be chosen
//! - [`train()`]: the training loop; [`Players`]: the two networks with their optimisers, one update of each
//! - [`ImportGenerator`]: the stage that takes a generator trained elsewhere
//! - [`GeneratorNet`], [`DiscriminatorNet`]: the networks of [`Architecture`], made of [`blocks`]
//! - [`Spectral`]: spectral normalisation; [`Pass`]: how a network is run; [`Loss`]; [`diff_augment`]
//! - [`Sampler`]: a checkpoint as a [`gafi_core::Generator`]; [`register`] tells the host program of it
//!
//! ```
//! use candle_core::Device;
//! use gafi_core::{Artifact, ClassId, Context, Generator, Inputs, execute};
//! use gafi_gan::{Architecture, GanConfig, Length, Sampler, SmallConfig, TrainGan};
//! # use gafi_core::*;
//! # #[derive(Debug)] struct Ramps;
//! # impl Stage for Ramps {
//! #     fn info(&self) -> StageInfo {
//! #         StageInfo { name: "ramps", revision: 1, ports: &[], output: Kind::Dataset }
//! #     }
//! #     fn config(&self) -> serde_json::Value { serde_json::json!({}) }
//! #     fn check(&self, _: &Inputs) -> Result<()> { Ok(()) }
//! #     fn run(&self, _: &Inputs, out: &mut ArtifactWriter, _: &Context) -> Result<()> {
//! #         let info = DatasetInfo::new(ImageSpec::new(1, 8, 8), vec!["down".into(), "right".into()], Split::Train);
//! #         let (mut writer, _) = DatasetWriter::begin(out, info)?;
//! #         let images = (0..16 * 64u32).map(|i| if i / 64 % 2 == 0 { i % 64 * 4 } else { i % 8 * 32 } as u8).collect();
//! #         let labels = (0..16).map(|i| ClassId(i % 2)).collect();
//! #         let batch = Batch { labels, images, ids: (0..16).map(|i| i / 2).collect(), ..Batch::default() };
//! #         writer.push(&batch, serde_json::Value::Null)?;
//! #         writer.finish()?;
//! #         Ok(())
//! #     }
//! # }
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path();
//! # execute(&Ramps, &Inputs::new(), &dir.join("train"), &Context::default())?;
//!
//! // Images of 8x8, so one stage. This is too short to learn anything.
//! let architecture = SmallConfig { z: 8, g: vec![16], d: vec![16], ..SmallConfig::default() };
//! let architecture = Architecture::Small(architecture);
//! let config = GanConfig { architecture, length: Length::Steps(2), batch: 8, ..GanConfig::small() };
//! let stage = TrainGan { config, device: Device::Cpu };
//! let data = Artifact::open(dir.join("train"))?;
//! let gan = execute(&stage, &Inputs::new().with("train", &data), &dir.join("gan"), &Context::default())?;
//!
//! let mut sampler = Sampler::open(&gan.artifact, None, &Device::Cpu)?; // the last checkpoint
//! let latents = [0.5; 3 * 8];
//! let pixels = sampler.generate(&latents, &[ClassId(0), ClassId(1), ClassId(1)])?;
//! assert_eq!(pixels.len(), 3 * 64);
//! assert_eq!(pixels[64..128], pixels[128..]);
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
mod length;
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
pub use config::{ARCHITECTURES, Architecture, BatchNorm, BigGanConfig, GanConfig, SmallConfig};
pub use diffaugment::{Augment, Draws, diff_augment};
pub use discriminator::BigGanDiscriminator;
pub use generator::BigGanGenerator;
pub use grid::{GRID_GAP, png_grid};
pub use import::{ImportGenerator, ImportGeneratorConfig, Origin};
pub use info::TRAINING;
pub use length::{Checkpoints, GanSchedule, Length};
pub use loss::Loss;
pub use network::{DiscriminatorNet, GeneratorNet};
pub use pass::{Form, Pass, Statistics};
pub use players::{DUpdate, Players};
pub use sampler::{Sampler, register};
pub use small::{SmallDiscriminator, SmallGenerator};
pub use spectral::{SPECTRAL_EPS, Spectral, bake};
pub use stage::TrainGan;
pub use train::train;
