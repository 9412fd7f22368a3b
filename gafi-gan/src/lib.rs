//! Class-conditional GANs on Candle: BigGAN-Deep and a small projection GAN, their training and sampling.
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
//! // A tiny network for 8x8 images. Two steps teach it nothing: the default is `Length::Steps(1500)`.
//! let architecture = Architecture::Small(SmallConfig { z: 8, g: vec![16], d: vec![16], ..SmallConfig::default() });
//! let config = GanConfig { architecture, length: Length::Steps(2), batch: 8, ..GanConfig::small() };
//! let stage = TrainGan { config, device: Device::Cpu };
//! let inputs = Inputs::new().with("train", &Artifact::open(dir.join("train"))?);
//! let gan = execute(&stage, &inputs, &dir.join("gan"), &Context::default())?.artifact;
//!
//! let mut sampler = Sampler::open(&gan, None, &Device::Cpu)?; // the last checkpoint
//! let latents = [0.5; 3 * 8];
//! let pixels = sampler.generate(&latents, &[ClassId(0), ClassId(1), ClassId(1)])?;
//! assert_eq!(pixels.len(), 3 * 8 * 8);
//! # assert_eq!(pixels[64..128], pixels[128..]);
//! # Ok::<(), gafi_core::Error>(())
//! ```
//!
//! - [`TrainGan`] is the stage `train-gan`, configured by [`GanConfig`]; [`train()`] is its training loop.
//! - With a [`GuidanceConfig`] a classifier guides the generator.
//! - [`Sampler`] generates images from a checkpoint; [`register`] makes it known to a host program.
//! - [`ImportGenerator`] is the stage `import-generator`, for generators trained by PyTorch-StudioGAN.
//! - To write your own training loop: [`players`] holds both networks with their optimisers, [`networks`] the networks,
//!   [`blocks`] and [`spectral`] their parts, [`diffaugment`] the augmentation.
//! - For programs on Candle: [`OfClass`] is a generator as a [`Module`](candle_core::Module); with the feature `candle-nn`,
//!   `GeneratorNet::load` takes its weights from a `VarBuilder`.

mod architecture;
mod batches;
mod biggan;
pub mod blocks;
mod candle;
mod config;
pub mod diffaugment;
mod discriminator;
mod generator;
pub mod grid;
mod guidance;
pub mod import;
mod info;
mod length;
mod loss;
pub mod networks;
mod pass;
pub mod players;
mod sampler;
mod small;
pub mod spectral;
mod stage;
mod train;

pub use architecture::{Architecture, BigGanConfig, SmallConfig};
pub use biggan::PlainBigGanConfig;
pub use candle::OfClass;
pub use config::{BatchNorm, GanConfig};
pub use diffaugment::Augment;
pub use guidance::{Guidance, GuidanceConfig, RealMoments};
pub use import::{ImportGenerator, ImportGeneratorConfig, Origin};
pub use length::{Checkpoints, GanSchedule, Length};
pub use loss::Loss;
pub use sampler::{Sampler, register};
pub use stage::TrainGan;
pub use train::train;
