//! The record of a trunk's forward pass.
//!
//! Values are recorded as they are computed. Norms and activations are *views*: they compute nothing, and whoever reads them
//! applies them on the way (`Pre`), so the tape holds one buffer for each convolution and addition and none for what
//! lies between. The walk back along it is in `back`.

mod back;

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};

use super::backend::{Affine, Backend, Data, Geometry, Maps, Moments, Pre, Source};

/// Something on a [`Tape`]: feature maps, or a view of them through a norm or an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value(usize);

/// What a trunk gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// The maps, as (N, C, H, W).
    Maps(Value),
    /// Their sums over all positions, (N, C).
    Sums(Value),
}

/// A parameter: where among the tape's it is.
type Param = usize;

enum Op {
    /// What the trunk was given or, as a parameter, a tensor beside it.
    Input {
        also: Option<Param>,
    },
    Conv {
        x: Value,
        w: Param,
        bias: Option<Param>,
        geometry: Geometry,
        upsampled: bool,
    },
    Norm {
        x: Value,
        gain: Param,
        shift: Param,
        affine: Affine,
        slope: Option<f32>,
    },
    Leaky {
        x: Value,
        slope: f32,
    },
    Add {
        a: Value,
        b: Value,
        relu: bool,
    },
    AvgPool {
        x: Value,
    },
    MaxPool {
        x: Value,
    },
    Upsample {
        x: Value,
    },
    SubsamplePad {
        x: Value,
    },
    Attend {
        query: Value,
        key: Value,
        value: Value,
    },
}

struct Node {
    maps: Maps,
    op: Op,
    /// `None` for views.
    data: Option<Data>,
    moments: Option<Moments>,
    /// Whether a gradient is wanted of it.
    tracked: bool,
}

/// A forward pass that remembers what its gradient needs.
pub struct Tape {
    backend: Arc<dyn Backend>,
    nodes: Vec<Node>,
    params: Vec<Tensor>,
    /// The number of the first image in its batch, and how many images the batch has.
    first: usize,
    batch: usize,
    /// Whether norms have the batch's own statistics, which the convolutions in front of them take along.
    batch_statistics: bool,
    /// Whether the next convolution is in front of a norm.
    norm_follows: bool,
}

impl Op {
    /// What it reads.
    fn inputs(&self) -> impl Iterator<Item = Value> {
        let [a, b, c] = match *self {
            Op::Input { .. } => [None; 3],
            Op::Conv { x, .. }
            | Op::Norm { x, .. }
            | Op::Leaky { x, .. }
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
    pub(super) fn new(backend: Arc<dyn Backend>, first: usize, batch: usize, batch_statistics: bool) -> Self {
        Self { backend, nodes: Vec::new(), params: Vec::new(), first, batch, batch_statistics, norm_follows: false }
    }

    /// The rows of a tensor (N, ...) that belong to the images on this tape: all, unless the batch is run in pieces.
    ///
    /// # Errors
    /// Another number of rows than the batch has images.
    pub fn rows(&self, of_batch: &Tensor) -> Result<Tensor> {
        if of_batch.dims().first() != Some(&self.batch) {
            bail!("trunk: {:?} for a batch of {}", of_batch.dims(), self.batch)
        }
        match self.nodes.first() {
            Some(input) if input.maps.n != self.batch => of_batch.narrow(0, self.first, input.maps.n),
            _ => Ok(of_batch.clone()),
        }
    }

    /// x (N, C, H, W), f32: of the images on this tape.
    pub(super) fn input(&mut self, x: &Tensor) -> Result<Value> {
        self.load(x, x.track_op(), None)
    }

    /// Another tensor of the same batch, (N, C, H, W), f32. It gets a gradient as a parameter does.
    ///
    /// # Errors
    /// Another shape, type or N.
    pub fn also(&mut self, x: &Tensor) -> Result<Value> {
        let images = self.rows(&x.detach())?;
        let also = Some(self.param(x));
        self.load(&images, x.track_op(), also)
    }

    fn load(&mut self, x: &Tensor, tracked: bool, also: Option<Param>) -> Result<Value> {
        let (n, c, h, w) = x.dims4()?;
        if x.dtype() != DType::F32 || c == 0 {
            bail!("trunk: needs f32 and a channel at least, got {:?} of {:?}", x.dims(), x.dtype())
        }
        let data = self.backend.load(&x.contiguous()?)?;
        Ok(self.push(Maps { n, h, w, c }, Op::Input { also }, Some(data), None, tracked))
    }

    /// Says that a norm follows the next convolution. In [`super::Batch::Normed`] it then takes its result's moments along.
    pub fn before_norm(&mut self) -> &mut Self {
        self.norm_follows = self.batch_statistics;
        self
    }

    /// (N, C, H, W) of a value.
    pub fn dims(&self, x: Value) -> (usize, usize, usize, usize) {
        let Maps { n, h, w, c } = self.nodes[x.0].maps;
        (n, c, h, w)
    }

    /// Convolution with weights (O, I, K, K), bias (O), to (N, O, (H + 2 pad - K) / stride + 1, ...).
    ///
    /// # Errors
    /// Shapes that don't fit together.
    pub fn conv2d(&mut self, x: Value, w: &Tensor, bias: Option<&Tensor>, stride: usize, pad: usize) -> Result<Value> {
        let maps = self.nodes[x.0].maps;
        let geometry = Geometry::new("conv2d", maps, w, bias, stride, pad)?;
        let moments = std::mem::take(&mut self.norm_follows);
        let (data, moments) =
            self.backend.conv(&geometry, self.source(x), &w.detach(), detached(bias).as_ref(), moments)?;
        Ok(self.push_conv(x, w, bias, geometry, false, data, moments))
    }

    /// Nearest upsampling by 2, then convolution of stride 1: to (N, O, 2 H + 2 pad - K + 1, ...), without the larger image.
    ///
    /// # Errors
    /// Shapes that don't fit together.
    pub fn upsample2x_conv2d(&mut self, x: Value, w: &Tensor, bias: Option<&Tensor>, pad: usize) -> Result<Value> {
        let maps = self.nodes[x.0].maps;
        let larger = maps.with(2 * maps.h, 2 * maps.w, maps.c);
        let geometry = Geometry::new("upsample2x_conv2d", larger, w, bias, 1, pad)?;
        if pad + 1 > geometry.k {
            let x = self.upsample2x(x)?;
            return self.conv2d(x, w, bias, 1, pad);
        }
        let moments = std::mem::take(&mut self.norm_follows);
        let (data, moments) =
            self.backend.upconv(&geometry, self.source(x), &w.detach(), detached(bias).as_ref(), moments)?;
        Ok(self.push_conv(x, w, bias, geometry, true, data, moments))
    }

    #[expect(clippy::too_many_arguments, reason = "two callers that differ in one")]
    fn push_conv(
        &mut self,
        x: Value,
        w: &Tensor,
        bias: Option<&Tensor>,
        geometry: Geometry,
        upsampled: bool,
        data: Data,
        moments: Option<Moments>,
    ) -> Value {
        let tracked = self.nodes[x.0].tracked || w.track_op() || bias.is_some_and(Tensor::track_op);
        let (w, bias) = (self.param(w), bias.map(|b| self.param(b)));
        let maps = self.nodes[x.0].maps.with(geometry.ho, geometry.wo, geometry.cout);
        self.push(maps, Op::Conv { x, w, bias, geometry, upsampled }, Some(data), moments, tracked)
    }

    /// The moments of a value's channels over the batch. Those of a convolution's result are there already.
    ///
    /// # Errors
    /// A value that is a view or has no positions.
    pub fn moments(&self, x: Value) -> Result<Moments> {
        let node = &self.nodes[x.0];
        if node.maps.count() == 0 {
            bail!("moments: no values in {:?}", self.dims(x))
        }
        match (&node.moments, &node.data) {
            (Some(moments), _) => Ok(moments.clone()),
            (None, Some(data)) => self.backend.moments(node.maps, data),
            (None, None) => bail!("moments: of a norm or an activation"),
        }
    }

    /// Batch norm: (x - mean) / sqrt(var + eps) * gain + shift, gain and shift (C) or (N, C), and if asked the leaky relu of
    /// `slope` behind it (0: relu). When `training`, `moments` must be x's own, and gradients flow through them.
    ///
    /// # Errors
    /// Shapes that don't fit together; a value that is a view.
    #[expect(clippy::too_many_arguments, reason = "a batch norm has that many")]
    pub fn batch_norm(
        &mut self,
        x: Value,
        gain: &Tensor,
        shift: &Tensor,
        moments: &Moments,
        training: bool,
        eps: f64,
        slope: Option<f32>,
    ) -> Result<Value> {
        let node = &self.nodes[x.0];
        let maps = node.maps;
        if node.data.is_none() {
            bail!("batch_norm: of a norm or an activation")
        }
        let fits = |t: &Tensor| t.dims() == [maps.c] || t.dims() == [maps.n, maps.c];
        if !fits(gain) || gain.dims() != shift.dims() {
            bail!("batch_norm: gain {:?} and shift {:?} don't fit x {:?}", gain.dims(), shift.dims(), self.dims(x))
        }
        if moments.mean.dims() != [maps.c] || moments.var.dims() != [maps.c] {
            bail!("batch_norm: moments {:?} and {:?} for {} channels", moments.mean.dims(), moments.var.dims(), maps.c)
        }
        if training && moments.count != maps.n * maps.h * maps.w {
            bail!("batch_norm: moments of {} values for x {:?}", moments.count, self.dims(x))
        }
        let affine = self.backend.affine(moments, &gain.detach(), &shift.detach(), eps, training)?;
        let tracked = node.tracked || gain.track_op() || shift.track_op();
        let (gain, shift) = (self.param(gain), self.param(shift));
        Ok(self.push(maps, Op::Norm { x, gain, shift, affine, slope }, None, None, tracked))
    }

    /// x where positive, slope * x elsewhere; a relu with slope 0. The gradient at 0 is `slope`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn leaky_relu(&mut self, x: Value, slope: f32) -> Result<Value> {
        self.data(x)?;
        let Node { maps, tracked, .. } = self.nodes[x.0];
        Ok(self.push(maps, Op::Leaky { x, slope }, None, None, tracked))
    }

    /// a + b.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn add(&mut self, a: Value, b: Value) -> Result<Value> {
        self.sum(a, b, false)
    }

    /// relu(a + b), the end of a residual block.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn add_relu(&mut self, a: Value, b: Value) -> Result<Value> {
        self.sum(a, b, true)
    }

    fn sum(&mut self, a: Value, b: Value, relu: bool) -> Result<Value> {
        let maps = self.nodes[a.0].maps;
        if maps != self.nodes[b.0].maps {
            bail!("add: {:?} and {:?}", self.dims(a), self.dims(b))
        }
        let data = self.backend.add(self.source(a), self.source(b), relu)?;
        let tracked = self.nodes[a.0].tracked || self.nodes[b.0].tracked;
        Ok(self.push(maps, Op::Add { a, b, relu }, Some(data), None, tracked))
    }

    /// Means of 2x2 windows; an odd last row or column is dropped.
    ///
    /// # Errors
    /// Those of the device.
    pub fn avg_pool2x2(&mut self, x: Value) -> Result<Value> {
        let data = self.backend.avg_pool(self.source(x))?;
        Ok(self.resized(x, |m| m.with(m.h / 2, m.w / 2, m.c), Op::AvgPool { x }, data))
    }

    /// Maxima of 2x2 windows; an odd last row or column is dropped.
    ///
    /// # Errors
    /// Those of the device.
    pub fn max_pool2x2(&mut self, x: Value) -> Result<Value> {
        let data = self.backend.max_pool(self.source(x))?;
        Ok(self.resized(x, |m| m.with(m.h / 2, m.w / 2, m.c), Op::MaxPool { x }, data))
    }

    /// Nearest upsampling by 2.
    ///
    /// # Errors
    /// Those of the device.
    pub fn upsample2x(&mut self, x: Value) -> Result<Value> {
        let data = self.backend.upsample(self.source(x))?;
        Ok(self.resized(x, |m| m.with(2 * m.h, 2 * m.w, m.c), Op::Upsample { x }, data))
    }

    /// The parameter-free shortcut of the CIFAR ResNets (option A of He et al. 2015, arXiv 1512.03385, section 4.1): every
    /// second pixel of every second row, and zero channels on both sides, (channels - C) / 2 before (rounded down).
    ///
    /// # Errors
    /// Fewer channels than x has.
    pub fn subsample_pad(&mut self, x: Value, channels: usize) -> Result<Value> {
        let maps = self.nodes[x.0].maps;
        if channels < maps.c {
            bail!("shortcut: {channels} channels for {:?}", self.dims(x))
        }
        let data = self.backend.subsample_pad(self.source(x), channels)?;
        Ok(self.resized(x, |m| m.with(m.h.div_ceil(2), m.w.div_ceil(2), channels), Op::SubsamplePad { x }, data))
    }

    /// Attention: for each position of `query` (N, C, H, W) the mean of `value` (N, V, H', W') over positions, weighted by the
    /// softmax of query . key, `key` (N, C, H', W'); to (N, V, H, W).
    ///
    /// # Errors
    /// Shapes that don't fit together.
    pub fn attend(&mut self, query: Value, key: Value, value: Value) -> Result<Value> {
        let [q, k, v] = [query, key, value].map(|x| self.nodes[x.0].maps);
        let positions = q.h * q.w > 0 && k.h * k.w > 0;
        if q.n != k.n || q.n != v.n || q.c != k.c || (k.h, k.w) != (v.h, v.w) || !positions {
            bail!("attend: query {:?}, key {:?}, value {:?}", self.dims(query), self.dims(key), self.dims(value))
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

    /// The parameters in the order in which they were first used.
    pub(super) fn params(&self) -> &[Tensor] {
        &self.params
    }

    /// What to read for a value.
    fn source(&self, x: Value) -> Source<'_> {
        let node = &self.nodes[x.0];
        let (data, pre) = match (&node.data, &node.op) {
            (Some(data), _) => (Some(data), Pre::None),
            (None, Op::Norm { x, affine, slope, .. }) => (self.nodes[x.0].data.as_ref(), Pre::Affine(affine, *slope)),
            (None, Op::Leaky { x, slope }) => (self.nodes[x.0].data.as_ref(), Pre::Leaky(*slope)),
            (None, _) => (None, Pre::None),
        };
        // Views are made of solid values only, and all else is solid.
        let data = data.unwrap_or_else(|| unreachable!("a view of a view"));
        Source { data, maps: node.maps, pre }
    }

    fn data(&self, x: Value) -> Result<&Data> {
        match &self.nodes[x.0].data {
            Some(data) => Ok(data),
            None => bail!("a view of a view"),
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
        if let Some(known) = self.params.iter().position(|p| p.id() == tensor.id()) {
            return known;
        }
        self.params.push(tensor.clone());
        self.params.len() - 1
    }
}

fn detached(bias: Option<&Tensor>) -> Option<Tensor> {
    bias.map(Tensor::detach)
}
