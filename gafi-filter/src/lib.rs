//! Dynamic Sample Filtering: a teacher judges every sample, and samples that it does not recognise as the requested class
//! are replaced by further ones.
//!
//! ```
//! use std::num::NonZeroUsize;
//! use gafi_core::{ClassId, ImageSpec, MemoryDataset, SampleSource, Split};
//! use gafi_filter::{FilterRule, Filtered, RowsSource, scorer_fn};
//!
//! let image = ImageSpec::new(1, 1, 1);
//! let mut samples = MemoryDataset::new(image, vec!["dark".into(), "light".into()], Split::Synthetic);
//! for light in [10, 200, 250, 90] {
//!     samples.push(&[light], ClassId(1));
//! }
//! let teacher = scorer_fn(image, 2, |pixels: &[u8]| {
//!     Ok(pixels.iter().map(|&p| f32::from(p) / 255.0).flat_map(|light| [1.0 - light, light]).collect())
//! });
//! let mut kept = Filtered::new(RowsSource::new(samples), teacher, FilterRule::with_threshold(0.6))?;
//! let light = kept.pull(ClassId(1), NonZeroUsize::new(10).unwrap())?.unwrap();
//! assert_eq!(light.images, [200, 250]);
//! # Ok::<(), gafi_core::Error>(())
//! ```
//!
//! - [`Rule`] is the judgement itself, a pure function; [`FilterRule`] its configuration.
//! - [`Filtered`] wraps any [`SampleSource`](gafi_core::SampleSource) and any [`Scorer`](gafi_core::Scorer).
//! - [`RowsSource`] turns a dataset into a source, [`scorer_fn`] a closure into a scorer.
//! - `Filter` is the stage, from a dataset artifact to a dataset artifact; `FilterWith` is the same with a scorer of your
//!   own (feature `stage`, on by default).
#![deny(missing_docs, unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod attempts;
mod filtered;
mod rows;
mod rule;
mod scorer;
#[cfg(feature = "stage")]
mod stage;

pub use attempts::PATIENCE;
pub use filtered::Filtered;
pub use rows::RowsSource;
pub use rule::{Accept, Attempts, FilterRule, MAX_ATTEMPTS, OnExhausted, Rule, Verdict};
pub use scorer::{ScorerFn, scorer_fn};
#[cfg(feature = "stage")]
pub use stage::{Filter, FilterWith, TALLY};

// Compiles and runs the README's example as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
