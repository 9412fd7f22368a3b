//! The Expansion Trick: latents are drawn from N(0, s² I) with s above the 1 that the generator was trained with. Samples
//! become more diverse and less faithful, the opposite of the truncation trick; a filter then cleans them.
//!
//! - [`StdRange`], [`ClassStds`], [`draw_latent`], [`draw_seed`]: which latent and which seed belong to which name
//! - [`Expanded`]: makes a [`SampleSource`](gafi_core::SampleSource) of any [`Generator`](gafi_core::Generator)
//! - [`Expand`]: the stage, from a generator artifact to a dataset artifact
//!
//! ```
//! use std::num::NonZeroUsize;
//! use gafi_core::{ClassId, Generator, ImageSpec, Result, SampleSource, Stream};
//! use gafi_expand::{Expanded, StdRange};
//!
//! /// Your own network stands here; this one shows its latent.
//! struct Plain(ImageSpec, Vec<String>);
//! impl Generator for Plain {
//!     fn image(&self) -> &ImageSpec { &self.0 }
//!     fn classes(&self) -> &[String] { &self.1 }
//!     fn latent_dim(&self) -> usize { 4 }
//!     fn generate(&mut self, latents: &[f32], _labels: &[ClassId]) -> Result<Vec<u8>> {
//!         Ok(latents.iter().map(|z| (127.5 + 30.0 * z) as u8).collect())
//!     }
//! }
//! let plain = Plain(ImageSpec::new(1, 2, 2), vec!["cat".into(), "dog".into()]);
//! let mut source = Expanded::new(plain, StdRange::Range([1.0, 1.5]), Stream::new(7))?;
//! let dogs = source.pull(ClassId(1), NonZeroUsize::new(3).unwrap())?.unwrap();
//! assert_eq!((dogs.ids, dogs.images.len()), (vec![0, 1, 2], 12));
//! # Ok::<(), gafi_core::Error>(())
//! ```
#![deny(missing_docs, unsafe_code)]

mod expanded;
mod latents;
mod stage;

pub use expanded::{BLOCK, Expanded};
pub use latents::{ClassStds, StdRange, draw_latent, draw_seed, latent_stream};
pub use stage::{Expand, PORTS};
