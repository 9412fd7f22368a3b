//! NumPy arrays from samples, without copying the pixels.

use gafi_core::{Batch, ClassId, ImageSpec, Tally};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArray4, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Pixels (n, c, h, w) as an array that owns them.
pub(crate) fn images<'py>(py: Python<'py>, pixels: Vec<u8>, image: &ImageSpec) -> PyResult<Bound<'py, PyArray4<u8>>> {
    let ImageSpec { channels, height, width, .. } = *image;
    let n = pixels.len() / image.bytes();
    pixels.into_pyarray(py).reshape([n, channels, height, width])
}

/// Rows of `width` values as an array (n, width) that owns them.
pub(crate) fn rows<'py>(py: Python<'py>, values: Vec<f32>, width: usize) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let n = values.len() / width.max(1);
    values.into_pyarray(py).reshape([n, width])
}

/// Labels as 64-bit integers, as PyTorch and NumPy expect them.
pub(crate) fn labels<'py>(py: Python<'py>, labels: &[ClassId]) -> Bound<'py, PyArray1<i64>> {
    labels.iter().map(|label| i64::from(label.0)).collect::<Vec<_>>().into_pyarray(py)
}

/// Labels of Python as classes.
///
/// # Errors
/// `ValueError` for a label out of range.
pub(crate) fn class_ids(labels: &[i64], classes: usize) -> PyResult<Vec<ClassId>> {
    let class = |(row, &label): (usize, &i64)| match u32::try_from(label) {
        Ok(class) if (class as usize) < classes => Ok(ClassId(class)),
        _ => Err(pyo3::exceptions::PyValueError::new_err(format!(
            "labels[{row}]: expected a class from 0 to {}, found {label}",
            classes.saturating_sub(1)
        ))),
    };
    labels.iter().enumerate().map(class).collect()
}

/// The columns of a batch by name; None for a missing column.
pub(crate) fn batch<'py>(
    py: Python<'py>,
    batch: Batch,
    image: &ImageSpec,
    classes: usize,
) -> PyResult<Bound<'py, PyDict>> {
    let columns = PyDict::new(py);
    columns.set_item("labels", labels(py, &batch.labels))?;
    columns.set_item("images", images(py, batch.images, image)?)?;
    columns.set_item("ids", batch.ids.into_pyarray(py))?;
    columns.set_item("confidence", batch.confidence.map(|values| values.into_pyarray(py)))?;
    let probabilities = batch.probabilities.map(|values| rows(py, values, classes)).transpose()?;
    columns.set_item("probabilities", probabilities)?;
    Ok(columns)
}

/// Counts of a class: drawn, accepted, backfilled, and rejected by the class that the teacher saw.
pub(crate) type Counts = (u64, u64, u64, Vec<(u32, u64)>);

/// The counts of each class.
pub(crate) fn tally(tally: &Tally) -> Vec<Counts> {
    let rejected = |class: &gafi_core::ClassTally| class.rejected_as.iter().map(|(as_, &n)| (as_.0, n)).collect();
    tally.classes.iter().map(|class| (class.drawn, class.accepted, class.backfilled, rejected(class))).collect()
}
