//! [`Format`]: the `format` of an import.

use serde::{Deserialize, Serialize};

/// How the images to import are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// Detected from file names and content.
    #[default]
    Auto,
    /// IDX files, plain or gzipped: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-…` or `test-…`. The name of the
    /// set may come first, as in EMNIST.
    Idx,
    /// CIFAR-10: binary batches or Python pickles.
    Cifar10,
    /// CIFAR-100 with fine labels: binary files or Python pickles.
    Cifar100,
    /// Parquet files with a column of images and a column of labels, as on the Hugging Face hub.
    Parquet,
    /// Images as `split/class/file` or `class/file`, or beside a file of labels.
    Folder,
    /// NumPy archives: one with images and labels, or one per split or array.
    Npz,
    /// MATLAB files (level 5) with the variables `X` and `y`, as SVHN has.
    Mat,
    /// Tar shards of the `webdataset` library, with images and `.cls` files.
    WebDataset,
    /// A GaFi dataset, or a folder of GaFi datasets called `train`, `val` and `test`.
    Gafi,
}

impl Format {
    /// The name in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Idx => "idx",
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::Parquet => "parquet",
            Self::Folder => "folder",
            Self::Npz => "npz",
            Self::Mat => "mat",
            Self::WebDataset => "webdataset",
            Self::Gafi => "gafi",
        }
    }
}
