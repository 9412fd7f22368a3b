//! Dynamic Dataset Recycle: while the student trains, parts of its synthetic set are thrown away at random and replaced by
//! new samples, which no epoch before has seen.
//!
//! - [`Plan`], [`Renewal`]: what is replaced when, pure
//! - [`Recycled`]: the synthetic set, renewed by plan from any [`SampleSource`](gafi_core::SampleSource); feeds
//!   [`fit`](gafi_core::fit)
//! - [`Recycle`]: the stage, from generator, teacher and validation set to a trained student
//!
//! ```
//! use gafi_core::Stream;
//! use gafi_recycle::{Plan, Renewal};
//!
//! // Two classes of 8 images; a quarter is replaced every third epoch.
//! let plan = Plan::new(Some(Renewal { period: 3, factor: 0.25 }), 2, 8, Stream::new(1))?;
//! assert_eq!((0..7).map(|epoch| plan.begins(epoch)).collect::<Vec<_>>(), [
//!     Some(0), None, None, Some(1), None, None, Some(2)
//! ]);
//! assert_eq!((plan.replaced(0).len(), plan.replaced(1).len()), (16, 4));
//! # Ok::<(), gafi_core::Error>(())
//! ```
#![deny(missing_docs, unsafe_code)]

mod plan;
mod recycle;
mod stage;

pub use plan::{Plan, Renewal};
pub use recycle::Recycled;
pub use stage::{GENERATORS, PORTS, Recycle, SAMPLES};
