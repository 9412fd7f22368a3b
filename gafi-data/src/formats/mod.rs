//! The formats that images are read from, a module for each. `discover` finds the files.

pub(crate) mod cifar;
pub(crate) mod cifar_pickle;
pub(crate) mod folder;
pub(crate) mod gafi;
pub(crate) mod idx;
pub(crate) mod label_table;
pub(crate) mod labels;
pub(crate) mod mat;
pub(crate) mod npy;
pub(crate) mod npz;
pub(crate) mod parquet;
pub(crate) mod split_names;
pub(crate) mod webdataset;
