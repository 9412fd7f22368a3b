//! Errors of Rust as exceptions of Python. The classes are defined in `python/gafi/_errors.py`.

use gafi_core::Error;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;

/// The exception for an error of GaFi. An exception that a Python generator or teacher raised comes back as it was.
pub(crate) fn raise(py: Python<'_>, error: &(dyn std::error::Error + 'static)) -> PyErr {
    let mut name = "Error";
    let mut message = error.to_string();
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(raised) = error.downcast_ref::<PyErr>() {
            return raised.clone_ref(py);
        }
        match error.downcast_ref::<Error>() {
            Some(Error::Interrupted) => return PyKeyboardInterrupt::new_err(()),
            Some(Error::Exhausted(_)) => name = "ExhaustedError",
            Some(Error::Locked { .. }) => name = "LockedError",
            Some(error) if error.is_usage() => name = "UsageError",
            _ if error.is::<gafi_cli::Usage>() => name = "UsageError",
            // No setting of a search has enough samples of every class.
            _ if error.is::<gafi_cli::Infeasible>() => name = "ExhaustedError",
            _ => {}
        }
        let text = error.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = error.source();
    }
    exception(py, name, message).unwrap_or_else(|error| error)
}

fn exception(py: Python<'_>, name: &str, message: String) -> PyResult<PyErr> {
    Ok(PyErr::from_value(py.import("gafi._errors")?.getattr(name)?.call1((message,))?))
}

/// Runs `work` without Python's lock, and turns its error into an exception.
pub(crate) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> gafi_core::Result<T> + Send) -> PyResult<T> {
    py.detach(work).map_err(|error| raise(py, &error))
}

/// Wraps a Python exception in a GaFi error; [`raise`] unwraps it.
pub(crate) fn from_python(doing: &'static str) -> impl FnOnce(PyErr) -> Error {
    move |error| Error::other(doing)(error)
}
