//! The import: reads real images and writes datasets.

mod classes;
mod colour;
mod config;
mod decode;
mod division;
mod duplicates;
mod geometry;
mod parts;
mod report;
mod scan;
mod split;
mod stage;
mod survey;

pub use colour::{Background, Window};
pub use config::{ImportConfig, OnLeak, OnUnreadable, SmallClasses};
pub use geometry::{Channels, Fit, Resample};
pub use report::{ImportReport, SplitReport};
pub use stage::{Import, ImportedSet, import_all};
pub use survey::Survey;
