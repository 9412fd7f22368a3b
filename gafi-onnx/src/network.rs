//! Runs a model.
//!
//! The runtime chooses kernels by shape, so the last bits of a row may depend on the batch size. Therefore every run of a model has
//! the same batch size, and missing rows are filled. Kernels that sum along a row (softmax, layer norm) add in another order when the
//! row's address is not a multiple of 16 bytes, so their bits also depend on the position in a batch. Models that have one compute one
//! sample at a time.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use gafi_core::stream::unit_f32;
use gafi_core::{Error, Result, Stream};
use rayon::prelude::*;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dim;
use tract_onnx::pb::type_proto::Value as Type;
use tract_onnx::pb::{TensorProto, ValueInfoProto};
use tract_onnx::prelude::{Datum as _, InferenceModelExt as _, Tensor, TractResult, TypedModel, TypedRunnableModel};
use tract_onnx::tract_core::ops::nn::{Reduce, Softmax};
use tract_onnx::tract_core::ops::scan::OptScan;
use tract_onnx::tract_hir::internal::format_err;

use crate::model::{Model, Port, Values};

/// Batch size of a model with a dynamic one, unless its images are large.
const BATCH: usize = 16;

/// Maximum number of values of a batch of images. Large images keep the kernels busy one by one, and a batch of them takes much
/// memory: 3x128x128 images are computed one at a time.
const BATCH_VALUES: usize = 1 << 16;

/// The value of an input for one sample.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Row<'a> {
    /// The values of a row.
    Floats(&'a [f32]),
    /// A class, as a number or one-hot, whichever the input takes.
    Class(u32),
}

/// The outputs of a sample: a row of each.
pub(crate) type Rows = Vec<Vec<f32>>;

/// A model that is ready to run; several threads may run it at once.
#[derive(Debug)]
pub(crate) struct Network {
    plan: TypedRunnableModel<TypedModel>,
    path: PathBuf,
    inputs: Vec<Port>,
    /// Batch size of a run.
    batch: usize,
    /// Samples that a run computes: the batch size, or 1, of which the batch then holds copies.
    pub(crate) samples: usize,
    /// In the order of the names in [`Network::new`].
    pub(crate) outputs: Vec<Output>,
}

/// An output in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) name: String,
    /// Shape of one row.
    pub(crate) row: Vec<usize>,
}

impl Network {
    /// Prepares `model` for the named outputs, with fixed values of the inputs in `constants`.
    ///
    /// # Errors
    /// [`Error::Config`] for constants that do not fit; [`Error::Format`] when the runtime refuses the model, or an output has no
    /// fixed shape with the batch as its first axis.
    pub(crate) fn new(model: &Model, constants: &BTreeMap<String, f64>, outputs: &[&str]) -> Result<Self> {
        let inputs = model.free_inputs(constants)?;
        let fixed = inputs.iter().find_map(|port| port.batch);
        if let Some(other) = inputs.iter().find(|port| port.batch.is_some() && port.batch != fixed) {
            let expected = format!("the same batch size {} for all inputs", fixed.unwrap_or_default());
            let found = format!("{} rows of {}", other.batch.unwrap_or_default(), other.name);
            return Err(Error::format(&model.path, "inputs", expected, found));
        }
        let with = |batch: usize| -> Result<Self> {
            let refused =
                |what: String| Error::format(&model.path, "model", "a model that the ONNX runtime can prepare", what);
            let plan = guarded(|| prepare(model, batch, constants, outputs)).map_err(refused)?;
            let outputs = (0..outputs.len()).map(|index| output(&plan, model, index, batch, outputs[index]));
            let outputs = outputs.collect::<Result<_>>()?;
            Ok(Self { outputs, plan, path: model.path.clone(), inputs: inputs.clone(), batch, samples: 1 })
        };
        let mut network = with(fixed.unwrap_or(1))?;
        if fixed.is_none() {
            // A model may claim a dynamic batch and yet compute with the size that it was exported with.
            let batch = (BATCH_VALUES / network.largest_row()).clamp(1, BATCH);
            if let Some(batched) = (batch > 1).then(|| with(batch).ok()).flatten() {
                return Ok(if batched.rows_agree() { Self { samples: batch, ..batched } } else { network });
            }
        } else if network.batch > 1 && network.rows_agree() {
            network.samples = network.batch;
        }
        if network.batch > network.samples {
            let batch = network.batch;
            tracing::warn!(
                "{}: in its fixed batch of {batch}, results depend on the position, so each image is computed {batch} times; export a dynamic batch axis",
                model.path.display()
            );
        }
        Ok(network)
    }

    /// The largest number of values of a row, of inputs and outputs.
    fn largest_row(&self) -> usize {
        let rows = self.inputs.iter().map(|port| &port.row).chain(self.outputs.iter().map(|output| &output.row));
        rows.map(|row| row.iter().product()).max().unwrap_or(1).max(1)
    }

    /// Whether a row's bits depend neither on its position in a batch nor on the other rows: no operator is known to sum in another
    /// order, and random samples give the same bits when they move.
    fn rows_agree(&self) -> bool {
        let sums =
            |op: &dyn tract_onnx::tract_core::ops::Op| op.is::<Reduce>() || op.is::<Softmax>() || op.is::<OptScan>();
        if self.plan.model().nodes.iter().any(|node| sums(node.op.as_op())) {
            return false;
        }
        let mut rng = Stream::new(0).child("rows").rng();
        let width: usize = self.inputs.iter().map(|port| port.row.iter().product::<usize>()).sum();
        // Uniform with standard deviation 1.
        let mut sample = || (0..width).map(|_| (2.0 * unit_f32(&mut rng) - 1.0) * 3f32.sqrt()).collect::<Vec<_>>();
        let samples: Vec<_> = (0..self.batch).map(|_| sample()).collect();
        let rotated = |by: usize| {
            let batch: Vec<&[f32]> = (0..self.batch).map(|k| &samples[(k + by) % self.batch][..]).collect();
            let mut found = self.computed(&batch).ok()?;
            found.rotate_right(by);
            Some(found.concat().concat().into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        let plain = rotated(0);
        plain.is_some() && [1, self.batch / 2].iter().all(|by| rotated(*by) == plain)
    }

    /// The outputs of a batch of samples, given by the values of all their inputs; those of labels are replaced by classes.
    fn computed(&self, batch: &[&[f32]]) -> Result<Vec<Rows>> {
        let mut samples = Vec::with_capacity(batch.len());
        for mut rest in batch.iter().copied() {
            let mut rows = Vec::with_capacity(self.inputs.len());
            for port in &self.inputs {
                let (row, after) = rest.split_at(port.row.iter().product());
                rest = after;
                rows.push(if port.values.is_integer() { Row::Class(0) } else { Row::Floats(row) });
            }
            samples.push(rows);
        }
        self.run_once(&samples, &|_| "a test sample".into())
    }

    /// Runs samples, each given by a row for each input, in parallel. `name` names a sample in errors.
    ///
    /// # Errors
    /// [`Error::Format`] when the runtime fails or an output has a value that is not finite.
    pub(crate) fn run(&self, samples: &[Vec<Row<'_>>], name: &(dyn Fn(usize) -> String + Sync)) -> Result<Vec<Rows>> {
        let chunks = samples.par_chunks(self.samples).enumerate();
        let run =
            |(chunk, samples): (usize, &[Vec<Row<'_>>])| self.run_once(samples, &|k| name(chunk * self.samples + k));
        Ok(chunks.map(run).collect::<Result<Vec<_>>>()?.concat())
    }

    /// Runs at most `batch` samples once.
    fn run_once(&self, samples: &[Vec<Row<'_>>], name: &dyn Fn(usize) -> String) -> Result<Vec<Rows>> {
        let all = || if samples.len() == 1 { name(0) } else { format!("{} to {}", name(0), name(samples.len() - 1)) };
        let refused =
            |what: String| Error::format(&self.path, all(), "a sample that the ONNX runtime can compute", what);
        let given = guarded(|| {
            let feed = self.inputs.iter().enumerate().map(|(at, port)| {
                let rows: Vec<_> = (0..self.batch).map(|k| samples[k.min(samples.len() - 1)][at]).collect();
                Ok(tensor(port, &rows)?.into())
            });
            self.plan.run(feed.collect::<TractResult<_>>()?)
        });
        let given = given.map_err(refused)?;
        let mut found = vec![Rows::new(); samples.len()];
        for (output, tensor) in self.outputs.iter().zip(&given) {
            let wrong = |sample: String, expected: String, found: String| {
                Err(Error::format(&self.path, format!("output {} of {sample}", output.name), expected, found))
            };
            let width = output.row.iter().product::<usize>();
            let values = match tensor.as_slice::<f32>() {
                Ok(values) if values.len() == self.batch * width => values,
                _ => {
                    let found = format!("{:?} of {:?}", tensor.datum_type(), tensor.shape());
                    return wrong(all(), format!("F32 of {:?}", output.row), found);
                }
            };
            for (k, (rows, values)) in found.iter_mut().zip(values.chunks_exact(width)).enumerate() {
                if let Some(place) = values.iter().position(|value| !value.is_finite()) {
                    return wrong(name(k), "finite values".into(), format!("{} at index {place}", values[place]));
                }
                rows.push(values.to_vec());
            }
        }
        Ok(found)
    }
}

/// The tensor of an input with these rows.
fn tensor(port: &Port, rows: &[Row<'_>]) -> TractResult<Tensor> {
    let mut shape = vec![rows.len()];
    shape.extend(&port.row);
    let width = port.row.iter().product::<usize>();
    let mut values = Vec::with_capacity(rows.len() * width);
    for row in rows {
        match *row {
            Row::Floats(row) if port.values == Values::F32 => values.extend_from_slice(row),
            Row::Class(class) if width == 1 => values.push(class as f32),
            Row::Class(class) => values.extend((0..width).map(|k| f32::from(u8::from(k == class as usize)))),
            Row::Floats(_) => return Err(format_err!("input {port}: a value of the wrong type")),
        }
    }
    match port.values {
        Values::F32 => Tensor::from_shape(&shape, &values),
        // Class numbers are small integers, which floats hold exactly.
        Values::I64 => Tensor::from_shape(&shape, &values.iter().map(|v| *v as i64).collect::<Vec<_>>()),
        Values::I32 => Tensor::from_shape(&shape, &values.iter().map(|v| *v as i32).collect::<Vec<_>>()),
        Values::Bool => Err(format_err!("input {port}: neither latents nor labels")),
    }
}

/// The optimised model with a fixed batch size, constants instead of some inputs, and only the named outputs.
fn prepare(
    model: &Model,
    batch: usize,
    constants: &BTreeMap<String, f64>,
    outputs: &[&str],
) -> TractResult<TypedRunnableModel<TypedModel>> {
    let mut proto = model.proto.clone();
    if let Some(graph) = proto.graph.as_mut() {
        // The exporter's shapes have its own batch size; the runtime infers them again.
        graph.value_info.clear();
        for port in &model.inputs {
            if let Some(value) = constants.get(&port.name) {
                graph.initializer.push(constant(port, batch, *value));
            } else if let Some(input) = graph.input.iter_mut().find(|input| input.name == port.name) {
                set_batch(input, batch);
            }
        }
        graph.input.retain(|input| !constants.contains_key(&input.name));
        let standard = proto.opset_import.iter().find(|opset| matches!(opset.domain.as_str(), "" | "ai.onnx"));
        crate::fuse::fuse(graph, standard.map_or(1, |opset| opset.version));
        graph.output =
            outputs.iter().flat_map(|name| graph.output.iter().find(|output| output.name == *name)).cloned().collect();
    }
    crate::resize::onnx().parse(&proto, None)?.model.into_optimized()?.into_runnable()
}

fn set_batch(input: &mut ValueInfoProto, batch: usize) {
    let tensor = input.r#type.as_mut().and_then(|t| t.value.as_mut()).map(|Type::TensorType(tensor)| tensor);
    if let Some(first) = tensor.and_then(|t| t.shape.as_mut()).and_then(|s| s.dim.first_mut()) {
        first.value = Some(Dim::DimValue(batch as i64));
    }
}

/// A tensor instead of an input, with the same value everywhere.
fn constant(port: &Port, batch: usize, value: f64) -> TensorProto {
    let batch = if port.scalar { None } else { Some(port.batch.unwrap_or(batch)) };
    let shape: Vec<usize> = batch.into_iter().chain(port.row.iter().copied()).collect();
    let (data_type, bytes) = match port.values {
        Values::F32 => (DataType::Float, (value as f32).to_le_bytes().to_vec()),
        Values::I64 => (DataType::Int64, (value as i64).to_le_bytes().to_vec()),
        Values::I32 => (DataType::Int32, (value as i32).to_le_bytes().to_vec()),
        Values::Bool => (DataType::Bool, vec![u8::from(value != 0.0)]),
    };
    TensorProto {
        name: port.name.clone(),
        data_type: data_type as i32,
        dims: shape.iter().map(|side| *side as i64).collect(),
        raw_data: bytes.repeat(shape.iter().product()),
        ..TensorProto::default()
    }
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
        let expected = format!("F32 of a fixed shape with the batch ({batch}) as its first axis");
        let found =
            format!("{found}; if the network squeezes its output, export a module that reshapes it to (N, ...)");
        Err(Error::format(&model.path, format!("output {name}"), expected, found))
    };
    let fact = match plan.model().output_fact(index) {
        Ok(fact) => fact,
        Err(e) => return wrong(format!("{e:#}")),
    };
    match fact.shape.as_concrete() {
        Some([first, row @ ..])
            if *first == batch && !row.is_empty() && !row.contains(&0) && fact.datum_type == f32::datum_type() =>
        {
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
