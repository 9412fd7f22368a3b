//! Runs a model, one sample at a time.
//!
//! The runtime chooses kernels by shape, so the last bits of a row may depend on the batch size. Therefore every sample
//! has its own run: a batch of one, or, for a file with a fixed batch of B, B copies of the sample.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use gafi_core::{Error, Result};
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dim;
use tract_onnx::pb::type_proto::Value as Type;
use tract_onnx::prelude::{Datum as _, InferenceModelExt as _, Tensor, TractResult, TypedModel, TypedRunnableModel};
use tract_onnx::tract_hir::internal::format_err;

use crate::model::{Model, Port, Values};

/// The value of an input for one sample.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Row<'a> {
    /// The values of a row.
    Floats(&'a [f32]),
    /// A class index.
    Index(i64),
}

/// A model that is ready to run; several threads may run it at once.
#[derive(Debug)]
pub(crate) struct Network {
    plan: TypedRunnableModel<TypedModel>,
    path: PathBuf,
    inputs: Vec<Port>,
    /// Batch size of a run.
    batch: usize,
    outputs: Vec<Output>,
}

/// An output in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) name: String,
    /// Shape of one row.
    pub(crate) row: Vec<usize>,
}

impl Network {
    /// Prepares `model` for the named outputs.
    ///
    /// # Errors
    /// [`Error::Format`] when the runtime refuses the model, or an output has no fixed shape with the batch as its
    /// first axis.
    pub(crate) fn new(model: &Model, outputs: &[&str]) -> Result<Self> {
        let inputs = model.inputs.clone();
        let batch = inputs.iter().find_map(|port| port.batch).unwrap_or(1);
        if batch > 1 {
            tracing::warn!(
                "{}: with its fixed batch of {batch} each image is computed {batch} times; export a dynamic batch axis",
                model.path.display()
            );
        }
        if let Some(other) = inputs.iter().find(|port| port.batch.is_some_and(|rows| rows != batch)) {
            let found = format!("{} rows of {}", other.batch.unwrap_or_default(), other.name);
            return Err(Error::format(
                &model.path,
                "inputs",
                format!("the same batch size {batch} for all inputs"),
                found,
            ));
        }
        let refused =
            |what: String| Error::format(&model.path, "model", "a model that the ONNX runtime can prepare", what);
        let plan = guarded(|| prepare(model, batch, outputs)).map_err(refused)?;
        let outputs = (0..outputs.len()).map(|index| output(&plan, model, index, batch, outputs[index]));
        Ok(Self { outputs: outputs.collect::<Result<_>>()?, plan, path: model.path.clone(), inputs, batch })
    }

    /// The outputs, in the order of the names in [`Network::new`].
    pub(crate) fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// Runs one sample: takes a row for each input, returns a row of each output. `sample` names the sample in errors.
    ///
    /// # Errors
    /// [`Error::Format`] when the runtime fails or an output has a value that is not finite.
    pub(crate) fn run(&self, rows: &[Row<'_>], sample: &str) -> Result<Vec<Vec<f32>>> {
        let refused =
            |what: String| Error::format(&self.path, sample, "a sample that the ONNX runtime can compute", what);
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
                _ => {
                    return wrong(
                        format!("F32 of {:?}", output.row),
                        format!("{:?} of {:?}", tensor.datum_type(), tensor.shape()),
                    );
                }
            };
            if let Some(place) = values.iter().position(|value| !value.is_finite()) {
                return wrong("finite values".into(), format!("{} at index {place}", values[place]));
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
            _ => Err(format_err!("input {port}: a value of the wrong type")),
        }
    }
}

/// The optimised model with a fixed batch size and only the named outputs.
fn prepare(model: &Model, batch: usize, outputs: &[&str]) -> TractResult<TypedRunnableModel<TypedModel>> {
    let mut proto = model.proto.clone();
    if let Some(graph) = proto.graph.as_mut() {
        // The exporter's shapes have its own batch size; the runtime infers them again.
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

/// Checks the output at `index`: its first axis must be the batch.
fn output(
    plan: &TypedRunnableModel<TypedModel>,
    model: &Model,
    index: usize,
    batch: usize,
    name: &str,
) -> Result<Output> {
    let wrong = |found: String| {
        let place = format!("output {name}");
        Err(Error::format(
            &model.path,
            place,
            format!("F32 of a fixed shape with the batch ({batch}) as its first axis"),
            found,
        ))
    };
    let fact = match plan.model().output_fact(index) {
        Ok(fact) => fact,
        Err(e) => return wrong(format!("{e:#}")),
    };
    match fact.shape.as_concrete() {
        Some([first, row @ ..]) if *first == batch && !row.is_empty() && fact.datum_type == f32::datum_type() => {
            Ok(Output { name: name.into(), row: row.to_vec() })
        }
        _ => wrong(format!("{:?} of {:?}", fact.datum_type, fact.shape)),
    }
}

/// Runs `work`, and turns a panic of the runtime on a malformed file into an error.
fn guarded<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|e| short(format!("{e:#}"))),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err(short(message.unwrap_or_else(|| "a panic".into())))
        }
    }
}

/// Shortens an error of the runtime, which may print whole tensors.
fn short(text: String) -> String {
    const MOST: usize = 600;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text,
    }
}
