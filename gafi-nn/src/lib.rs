//! gafi-nn

pub mod ops;
