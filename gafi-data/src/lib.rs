//! Real images in, datasets out; and datasets out to other people's programs.
//!
//! - [`ImportConfig`] says which images, in which shape, split how; [`import_all`] makes the three splits of it, [`Import`]
//!   is the stage that makes one, and [`Import::survey`] what there is to import
//! - [`Format`]: IDX, CIFAR's binary files, parquet, folders of PNG and JPEG, NumPy archives, our own datasets
//! - [`NamedSet`]: Fashion-MNIST, MNIST, CIFAR-10 and -100, found on this machine or on the hub; and `shapes`, built in
//! - [`export()`]: a dataset as an [`ExportFormat`]: folders of PNG, parquet, webdataset, npz, CIFAR's binary files
//! - [`read_predictions`]: what a classifier that was trained elsewhere predicted
//! - [`channel_stats`]: mean and deviation of each channel
//!
//! ```
//! use gafi_core::{Artifact, Context, Dataset, Rows};
//! use gafi_data::{ImportConfig, NamedSet, ShapesConfig, import_all};
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path();
//! let shapes = ShapesConfig { classes: 3, train: 60, test: 30 };
//! let config = ImportConfig { size: Some(8), shapes, ..ImportConfig::named(NamedSet::Shapes) };
//! let set = import_all(&config, dir, &Context::default())?;
//! let train = Dataset::open(&Artifact::open(&set.train)?)?;
//! assert_eq!(train.info().classes, ["disc", "square", "triangle"]);
//! assert_eq!(train.len(), 54); // a tenth of each class is held out for validation
//! # Ok::<(), gafi_core::Error>(())
//! ```
#![deny(missing_docs, unsafe_code)]

mod cifar;
mod config;
mod decode;
mod export;
mod folder;
mod format;
mod geometry;
mod hub;
mod idx;
mod import;
mod locate;
mod named;
mod npy;
mod npz;
mod ours;
mod parquet;
mod plan;
mod predictions;
mod shapes;
mod source;
mod split;
mod stats;

pub use config::ImportConfig;
pub use export::{ExportFormat, ExportOptions, Exported, export};
pub use format::Format;
pub use geometry::{Channels, Fit};
pub use import::{Import, ImportedSet, import_all};
pub use named::{NamedSet, NotFound};
pub use plan::Survey;
pub use predictions::read_predictions;
pub use shapes::{SHAPE_NAMES, SHAPES_MIN_SIZE, ShapesConfig};
pub use stats::{ChannelStats, channel_stats};
