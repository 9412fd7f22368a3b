//! Generators and teachers that are programs of their own, in whatever language and on whatever framework: GaFi starts
//! them, asks by lines of JSON on standard input, and reads images or probabilities from safetensors files.
//! `docs/command-protocol.md` is their contract.
//!
//! - [`Program`]: what is started
//! - [`CommandGenerator`], [`CommandScorer`]: the traits of `gafi-core` over a program
//! - [`ImportProgram`]: the stage that makes an artifact of one; [`register`] opens such artifacts wherever a network's would do
//! - [`Failure`]: what went wrong, with the last that the program said
//!
//! A program that crashes, hangs, answers too little or answers garbage ends the stage with a [`Failure`]; it is ended and
//! reaped whenever the generator or scorer goes.
#![deny(missing_docs, unsafe_code)]

mod artifact;
mod failure;
mod generator;
mod import;
mod link;
mod process;
mod program;
mod protocol;
mod scorer;
mod tensors;

pub use artifact::{ARCHITECTURE, Architecture, CheckpointInfo, GeneratorInfo, register};
pub use failure::Failure;
pub use generator::CommandGenerator;
pub use import::ImportProgram;
pub use program::Program;
pub use protocol::{GeneratorHello, PROTOCOL, Role, ScorerHello, Values};
pub use scorer::CommandScorer;
