//! `Dataset`: a dataset artifact, read as arrays.

use std::path::PathBuf;

use gafi_core::{Artifact, Rows};
use numpy::{PyArray1, PyArray4};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays;
use crate::errors::detached;

/// A dataset on disk. Only labels are held in memory.
#[pyclass(frozen, module = "gafi._gafi")]
pub(crate) struct Dataset {
    inner: gafi_core::Dataset,
    /// The manifest as JSON.
    #[pyo3(get)]
    manifest: String,
}

#[pymethods]
impl Dataset {
    /// Opens a dataset artifact.
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        detached(py, || {
            let artifact = Artifact::open(&path)?;
            let manifest = serde_json::to_string(artifact.manifest());
            let manifest = manifest.map_err(gafi_core::Error::other("reading a manifest"))?;
            Ok(Self { inner: gafi_core::Dataset::open(&artifact)?, manifest })
        })
    }

    #[getter]
    fn image(&self) -> (usize, usize, usize) {
        let image = &self.inner.info().image;
        (image.channels, image.height, image.width)
    }

    #[getter]
    fn classes(&self) -> Vec<String> {
        self.inner.info().classes.clone()
    }

    #[getter]
    fn split(&self) -> String {
        self.inner.info().split.to_string()
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    /// All labels, (n).
    fn labels<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        arrays::labels(py, self.inner.labels())
    }

    /// Pixels (n, c, h, w) of some rows.
    fn images<'py>(&self, py: Python<'py>, rows: Vec<usize>) -> PyResult<Bound<'py, PyArray4<u8>>> {
        let n = self.inner.len();
        if let Some(row) = rows.iter().find(|&&row| row >= n) {
            return Err(PyIndexError::new_err(format!("row {row}: expected a row below {n}")));
        }
        let image = self.inner.info().image;
        let pixels = detached(py, || {
            let mut pixels = vec![0; rows.len() * image.bytes()];
            self.inner.read(&rows, &mut pixels)?;
            Ok(pixels)
        })?;
        arrays::images(py, pixels, &image)
    }

    /// All rows in order, in batches of at most 64 MiB, with every column.
    fn batches<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let batches = detached(py, || self.inner.batches().collect::<gafi_core::Result<Vec<_>>>())?;
        let info = self.inner.info();
        batches.into_iter().map(|batch| arrays::batch(py, batch, &info.image, info.classes.len())).collect()
    }
}
