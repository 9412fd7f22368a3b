//! Writing datasets from Python: a stage whose input is in memory.

use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use gafi_core::{
    ArtifactWriter, Batch, Context, DatasetInfo, DatasetWriter, Error, ImageSpec, Inputs, Kind, SAMPLE_BATCH,
    SHARD_ROWS, SampleSource, Split, Stage, StageInfo, execute, write_samples,
};
use numpy::{PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray4, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde_json::{Value, json};

use crate::arrays;
use crate::errors::raise;
use crate::models::image_spec;

type Write<'a> = dyn FnMut(&mut ArtifactWriter, &Context) -> gafi_core::Result<()> + Send + 'a;

/// The stage `python`. Its configuration identifies what it writes: an equal artifact is reused, and an interrupted one
/// resumes.
struct Save<'a> {
    config: Value,
    write: Mutex<&'a mut Write<'a>>,
}

impl std::fmt::Debug for Save<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Save").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Stage for Save<'_> {
    fn info(&self) -> StageInfo {
        StageInfo { name: "python", revision: 1, ports: &[], output: Kind::Dataset }
    }
    fn config(&self) -> Value {
        self.config.clone()
    }
    fn check(&self, _: &Inputs) -> gafi_core::Result<()> {
        Ok(())
    }
    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> gafi_core::Result<()> {
        let mut write =
            self.write.lock().map_err(|_| Error::other("writing a dataset")("an earlier attempt failed"))?;
        (*write)(out, cx)
    }
}

/// Runs the stage on a thread of its own, while this one looks for Ctrl-C.
fn run(
    py: Python<'_>,
    path: &Path,
    config: Value,
    force: bool,
    mut write: impl FnMut(&mut ArtifactWriter, &Context) -> gafi_core::Result<()> + Send,
) -> PyResult<()> {
    let cx = Context { force, ..Context::default() };
    let stop = cx.stop.clone();
    let work = || {
        let save = Save { config, write: Mutex::new(&mut write) };
        execute(&save, &Inputs::new(), path, &cx).map(drop)
    };
    interruptible(py, &stop, work)?.map_err(|error| raise(py, &error))
}

/// Runs `work` on a thread of its own and without Python's lock; sets `stop` on Ctrl-C, and then waits for `work` to end.
///
/// # Errors
/// `KeyboardInterrupt`, or what another signal handler raised.
pub(crate) fn interruptible<T: Send>(
    py: Python<'_>,
    stop: &std::sync::atomic::AtomicBool,
    work: impl FnOnce() -> T + Send,
) -> PyResult<T> {
    py.detach(|| {
        thread::scope(|scope| {
            let work = scope.spawn(work);
            let mut raised = None;
            while !work.is_finished() {
                if raised.is_none()
                    && let Err(error) = Python::attach(|py| py.check_signals())
                {
                    raised = Some(error);
                    stop.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(20));
            }
            let done = work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            raised.map_or(Ok(done), Err)
        })
    })
}

/// Writes the next `per_class` samples of each class of the source that `with` lends. Samples of equal `settings`, which are JSON, are
/// taken to be equal.
pub(crate) fn source(
    py: Python<'_>,
    path: &Path,
    per_class: u64,
    settings: &str,
    force: bool,
    with: impl Fn(&mut dyn FnMut(&mut dyn SampleSource) -> gafi_core::Result<()>) -> gafi_core::Result<()> + Send + Sync,
) -> PyResult<()> {
    let settings: Value = serde_json::from_str(settings).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let config = json!({ "settings": settings, "per_class": per_class });
    run(py, path, config, force, |out, cx| {
        with(&mut |source| write_samples(source, per_class, SAMPLE_BATCH, "write samples", out, cx))
    })
}

/// The columns of a dataset that may be absent.
type Optional<'py> =
    (Option<PyReadonlyArray1<'py, u64>>, Option<PyReadonlyArray1<'py, f32>>, Option<PyReadonlyArray2<'py, f32>>);

/// Writes arrays as a dataset. `identity` is a hash of their content.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "one for each column; the Python half has the interface")]
pub(crate) fn save_arrays(
    py: Python<'_>,
    path: std::path::PathBuf,
    images: PyReadonlyArray4<'_, u8>,
    labels: PyReadonlyArray1<'_, i64>,
    columns: Optional<'_>,
    classes: Vec<String>,
    split: &str,
    identity: &str,
    force: bool,
) -> PyResult<()> {
    let split: Split =
        serde_json::from_value(json!(split)).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let shape = images.shape();
    let image: ImageSpec = image_spec((shape[1], shape[2], shape[3]));
    let labels = arrays::class_ids(labels.as_slice()?, classes.len())?;
    let (ids, confidence, probabilities) = &columns;
    let pixels = images.as_slice()?;
    let ids = ids.as_ref().map(|ids| ids.as_slice()).transpose()?;
    let confidence = confidence.as_ref().map(|values| values.as_slice()).transpose()?;
    let probabilities = probabilities.as_ref().map(|values| values.as_slice()).transpose()?;
    let (n, k, bytes) = (labels.len(), classes.len(), image.bytes());
    let lengths = [
        ("images", Some(shape[0]), n),
        ("ids", ids.map(<[u64]>::len), n),
        ("confidence", confidence.map(<[f32]>::len), n),
        ("probabilities", probabilities.map(<[f32]>::len), n * k),
    ];
    if let Some((name, Some(found), expected)) =
        lengths.into_iter().find(|(_, found, n)| found.is_some_and(|m| m != *n))
    {
        return Err(PyValueError::new_err(format!("{name}: expected {expected} values for {n} labels, found {found}")));
    }
    let info = DatasetInfo::new(image, classes, split);
    let config = json!({ "identity": identity, "image": image, "classes": info.classes, "split": split, "rows": n });
    run(py, &path, config, force, |out, cx| {
        let (mut writer, done) = DatasetWriter::begin(out, info.clone())?;
        let done = done.and_then(|rows| rows.as_u64()).unwrap_or(0) as usize;
        for from in (done..n).step_by(SHARD_ROWS) {
            cx.checkpoint()?;
            let rows = from..n.min(from + SHARD_ROWS);
            let batch = Batch {
                labels: labels[rows.clone()].to_vec(),
                images: pixels[rows.start * bytes..rows.end * bytes].to_vec(),
                ids: ids.map_or_else(|| rows.clone().map(|row| row as u64).collect(), |ids| ids[rows.clone()].to_vec()),
                confidence: confidence.map(|values| values[rows.clone()].to_vec()),
                probabilities: probabilities.map(|values| values[rows.start * k..rows.end * k].to_vec()),
            };
            writer.push(&batch, json!(rows.end))?;
        }
        writer.finish().map(drop)
    })
}
