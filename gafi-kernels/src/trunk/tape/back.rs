//! The walk back along a tape.
//!
//! Each buffer's gradient lives from its last consumer to its producer only, and nothing is ever added to zeros.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::super::backend::{Backend, Data, NormGradients, Pre, Source};
use super::{Node, Op, Output, Param, Tape, Value};

impl Tape {
    /// The gradients of the input (N, C, H, W) and of the parameters, those that are tracked, from that of the output.
    pub(in super::super) fn backward(
        &self,
        output: Output,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Vec<Option<Tensor>>)> {
        let mut grads = Gradients {
            nodes: self.nodes.iter().map(|_| None).collect(),
            params: vec![None; self.params.len()],
            readers: vec![0; self.nodes.len()],
        };
        let (Output::Maps(last) | Output::Sums(last)) = output;
        for x in self.nodes.iter().flat_map(|node| node.op.inputs()).chain([last]) {
            grads.readers[x.0] += 1;
        }
        match output {
            Output::Maps(x) => grads.give(self, x, || self.backend.load(grad))?,
            Output::Sums(x) => grads.give(self, x, || self.backend.sums_gradient(self.nodes[x.0].maps, grad))?,
        }
        let mut input = None;
        for (i, node) in self.nodes.iter().enumerate().rev() {
            let Some(dy) = grads.nodes[i].take() else { continue };
            match &node.op {
                Op::Input { also } => {
                    let grad = self.backend.store(Source { data: &dy, maps: node.maps, pre: Pre::None })?;
                    match also {
                        Some(tensor) => grads.add_param(*tensor, grad)?,
                        None => input = Some(grad),
                    }
                }
                op => self.step_back(node, op, dy, &mut grads)?,
            }
        }
        Ok((input, grads.params))
    }

    fn step_back(&self, node: &Node, op: &Op, dy: Arc<Data>, grads: &mut Gradients) -> Result<()> {
        let (b, maps) = (&self.backend, node.maps);
        match op {
            Op::Input { .. } => {}
            Op::Conv { x, w, bias, geometry, upsampled } => {
                let (n, weights) = (maps.n, &self.params[*w].detach());
                if self.params[*w].track_op() {
                    let gradient =
                        if *upsampled { Backend::upconv_weight_gradient } else { Backend::conv_weight_gradient };
                    grads.add_param(*w, gradient(&**b, geometry, self.source(*x), &dy)?)?;
                }
                if let Some(bias) = bias.filter(|&bias| self.params[bias].track_op()) {
                    grads.add_param(bias, b.channel_sums(maps, &dy)?)?;
                }
                match &self.nodes[x.0].op {
                    Op::Leaky { x, slope } if !upsampled => {
                        let (data, maps) = (self.data(*x)?, self.nodes[x.0].maps);
                        let gradient = || b.conv_leaky_gradient(geometry, &dy, weights, data, maps, *slope);
                        grads.give(self, *x, gradient)?;
                    }
                    Op::Norm { x: before, gain, shift, affine, slope }
                        if grads.readers[x.0] == 1 && self.nodes[x.0].tracked =>
                    {
                        let (data, maps) = (self.data(*before)?, self.nodes[x.0].maps);
                        let g =
                            b.conv_norm_gradients(geometry, *upsampled, &dy, weights, data, maps, affine, *slope)?;
                        drop(dy);
                        grads.give_norm(self, *before, [*gain, *shift], g)?;
                    }
                    _ => {
                        let gradient =
                            if *upsampled { Backend::upconv_input_gradient } else { Backend::conv_input_gradient };
                        grads.give(self, *x, || gradient(&**b, geometry, n, &dy, weights))?;
                    }
                }
            }
            Op::Norm { x, gain, shift, affine, slope } => {
                let g = b.norm_gradients(maps, self.data(*x)?, affine, *slope, &dy)?;
                drop(dy);
                grads.give_norm(self, *x, [*gain, *shift], g)?;
            }
            Op::Leaky { x, slope } => {
                let data = self.data(*x)?;
                grads.give(self, *x, || b.leaky_gradient(maps, data, *slope, &dy))?;
            }
            Op::Add { a, b: other, relu } => {
                let dy = match &node.data {
                    Some(y) if *relu => Arc::new(b.relu_gradient(maps, y, &dy)?),
                    _ => dy,
                };
                grads.share(self, *a, Arc::clone(&dy))?;
                grads.share(self, *other, dy)?;
            }
            Op::AvgPool { x } => grads.give(self, *x, || b.avg_pool_gradient(self.nodes[x.0].maps, &dy))?,
            Op::MaxPool { x } => grads.give(self, *x, || b.max_pool_gradient(self.source(*x), &dy))?,
            Op::Upsample { x } => grads.give(self, *x, || b.upsample_gradient(self.nodes[x.0].maps, &dy))?,
            Op::SubsamplePad { x } => {
                grads.give(self, *x, || b.subsample_pad_gradient(self.nodes[x.0].maps, maps.c, &dy))?;
            }
            Op::Attend { query, key, value } => {
                let [q, k, v] = b.attend_gradients(self.source(*query), self.source(*key), self.source(*value), &dy)?;
                grads.give(self, *query, || Ok(q))?;
                grads.give(self, *key, || Ok(k))?;
                grads.give(self, *value, || Ok(v))?;
            }
        }
        Ok(())
    }
}

/// Gradients on the way back.
struct Gradients {
    /// Of values. Shared where an addition handed the same one to both of its terms.
    nodes: Vec<Option<Arc<Data>>>,
    params: Vec<Option<Tensor>>,
    /// How many read each value.
    readers: Vec<usize>,
}

impl Gradients {
    /// Adds a gradient of `x` that is computed only if somebody wants it.
    fn give(&mut self, tape: &Tape, x: Value, gradient: impl FnOnce() -> Result<Data>) -> Result<()> {
        if tape.nodes[x.0].tracked { self.share(tape, x, Arc::new(gradient()?)) } else { Ok(()) }
    }

    /// The same, of one that others may hold too.
    fn share(&mut self, tape: &Tape, x: Value, more: Arc<Data>) -> Result<()> {
        let node = &tape.nodes[x.0];
        if !node.tracked {
            return Ok(());
        }
        let sum = match self.nodes[x.0].take() {
            None => more,
            Some(mut first) => {
                let mut second = more;
                // Into whichever of the two is nobody else's.
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

    /// The gradients of a norm of `x`.
    fn give_norm(&mut self, tape: &Tape, x: Value, [gain, shift]: [Param; 2], gradients: NormGradients) -> Result<()> {
        for (param, grad) in [(gain, gradients.dgain), (shift, gradients.dshift)] {
            if tape.params[param].track_op() {
                self.add_param(param, grad)?;
            }
        }
        self.give(tape, x, || Ok(gradients.dx))
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
