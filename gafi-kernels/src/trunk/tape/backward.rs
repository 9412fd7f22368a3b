//! The backward pass along a tape.
//!
//! A buffer's gradient lives only from its last consumer to its producer, and nothing is ever added to zeros.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{Node, Op, Output, Param, Tape, Value};
use crate::activation::Activation;
use crate::trunk::backend::{Data, NormGradients, Pre, Source};

impl Tape {
    /// The gradients of the input (N, C, H, W) and of the parameters from that of the output; `None` where none is tracked.
    pub(in crate::trunk) fn backward(
        &self,
        output: Output,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Vec<Option<Tensor>>)> {
        let mut grads = Gradients {
            input: None,
            nodes: self.nodes.iter().map(|_| None).collect(),
            params: vec![None; self.params.len()],
            readers: vec![0; self.nodes.len()],
        };
        let (Output::Maps(last) | Output::Sums(last)) = output;
        for x in self.nodes.iter().flat_map(|node| node.op.inputs()).chain([last]) {
            grads.readers[x.0] += 1;
        }
        match output {
            Output::Maps(x) => grads.add(self, x, || self.backend.load(grad))?,
            Output::Sums(x) => grads.add(self, x, || self.backend.sums_gradient(self.nodes[x.0].maps, grad))?,
        }
        for (i, node) in self.nodes.iter().enumerate().rev() {
            let Some(dy) = grads.nodes[i].take() else { continue };
            self.node_backward(node, dy, &mut grads)?;
        }
        Ok((grads.input, grads.params))
    }

    fn node_backward(&self, node: &Node, dy: Arc<Data>, grads: &mut Gradients) -> Result<()> {
        let b = &self.backend;
        let maps = node.maps;
        match &node.op {
            Op::Input { param } => {
                let grad = b.store(Source { data: &dy, maps, pre: Pre::None })?;
                match param {
                    Some(param) => grads.add_param(*param, grad)?,
                    None => grads.input = Some(grad),
                }
            }
            Op::Conv { x, w, bias, geometry, upsampled } => {
                let weights = &self.params[*w].detach();
                if self.params[*w].track_op() {
                    grads.add_param(*w, b.conv_weight_gradient(geometry, *upsampled, self.source(*x), &dy)?)?;
                }
                if let Some(bias) = bias.filter(|&bias| self.params[bias].track_op()) {
                    grads.add_param(bias, b.channel_sums(maps, &dy)?)?;
                }
                match &self.nodes[x.0].op {
                    Op::Activation { x, activation } if !upsampled => {
                        let data = self.data("backward", *x)?;
                        let maps = self.nodes[x.0].maps;
                        let gradient = || b.conv_activation_gradient(geometry, &dy, weights, data, maps, *activation);
                        grads.add(self, *x, gradient)?;
                    }
                    Op::Norm { x: before, gain, shift, affine, activation }
                        if grads.readers[x.0] == 1 && self.nodes[x.0].tracked =>
                    {
                        let data = self.data("backward", *before)?;
                        let maps = self.nodes[x.0].maps;
                        let g =
                            b.conv_norm_gradients(geometry, *upsampled, &dy, weights, data, maps, affine, *activation)?;
                        drop(dy);
                        grads.add_norm(self, *before, [*gain, *shift], g)?;
                    }
                    _ => grads.add(self, *x, || b.conv_input_gradient(geometry, *upsampled, &dy, weights))?,
                }
            }
            Op::Norm { x, gain, shift, affine, activation } => {
                let g = b.norm_gradients(maps, self.data("backward", *x)?, affine, *activation, &dy)?;
                drop(dy);
                grads.add_norm(self, *x, [*gain, *shift], g)?;
            }
            Op::Activation { x, activation } => {
                let data = self.data("backward", *x)?;
                grads.add(self, *x, || b.activation_gradient(maps, data, *activation, &dy))?;
            }
            Op::Add { a, b: other, relu } => {
                let dy = match &node.data {
                    Some(y) if *relu => Arc::new(b.activation_gradient(maps, y, Activation::RELU, &dy)?),
                    _ => dy,
                };
                grads.add_shared(self, *a, Arc::clone(&dy))?;
                grads.add_shared(self, *other, dy)?;
            }
            Op::AvgPool { x } => grads.add(self, *x, || b.avg_pool_gradient(self.nodes[x.0].maps, &dy))?,
            Op::MaxPool { x } => grads.add(self, *x, || b.max_pool_gradient(self.source(*x), &dy))?,
            Op::Upsample { x } => grads.add(self, *x, || b.upsample_gradient(self.nodes[x.0].maps, &dy))?,
            Op::SubsamplePad { x } => {
                grads.add(self, *x, || b.subsample_pad_gradient(self.nodes[x.0].maps, maps.c, &dy))?;
            }
            Op::Attend { query, key, value } => {
                let [q, k, v] = b.attend_gradients(self.source(*query), self.source(*key), self.source(*value), &dy)?;
                grads.add(self, *query, || Ok(q))?;
                grads.add(self, *key, || Ok(k))?;
                grads.add(self, *value, || Ok(v))?;
            }
        }
        Ok(())
    }
}

/// The gradients during the backward pass.
struct Gradients {
    /// Of the trunk's input.
    input: Option<Tensor>,
    /// Of values. Shared where an addition passed the same one to both of its terms.
    nodes: Vec<Option<Arc<Data>>>,
    params: Vec<Option<Tensor>>,
    /// Number of readers of each value.
    readers: Vec<usize>,
}

impl Gradients {
    /// Adds a gradient of `x`, computed only if `x` is tracked.
    fn add(&mut self, tape: &Tape, x: Value, gradient: impl FnOnce() -> Result<Data>) -> Result<()> {
        if tape.nodes[x.0].tracked { self.add_shared(tape, x, Arc::new(gradient()?)) } else { Ok(()) }
    }

    /// Adds a gradient of `x` that other values may share.
    fn add_shared(&mut self, tape: &Tape, x: Value, more: Arc<Data>) -> Result<()> {
        let node = &tape.nodes[x.0];
        if !node.tracked {
            return Ok(());
        }
        let sum = match self.nodes[x.0].take() {
            None => more,
            Some(mut first) => {
                let mut second = more;
                // Accumulates into whichever of the two is not shared.
                if let Some(sum) = Arc::get_mut(&mut first) {
                    tape.backend.accumulate(node.maps, sum, &second)?;
                    first
                } else if let Some(sum) = Arc::get_mut(&mut second) {
                    tape.backend.accumulate(node.maps, sum, &first)?;
                    second
                } else {
                    let source = |data| Source { data, maps: node.maps, pre: Pre::None };
                    Arc::new(tape.backend.add(source(&first), source(&second), false)?)
                }
            }
        };
        self.nodes[x.0] = Some(sum);
        Ok(())
    }

    /// Adds the gradients of a norm of `x`.
    fn add_norm(&mut self, tape: &Tape, x: Value, [gain, shift]: [Param; 2], gradients: NormGradients) -> Result<()> {
        for (param, grad) in [(gain, gradients.dgain), (shift, gradients.dshift)] {
            if tape.params[param].track_op() {
                self.add_param(param, grad)?;
            }
        }
        self.add(tape, x, || Ok(gradients.dx))
    }

    fn add_param(&mut self, param: Param, grad: Tensor) -> Result<()> {
        let sum = match self.params[param].take() {
            None => grad,
            Some(first) => (first + grad)?,
        };
        self.params[param] = Some(sum);
        Ok(())
    }
}
