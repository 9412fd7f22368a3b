//! Imports real images as GaFi datasets, and exports datasets to the formats that training scripts read.
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
//!
//! - [`import_all`] imports training, validation and test images as an [`ImportConfig`] describes. [`Import`] is the stage
//!   that writes one split.
//! - [`Format`] lists what can be imported: IDX, CIFAR's files, parquet, folders of images, NumPy archives, SVHN's `.mat` files and GaFi
//!   datasets; also in zip and tar archives, and as `hf://OWNER/NAME` from the hub.
//! - [`ImportReport`] records what an import found, skipped, converted and assumed.
//! - [`NamedSet`] lists the sets known by name. Fashion-MNIST, MNIST, CIFAR-10 and CIFAR-100 are read from this machine or
//!   downloaded from the hub; [`fetch_debian`] downloads Fashion-MNIST from its Debian package; `shapes` is built in.
//! - [`export_dataset`] writes a dataset in an [`ExportFormat`]: folders of PNG, parquet, webdataset, npz, CIFAR's binary files.
//! - [`read_predictions`] reads the predictions of an external classifier.
//! - [`channel_stats`] computes mean and standard deviation of each channel.
#![deny(missing_docs, unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod archive;
mod discover;
mod export;
mod format;
mod formats;
mod hints;
mod import;
mod named;
mod note;
mod predictions;
mod shapes;
mod sniff;
mod source;
mod stats;

pub use export::{ExportFormat, ExportOptions, Exported, export_dataset};
pub use format::Format;
pub use import::{
    Background, Channels, Fit, Import, ImportConfig, ImportReport, ImportedSet, OnLeak, OnUnreadable, Resample,
    SmallClasses, SplitReport, Survey, Window, import_all,
};
pub use named::{NamedSet, NotFound, fetch_debian};
pub use note::{Note, NoteKind};
pub use predictions::{LabelForm, PredictionOptions, read_predictions};
pub use shapes::ShapesConfig;
pub use stats::{ChannelStats, channel_stats};
