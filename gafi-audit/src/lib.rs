//! How healthy is a synthetic set? Measured without training a student: what a teacher recognises, how the set lies to
//! the real one in the teacher's features, and how much of it is copied or repeated.
//!
//! - [`Audit`]: the stage, from two datasets and a classifier to an [`AuditRecord`]
//! - [`Probe`]: the stage that measures a source of samples before anything is written or trained
//! - [`audit()`]: its measures of two [`Judged`] sets; [`near_duplicates`]: its comparison of pixels
//! - [`FeatureSet`], [`Prdc`]: precision, recall, density, coverage; [`Moments`], [`frechet()`]: the Fréchet distance
//! - [`Ridge`]: a classifier that is found by solving equations, of [`Patches`] of the images or of a teacher's features
//! - [`knn`]: exact nearest neighbours of many points, without a matrix of all distances
//!
//! ```
//! use gafi_audit::{FeatureSet, knn};
//!
//! let real = [0.0, 1.0, 2.0, 4.0, 8.0];
//! let nearest = knn(&[2.9], &real, 1, 2, false)?;
//! assert_eq!(nearest.rows, [2, 3]);
//! let real = FeatureSet::new(&real, 1, 1)?;
//! // The first lies within the balls of 2 and 4, the second within that of 8.
//! let synthetic = FeatureSet::new(&[2.5, 9.0], 1, 1)?;
//! let found = synthetic.prdc(&real)?;
//! assert_eq!((found.precision, found.coverage), (1.0, 0.6));
//! # Ok::<(), gafi_core::Error>(())
//! ```
#![deny(missing_docs)]

mod duplicates;
mod frechet;
mod measures;
mod neighbours;
mod patches;
mod prdc;
mod probe;
mod product;
mod ridge;
mod stage;
mod sweep;

pub use duplicates::{Duplicates, Nearest, Pair, Spread, near_duplicates};
pub use frechet::{Moments, frechet};
pub use measures::{Audited, Judged, Measures, audit};
pub use neighbours::{Neighbours, knn};
pub use patches::Patches;
pub use prdc::{FeatureSet, Fidelity, Prdc};
pub use probe::{ClosedForm, NearestAccuracy, PROBE, Probe, ProbeRecord};
pub use ridge::Ridge;
pub use stage::{AUDIT, Audit, AuditRecord, Balance, PORTS};
pub use sweep::Value;
