//! Rewrites convolutions that the runtime is slow at as transposed convolutions, which need no copies of patches:
//!
//! - nearest upsampling and a convolution, as in most generators: with a 2x upsampling and a 3x3 kernel, one transposed
//!   convolution with stride 2 and a 4x4 kernel, with 4/9 of the multiplications;
//! - a convolution with few output channels, the last layer of a generator.
//!
//! Both are exact but for rounding, since weights are added before they are multiplied.

use std::collections::BTreeMap;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto};

use crate::resize::upsampling;

/// A convolution with at most this many output channels is rewritten.
const FEW: usize = 4;

/// Rewrites the convolutions of `graph`. `opset` is the version of the standard operators.
pub(crate) fn fuse(graph: &mut GraphProto, opset: i64) {
    let mut readers = BTreeMap::<&str, usize>::new();
    for name in graph.node.iter().flat_map(|node| &node.input).chain(graph.output.iter().map(|output| &output.name)) {
        *readers.entry(name).or_default() += 1;
    }
    let mut rewritten = Vec::new();
    for (at, node) in graph.node.iter().enumerate() {
        let Some(conv) = Conv::of(graph, node) else { continue };
        // Upsampled values that nothing else reads.
        let source = graph.node.iter().find(|source| source.output.first() == node.input.first());
        let upsampled = source
            .filter(|source| readers.get(source.output[0].as_str()) == Some(&1))
            .and_then(|source| Some((source.input.first()?, upsampling(source, opset, |name| floats(graph, name))?)));
        let (input, scale) = match upsampled {
            Some((input, scale)) => (input, scale),
            None if conv.out <= FEW => (&node.input[0], 1),
            None => continue,
        };
        rewritten.push((at, conv.transposed(node, input, scale)));
    }
    for (at, (node, weights)) in rewritten {
        graph.node[at] = node;
        graph.initializer.push(weights);
    }
}

/// A two-dimensional convolution with stride 1 and constant weights.
struct Conv {
    out: usize,
    inputs: usize,
    kernel: [usize; 2],
    /// Before and after each axis: top, left, bottom, right.
    pads: [usize; 4],
    /// (out, in, height, width).
    weights: Vec<f32>,
}

impl Conv {
    fn of(graph: &GraphProto, node: &NodeProto) -> Option<Self> {
        if node.op_type != "Conv" || !matches!(node.domain.as_str(), "" | "ai.onnx") {
            return None;
        }
        let attribute = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name);
        let ones = |name: &str| attribute(name).is_none_or(|attribute| attribute.ints.iter().all(|int| *int == 1));
        let padded = attribute("auto_pad").is_none_or(|attribute| attribute.s == b"NOTSET");
        let grouped = attribute("group").is_some_and(|attribute| attribute.i != 1);
        if !ones("strides") || !ones("dilations") || !padded || grouped {
            return None;
        }
        let name = node.input.get(1)?;
        let tensor = graph.initializer.iter().find(|tensor| tensor.name == *name)?;
        let [out, inputs, height, width] = *sizes(&tensor.dims)? else { return None };
        let pads = match attribute("pads") {
            None => [0; 4],
            Some(attribute) => sizes(&attribute.ints)?.try_into().ok()?,
        };
        let [top, left, bottom, right] = pads;
        // A transposed convolution crops by the length of the kernel less the padding.
        if top.max(bottom) >= height || left.max(right) >= width {
            return None;
        }
        let weights = floats(graph, name).filter(|weights| weights.len() == out * inputs * height * width)?;
        Some(Self { out, inputs, kernel: [height, width], pads, weights })
    }

    /// The transposed convolution of `input` that equals this convolution of the `scale` times upsampled `input`, and its weights.
    ///
    /// Along an axis, upsampled position i shows input i / scale, so input m contributes to output j the weights at those t with
    /// 0 <= j + t - pad - scale m < scale. In a transposed convolution with crop c it contributes the weight at q = j + c - scale m.
    /// With c = kernel - 1 - pad, those are the t with 0 <= q - (kernel - 1) + t < scale.
    fn transposed(&self, node: &NodeProto, input: &str, scale: usize) -> (NodeProto, TensorProto) {
        let [height, width] = self.kernel;
        let [tall, wide] = self.kernel.map(|side| side + scale - 1);
        let mut weights = vec![0.0; self.inputs * self.out * tall * wide];
        for o in 0..self.out {
            for i in 0..self.inputs {
                let from = &self.weights[(o * self.inputs + i) * height * width..][..height * width];
                let to = &mut weights[(i * self.out + o) * tall * wide..][..tall * wide];
                for (t, weight) in from.iter().enumerate() {
                    let (row, column) = (height - 1 - t / width, width - 1 - t % width);
                    for y in row..row + scale {
                        to[y * wide + column..][..scale].iter_mut().for_each(|sum| *sum += weight);
                    }
                }
            }
        }
        let name = format!("{}.weights", node.output[0]);
        let [top, left, bottom, right] = self.pads;
        let crops = [height - 1 - top, width - 1 - left, height - 1 - bottom, width - 1 - right];
        let transposed = NodeProto {
            input: [input, &name].into_iter().chain(node.input.get(2).map(String::as_str)).map(str::to_owned).collect(),
            output: node.output.clone(),
            name: node.name.clone(),
            op_type: "ConvTranspose".into(),
            attribute: vec![ints("kernel_shape", &[tall, wide]), ints("strides", &[scale; 2]), ints("pads", &crops)],
            ..NodeProto::default()
        };
        let weights = TensorProto {
            name,
            dims: [self.inputs, self.out, tall, wide].map(|side| side as i64).to_vec(),
            data_type: DataType::Float as i32,
            raw_data: weights.iter().flat_map(|weight| weight.to_le_bytes()).collect(),
            ..TensorProto::default()
        };
        (transposed, weights)
    }
}

/// The integers of a file as sizes; `None` if one is negative.
fn sizes(ints: &[i64]) -> Option<Vec<usize>> {
    ints.iter().map(|int| usize::try_from(*int).ok()).collect()
}

fn ints(name: &str, values: &[usize]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Ints as i32,
        ints: values.iter().map(|value| *value as i64).collect(),
        ..AttributeProto::default()
    }
}

/// The values of a constant of the type float.
fn floats(graph: &GraphProto, name: &str) -> Option<Vec<f32>> {
    let constant = || {
        let node =
            graph.node.iter().find(|node| node.op_type == "Constant" && node.output.iter().any(|o| o == name))?;
        node.attribute.iter().find_map(|attribute| attribute.t.as_ref())
    };
    let tensor = graph.initializer.iter().find(|tensor| tensor.name == name).or_else(constant)?;
    if tensor.data_type != DataType::Float as i32 {
        return None;
    }
    if tensor.raw_data.is_empty() {
        return Some(tensor.float_data.clone());
    }
    Some(tensor.raw_data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A convolution of one row, zero-padded.
    fn conv(x: &[f32], w: &[f32], [before, after]: [usize; 2]) -> Vec<f32> {
        let padded: Vec<f32> = [&vec![0.0; before][..], x, &vec![0.0; after][..]].concat();
        padded.windows(w.len()).map(|x| x.iter().zip(w).map(|(x, w)| x * w).sum()).collect()
    }

    /// A transposed convolution of one row, cropped.
    fn transposed(x: &[f32], w: &[f32], stride: usize, [before, after]: [usize; 2]) -> Vec<f32> {
        let mut y = vec![0.0; (x.len() - 1) * stride + w.len()];
        for (m, x) in x.iter().enumerate() {
            w.iter().enumerate().for_each(|(q, w)| y[m * stride + q] += x * w);
        }
        y[before..y.len() - after].to_vec()
    }

    #[test]
    fn a_transposed_convolution_equals_upsampling_and_convolution() {
        let x = [1.0, -2.0, 5.0, 3.0];
        for (w, pads, scale) in [
            (&[1.0, 10.0, 100.0][..], [1, 1], 2),
            (&[1.0, 10.0, 100.0], [0, 2], 3),
            (&[1.0, 10.0, 100.0, 1000.0, 3.0], [2, 1], 2),
            (&[7.0], [0, 0], 2),
            (&[1.0, 10.0, 100.0], [1, 1], 1),
            (&[1.0, 10.0], [1, 0], 1),
        ] {
            let row =
                Conv { out: 1, inputs: 1, kernel: [1, w.len()], pads: [0, pads[0], 0, pads[1]], weights: w.to_vec() };
            let node =
                NodeProto { input: vec!["x".into(), "w".into()], output: vec!["y".into()], ..NodeProto::default() };
            let (node, tensor) = row.transposed(&node, "x", scale);
            assert_eq!(tensor.dims, [1, 1, scale as i64, (w.len() + scale - 1) as i64]);
            let weights: Vec<f32> =
                tensor.raw_data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let crops: Vec<_> = node.attribute[2].ints.iter().map(|crop| *crop as usize).collect();
            let upsampled: Vec<f32> = x.iter().flat_map(|x| vec![*x; scale]).collect();
            // All rows of the kernel are equal: those of one upsampled row.
            let found = transposed(&x, &weights[..w.len() + scale - 1], scale, [crops[1], crops[3]]);
            assert_eq!(found, conv(&upsampled, w, pads), "{w:?}, {pads:?}, {scale}");
        }
    }
}
