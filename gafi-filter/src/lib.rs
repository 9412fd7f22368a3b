//! Dynamic Sample Filtering: a teacher judges every sample, and what it does not recognise as the class asked for is
//! replaced by further samples until the class has its quota.
//!
//! - [`Rule`]: the judgement itself, pure; [`Quota`]: which of the accepted samples are kept, by confidence
//! - [`Filtered`]: wraps any [`SampleSource`](gafi_core::SampleSource) with any [`Scorer`](gafi_core::Scorer);
//!   [`FilterRule`] says how it judges, and what happens to a class that the generator does not know
//! - [`nearest_acceptance`], [`matching_thresholds`]: settings for each class that treat the classes alike
//! - [`RowsSource`]: makes a source of a dataset, on disk or in memory
//! - [`Filter`]: the stage, from a dataset artifact to a dataset artifact, whoever made it; [`FilterWith`]: the same with a
//!   scorer of your own instead of a classifier artifact; [`scorer_fn`]: a scorer from a closure
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
//! let mut kept = Filtered::new(RowsSource::new(samples), teacher, FilterRule { threshold: 0.6.into(), ..FilterRule::default() })?;
//! let light = kept.pull(ClassId(1), NonZeroUsize::new(10).unwrap())?.unwrap();
//! assert_eq!(light.images, [200, 250]);
//! assert!(kept.pull(ClassId(1), NonZeroUsize::new(10).unwrap())?.is_none());
//! # Ok::<(), gafi_core::Error>(())
//! ```
#![deny(missing_docs, unsafe_code)]

mod calibrate;
mod filtered;
mod quota;
mod rows;
mod rule;
mod scorer;
mod stage;

pub use calibrate::{matching_thresholds, mean_acceptance, nearest_acceptance};
pub use filtered::{BLOCK, Filtered, PATIENCE};
pub use quota::{CONFIDENCE_EDGES, Quota, Shares};
pub use rows::RowsSource;
pub use rule::{Accept, FilterRule, MAX_ATTEMPTS, OnExhausted, Rule, Thresholds, Verdict};
pub use scorer::{ScorerFn, scorer_fn};
pub use stage::{Filter, FilterWith, PORTS, TALLY};
