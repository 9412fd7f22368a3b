//! The import: reads real images and writes datasets.

pub(crate) mod colour;
mod config;
pub(crate) mod decode;
mod duplicates;
mod geometry;
pub(crate) mod report;
mod rows;
mod scan;
mod split;
mod stage;

pub use colour::{Background, Window};
pub use config::{ImportConfig, OnLeak, OnUnreadable, SmallClasses};
pub use geometry::{Channels, Fit, Resample};
pub use report::{ImportReport, Note, NoteKind, SplitReport};
pub use rows::Survey;
pub use stage::{Import, ImportedSet, import_all};
