//! Generators and teachers: artifacts, or functions of Python.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use gafi_core::{Artifact, ClassId, Error, ImageSpec, ModelLoaders, SampleRequest, Scorer};
use gafi_filter::Rule;
use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyArray4, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray4,
    PyUntypedArrayMethods, ToPyArray,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arrays;
use crate::errors::{detached, from_python};

/// The loaders of every network that `gafi-cli` knows, on `device` ("auto", "cpu", "cuda:0").
fn loaders(device: &str) -> gafi_core::Result<ModelLoaders> {
    Ok(gafi_cli::Registry::standard().loaders(&gafi_nn::device::select(device)?))
}

/// An image's shape from (channels, height, width).
pub(crate) fn image_spec((channels, height, width): (usize, usize, usize)) -> ImageSpec {
    ImageSpec::new(channels, height, width)
}

/// A generator that is a Python function: f32 latents (n, d) and i64 labels (n) to u8 pixels (n, c, h, w). With latents of length 0
/// it draws its own, and takes u64 seeds (n) in their place.
struct Function {
    call: Py<PyAny>,
    image: ImageSpec,
    classes: Vec<String>,
    latent_dim: usize,
}

impl Function {
    fn call<'py>(&self, py: Python<'py>, drawn: Bound<'py, PyAny>, labels: &[ClassId]) -> PyResult<Vec<u8>> {
        py.check_signals()?;
        let images = self.call.call1(py, (drawn, arrays::labels(py, labels)))?;
        let images: PyReadonlyArray4<'_, u8> = images.extract(py)?;
        Ok(images.as_slice()?.to_vec())
    }
}

impl gafi_core::Generator for Function {
    fn image(&self) -> &ImageSpec {
        &self.image
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn latent_dim(&self) -> usize {
        self.latent_dim
    }
    fn generate(&mut self, latents: &[f32], labels: &[ClassId]) -> gafi_core::Result<Vec<u8>> {
        let call = |py: Python<'_>| {
            let latents = latents.to_pyarray(py).reshape([labels.len(), self.latent_dim])?;
            self.call(py, latents.into_any(), labels)
        };
        Python::attach(call).map_err(from_python("calling the generator"))
    }
    fn sample(&mut self, request: &SampleRequest<'_>) -> gafi_core::Result<Vec<u8>> {
        let labels = vec![request.class; request.seeds.len()];
        if self.latent_dim > 0 {
            return self.generate(request.latents, &labels);
        }
        Python::attach(|py| self.call(py, request.seeds.to_pyarray(py).into_any(), &labels))
            .map_err(from_python("calling the generator"))
    }
}

/// A teacher that is a Python function: u8 pixels (n, c, h, w) to f32 probabilities (n, classes).
struct Teacher {
    call: Py<PyAny>,
    image: ImageSpec,
    classes: usize,
}

impl Scorer for Teacher {
    fn image(&self) -> &ImageSpec {
        &self.image
    }
    fn classes(&self) -> usize {
        self.classes
    }
    fn score(&mut self, pixels: &[u8]) -> gafi_core::Result<Vec<f32>> {
        let call = |py: Python<'_>| -> PyResult<Vec<f32>> {
            py.check_signals()?;
            let scores = self.call.call1(py, (arrays::images(py, pixels.to_vec(), &self.image)?,))?;
            let scores: PyReadonlyArray2<'_, f32> = scores.extract(py)?;
            Ok(scores.as_slice()?.to_vec())
        };
        Python::attach(call).map_err(from_python("calling the teacher"))
    }
}

/// The generator of an artifact, or a function.
#[pyclass(frozen, module = "gafi._gafi")]
pub(crate) struct Generator {
    inner: Mutex<Option<Box<dyn gafi_core::Generator>>>,
    image: ImageSpec,
    #[pyo3(get)]
    classes: Vec<String>,
    #[pyo3(get)]
    latent_dim: usize,
    /// Id of its artifact; None for a function.
    #[pyo3(get)]
    id: Option<String>,
}

impl Generator {
    fn new(inner: Box<dyn gafi_core::Generator>, id: Option<String>) -> Self {
        let (image, classes, latent_dim) = (*inner.image(), inner.classes().to_vec(), inner.latent_dim());
        Self { inner: Mutex::new(Some(inner)), image, classes, latent_dim, id }
    }

    /// Hands the generator over to a source.
    ///
    /// # Errors
    /// `ValueError` if it was handed over before.
    pub(crate) fn take(&self) -> PyResult<Box<dyn gafi_core::Generator>> {
        let taken = self.inner.try_lock().ok().and_then(|mut inner| inner.take());
        taken.ok_or_else(|| PyValueError::new_err("this generator belongs to a source already"))
    }
}

#[pymethods]
impl Generator {
    /// Opens a generator artifact at a checkpoint, the last one by default.
    #[staticmethod]
    #[pyo3(signature = (path, checkpoint=None, device="auto"))]
    fn open(py: Python<'_>, path: PathBuf, checkpoint: Option<u64>, device: &str) -> PyResult<Self> {
        detached(py, || {
            let artifact = Artifact::open(&path)?;
            Ok(Self::new(loaders(device)?.open_generator(&artifact, checkpoint)?, Some(artifact.id().into())))
        })
    }

    /// A generator that calls a function.
    #[staticmethod]
    fn function(call: Py<PyAny>, image: (usize, usize, usize), classes: Vec<String>, latent_dim: usize) -> Self {
        Self::new(Box::new(Function { call, image: image_spec(image), classes, latent_dim }), None)
    }

    #[getter]
    fn image(&self) -> (usize, usize, usize) {
        (self.image.channels, self.image.height, self.image.width)
    }

    /// Images of latents (n, d) and labels (n).
    fn generate<'py>(
        &self,
        py: Python<'py>,
        latents: PyReadonlyArray2<'py, f32>,
        labels: PyReadonlyArray1<'py, i64>,
    ) -> PyResult<Bound<'py, PyArray4<u8>>> {
        let labels = arrays::class_ids(labels.as_slice()?, self.classes.len())?;
        if latents.shape() != [labels.len(), self.latent_dim] {
            let (n, d) = (labels.len(), self.latent_dim);
            let found = latents.shape();
            return Err(PyValueError::new_err(format!("latents: expected an array ({n}, {d}), found {found:?}")));
        }
        let latents = latents.as_slice()?;
        let pixels = detached(py, || {
            let mut inner = lock(&self.inner, "generator")?;
            let inner = inner.as_mut().ok_or("it belongs to a source");
            inner.map_err(Error::other("using a generator"))?.generate(latents, &labels)
        })?;
        arrays::images(py, pixels, &self.image)
    }
}

/// The classifier of an artifact, or a function, as a teacher.
#[pyclass(frozen, module = "gafi._gafi")]
pub(crate) struct Classifier {
    inner: Mutex<Box<dyn Scorer>>,
    // To open it again for a source, which needs one of its own.
    from: Origin,
    image: ImageSpec,
    classes: usize,
    /// Names of the classes; None for a function.
    #[pyo3(get, name = "classes")]
    names: Option<Vec<String>>,
    /// Id of its artifact; None for a function.
    #[pyo3(get)]
    id: Option<String>,
}

enum Origin {
    Artifact { path: PathBuf, device: String },
    Function(Py<PyAny>),
}

fn open_scorer(path: &Path, device: &str) -> gafi_core::Result<Box<dyn Scorer>> {
    loaders(device)?.open_scorer(&Artifact::open(path)?)
}

impl Classifier {
    /// Names of the classes; `None` for a function.
    pub(crate) fn names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    /// A scorer of its own for a source.
    pub(crate) fn scorer(&self, py: Python<'_>) -> PyResult<Box<dyn Scorer>> {
        match &self.from {
            Origin::Artifact { path, device } => detached(py, || open_scorer(path, device)),
            Origin::Function(call) => {
                let call = call.clone_ref(py);
                Ok(Box::new(Teacher { call, image: self.image, classes: self.classes }))
            }
        }
    }
}

#[pymethods]
impl Classifier {
    /// Opens a classifier artifact.
    #[staticmethod]
    #[pyo3(signature = (path, device="auto"))]
    fn open(py: Python<'_>, path: PathBuf, device: &str) -> PyResult<Self> {
        let open = || {
            let artifact = Artifact::open(&path)?;
            let names = gafi_core::ClassifierInfo::of(&artifact)?.classes;
            Ok((open_scorer(&path, device)?, names, artifact.id().to_owned()))
        };
        let (inner, names, id) = detached(py, open)?;
        let (image, classes) = (*inner.image(), inner.classes());
        let from = Origin::Artifact { path, device: device.into() };
        Ok(Self { inner: Mutex::new(inner), from, image, classes, names: Some(names), id: Some(id) })
    }

    /// A classifier that calls a function.
    #[staticmethod]
    fn function(py: Python<'_>, call: Py<PyAny>, image: (usize, usize, usize), classes: usize) -> Self {
        let image = image_spec(image);
        let inner = Box::new(Teacher { call: call.clone_ref(py), image, classes });
        Self { inner: Mutex::new(inner), from: Origin::Function(call), image, classes, names: None, id: None }
    }

    #[getter]
    fn image(&self) -> (usize, usize, usize) {
        (self.image.channels, self.image.height, self.image.width)
    }

    /// Probabilities (n, classes) of images (n, c, h, w).
    fn score<'py>(&self, py: Python<'py>, images: PyReadonlyArray4<'py, u8>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let ImageSpec { channels: c, height: h, width: w, .. } = self.image;
        if images.shape()[1..] != [c, h, w] {
            let found = images.shape();
            let message = format!("images: expected an array (n, {c}, {h}, {w}), found {found:?}");
            return Err(PyValueError::new_err(message));
        }
        let pixels = images.as_slice()?;
        let scores = detached(py, || lock(&self.inner, "classifier")?.score(pixels))?;
        arrays::rows(py, scores, self.classes)
    }
}

/// Locks a network without waiting: a function of Python that calls the network which is calling it would wait forever.
pub(crate) fn lock<'a, T>(mutex: &'a Mutex<T>, what: &str) -> gafi_core::Result<std::sync::MutexGuard<'a, T>> {
    mutex.try_lock().map_err(|_| Error::other(format!("using a {what}"))("another call is using it"))
}

/// What [`judge`] returns: whether each sample is accepted, the class that the teacher saw, and its confidence in the label.
type Verdicts<'py> = (Bound<'py, PyArray1<bool>>, Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f32>>);

/// Judges samples by a teacher's probabilities (n, classes) and their labels (n). Without a threshold every sample is accepted.
#[pyfunction]
#[pyo3(signature = (probabilities, labels, threshold))]
pub(crate) fn judge<'py>(
    py: Python<'py>,
    probabilities: PyReadonlyArray2<'py, f32>,
    labels: PyReadonlyArray1<'py, i64>,
    threshold: Option<f64>,
) -> PyResult<Verdicts<'py>> {
    let classes = probabilities.shape()[1];
    let labels = arrays::class_ids(labels.as_slice()?, classes)?;
    let rows = probabilities.as_slice()?.chunks_exact(classes.max(1));
    if rows.len() != labels.len() {
        let (n, found) = (labels.len(), rows.len());
        return Err(PyValueError::new_err(format!("expected probabilities of {n} samples, found {found}")));
    }
    let judge = || {
        let rule = threshold.map_or(Ok(Rule::any()), Rule::new)?;
        rows.zip(&labels).map(|(row, &label)| rule.judge(row, label)).collect::<gafi_core::Result<Vec<_>>>()
    };
    let verdicts = judge().map_err(|error| crate::errors::raise(py, &error))?;
    let accepted: Vec<_> = verdicts.iter().map(|verdict| verdict.accepted).collect();
    let predicted: Vec<_> = verdicts.iter().map(|verdict| i64::from(verdict.predicted.0)).collect();
    let confidence: Vec<_> = verdicts.iter().map(|verdict| verdict.confidence).collect();
    Ok((accepted.into_pyarray(py), predicted.into_pyarray(py), confidence.into_pyarray(py)))
}
