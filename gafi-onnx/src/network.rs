//! A model made ready to run, one sample at a time.
//!
//! The runtime chooses its kernels by shapes, so a row's last bit may depend on how many there are. Here every sample
//! is a run of its own: a batch of one, or, where the file takes nothing but B rows, of B times the same one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use gafi_core::{Error, Result};
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dim;
use tract_onnx::pb::type_proto::Value as Type;
use tract_onnx::prelude::{Datum as _, InferenceModelExt as _, Tensor, TractResult, TypedModel, TypedRunnableModel};
use tract_onnx::tract_hir::internal::format_err;

use crate::model::{Model, Port, Values};

/// What an input is given for a sample.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Row<'a> {
    /// One value for each place of its row.
    Floats(&'a [f32]),
    /// A number.
    Index(i64),
}

/// A model that can be run, by several threads at once.
#[derive(Debug)]
pub(crate) struct Network {
    plan: TypedRunnableModel<TypedModel>,
    path: PathBuf,
    inputs: Vec<Port>,
    /// Rows that go through at once.
    batch: usize,
    outputs: Vec<Output>,
}

/// An output that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) name: String,
    /// Shape of one row.
    pub(crate) row: Vec<usize>,
}

impl Network {
    /// Prepares `model` to give the named outputs.
    ///
    /// # Errors
    /// [`Error::Format`] when the runtime refuses it, or an output has no fixed shape with the batch in front.
    pub(crate) fn new(model: &Model, outputs: &[&str]) -> Result<Self> {
        let inputs = model.inputs.clone();
        let batch = inputs.iter().find_map(|port| port.batch).unwrap_or(1);
        if batch > 1 {
            tracing::warn!(
                "{}: takes {batch} rows always, so each image is computed {batch} times; a dynamic batch axis avoids it",
                model.path.display()
            );
        }
        if let Some(other) = inputs.iter().find(|port| port.batch.is_some_and(|rows| rows != batch)) {
            let found = format!("{} rows of {}", other.batch.unwrap_or_default(), other.name);
            return Err(Error::format(&model.path, "inputs", format!("{batch} rows, as of another"), found));
        }
        let refused = |what: String| Error::format(&model.path, "model", "one that the ONNX runtime can prepare", what);
        let plan = guarded(|| prepare(model, batch, outputs)).map_err(refused)?;
        let outputs = (0..outputs.len()).map(|index| output(&plan, model, index, batch, outputs[index]));
        Ok(Self { outputs: outputs.collect::<Result<_>>()?, plan, path: model.path.clone(), inputs, batch })
    }

    /// The outputs that it gives, in the order in which they were asked for.
    pub(crate) fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// Runs one sample: a row for each input, in their order, to a row of each output.
    ///
    /// # Errors
    /// [`Error::Format`] when the runtime fails or an output has a value that is not finite. `sample` says in words
    /// which it was.
    pub(crate) fn run(&self, rows: &[Row<'_>], sample: &str) -> Result<Vec<Vec<f32>>> {
        let refused = |what: String| Error::format(&self.path, sample, "one that the ONNX runtime can compute", what);
        let given = guarded(|| {
            let feed = self.inputs.iter().zip(rows).map(|(port, row)| Ok(self.tensor(port, *row)?.into()));
            self.plan.run(feed.collect::<TractResult<_>>()?)
        });
        let given = given.map_err(refused)?;
        let mut all = Vec::with_capacity(self.outputs.len());
        for (output, tensor) in self.outputs.iter().zip(&given) {
            let wrong = |expected: String, found: String| {
                Err(Error::format(&self.path, format!("output {} of {sample}", output.name), expected, found))
            };
            let width = output.row.iter().product::<usize>();
            let values = match tensor.as_slice::<f32>() {
                Ok(values) if values.len() == self.batch * width => &values[..width],
                _ => return wrong(format!("F32 of {:?}", output.row), format!("{tensor:?}")),
            };
            if let Some(place) = values.iter().position(|value| !value.is_finite()) {
                return wrong("finite values".into(), format!("{} at place {place}", values[place]));
            }
            all.push(values.to_vec());
        }
        Ok(all)
    }

    fn tensor(&self, port: &Port, row: Row<'_>) -> TractResult<Tensor> {
        let mut shape = vec![self.batch];
        shape.extend(&port.row);
        let count = shape.iter().product::<usize>();
        match (row, port.values) {
            (Row::Floats(values), Values::F32) => Tensor::from_shape(&shape, &values.repeat(self.batch)),
            (Row::Index(index), Values::I64) => Tensor::from_shape(&shape, &vec![index; count]),
            (Row::Index(index), Values::I32) => Tensor::from_shape(&shape, &vec![index as i32; count]),
            _ => Err(format_err!("{port} was given {row:?}")),
        }
    }
}

/// The model with a batch of a known size and nothing but the outputs asked for, optimised.
fn prepare(model: &Model, batch: usize, outputs: &[&str]) -> TractResult<TypedRunnableModel<TypedModel>> {
    let mut proto = model.proto.clone();
    if let Some(graph) = proto.graph.as_mut() {
        // Shapes that the exporter noted are with its own batch; the runtime finds them anew.
        graph.value_info.clear();
        for input in &mut graph.input {
            let tensor = input.r#type.as_mut().and_then(|t| t.value.as_mut()).map(|Type::TensorType(tensor)| tensor);
            let known = model.inputs.iter().any(|port| port.name == input.name);
            let first = tensor.filter(|_| known).and_then(|t| t.shape.as_mut()).and_then(|s| s.dim.first_mut());
            if let Some(first) = first {
                first.value = Some(Dim::DimValue(batch as i64));
            }
        }
        graph.output =
            outputs.iter().flat_map(|name| graph.output.iter().find(|output| output.name == *name)).cloned().collect();
    }
    crate::resize::onnx().parse(&proto, None)?.model.into_optimized()?.into_runnable()
}

/// The output at `index`, whose first axis has to be the batch.
fn output(
    plan: &TypedRunnableModel<TypedModel>,
    model: &Model,
    index: usize,
    batch: usize,
    name: &str,
) -> Result<Output> {
    let wrong = |found: String| {
        let place = format!("output {name}");
        Err(Error::format(&model.path, place, format!("F32 of a fixed shape, the batch ({batch}) in front"), found))
    };
    let fact = match plan.model().output_fact(index) {
        Ok(fact) => fact,
        Err(e) => return wrong(format!("{e:#}")),
    };
    match fact.shape.as_concrete() {
        Some([first, row @ ..]) if *first == batch && !row.is_empty() && fact.datum_type == f32::datum_type() => {
            Ok(Output { name: name.into(), row: row.to_vec() })
        }
        _ => wrong(format!("{fact:?}")),
    }
}

/// What the runtime does, its panics as errors: it was written for files that are in order.
fn guarded<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|e| short(format!("{e:#}"))),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err(short(said.unwrap_or_else(|| "a panic".into())))
        }
    }
}

/// The runtime prints whole tensors.
fn short(text: String) -> String {
    const MOST: usize = 600;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text,
    }
}
