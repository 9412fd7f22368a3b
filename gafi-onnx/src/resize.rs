//! The operator `Resize`, replacing the runtime's own, which extrapolates at the edges of an image instead of repeating
//! them, and supports neither `pytorch_half_pixel` nor `axes`.
//!
//! Along each axis, an output row is one input row (nearest) or a weighted sum of two (linear). The rows depend only on
//! the shapes, so the operator becomes gathers with constant indices.

use tract_onnx::Onnx;
use tract_onnx::model::{ParsingContext, optional_inputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::array::Gather;
use tract_onnx::tract_core::ops::math::{add, mul};
use tract_onnx::tract_hir::internal::*;

/// The runtime with this `Resize`.
pub(crate) fn onnx() -> Onnx {
    let mut onnx = tract_onnx::onnx();
    onnx.op_register.insert("Resize", resize);
    onnx
}

/// How an output position maps to an input position (`coordinate_transformation_mode`).
#[derive(Debug, Clone, Copy, PartialEq)]
enum Coordinates {
    HalfPixel,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
}

/// How an output value is computed from input values (`mode` and `nearest_mode`).
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Linear,
    Floor,
    Ceil,
    RoundPreferFloor,
    RoundPreferCeil,
}

#[derive(Debug, Clone)]
struct Resize {
    coordinates: Coordinates,
    mode: Mode,
    axes: Option<Vec<i64>>,
    /// Index of the input with sizes or scales.
    given: usize,
    sizes: bool,
}

fn resize(cx: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let (resize, _) = parsed(node, cx.onnx_operator_set_version)?;
    Ok((expand(resize), vec![]))
}

/// The factor by which `node` enlarges height and width of (N, C, H, W), if it repeats values and does nothing else. `scales` are the
/// values of a constant.
pub(crate) fn upsampling(node: &NodeProto, opset: i64, scales: impl Fn(&str) -> Option<Vec<f32>>) -> Option<usize> {
    /// The largest factor that is tested.
    const MOST: f32 = 8.0;
    if node.op_type != "Resize" || !matches!(node.domain.as_str(), "" | "ai.onnx") {
        return None;
    }
    let (resize, given) = parsed(node, opset).ok()?;
    let scales = scales(node.input.get(given)?).filter(|_| !resize.sizes)?;
    let factor = match (resize.axes.as_deref(), &scales[..]) {
        (None | Some([0, 1, 2, 3]), [1.0, 1.0, height, width]) | (Some([2, 3] | [-2, -1]), [height, width])
            if height == width =>
        {
            *height
        }
        _ => return None,
    };
    let whole = factor.fract() == 0.0 && (2.0..=MOST).contains(&factor);
    let factor = factor as usize;
    let repeats = |to: usize| resize.taps(to, (4 * factor, factor as f64), 4) == (to / factor, 0, 0.0);
    (whole && (0..4 * factor).all(repeats)).then_some(factor)
}

/// The operator of `node`, and which of the node's inputs gives scales or sizes.
fn parsed(node: &NodeProto, opset: i64) -> TractResult<(Resize, usize)> {
    let text = |name: &str, default: &'static str| -> TractResult<String> {
        Ok(node.get_attr_opt::<String>(name)?.unwrap_or_else(|| default.into()))
    };
    // The first version is always nearest and asymmetric, without attributes for it.
    let first = opset < 11;
    let coordinates = text("coordinate_transformation_mode", if first { "asymmetric" } else { "half_pixel" })?;
    let coordinates = match coordinates.as_str() {
        "half_pixel" => Coordinates::HalfPixel,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        other => bail!("Resize with coordinate_transformation_mode {other} is not supported"),
    };
    let nearest = text("nearest_mode", if first { "floor" } else { "round_prefer_floor" })?;
    let mode = match (text("mode", "nearest")?.as_str(), nearest.as_str()) {
        ("linear", _) => Mode::Linear,
        ("nearest", "floor") => Mode::Floor,
        ("nearest", "ceil") => Mode::Ceil,
        ("nearest", "round_prefer_floor") => Mode::RoundPreferFloor,
        ("nearest", "round_prefer_ceil") => Mode::RoundPreferCeil,
        (other, nearest) => bail!("Resize with mode {other}, nearest_mode {nearest} is not supported"),
    };
    if node.get_attr_opt::<i64>("antialias")?.unwrap_or(0) != 0 {
        bail!("Resize with antialias is not supported; export the model without it");
    }
    let policy = text("keep_aspect_ratio_policy", "stretch")?;
    if policy != "stretch" {
        bail!("Resize with keep_aspect_ratio_policy {policy} is not supported");
    }
    let mut inputs = optional_inputs(node).skip(if first { 1 } else { 2 });
    let scales = inputs.next().flatten();
    let sizes = inputs.next().flatten();
    let (given, sizes) = match (scales, sizes) {
        (_, Some(sizes)) => (sizes, true),
        (Some(scales), None) => (scales, false),
        (None, None) => bail!("Resize needs scales or sizes"),
    };
    // The runtime numbers the inputs that are not empty.
    let named = node.input.iter().enumerate().filter(|(_, name)| !name.is_empty()).nth(given);
    let at = named.map_or(given, |(at, _)| at);
    Ok((Resize { coordinates, mode, axes: node.get_attr_opt_vec("axes")?, given, sizes }, at))
}

impl Resize {
    /// Output length and scale of each axis.
    fn axes(&self, shape: &[usize], given: &Tensor) -> TractResult<Vec<(usize, f64)>> {
        let given = given.cast_to::<f32>()?;
        let given = given.as_slice::<f32>()?;
        let rank = shape.len() as i64;
        let axes: Vec<i64> = self.axes.clone().unwrap_or_else(|| (0..rank).collect());
        ensure!(axes.len() == given.len(), "Resize has {} axes but {} scales or sizes", axes.len(), given.len());
        let mut all: Vec<(usize, f64)> = shape.iter().map(|len| (*len, 1.0)).collect();
        for (axis, value) in axes.iter().zip(given) {
            let axis = if *axis < 0 { axis + rank } else { *axis } as usize;
            ensure!(axis < shape.len() && *value > 0.0, "Resize of axis {axis} by {value} is not possible");
            let len = shape[axis] as f64;
            let value = f64::from(*value);
            all[axis] = if self.sizes { (value as usize, value / len) } else { ((len * value) as usize, value) };
        }
        Ok(all)
    }

    /// The two input positions of output position `to`, and the weight of the second.
    fn taps(&self, to: usize, (out, scale): (usize, f64), len: usize) -> (usize, usize, f32) {
        let half = (to as f64 + 0.5) / scale - 0.5;
        let at = match self.coordinates {
            Coordinates::HalfPixel => half,
            Coordinates::PytorchHalfPixel if out > 1 => half,
            Coordinates::AlignCorners if out > 1 => to as f64 * (len - 1) as f64 / (out - 1) as f64,
            Coordinates::PytorchHalfPixel | Coordinates::AlignCorners => 0.0,
            Coordinates::Asymmetric => to as f64 / scale,
        };
        let last = len - 1;
        let one = |at: f64| (at.clamp(0.0, last as f64) as usize, 0, 0.0);
        match self.mode {
            Mode::Linear => {
                let at = at.clamp(0.0, last as f64);
                let left = at as usize;
                (left, (left + 1).min(last), (at - left as f64) as f32)
            }
            Mode::Floor => one(at.floor()),
            Mode::Ceil => one(at.ceil()),
            Mode::RoundPreferFloor => one((at - 0.5).ceil()),
            Mode::RoundPreferCeil => one((at + 0.5).floor()),
        }
    }
}

impl Expansion for Resize {
    fn name(&self) -> StaticName {
        "Resize".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        s.equals(&inputs[0].rank, &outputs[0].rank)?;
        s.given_2(&inputs[0].shape, &inputs[self.given].value, move |s, shape, given| {
            let shape = shape.iter().map(|dim| dim.to_usize()).collect::<TractResult<Vec<_>>>()?;
            for (axis, (len, _)) in self.axes(&shape, &given)?.into_iter().enumerate() {
                s.equals(&outputs[0].shape[axis], len.to_dim())?;
            }
            Ok(())
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let shape = model.outlet_fact(inputs[0])?.shape.as_concrete().map(<[usize]>::to_vec);
        let shape = shape.context("Resize needs a fixed input shape; export with fixed height and width")?;
        let given = model.outlet_fact(inputs[self.given])?.konst.clone().context("Resize needs constant scales")?;
        let mut wire = inputs[0];
        for (axis, (out, scale)) in self.axes(&shape, &given)?.into_iter().enumerate() {
            if out == shape[axis] && scale == 1.0 {
                continue;
            }
            let taps: Vec<_> = (0..out).map(|to| self.taps(to, (out, scale), shape[axis])).collect();
            let name = |what: &str| format!("{prefix}.axis{axis}.{what}");
            let rows = |model: &mut TypedModel, which: &str, rows: Vec<i64>| -> TractResult<OutletId> {
                let rows = model.add_const(name(&format!("{which}-rows")), tensor1(&rows))?;
                Ok(model.wire_node(name(which), Gather::new(axis), &[wire, rows])?[0])
            };
            let left = rows(model, "left", taps.iter().map(|tap| tap.0 as i64).collect())?;
            if self.mode != Mode::Linear {
                wire = left;
                continue;
            }
            let right = rows(model, "right", taps.iter().map(|tap| tap.1 as i64).collect())?;
            let mut along = vec![1; shape.len()];
            along[axis] = out;
            let mut weighted = |which: &str, of: OutletId, weights: Vec<f32>| -> TractResult<OutletId> {
                let weights = Tensor::from_shape(&along, &weights)?;
                let weights = model.add_const(name(&format!("{which}-weights")), weights)?;
                Ok(model.wire_node(name(&format!("{which}-weighted")), mul(), &[of, weights])?[0])
            };
            let left = weighted("left", left, taps.iter().map(|tap| 1.0 - tap.2).collect())?;
            let right = weighted("right", right, taps.iter().map(|tap| tap.2).collect())?;
            wire = model.wire_node(name("sum"), add(), &[left, right])?[0];
        }
        Ok(tvec![wire])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resizes a row.
    fn row(coordinates: Coordinates, mode: Mode, scale: f64, from: &[f32]) -> Vec<f32> {
        let resize = Resize { coordinates, mode, axes: None, given: 1, sizes: false };
        let out = (from.len() as f64 * scale) as usize;
        let value = |(left, right, weight): (usize, usize, f32)| from[left] * (1.0 - weight) + from[right] * weight;
        (0..out).map(|to| value(resize.taps(to, (out, scale), from.len()))).collect()
    }

    #[test]
    fn rows_equal_the_onnx_reference() {
        let from = [1.0, 2.0, 4.0];
        assert_eq!(row(Coordinates::HalfPixel, Mode::Linear, 2.0, &from), [1.0, 1.25, 1.75, 2.5, 3.5, 4.0]);
        assert_eq!(row(Coordinates::AlignCorners, Mode::Linear, 5.0 / 3.0, &from), [1.0, 1.5, 2.0, 3.0, 4.0]);
        assert_eq!(row(Coordinates::Asymmetric, Mode::Linear, 2.0, &from), [1.0, 1.5, 2.0, 3.0, 4.0, 4.0]);
        assert_eq!(row(Coordinates::Asymmetric, Mode::Floor, 2.0, &from), [1.0, 1.0, 2.0, 2.0, 4.0, 4.0]);
        assert_eq!(row(Coordinates::Asymmetric, Mode::Ceil, 2.0, &from), [1.0, 2.0, 2.0, 4.0, 4.0, 4.0]);
        assert_eq!(row(Coordinates::Asymmetric, Mode::RoundPreferFloor, 2.0, &from), [1.0, 1.0, 2.0, 2.0, 4.0, 4.0]);
        assert_eq!(row(Coordinates::Asymmetric, Mode::RoundPreferCeil, 2.0, &from), [1.0, 2.0, 2.0, 4.0, 4.0, 4.0]);
        // For an output of length 1, pytorch_half_pixel takes the first position, half_pixel the middle.
        assert_eq!(row(Coordinates::HalfPixel, Mode::Linear, 1.0 / 3.0, &from), [2.0]);
        assert_eq!(row(Coordinates::PytorchHalfPixel, Mode::Linear, 1.0 / 3.0, &from), [1.0]);
    }
}
