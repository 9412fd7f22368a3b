//! `Recycled`: a synthetic set that is renewed between epochs.

use std::num::NonZeroUsize;
use std::sync::Mutex;

use gafi_core::{RunControl, SampleSource, Stream};
use gafi_recycle::{Plan, Renewal};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays;
use crate::errors::{detached, raise};
use crate::models::lock;
use crate::save::interruptible;
use crate::source::Source;

/// A set of samples in memory, part of which is replaced every few epochs.
#[pyclass(frozen, module = "gafi._gafi")]
pub(crate) struct Recycled {
    inner: Mutex<gafi_recycle::Recycled<Box<dyn SampleSource>>>,
    classes: usize,
}

#[pymethods]
impl Recycled {
    /// Takes `source` over. Without a renewal the set stays the same.
    #[new]
    fn new(
        py: Python<'_>,
        source: &Source,
        per_class: NonZeroUsize,
        renewal: Option<(u32, f64)>,
        seed: u64,
    ) -> PyResult<Self> {
        let renewal = renewal.map(|(period, factor)| Renewal { period, factor });
        let classes = source.n_classes();
        let stream = Stream::new(seed).child("recycle");
        let plan = Plan::new(renewal, classes, per_class.get(), stream).map_err(|error| raise(py, &error))?;
        let inner = gafi_recycle::Recycled::new(source.take_over()?, plan).map_err(|error| raise(py, &error))?;
        Ok(Self { inner: Mutex::new(inner), classes })
    }

    /// The set for `epoch`, from 0, in order: images, labels, probabilities or None, and the number of new images.
    fn epoch<'py>(&self, py: Python<'py>, epoch: u32) -> PyResult<Bound<'py, PyDict>> {
        let control = RunControl::default();
        let work = || lock(&self.inner, "recycled set")?.advance(epoch, &control);
        let renewed = interruptible(py, &control.stop, work)?.map_err(|error| raise(py, &error))?;
        let columns = PyDict::new(py);
        let inner = lock(&self.inner, "recycled set").map_err(|error| raise(py, &error))?;
        if let Some(pool) = inner.pool() {
            let image = gafi_core::Rows::info(pool).image;
            columns.set_item("images", arrays::images(py, pool.images().to_vec(), &image)?)?;
            columns.set_item("labels", arrays::labels(py, pool.labels()))?;
            let probabilities = pool.all_probabilities();
            let probabilities =
                probabilities.map(|values| arrays::rows(py, values.to_vec(), self.classes)).transpose()?;
            columns.set_item("probabilities", probabilities)?;
        }
        columns.set_item("renewed", renewed)?;
        Ok(columns)
    }

    /// Counts of each class so far.
    fn tally(&self, py: Python<'_>) -> PyResult<Vec<arrays::Counts>> {
        let tally = detached(py, || Ok(gafi_core::EpochData::tally(&*lock(&self.inner, "recycled set")?)))?;
        Ok(tally.map(|tally| arrays::tally(&tally)).unwrap_or_default())
    }
}
