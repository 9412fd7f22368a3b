//! Dynamic Dataset Recycle: while a student trains, a random part of its synthetic set is replaced by new samples, which no
//! earlier epoch has seen.
//!
//! ```
//! use gafi_core::{ArtifactWriter, Context, EpochData, Kind, Provenance, Rows, Stream};
//! use gafi_recycle::{Plan, Recycled, Renewal};
//! # use std::num::NonZeroUsize;
//! # use gafi_core::{Batch, ClassId, ClassTally, Cursor, ImageSpec, Result, SampleSource, Tally};
//! # /// Images that show their number.
//! # struct Numbered(Vec<String>, Vec<u64>);
//! # impl SampleSource for Numbered {
//! #     fn image(&self) -> &ImageSpec { const { &ImageSpec::new(1, 1, 1) } }
//! #     fn classes(&self) -> &[String] { &self.0 }
//! #     fn pull(&mut self, class: ClassId, max: NonZeroUsize) -> Result<Option<Batch>> {
//! #         let from = self.1[class.index()];
//! #         self.1[class.index()] += max.get() as u64;
//! #         let ids: Vec<u64> = (from..self.1[class.index()]).collect();
//! #         let images = ids.iter().map(|&id| id as u8).collect();
//! #         Ok(Some(Batch { labels: vec![class; ids.len()], images, ids, ..Batch::default() }))
//! #     }
//! #     fn tally(&self) -> Tally {
//! #         Tally { classes: self.1.iter().map(|&n| ClassTally::new(n, n, 0)).collect() }
//! #     }
//! #     fn cursor(&self, class: ClassId) -> Cursor { Cursor::new([self.1[class.index()]], Vec::new()) }
//! #     fn seek(&mut self, class: ClassId, cursor: &Cursor) -> Result<()> {
//! #         let ([next], _) = cursor.parts("numbered samples", 0)?;
//! #         self.1[class.index()] = next;
//! #         Ok(())
//! #     }
//! # }
//! # let source = Numbered(vec!["cat".into(), "dog".into()], vec![0; 2]);
//! # let dir = tempfile::tempdir().unwrap();
//! # let (stage, version, inputs) = ("mine".into(), "1".into(), Default::default());
//! # let made_by = Provenance { stage, version, inputs, revision: 1, config: serde_json::json!({}) };
//! # let out = ArtifactWriter::begin(&dir.path().join("student"), Kind::Classifier, made_by)?;
//!
//! // Two classes of 8 images; a quarter is replaced every second epoch. `source` is any `SampleSource`, such as
//! // `gafi_expand::Expanded` or `gafi_filter::Filtered`.
//! let plan = Plan::new(Some(Renewal { period: 2, factor: 0.25 }), 2, 8, Stream::new(1))?;
//! let mut set = Recycled::new(source, plan)?;
//! // `gafi_core::fit` is this loop with validation scores, best weights and resuming; `out` is the stage's writer.
//! let mut new = Vec::new();
//! for epoch in 0..5 {
//!     let (rows, renewed) = set.rows(epoch, &out, &Context::default())?;
//!     assert_eq!(rows.len(), 16); // train an epoch on them
//!     new.push(renewed);
//! }
//! assert_eq!(new, [16, 0, 4, 0, 4]);
//! # Ok::<(), gafi_core::Error>(())
//! ```
//!
//! - [`Plan`] is the schedule of renewals, a pure function; [`Renewal`] its configuration.
//! - [`Recycled`] is the renewed set, from any [`SampleSource`](gafi_core::SampleSource), for [`fit`](gafi_core::fit).
//! - [`Recycle`] is the stage, from generators or samples and a validation set to a trained student.
#![deny(missing_docs, unsafe_code)]

mod plan;
mod recycle;
mod stage;

pub use plan::{Plan, Renewal};
pub use recycle::Recycled;
pub use stage::Recycle;

// Compiles and runs the README's example as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
