//! The record of a trunk's forward pass.
//!
//! Values are computed as they are recorded. Norms and activations are *views*: they compute nothing, and the ops that read
//! them apply them during the read (`Pre`). So the tape holds one buffer for each convolution and addition, and none for
//! the views in between. The backward pass is in `backward`.

mod backward;

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};

use crate::activation::Activation;

use super::backend::{Affine, Backend, Data, Moments, Pre, Source};
use crate::geometry::{Geometry, Maps};

/// A value on a [`Tape`]: feature maps, or a view of them through a norm or an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value(usize);

/// The result of a trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// The maps, as (N, C, H, W).
    Maps(Value),
    /// The sums of the maps over all positions, (N, C).
    Sums(Value),
}

/// The index of a parameter on the tape.
type Param = usize;

/// An op and what it reads. `Input` is the trunk's input or, with `param`, another tensor of the same batch.
enum Op {
    Input { param: Option<Param> },
    Conv { x: Value, w: Param, bias: Option<Param>, geometry: Geometry, upsampled: bool },
    Norm { x: Value, gain: Param, shift: Param, affine: Affine, activation: Option<Activation> },
    Activation { x: Value, activation: Activation },
    Add { a: Value, b: Value, relu: bool },
    AvgPool { x: Value },
    MaxPool { x: Value },
    Upsample { x: Value },
    SubsamplePad { x: Value },
    Attend { query: Value, key: Value, value: Value },
}

struct Node {
    maps: Maps,
    op: Op,
    /// `None` for views.
    data: Option<Data>,
    moments: Option<Moments>,
    /// Whether its gradient is needed.
    tracked: bool,
}

/// The record of a forward pass, with everything that its backward pass needs.
pub struct Tape {
    backend: Arc<dyn Backend>,
    nodes: Vec<Node>,
    params: Vec<Tensor>,
    /// Index of the tape's first image in the batch.
    first: usize,
    /// Number of images in the batch.
    batch: usize,
    /// Whether convolutions in front of a norm compute the moments of their results.
    fused_moments: bool,
    /// Whether the next convolution is in front of a norm.
    norm_follows: bool,
}

impl Op {
    /// The values that the op reads.
    fn inputs(&self) -> impl Iterator<Item = Value> {
        let [a, b, c] = match *self {
            Op::Input { .. } => [None; 3],
            Op::Conv { x, .. }
            | Op::Norm { x, .. }
            | Op::Activation { x, .. }
            | Op::AvgPool { x }
            | Op::MaxPool { x }
            | Op::Upsample { x }
            | Op::SubsamplePad { x } => [Some(x), None, None],
            Op::Add { a, b, .. } => [Some(a), Some(b), None],
            Op::Attend { query, key, value } => [Some(query), Some(key), Some(value)],
        };
        [a, b, c].into_iter().flatten()
    }
}

impl Tape {
    pub(super) fn new(backend: Arc<dyn Backend>, first: usize, batch: usize, fused_moments: bool) -> Self {
        Self { backend, nodes: Vec::new(), params: Vec::new(), first, batch, fused_moments, norm_follows: false }
    }

    /// The rows of a tensor (N, ...) that belong to the images on this tape. With [`super::Batch::Pieces`] these are some of
    /// the rows, else all.
    ///
    /// # Errors
    /// A number of rows other than the number of images in the batch.
    pub fn rows(&self, of_batch: &Tensor) -> Result<Tensor> {
        if of_batch.dims().first() != Some(&self.batch) {
            bail!("trunk: expected {} rows, one for each image, found a tensor {:?}", self.batch, of_batch.dims())
        }
        match self.nodes.first() {
            Some(input) if input.maps.n != self.batch => of_batch.narrow(0, self.first, input.maps.n),
            _ => Ok(of_batch.clone()),
        }
    }

    /// Records x (N, C, H, W), f32, the images on this tape.
    pub(super) fn input(&mut self, x: &Tensor) -> Result<Value> {
        self.load(x, x.track_op(), None)
    }

    /// Records another tensor of the same batch, (N, C, H, W), f32. It receives a gradient like a parameter.
    ///
    /// # Errors
    /// Another shape, type or N.
    pub fn extra_input(&mut self, x: &Tensor) -> Result<Value> {
        let images = self.rows(&x.detach())?;
        let param = Some(self.param(x));
        self.load(&images, x.track_op(), param)
    }

    fn load(&mut self, x: &Tensor, tracked: bool, param: Option<Param>) -> Result<Value> {
        let (n, c, h, w) = x.dims4()?;
        if x.dtype() != DType::F32 || c == 0 {
            bail!("trunk: expected f32 with at least one channel, found {:?} of type {:?}", x.dims(), x.dtype())
        }
        let data = self.backend.load(&x.contiguous()?)?;
        Ok(self.push(Maps { n, h, w, c }, Op::Input { param }, Some(data), None, tracked))
    }

    /// Announces that a norm follows the next convolution. With [`super::Batch::FusedMoments`] that convolution computes the
    /// moments of its result along the way.
    pub fn before_norm(&mut self) -> &mut Self {
        self.norm_follows = self.fused_moments;
        self
    }

    /// The convolutions so far, and the number of images.
    pub(super) fn convolutions(&self) -> impl Iterator<Item = (&Geometry, usize)> {
        self.nodes.iter().filter_map(|node| match &node.op {
            Op::Conv { geometry, .. } => Some((geometry, node.maps.n)),
            _ => None,
        })
    }

    /// The shape (N, C, H, W) of a value.
    pub fn dims(&self, x: Value) -> (usize, usize, usize, usize) {
        let Maps { n, h, w, c } = self.nodes[x.0].maps;
        (n, c, h, w)
    }

    /// Convolution (cross-correlation) with weights (O, I, K, K) and bias (O), to (N, O, (H + 2 pad - K) / stride + 1, ...),
    /// rounded down.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn conv2d(&mut self, x: Value, w: &Tensor, bias: Option<&Tensor>, stride: usize, pad: usize) -> Result<Value> {
        let geometry = Geometry::new("conv2d", self.nodes[x.0].maps, w, bias, stride, pad)?;
        self.conv(x, w, bias, geometry, false)
    }

    /// Nearest upsampling by 2 followed by a convolution of stride 1, to (N, O, 2 H + 2 pad - K + 1, ...), without storing the
    /// upsampled maps.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn upsample2x_conv2d(&mut self, x: Value, w: &Tensor, bias: Option<&Tensor>, pad: usize) -> Result<Value> {
        let maps = self.nodes[x.0].maps;
        let larger = maps.with(2 * maps.h, 2 * maps.w, maps.c);
        let geometry = Geometry::new("upsample2x_conv2d", larger, w, bias, 1, pad)?;
        if pad + 1 > geometry.k {
            let x = self.upsample2x(x)?;
            return self.conv2d(x, w, bias, 1, pad);
        }
        self.conv(x, w, bias, geometry, true)
    }

    fn conv(
        &mut self,
        x: Value,
        w: &Tensor,
        bias: Option<&Tensor>,
        geometry: Geometry,
        upsampled: bool,
    ) -> Result<Value> {
        let moments = std::mem::take(&mut self.norm_follows);
        let detached = bias.map(Tensor::detach);
        let (data, moments) =
            self.backend.conv(&geometry, upsampled, self.source(x), &w.detach(), detached.as_ref(), moments)?;
        let tracked = self.nodes[x.0].tracked || w.track_op() || bias.is_some_and(Tensor::track_op);
        let w = self.param(w);
        let bias = bias.map(|b| self.param(b));
        let maps = self.nodes[x.0].maps.with(geometry.ho, geometry.wo, geometry.cout);
        Ok(self.push(maps, Op::Conv { x, w, bias, geometry, upsampled }, Some(data), moments, tracked))
    }

    /// The moments of a value's channels over the batch.
    ///
    /// # Errors
    /// A value that is a view or has no positions.
    pub fn moments(&self, x: Value) -> Result<Moments> {
        let node = &self.nodes[x.0];
        if node.maps.count() == 0 {
            bail!("moments: no values in {:?}", self.dims(x))
        }
        match &node.moments {
            Some(moments) => Ok(moments.clone()),
            None => self.backend.moments(node.maps, self.data("moments", x)?),
        }
    }

    /// Batch norm, (x - mean) / sqrt(var + eps) * gain + shift, followed by the activation if given.
    /// Gain and shift are (C), or (N, C) for conditional batch norm. When `training`, `moments` must be those of x itself, and
    /// gradients flow through them.
    ///
    /// # Errors
    /// Shapes that do not fit together; a value that is a view.
    #[expect(clippy::too_many_arguments, reason = "the arguments of a batch norm")]
    pub fn batch_norm(
        &mut self,
        x: Value,
        gain: &Tensor,
        shift: &Tensor,
        moments: &Moments,
        training: bool,
        eps: f64,
        activation: Option<Activation>,
    ) -> Result<Value> {
        self.data("batch_norm", x)?;
        let node = &self.nodes[x.0];
        let maps = node.maps;
        let fits = |t: &Tensor| t.dims() == [maps.c] || t.dims() == [maps.n, maps.c];
        if !fits(gain) || gain.dims() != shift.dims() {
            bail!("batch_norm: gain {:?} and shift {:?} don't fit x {:?}", gain.dims(), shift.dims(), self.dims(x))
        }
        if moments.mean.dims() != [maps.c] || moments.var.dims() != [maps.c] {
            bail!(
                "batch_norm: moments {:?} and {:?} don't fit {} channels",
                moments.mean.dims(),
                moments.var.dims(),
                maps.c
            )
        }
        if training && moments.count != maps.n * maps.h * maps.w {
            bail!("batch_norm: moments of {} values don't fit x {:?}", moments.count, self.dims(x))
        }
        let affine = self.backend.affine(moments, &gain.detach(), &shift.detach(), eps, training)?;
        let tracked = node.tracked || gain.track_op() || shift.track_op();
        let gain = self.param(gain);
        let shift = self.param(shift);
        Ok(self.push(maps, Op::Norm { x, gain, shift, affine, activation }, None, None, tracked))
    }

    /// An activation of x.
    ///
    /// # Errors
    /// A value that is a view.
    pub fn activation(&mut self, x: Value, activation: Activation) -> Result<Value> {
        self.data("activation", x)?;
        let Node { maps, tracked, .. } = self.nodes[x.0];
        Ok(self.push(maps, Op::Activation { x, activation }, None, None, tracked))
    }

    /// a + b.
    ///
    /// # Errors
    /// Different shapes.
    pub fn add(&mut self, a: Value, b: Value) -> Result<Value> {
        self.sum(a, b, false)
    }

    /// relu(a + b), the end of a residual block.
    ///
    /// # Errors
    /// Different shapes.
    pub fn add_relu(&mut self, a: Value, b: Value) -> Result<Value> {
        self.sum(a, b, true)
    }

    fn sum(&mut self, a: Value, b: Value, relu: bool) -> Result<Value> {
        let maps = self.nodes[a.0].maps;
        if maps != self.nodes[b.0].maps {
            bail!("add: shapes {:?} and {:?} differ", self.dims(a), self.dims(b))
        }
        let data = self.backend.add(self.source(a), self.source(b), relu)?;
        let tracked = self.nodes[a.0].tracked || self.nodes[b.0].tracked;
        Ok(self.push(maps, Op::Add { a, b, relu }, Some(data), None, tracked))
    }

    /// Means of 2x2 windows; an odd last row or column is dropped.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn avg_pool2x2(&mut self, x: Value) -> Result<Value> {
        let data = self.backend.avg_pool(self.source(x))?;
        Ok(self.resized(x, |m| m.with(m.h / 2, m.w / 2, m.c), Op::AvgPool { x }, data))
    }

    /// Maxima of 2x2 windows; an odd last row or column is dropped.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn max_pool2x2(&mut self, x: Value) -> Result<Value> {
        let data = self.backend.max_pool(self.source(x))?;
        Ok(self.resized(x, |m| m.with(m.h / 2, m.w / 2, m.c), Op::MaxPool { x }, data))
    }

    /// Nearest upsampling by 2.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn upsample2x(&mut self, x: Value) -> Result<Value> {
        let data = self.backend.upsample(self.source(x))?;
        Ok(self.resized(x, |m| m.with(2 * m.h, 2 * m.w, m.c), Op::Upsample { x }, data))
    }

    /// The parameter-free shortcut of the CIFAR ResNets (option A of He et al. 2015, arXiv 1512.03385, section 4.1): every
    /// second pixel of every second row, and zero channels on both sides, (channels - C) / 2 of them before, rounded down.
    ///
    /// # Errors
    /// Fewer channels than x has.
    pub fn subsample_pad(&mut self, x: Value, channels: usize) -> Result<Value> {
        let maps = self.nodes[x.0].maps;
        if channels < maps.c {
            bail!("subsample_pad: {channels} channels are fewer than those of {:?}", self.dims(x))
        }
        let data = self.backend.subsample_pad(self.source(x), channels)?;
        Ok(self.resized(x, |m| m.with(m.h.div_ceil(2), m.w.div_ceil(2), channels), Op::SubsamplePad { x }, data))
    }

    /// Attention of `query` (N, C, H, W) over `key` (N, C, H', W') and `value` (N, V, H', W'), to (N, V, H, W): for each
    /// query position, the mean of `value` over positions, weighted by the softmax of query . key.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn attend(&mut self, query: Value, key: Value, value: Value) -> Result<Value> {
        let [q, k, v] = [query, key, value].map(|x| self.nodes[x.0].maps);
        let positions = q.h * q.w > 0 && k.h * k.w > 0;
        if q.n != k.n || q.n != v.n || q.c != k.c || (k.h, k.w) != (v.h, v.w) || !positions {
            bail!(
                "attend: query {:?}, key {:?} and value {:?} don't fit together",
                self.dims(query),
                self.dims(key),
                self.dims(value)
            )
        }
        let data = self.backend.attend(self.source(query), self.source(key), self.source(value))?;
        let tracked = [query, key, value].iter().any(|x| self.nodes[x.0].tracked);
        Ok(self.push(q.with(q.h, q.w, v.c), Op::Attend { query, key, value }, Some(data), None, tracked))
    }

    /// The trunk's result, as f32.
    pub(super) fn output(&self, output: Output) -> Result<Tensor> {
        match output {
            Output::Maps(x) => self.backend.store(self.source(x)),
            Output::Sums(x) => self.backend.sums(self.source(x)),
        }
    }

    /// The parameters in the order of their first use.
    pub(super) fn params(&self) -> &[Tensor] {
        &self.params
    }

    /// The maps and the prologue to read a value by.
    fn source(&self, x: Value) -> Source<'_> {
        let node = &self.nodes[x.0];
        let (data, pre) = match (&node.data, &node.op) {
            (Some(data), _) => (Some(data), Pre::None),
            (None, Op::Norm { x, affine, activation, .. }) => {
                (self.nodes[x.0].data.as_ref(), Pre::Affine(affine, *activation))
            }
            (None, Op::Activation { x, activation }) => (self.nodes[x.0].data.as_ref(), Pre::Activation(*activation)),
            (None, _) => (None, Pre::None),
        };
        // A value without data is a view, and the value under a view always has data: see `batch_norm` and `activation`.
        let data = data.unwrap_or_else(|| unreachable!("a view of a view"));
        Source { data, maps: node.maps, pre }
    }

    /// The maps of a value that is not a view. `op` names the caller in errors.
    fn data(&self, op: &str, x: Value) -> Result<&Data> {
        match &self.nodes[x.0].data {
            Some(data) => Ok(data),
            None => {
                bail!("{op}: x is a norm or an activation; expected a convolution, an addition or another stored value")
            }
        }
    }

    fn resized(&mut self, x: Value, shape: impl Fn(Maps) -> Maps, op: Op, data: Data) -> Value {
        let Node { maps, tracked, .. } = self.nodes[x.0];
        self.push(shape(maps), op, Some(data), None, tracked)
    }

    fn push(&mut self, maps: Maps, op: Op, data: Option<Data>, moments: Option<Moments>, tracked: bool) -> Value {
        self.nodes.push(Node { maps, op, data, moments, tracked });
        Value(self.nodes.len() - 1)
    }

    fn param(&mut self, tensor: &Tensor) -> Param {
        if let Some(index) = self.params.iter().position(|p| p.id() == tensor.id()) {
            return index;
        }
        self.params.push(tensor.clone());
        self.params.len() - 1
    }
}
