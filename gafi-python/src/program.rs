//! The program `gafi-cli`, and its verbs as a function.

use std::ffi::OsString;
use std::path::PathBuf;

use gafi_cli::Registry;
use gafi_report::Format;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::raise;
use crate::save::interruptible;

/// Runs `gafi-cli` with a command line, the program's name first, and returns its exit code.
#[pyfunction]
pub(crate) fn run(py: Python<'_>, args: Vec<OsString>) -> u8 {
    py.detach(|| gafi_cli::run_from(Registry::standard(), args))
}

/// Runs a verb of `gafi-cli`; `args` are the words after the program's name.
#[pyfunction]
pub(crate) fn call(py: Python<'_>, args: Vec<OsString>) -> PyResult<()> {
    let registry = Registry::standard();
    let stop = registry.stop();
    interruptible(py, &stop, || gafi_cli::call(registry, args))?.map_err(|error| raise(py, error.as_ref()))
}

/// The table of some runs, "markdown" or "json".
#[pyfunction]
pub(crate) fn report_table(py: Python<'_>, runs: Vec<PathBuf>, format: &str) -> PyResult<String> {
    let format = match format {
        "markdown" => Format::Markdown,
        "json" => Format::Json,
        other => return Err(PyValueError::new_err(format!("format {other:?}: expected \"markdown\" or \"json\""))),
    };
    let table = py.detach(|| gafi_report::table(&gafi_report::open(&runs)?, format, &[]));
    table.map_err(|error| raise(py, error.as_ref()))
}
