//! The Expansion Trick: latents are drawn from N(0, std² I) with std > 1; generators are trained with std = 1.
//! Samples become more diverse and less faithful, the opposite of the truncation trick; a filter then cleans them.
//!
//! ```
//! use std::num::NonZeroUsize;
//! use gafi_core::{ClassId, ImageSpec, SampleSource, Stream};
//! use gafi_expand::{Expanded, StdRange, generator_fn};
//!
//! // Put your own network here; this one shows its latent.
//! let plain = generator_fn(ImageSpec::new(1, 2, 2), &["cat", "dog"], 4, |latents: &[f32], _: &[ClassId]| {
//!     Ok(latents.iter().map(|z| (127.5 + 30.0 * z) as u8).collect())
//! });
//! let mut source = Expanded::new(plain, StdRange::Range([1.0, 1.5]), Stream::new(7))?;
//! let dogs = source.pull(ClassId(1), NonZeroUsize::new(3).unwrap())?.unwrap();
//! assert_eq!((dogs.ids, dogs.images.len()), (vec![0, 1, 2], 12));
//! # Ok::<(), gafi_core::Error>(())
//! ```
//!
//! - [`Expanded`] turns any [`Generator`](gafi_core::Generator) into a [`SampleSource`](gafi_core::SampleSource).
//! - [`generator_fn`] turns a closure into a generator.
//! - [`StdRange`] is the std; [`draw_latent`] and [`draw_seed`] draw a sample's latent and seed by class and index.
//! - `Expand` is the stage, from a generator artifact to a dataset artifact (feature `stage`, on by default).
#![deny(missing_docs, unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod expanded;
mod generator;
mod latents;
#[cfg(feature = "stage")]
mod stage;

pub use expanded::Expanded;
pub use generator::{GeneratorFn, generator_fn};
pub use latents::{StdRange, draw_latent, draw_seed, latent_stream};
#[cfg(feature = "stage")]
pub use stage::Expand;

// Compiles and runs the README's example as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
