//! The native half of the Python package `gafi`. It takes and returns NumPy arrays of fixed types; the Python half
//! (`python/gafi`) accepts what users have, checks it and documents it.
//!
//! Python's lock is released while Rust works, and taken again to call a generator or teacher that is a Python function.
#![deny(missing_docs, unsafe_code)]

use pyo3::prelude::*;

mod arrays;
mod dataset;
mod errors;
mod models;
mod program;
mod recycled;
mod save;
mod source;

/// As in the program `gafi-cli`: it can keep the pages of freed tensors, which training needs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[pymodule]
mod _gafi {
    #[pymodule_export]
    use crate::dataset::Dataset;
    #[pymodule_export]
    use crate::models::{Classifier, Generator, judge};
    #[pymodule_export]
    use crate::program::{call, report_table, run};
    #[pymodule_export]
    use crate::recycled::Recycled;
    #[pymodule_export]
    use crate::save::save_arrays;
    #[pymodule_export]
    use crate::source::Source;
}
