//! Generators and teachers from ONNX files, as `torch.onnx.export` writes them, run in process by
//! [tract](https://docs.rs/tract-onnx), on the CPU.
//!
//! - [`OnnxGenerator`], [`OnnxScorer`]: the traits of `gafi-core` over a file
//! - [`GeneratorConfig`], [`ClassifierConfig`]: what a file does not say of itself: range of its values, its classes
//! - [`ImportOnnx`]: the stage that makes an artifact of one, file and weights included; [`register`] opens such
//!   artifacts wherever a network's would do
//!
//! Each image is computed by itself, whatever is asked for together: a batch changes no bit of it. Threads share out
//! images.
#![deny(missing_docs, unsafe_code)]

mod artifact;
mod config;
mod generator;
mod import;
mod model;
mod network;
mod resize;
mod scorer;
#[cfg(test)]
mod tests;

pub use artifact::{ClassifierArchitecture, GeneratorArchitecture, register};
pub use config::{ARCHITECTURE, ClassifierConfig, GeneratorConfig, Scores};
pub use generator::OnnxGenerator;
pub use import::ImportOnnx;
pub use scorer::OnnxScorer;
