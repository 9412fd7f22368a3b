//! Generators, classifiers and stages that run as separate programs, in any language and on any framework.
//!
//! ```
//! use std::sync::{Arc, atomic::AtomicBool};
//! use gafi_command::{CommandGenerator, Program};
//! use gafi_core::{ClassId, Generator, SampleRequest};
//!
//! # if std::process::Command::new("python3").arg("--version").output().is_err() { return Ok(()); }
//! let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/python/command_generator.py");
//! let program = Program::new(["python3", script, "--size", "8"]);
//! let stop = Arc::new(AtomicBool::new(false)); // set it to cancel a request
//! let mut generator = CommandGenerator::start(&program, None, &stop)?;
//! assert_eq!(generator.classes(), ["bright", "dark"]);
//! let seeds = [11, 12, 13]; // one for each sample; `gafi_expand::Expanded` derives them for you
//! let request = SampleRequest { class: ClassId(1), first: 0, seeds: &seeds, stds: &[1.0; 3], latents: &[] };
//! assert_eq!(generator.sample(&request)?.len(), 3 * 8 * 8);
//! # Ok::<(), gafi_core::Error>(())
//! ```
//!
//! - [`Program`]: the command line and timeout
//! - [`CommandGenerator`], [`CommandScorer`]: a program as a [`gafi_core::Generator`] or [`gafi_core::Scorer`]. GaFi
//!   sends requests as lines of JSON and exchanges arrays in safetensors files, as `docs/command-protocol.md` specifies
//! - [`ImportProgram`]: the stage that makes an artifact of a program; [`register`] adds the loaders of such artifacts
//! - [`CommandStage`]: the stage `command`, which runs any program on the folders of artifacts
//! - [`Failure`]: the error of a program that crashes, hangs or gives a wrong answer, with the end of its standard
//!   error
//!
//! A program is killed and reaped when its generator or scorer is dropped.
#![deny(missing_docs, unsafe_code)]

mod artifact;
mod connection;
mod failure;
mod generator;
mod import;
mod process;
mod program;
mod protocol;
mod scorer;
mod scratch;
mod stage;
mod tensors;
#[doc(hidden)]
pub mod untrusted;

pub use artifact::register;
pub use failure::Failure;
pub use generator::CommandGenerator;
pub use import::ImportProgram;
pub use program::Program;
pub use protocol::Role;
pub use scorer::CommandScorer;
pub use stage::CommandStage;
