//! Trunks on a GPU: convolutions by cuDNN, everything else by the kernels of [`crate::cuda`].
//!
//! Maps are Candle tensors (n, h, w, c) in the storage type. Kernels apply norms and activations as they read them. For
//! convolutions and attention, a separate kernel applies them first.

mod attention;
mod norm;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::activation::Activation;
use crate::cuda::{Arg, Engine, Grid, Product};
use crate::geometry::{Geometry, Maps};
use crate::precision::Precision;
use crate::trunk::backend::{Affine, Backend, Data, Moments, NormGradients, Pre, Source};

/// The backend for a CUDA device.
pub(super) fn backend(device: &Device, precision: Precision) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(Cuda { engine: Engine::of(device)?, precision }))
}

/// Trunks on one GPU in one precision.
struct Cuda {
    engine: Arc<Engine>,
    precision: Precision,
}

/// Number of channels that a thread processes at once, if it divides all channel counts.
const PACK: usize = 4;

impl Cuda {
    /// The storage type of maps.
    fn dtype(&self) -> DType {
        if self.precision == Precision::Bf16 { DType::BF16 } else { DType::F32 }
    }

    fn empty(&self, maps: Maps) -> Result<Tensor> {
        self.engine.empty(&[maps.n, maps.h, maps.w, maps.c], self.dtype())
    }

    fn floats(&self, shape: &[usize]) -> Result<Tensor> {
        self.engine.empty(shape, DType::F32)
    }

    /// The name of a kernel's variant for maps with these numbers of channels, and how many channels it processes at once.
    fn variant(&self, kernel: &str, channels: &[usize]) -> (String, usize) {
        let pack = if channels.iter().all(|c| c % PACK == 0) { PACK } else { 1 };
        let kind = if self.precision == Precision::Bf16 { "bf16" } else { "f32" };
        (format!("{kernel}_{kind}_{pack}"), pack)
    }

    /// Launches a kernel that computes `count` values. Packs must divide all numbers in `channels`.
    fn launch(&self, kernel: &str, count: usize, channels: &[usize], args: &[Arg<'_>]) -> Result<()> {
        let (name, pack) = self.variant(kernel, channels);
        self.engine.launch(&name, Grid::each(count / pack), args)
    }

    /// Maps with their prologue applied.
    fn materialize(&self, x: Source<'_>) -> Result<Tensor> {
        let data = tensor(x.data)?;
        let maps = x.maps;
        if matches!(x.pre, Pre::None) {
            return Ok(data.clone());
        }
        let out = self.empty(maps)?;
        let args = [Arg::T(&out), Arg::T(data), shape(maps), pre(x.pre)];
        self.launch("apply", maps.count(), &[maps.c], &args)?;
        Ok(out)
    }

    /// Weights (cout, cin, k, k) in the form for cuDNN: channels last, in the storage type.
    fn pack_weights(&self, w: &Tensor) -> Result<Tensor> {
        let w = w.contiguous()?;
        let (cout, cin, k, _) = w.dims4()?;
        let out = self.engine.empty(&[cout, k, k, cin], self.dtype())?;
        let sizes = [cout, cin, k * k].map(|size| Arg::U(size as u32));
        self.launch("pack_weights", w.elem_count(), &[1], &[&[Arg::T(&out), Arg::T(&w)], &sizes[..]].concat())?;
        Ok(out)
    }

    /// A convolution of maps without prologue.
    fn convolve(
        &self,
        g: &Geometry,
        x: &Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
        moments: bool,
    ) -> Result<(Data, Option<Moments>)> {
        let maps = Maps { n: x.dim(0)?, h: g.ho, w: g.wo, c: g.cout };
        let y = self.empty(maps)?;
        self.engine.convolve(Product::Forward, g, self.precision, [x, &self.pack_weights(w)?, &y])?;
        if let Some(bias) = bias {
            let args = [Arg::T(&y), Arg::T(bias), shape(maps)];
            self.launch("add_bias", maps.count(), &[maps.c], &args)?;
        }
        let data = Data::Tensor(y);
        let moments = if moments { Some(self.moments(maps, &data)?) } else { None };
        Ok((data, moments))
    }

    fn input_gradient(&self, g: &Geometry, n: usize, dy: &Data, w: &Tensor) -> Result<Tensor> {
        let dx = self.empty(Maps { n, h: g.h, w: g.w, c: g.cin })?;
        self.engine.convolve(Product::Input, g, self.precision, [&dx, &self.pack_weights(w)?, tensor(dy)?])?;
        Ok(dx)
    }

    fn weight_gradient(&self, g: &Geometry, x: &Tensor, dy: &Data) -> Result<Tensor> {
        let dw = self.engine.empty(&[g.cout, g.k, g.k, g.cin], self.dtype())?;
        self.engine.convolve(Product::Weights, g, self.precision, [x, &dw, tensor(dy)?])?;
        let out = self.floats(&[g.cout, g.cin, g.k, g.k])?;
        let sizes = [g.cout, g.cin, g.k * g.k].map(|size| Arg::U(size as u32));
        self.launch("unpack_weights", out.elem_count(), &[1], &[&[Arg::T(&out), Arg::T(&dw)], &sizes[..]].concat())?;
        Ok(out)
    }

    /// `factor` times the 2x2 sums of x.
    fn gather2x2(&self, x: Source<'_>, factor: f32) -> Result<Tensor> {
        let maps = x.maps;
        let small = maps.with(maps.h / 2, maps.w / 2, maps.c);
        let out = self.empty(small)?;
        let args = [Arg::T(&out), Arg::T(tensor(x.data)?), shape(maps), pre(x.pre), Arg::F(factor)];
        self.launch("gather2x2", small.count(), &[maps.c], &args)?;
        Ok(out)
    }

    /// `factor` times each pixel of x, on its 2x2 pixels of `maps`.
    fn spread2x2(&self, maps: Maps, data: &Data, prologue: Pre<'_>, factor: f32) -> Result<Tensor> {
        let out = self.empty(maps)?;
        let args = [Arg::T(&out), Arg::T(tensor(data)?), shape(maps), pre(prologue), Arg::F(factor)];
        self.launch("spread2x2", maps.count(), &[maps.c], &args)?;
        Ok(out)
    }

    /// The gradient of the activation at x, times dy.
    fn mask(&self, maps: Maps, x: &Data, activation: Activation, dy: &Data) -> Result<Data> {
        let dx = self.empty(maps)?;
        let args =
            [Arg::T(&dx), Arg::T(tensor(x)?), Arg::T(tensor(dy)?), pre(Pre::Activation(activation)), shape(maps)];
        self.launch("mask", maps.count(), &[maps.c], &args)?;
        Ok(Data::Tensor(dx))
    }
}

impl Backend for Cuda {
    fn load(&self, x: &Tensor) -> Result<Data> {
        let (n, c, h, w) = x.dims4()?;
        let maps = Maps { n, h, w, c };
        let out = self.empty(maps)?;
        self.launch("load", maps.count(), &[c], &[Arg::T(&out), Arg::T(x), shape(maps)])?;
        Ok(Data::Tensor(out))
    }

    fn store(&self, x: Source<'_>) -> Result<Tensor> {
        let maps = x.maps;
        let out = self.floats(&[maps.n, maps.c, maps.h, maps.w])?;
        let args = [Arg::T(&out), Arg::T(tensor(x.data)?), shape(maps), pre(x.pre)];
        self.launch("store", maps.count(), &[maps.c], &args)?;
        Ok(out)
    }

    fn conv(
        &self,
        g: &Geometry,
        x: Source<'_>,
        w: &Tensor,
        bias: Option<&Tensor>,
        moments: bool,
    ) -> Result<(Data, Option<Moments>)> {
        self.convolve(g, &self.materialize(x)?, w, bias, moments)
    }

    fn conv_input_gradient(&self, g: &Geometry, n: usize, dy: &Data, w: &Tensor) -> Result<Data> {
        self.input_gradient(g, n, dy, w).map(Data::Tensor)
    }

    fn conv_weight_gradient(&self, g: &Geometry, x: Source<'_>, dy: &Data) -> Result<Tensor> {
        self.weight_gradient(g, &self.materialize(x)?, dy)
    }

    fn upconv(
        &self,
        g: &Geometry,
        x: Source<'_>,
        w: &Tensor,
        bias: Option<&Tensor>,
        moments: bool,
    ) -> Result<(Data, Option<Moments>)> {
        let larger = self.spread2x2(x.maps.with(g.h, g.w, g.cin), x.data, x.pre, 1.0)?;
        self.convolve(g, &larger, w, bias, moments)
    }

    fn upconv_input_gradient(&self, g: &Geometry, n: usize, dy: &Data, w: &Tensor) -> Result<Data> {
        let larger = Data::Tensor(self.input_gradient(g, n, dy, w)?);
        let maps = Maps { n, h: g.h, w: g.w, c: g.cin };
        self.gather2x2(Source { data: &larger, maps, pre: Pre::None }, 1.0).map(Data::Tensor)
    }

    fn upconv_weight_gradient(&self, g: &Geometry, x: Source<'_>, dy: &Data) -> Result<Tensor> {
        let larger = self.spread2x2(x.maps.with(g.h, g.w, g.cin), x.data, x.pre, 1.0)?;
        self.weight_gradient(g, &larger, dy)
    }

    fn channel_sums(&self, maps: Maps, dy: &Data) -> Result<Tensor> {
        self.group_sums(Source { data: dy, maps, pre: Pre::None }, 1)?.flatten_all()
    }

    fn moments(&self, maps: Maps, x: &Data) -> Result<Moments> {
        self.batch_moments(maps, x)
    }

    fn affine(&self, moments: &Moments, gain: &Tensor, shift: &Tensor, eps: f64, training: bool) -> Result<Affine> {
        self.fold_norm(moments, gain, shift, eps, training)
    }

    fn norm_gradients(
        &self,
        maps: Maps,
        x: &Data,
        affine: &Affine,
        activation: Option<Activation>,
        dy: &Data,
    ) -> Result<NormGradients> {
        self.norm_backward(maps, tensor(x)?, affine, activation, tensor(dy)?)
    }

    fn activation_gradient(&self, maps: Maps, x: &Data, activation: Activation, dy: &Data) -> Result<Data> {
        self.mask(maps, x, activation, dy)
    }

    fn add(&self, a: Source<'_>, b: Source<'_>, relu: bool) -> Result<Data> {
        let maps = a.maps;
        let out = self.empty(maps)?;
        let terms = [Arg::T(tensor(a.data)?), pre(a.pre), Arg::T(tensor(b.data)?), pre(b.pre)];
        let args = [&[Arg::T(&out)], &terms[..], &[shape(maps), Arg::U(u32::from(relu))]].concat();
        self.launch("add", maps.count(), &[maps.c], &args)?;
        Ok(Data::Tensor(out))
    }

    fn relu_gradient(&self, maps: Maps, y: &Data, dy: &Data) -> Result<Data> {
        self.mask(maps, y, Activation::RELU, dy)
    }

    fn accumulate(&self, maps: Maps, sum: &mut Data, more: &Data) -> Result<()> {
        let args = [Arg::T(tensor(sum)?), Arg::T(tensor(more)?), shape(maps)];
        self.launch("accumulate", maps.count(), &[maps.c], &args)
    }

    fn avg_pool(&self, x: Source<'_>) -> Result<Data> {
        self.gather2x2(x, 0.25).map(Data::Tensor)
    }

    fn avg_pool_gradient(&self, maps: Maps, dy: &Data) -> Result<Data> {
        self.spread2x2(maps, dy, Pre::None, 0.25).map(Data::Tensor)
    }

    fn max_pool(&self, x: Source<'_>) -> Result<Data> {
        let maps = x.maps;
        let small = maps.with(maps.h / 2, maps.w / 2, maps.c);
        let out = self.empty(small)?;
        let args = [Arg::T(&out), Arg::T(tensor(x.data)?), shape(maps), pre(x.pre)];
        self.launch("max_pool", small.count(), &[maps.c], &args)?;
        Ok(Data::Tensor(out))
    }

    fn max_pool_gradient(&self, x: Source<'_>, dy: &Data) -> Result<Data> {
        let maps = x.maps;
        let dx = self.empty(maps)?;
        let args = [Arg::T(&dx), Arg::T(tensor(x.data)?), Arg::T(tensor(dy)?), shape(maps), pre(x.pre)];
        // One thread for each window, and for what an odd last row or column leaves of one.
        let windows = maps.with(maps.h.div_ceil(2), maps.w.div_ceil(2), maps.c);
        self.launch("max_pool_gradient", windows.count(), &[maps.c], &args)?;
        Ok(Data::Tensor(dx))
    }

    fn upsample(&self, x: Source<'_>) -> Result<Data> {
        let maps = x.maps;
        self.spread2x2(maps.with(2 * maps.h, 2 * maps.w, maps.c), x.data, x.pre, 1.0).map(Data::Tensor)
    }

    fn upsample_gradient(&self, maps: Maps, dy: &Data) -> Result<Data> {
        let larger = maps.with(2 * maps.h, 2 * maps.w, maps.c);
        self.gather2x2(Source { data: dy, maps: larger, pre: Pre::None }, 1.0).map(Data::Tensor)
    }

    fn subsample_pad(&self, x: Source<'_>, channels: usize) -> Result<Data> {
        let maps = x.maps;
        let small = maps.with(maps.h.div_ceil(2), maps.w.div_ceil(2), channels);
        let out = self.empty(small)?;
        let args = [Arg::T(&out), Arg::T(tensor(x.data)?), shape(maps), pre(x.pre), Arg::U(channels as u32)];
        self.launch("subsample", small.count(), &[maps.c, channels, (channels - maps.c) / 2], &args)?;
        Ok(Data::Tensor(out))
    }

    fn subsample_pad_gradient(&self, maps: Maps, channels: usize, dy: &Data) -> Result<Data> {
        let dx = self.empty(maps)?;
        let args = [Arg::T(&dx), Arg::T(tensor(dy)?), shape(maps), Arg::U(channels as u32)];
        let all = [maps.c, channels, (channels - maps.c) / 2];
        self.launch("subsample_gradient", maps.count(), &all, &args)?;
        Ok(Data::Tensor(dx))
    }

    fn sums(&self, x: Source<'_>) -> Result<Tensor> {
        self.group_sums(x, x.maps.n)
    }

    fn sums_gradient(&self, maps: Maps, grad: &Tensor) -> Result<Data> {
        let dx = self.empty(maps)?;
        self.launch("spread", maps.count(), &[maps.c], &[Arg::T(&dx), Arg::T(grad), shape(maps)])?;
        Ok(Data::Tensor(dx))
    }

    fn attend(&self, query: Source<'_>, key: Source<'_>, value: Source<'_>) -> Result<Data> {
        self.attention(query, key, value)
    }

    fn attend_gradients(&self, query: Source<'_>, key: Source<'_>, value: Source<'_>, dy: &Data) -> Result<[Data; 3]> {
        self.attention_gradients(query, key, value, dy)
    }
}

/// The tensor that holds maps on a GPU.
fn tensor(data: &Data) -> Result<&Tensor> {
    match data {
        Data::Tensor(tensor) => Ok(tensor),
        _ => bail!("trunk: these maps belong to the CPU backend"),
    }
}

fn shape(maps: Maps) -> Arg<'static> {
    Arg::Maps([maps.n, maps.h, maps.w, maps.c].map(|size| size as u32))
}

fn pre(pre: Pre<'_>) -> Arg<'_> {
    match pre {
        Pre::None => Arg::Pre { affine: None, activation: None },
        Pre::Activation(activation) => Arg::Pre { affine: None, activation: Some(activation) },
        Pre::Affine(affine, activation) => Arg::Pre { affine: Some((&affine.scale, &affine.offset)), activation },
    }
}
