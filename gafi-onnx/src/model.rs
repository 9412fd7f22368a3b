//! Reads an ONNX file: its inputs and outputs, weights in other files, and unsupported operators.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gafi_core::{Artifact, Error, Result, read_regular};
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dim;
use tract_onnx::pb::type_proto::Value as Type;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use tract_onnx::prelude::Framework as _;

/// Name of the model file in an artifact.
pub(crate) const FILE: &str = "model.onnx";

/// Operators that draw random numbers: their results differ from run to run, so they can't depend only on a sample's
/// seed.
const RANDOM: [&str; 6] =
    ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"];

/// Type of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    F32,
    I64,
    I32,
    Bool,
}

impl Values {
    pub(crate) fn is_integer(self) -> bool {
        matches!(self, Self::I64 | Self::I32)
    }
}

/// An input of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) values: Values,
    /// Whether it has no axes, not even one of the batch.
    pub(crate) scalar: bool,
    /// Fixed batch size; `None` for a dynamic one.
    pub(crate) batch: Option<usize>,
    /// Shape of one row.
    pub(crate) row: Vec<usize>,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.scalar {
            return write!(f, "{} {:?} ()", self.name, self.values);
        }
        write!(f, "{} {:?} (N", self.name, self.values)?;
        self.row.iter().try_for_each(|dim| write!(f, ", {dim}"))?;
        f.write_str(")")
    }
}

/// A parsed file whose operators are supported.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    /// Path of the file, for errors.
    pub(crate) path: PathBuf,
    /// The parsed file, with all weights.
    pub(crate) proto: ModelProto,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<String>,
    /// All files by their name in an artifact, [`FILE`] included.
    pub(crate) files: BTreeMap<String, Arc<[u8]>>,
}

impl Model {
    /// Reads a file, and the files next to it that hold its weights.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = read_regular(path, u64::MAX).map_err(Error::io("read", path))?;
        Self::parse(path, bytes, |name| {
            let beside = path.with_file_name(name);
            read_regular(&beside, u64::MAX).map_err(Error::io("read the weights of the model from", beside))
        })
    }

    /// Reads the model of an artifact, and verifies the hashes.
    pub(crate) fn open(artifact: &Artifact) -> Result<Self> {
        Self::parse(&artifact.path().join(FILE), artifact.read(FILE)?, |name| artifact.read(name))
    }

    fn parse(path: &Path, bytes: Vec<u8>, mut fetch: impl FnMut(&str) -> Result<Vec<u8>>) -> Result<Self> {
        let wrong = |place: &str, expected: &str, found: String| Error::format(path, place, expected, found);
        let mut proto = tract_onnx::onnx()
            .proto_model_for_read(&mut &bytes[..])
            .map_err(|e| wrong("content", "an ONNX model", format!("{e:#}")))?;
        let graph = proto.graph.as_ref().filter(|graph| !graph.node.is_empty());
        let graph = graph.ok_or_else(|| wrong("content", "an ONNX model with a graph", "no graph".into()))?;
        let mut nodes = Vec::new();
        let mut tensors = Vec::new();
        collect(graph, &mut nodes, &mut tensors);
        check_operators(path, &nodes)?;
        let mut files = BTreeMap::new();
        for name in tensors.iter().filter_map(|tensor| location(tensor)) {
            if Path::new(name).file_name().is_none_or(|plain| plain != name) || name == FILE {
                let expected = "weights in the file itself, or in a file next to it that is not called model.onnx";
                return Err(wrong("external data", expected, name.into()));
            }
            if !files.contains_key(name) {
                files.insert(name.to_owned(), Arc::from(fetch(name)?));
            }
        }
        // Before IR version 4 weights are also listed among the inputs.
        let weights: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        let free = graph.input.iter().filter(|input| !weights.contains(input.name.as_str()));
        let inputs = free.map(|input| port(path, input)).collect::<Result<_>>()?;
        let outputs = graph.output.iter().map(|output| output.name.clone()).collect();
        if let Some(graph) = &mut proto.graph {
            inline(path, graph, &files)?;
        }
        files.insert(FILE.into(), Arc::from(bytes));
        Ok(Self { path: path.into(), inputs, outputs, files, proto })
    }

    /// The inputs that have no value in `constants`.
    ///
    /// # Errors
    /// [`Error::Config`] for a constant that is no input, or that its type cannot hold.
    pub(crate) fn free_inputs(&self, constants: &BTreeMap<String, f64>) -> Result<Vec<Port>> {
        for (name, value) in constants {
            let key = format!("constants.{name}");
            let expected = match self.input(&key, name)?.values {
                Values::F32 if (*value as f32).is_finite() => continue,
                Values::I64 | Values::I32 if f64::from(*value as i32) == *value => continue,
                Values::Bool if *value == 0.0 || *value == 1.0 => continue,
                Values::F32 => "a finite number",
                Values::I64 | Values::I32 => "an integer of 32 bits",
                Values::Bool => "0 or 1",
            };
            return Err(Error::config(key, value, expected));
        }
        Ok(self.inputs.iter().filter(|port| !constants.contains_key(&port.name)).cloned().collect())
    }

    /// The values of black and white that follow from the last activation before the output `name`: 0 and 1 after a sigmoid, -1 and 1
    /// after a tanh.
    pub(crate) fn range_of(&self, name: &str) -> Option<[f64; 2]> {
        const NEUTRAL: [&str; 7] = ["Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"];
        let nodes = &self.proto.graph.as_ref()?.node;
        let mut value = name;
        // A file's nodes may form a circle.
        for _ in 0..nodes.len() {
            let node = nodes.iter().find(|node| node.output.iter().any(|output| output == value))?;
            match &node.op_type[..] {
                "Sigmoid" => return Some([0.0, 1.0]),
                "Tanh" => return Some([-1.0, 1.0]),
                neutral if NEUTRAL.contains(&neutral) => value = node.input.first()?,
                _ => return None,
            }
        }
        None
    }

    /// The inputs, for errors.
    pub(crate) fn inputs_text(&self) -> String {
        let all: Vec<_> = self.inputs.iter().map(ToString::to_string).collect();
        if all.is_empty() { "none".into() } else { all.join(", ") }
    }

    /// The input called `name`.
    pub(crate) fn input(&self, key: &str, name: &str) -> Result<&Port> {
        let found = self.inputs.iter().find(|port| port.name == name);
        found.ok_or_else(|| Error::config(key, name, format!("an input of the file, one of {}", self.inputs_text())))
    }

    /// The output called `name`; without a name, the output at `index`.
    pub(crate) fn output(&self, key: &str, name: Option<&str>, index: usize) -> Result<Option<&str>> {
        let Some(name) = name else { return Ok(self.outputs.get(index).map(String::as_str)) };
        let found = self.outputs.iter().find(|output| *output == name);
        let expected =
            || Error::config(key, name, format!("an output of the file, one of {}", self.outputs.join(", ")));
        found.map(|output| Some(output.as_str())).ok_or_else(expected)
    }
}

/// Collects all nodes and tensors of a graph, including its subgraphs.
fn collect<'a>(graph: &'a GraphProto, nodes: &mut Vec<&'a NodeProto>, tensors: &mut Vec<&'a TensorProto>) {
    tensors.extend(&graph.initializer);
    for node in &graph.node {
        nodes.push(node);
        for attribute in &node.attribute {
            tensors.extend(attribute.t.iter().chain(&attribute.tensors));
            attribute.g.iter().chain(&attribute.graphs).for_each(|inner| collect(inner, nodes, tensors));
        }
    }
}

/// The file of a tensor stored outside the model.
fn location(tensor: &TensorProto) -> Option<&str> {
    let outside = tensor.data_location == Some(DataLocation::External as i32);
    let entry = tensor.external_data.iter().find(|entry| entry.key == "location");
    entry.filter(|_| outside).map(|entry| entry.value.as_str())
}

/// Checks that every operator is supported and deterministic.
fn check_operators(path: &Path, nodes: &[&NodeProto]) -> Result<()> {
    let known = crate::resize::onnx().op_register.0;
    let standard = |node: &NodeProto| matches!(node.domain.as_str(), "" | "ai.onnx");
    let full = |node: &NodeProto| {
        if standard(node) { node.op_type.clone() } else { format!("{}.{}", node.domain, node.op_type) }
    };
    let list = |wanted: &dyn Fn(&NodeProto) -> bool| {
        let found: BTreeSet<String> = nodes.iter().filter(|node| wanted(node)).map(|node| full(node)).collect();
        found.into_iter().collect::<Vec<_>>().join(", ")
    };
    let random = list(&|node| RANDOM.contains(&node.op_type.as_str()));
    if !random.is_empty() {
        let expected = "a model without random numbers (turn noise off, or make it constant)";
        return Err(Error::format(path, "operators", expected, random));
    }
    let unknown = list(&|node| !standard(node) || !known.contains_key(&node.op_type));
    if !unknown.is_empty() {
        let expected = "supported operators (torch.onnx.export with opset_version=18 decomposes some newer ones)";
        return Err(Error::format(path, "operators", expected, unknown));
    }
    Ok(())
}

/// Name, type and shape of an input.
fn port(path: &Path, input: &ValueInfoProto) -> Result<Port> {
    let wrong =
        |expected: &str, found: String| Err(Error::format(path, format!("input {}", input.name), expected, found));
    let Some(Type::TensorType(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return wrong("a tensor", "another type".into());
    };
    let values = match DataType::from_i32(tensor.elem_type) {
        Some(DataType::Float) => Values::F32,
        Some(DataType::Int64) => Values::I64,
        Some(DataType::Int32) => Values::I32,
        Some(DataType::Bool) => Values::Bool,
        other => return wrong("type F32, I64, I32 or Bool", other.map_or("another type".into(), |t| format!("{t:?}"))),
    };
    let dims = tensor.shape.as_ref().map(|shape| &shape.dim[..]).unwrap_or_default();
    let size = |dim: &Option<Dim>| match dim {
        Some(Dim::DimValue(size)) => usize::try_from(*size).ok().filter(|size| *size > 0),
        _ => None,
    };
    let name = input.name.clone();
    let Some((batch, row)) = dims.split_first() else {
        return Ok(Port { name, values, scalar: true, batch: None, row: Vec::new() });
    };
    match row.iter().map(|dim| size(&dim.value)).collect::<Option<Vec<_>>>() {
        Some(row) => Ok(Port { name, values, scalar: false, batch: size(&batch.value), row }),
        None => wrong("fixed sizes of all axes but the batch", "another dynamic axis".into()),
    }
}

/// Copies the weights of other files into the model, so that the runtime opens no file.
fn inline(path: &Path, graph: &mut GraphProto, files: &BTreeMap<String, Arc<[u8]>>) -> Result<()> {
    let nodes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
    let mut tensors: Vec<&mut TensorProto> = graph.initializer.iter_mut().collect();
    for attribute in nodes {
        tensors.extend(attribute.t.iter_mut().chain(&mut attribute.tensors));
        for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            inline(path, inner, files)?;
        }
    }
    for tensor in tensors {
        let Some((name, bytes)) = location(tensor).and_then(|name| Some((name, files.get(name)?))) else { continue };
        let number = |key: &str| {
            let entry = tensor.external_data.iter().find(|entry| entry.key == key)?;
            Some(entry.value.parse().unwrap_or(usize::MAX))
        };
        let from = number("offset").unwrap_or(0);
        let end = number("length").map_or(bytes.len(), |length| from.saturating_add(length));
        let Some(data) = bytes.get(from..end) else {
            let place = format!("weights {}", tensor.name);
            let expected = format!("bytes {from} to {end} in {name}");
            return Err(Error::format(path, place, expected, format!("{} bytes", bytes.len())));
        };
        tensor.raw_data = data.to_vec();
        tensor.data_location = None;
        tensor.external_data.clear();
    }
    Ok(())
}
