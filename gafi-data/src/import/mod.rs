//! The import: reads real images and writes datasets.

mod config;
mod decode;
mod geometry;
pub(crate) mod report;
mod rows;
mod split;
mod stage;

pub use config::ImportConfig;
pub use geometry::{Channels, Fit, Resample};
pub use report::{ImportReport, Note, NoteKind, SplitReport};
pub use rows::Survey;
pub use stage::{Import, ImportedSet, import_all};
