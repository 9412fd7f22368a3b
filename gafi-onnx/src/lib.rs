//! Generators and classifiers from ONNX files, as `torch.onnx.export` writes them, run in process on the CPU by
//! [tract](https://docs.rs/tract-onnx).
//!
//! ```
//! use gafi_core::{Context, Inputs, ModelLoaders, execute};
//! use gafi_onnx::{GeneratorConfig, ImportOnnx, register};
//!
//! # let model = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/biggan.onnx"));
//! # let dir = tempfile::tempdir().unwrap();
//! # let out = dir.path().join("generator");
//! let classes = ["bird", "cat", "dog"].map(String::from).to_vec();
//! let stage = ImportOnnx::generator(model, GeneratorConfig { classes, ..Default::default() })?;
//! let artifact = execute(&stage, &Inputs::new(), &out, &Context::default())?.artifact;
//! let mut generator = register(ModelLoaders::default()).open_generator(&artifact, None)?;
//! let pixels = generator.generate(&vec![0.5; generator.latent_dim()], &[gafi_core::ClassId(2)])?;
//! assert_eq!(pixels.len(), generator.image().bytes());
//! # Ok::<(), gafi_core::Error>(())
//! ```
//!
//! - [`ImportOnnx`]: the stage that makes an artifact of a file and its weights; [`register`] adds the loaders of such
//!   artifacts
//! - [`GeneratorConfig`], [`ClassifierConfig`]: what a file does not contain, such as class names and the range of its
//!   values
//! - [`OnnxGenerator`], [`OnnxScorer`]: a file as a [`gafi_core::Generator`] or [`gafi_core::Scorer`]
//!
//! An image does not depend on its batch: every run computes the same number of images, and a file whose results differ between
//! the positions in a run computes one image at a time. Threads run in parallel.
#![deny(missing_docs, unsafe_code)]

mod architecture;
mod arrangement;
mod artifact;
mod config;
mod fuse;
mod generator;
mod import;
mod model;
mod network;
mod resize;
mod scorer;
#[cfg(test)]
mod tests;

pub use artifact::register;
pub use config::{ClassifierConfig, GeneratorConfig, Layout, Scores};
pub use generator::OnnxGenerator;
pub use import::ImportOnnx;
pub use scorer::OnnxScorer;
