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
//!
//! ```
//! use std::sync::{Arc, atomic::AtomicBool};
//! use gafi_command::{CommandGenerator, Program};
//! use gafi_core::{ClassId, SampleRequest, Generator, Stream};
//!
//! # if std::process::Command::new("python3").arg("--version").output().is_err() { return Ok(()); }
//! let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/python/command_generator.py");
//! let program = Program::new(["python3", script, "--size", "8"]);
//! // Setting it from elsewhere ends whatever is asked.
//! let stop = Arc::new(AtomicBool::new(false));
//! let mut spots = CommandGenerator::start(&program, None, &stop)?;
//! assert_eq!(spots.classes(), ["bright", "dark"]);
//!
//! // Three samples of "dark" by their names; `gafi_expand::Expanded` makes the names for you.
//! let names = Stream::new(7).child("latents").at(1);
//! let seeds = [names.at(0).seed(), names.at(1).seed(), names.at(2).seed()];
//! let request = SampleRequest { class: ClassId(1), first: 0, seeds: &seeds, stds: &[1.0; 3], latents: &[] };
//! let pixels = spots.sample(&request)?;
//! assert_eq!(pixels.len(), 3 * 8 * 8);
//! # Ok::<(), gafi_core::Error>(())
//! ```
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

pub use artifact::{ARCHITECTURE, Architecture, register};
pub use failure::Failure;
pub use generator::CommandGenerator;
pub use import::ImportProgram;
pub use program::Program;
pub use protocol::{GeneratorHello, PROTOCOL, Role, ScorerHello, Values};
pub use scorer::CommandScorer;
