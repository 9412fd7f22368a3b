//! `Source`: samples of a generator, perhaps filtered.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Mutex;

use gafi_core::{Batch, ClassId, Error, Exhausted, ImageSpec, SAMPLE_BATCH, SampleSource, Tally};
use gafi_expand::{Expanded, StdRange, latent_stream};
use gafi_filter::{FilterRule, Filtered};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays;
use crate::errors::{detached, raise};
use crate::models::{Classifier, Generator, lock};
use crate::save;

/// A source of samples. What wraps a source takes it over.
#[pyclass(frozen, module = "gafi._gafi")]
pub(crate) struct Source {
    inner: Mutex<Option<Box<dyn SampleSource>>>,
    image: ImageSpec,
    #[pyo3(get)]
    classes: Vec<String>,
}

impl Source {
    fn new(inner: Box<dyn SampleSource>) -> Self {
        let (image, classes) = (*inner.image(), inner.classes().to_vec());
        Self { inner: Mutex::new(Some(inner)), image, classes }
    }

    /// Hands the source over to what wraps it.
    ///
    /// # Errors
    /// `ValueError` if it was handed over before, or is in use.
    pub(crate) fn take_over(&self) -> PyResult<Box<dyn SampleSource>> {
        let taken = self.inner.try_lock().ok().and_then(|mut inner| inner.take());
        taken.ok_or_else(|| PyValueError::new_err("this source was filtered or recycled already, or is in use"))
    }

    /// Number of classes.
    pub(crate) fn n_classes(&self) -> usize {
        self.classes.len()
    }

    fn with<T>(&self, work: impl FnOnce(&mut dyn SampleSource) -> gafi_core::Result<T>) -> gafi_core::Result<T> {
        let mut inner = lock(&self.inner, "source")?;
        let source = inner.as_mut().ok_or("`filter` or `recycle` consumed it; use the object that the call returned");
        work(source.map_err(Error::other("using a source"))?.as_mut())
    }

    /// Up to `n` samples of `class` appended to `into`; `false` when the class has ended.
    fn pull_into(&self, class: ClassId, n: NonZeroUsize, into: &mut Batch) -> gafi_core::Result<bool> {
        let Some(batch) = self.with(|source| source.pull(class, n))? else { return Ok(false) };
        into.append(&batch);
        Ok(!batch.is_empty())
    }
}

#[pymethods]
impl Source {
    /// Samples of `generator`, with one `std` for all, or one drawn from the range `std` for each sample.
    #[staticmethod]
    fn expanded(
        py: Python<'_>,
        generator: &Generator,
        std: (f64, f64),
        seed: u64,
        block: NonZeroUsize,
    ) -> PyResult<Self> {
        let generator = generator.take()?;
        let std = if std.0 == std.1 { StdRange::Fixed(std.0) } else { StdRange::Range([std.0, std.1]) };
        let source = Expanded::new(generator, std, latent_stream(seed)).map_err(|error| raise(py, &error))?;
        Ok(Self::new(Box::new(source.with_block(block))))
    }

    /// The samples of this source that `teacher` accepts under `rule`, the JSON of a `FilterRule`.
    fn filtered(&self, py: Python<'_>, teacher: &Classifier, rule: &str) -> PyResult<Self> {
        let rule: FilterRule = serde_json::from_str(rule).map_err(|error| PyValueError::new_err(error.to_string()))?;
        rule.check().map_err(|error| raise(py, &error))?;
        let scorer = teacher.scorer(py)?;
        // Checked before the source is taken over, so that it stays usable.
        if scorer.image() != &self.image || scorer.classes() != self.classes.len() {
            let expected = self.image.of_classes(&self.classes);
            let found = format!("one for {} classes of {} images", scorer.classes(), scorer.image());
            return Err(PyValueError::new_err(format!("teacher: expected one for {expected}, found {found}")));
        }
        if let Some(names) = teacher.names().filter(|names| *names != self.classes) {
            let (expected, found) = (names.join(", "), self.classes.join(", "));
            let message =
                format!("classes: the teacher's are {expected}, found {found}; give the source the teacher's");
            return Err(PyValueError::new_err(message));
        }
        let filtered = Filtered::new(self.take_over()?, scorer, rule).map_err(|error| raise(py, &error))?;
        Ok(Self::new(Box::new(filtered)))
    }

    #[getter]
    fn image(&self) -> (usize, usize, usize) {
        (self.image.channels, self.image.height, self.image.width)
    }

    /// Counts of each class so far.
    fn tally(&self, py: Python<'_>) -> PyResult<Vec<arrays::Counts>> {
        detached(py, || self.with(|source| Ok(source.tally()))).map(|tally: Tally| arrays::tally(&tally))
    }

    /// Up to `n` further samples of `class`; None when the class has ended.
    fn pull<'py>(&self, py: Python<'py>, class: u32, n: NonZeroUsize) -> PyResult<Option<Bound<'py, PyDict>>> {
        let mut batch = Batch::default();
        if !detached(py, || self.pull_into(ClassId(class), n, &mut batch))? {
            return Ok(None);
        }
        arrays::batch(py, batch, &self.image, self.classes.len()).map(Some)
    }

    /// The next `per_class` samples of each class, class after class.
    fn take<'py>(&self, py: Python<'py>, per_class: NonZeroUsize) -> PyResult<Bound<'py, PyDict>> {
        let per_class = per_class.get();
        let n = per_class.saturating_mul(self.classes.len());
        let mut all = Batch::default();
        all.images.try_reserve_exact(n.saturating_mul(self.image.bytes())).map_err(|_| {
            PyValueError::new_err(format!("{n} samples of {} do not fit into memory; `save` writes them", self.image))
        })?;
        let before = detached(py, || self.with(|source| Ok(source.tally())))?.classes;
        for (class, before) in ClassId::all(self.classes.len()).zip(before) {
            let end = all.len() + per_class;
            // Errors state the total, not the size of this call.
            let wanted = before.handed_over().saturating_add(per_class as u64);
            while let Some(missing) = NonZeroUsize::new((end - all.len()).min(SAMPLE_BATCH.get())) {
                // Ctrl-C, also where no Python function is called.
                py.check_signals()?;
                let pulled = detached(py, || {
                    let exhausted = |source: &mut dyn SampleSource, exhausted: Exhausted| {
                        Err(exhausted.with_others(source, wanted))
                    };
                    match self.pull_into(class, missing, &mut all) {
                        Ok(true) => Ok(()),
                        Ok(false) => self.with(|source| {
                            let found = Exhausted::of(&*source, class, wanted);
                            exhausted(source, found)
                        }),
                        Err(Error::Exhausted(found)) => self.with(|source| exhausted(source, *found)),
                        Err(other) => Err(other),
                    }
                });
                pulled?;
            }
        }
        arrays::batch(py, all, &self.image, self.classes.len())
    }

    /// Writes the next `per_class` samples of each class as a dataset, a shard at a time. `settings` is JSON that identifies them.
    fn save(&self, py: Python<'_>, path: PathBuf, per_class: u64, settings: &str, force: bool) -> PyResult<()> {
        save::source(py, &path, per_class, settings, force, |write| self.with(|source| write(source)))
    }
}
