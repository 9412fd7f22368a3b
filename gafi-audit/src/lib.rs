//! Measures of a synthetic dataset that need no training of a student.
//!
//! ```
//! use gafi_audit::{FeatureSet, knn};
//!
//! let real = [0.0, 1.0, 2.0, 4.0, 8.0]; // five points of one coordinate
//! assert_eq!(knn(&[2.9], &real, 1, 2, false)?.rows, [2, 3]);
//! let real = FeatureSet::new(&real, 1, 1)?;
//! let synthetic = FeatureSet::new(&[2.5, 9.0], 1, 1)?;
//! // 2.5 lies in the balls of 2 and 4, 9.0 in that of 8.
//! let measures = synthetic.prdc(&real)?;
//! assert_eq!((measures.precision, measures.coverage), (1.0, 0.6));
//! # Ok::<(), gafi_core::Error>(())
//! ```
//!
//! - [`Audit`]: the stage `audit`, from two datasets and a classifier to an [`AuditRecord`]
//! - [`audit()`]: its measures of two [`ScoredSet`]s; [`near_duplicates`]: its search for copies, in pixels
//! - [`FeatureSet`], [`Prdc`]: precision, recall, density, coverage; [`Moments`], [`frechet()`]: the Fréchet distance
//! - [`Probe`]: the stage `probe`, which rates a source of samples by a [`RidgeClassifier`] on [`PatchFeatures`]
//! - [`mirror_accuracy`]: whether images keep their class when mirrored
//! - [`knn`]: exact nearest neighbours of many points, without a matrix of all distances
#![deny(missing_docs)]

mod duplicates;
mod frechet;
mod measures;
mod mirror;
mod neighbours;
mod patches;
mod prdc;
mod probe;
mod product;
mod ridge;
mod rows;
mod stage;
mod sweep;

pub use duplicates::{DistanceQuantiles, Duplicates, ImagePair, NearestImages, near_duplicates};
pub use frechet::{Moments, frechet};
pub use measures::{AuditMeasures, Measures, ScoredSet, audit};
pub use mirror::{MirrorAccuracy, mirror_accuracy};
pub use neighbours::{Neighbours, knn};
pub use patches::PatchFeatures;
pub use prdc::{FeatureSet, Fidelity, Prdc};
pub use probe::{PROBE_FILE, Probe, ProbeRecord};
pub use ridge::RidgeClassifier;
pub use stage::{AUDIT_FILE, Audit, AuditRecord, ClassBalance};
pub use sweep::Coordinate;

// Compiles and runs the README's example as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
