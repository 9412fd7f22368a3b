//! Trunks on a GPU: convolutions by cuDNN, everything else by the kernels of [`crate::cuda`].
//!
//! Maps are Candle tensors (n, h, w, c) in the storage type. Kernels apply norms and activations as they read them. For
//! convolutions and attention, a separate kernel applies them first.

mod attention;
mod sums;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::activation::Activation;
use crate::cuda::{Arg, Engine, Grid, Product};
use crate::geometry::{Geometry, Maps};
use crate::precision::Precision;
use crate::trunk::backend::{Affine, Backend, Data, Moments, NormGradients, Pre, Source};
use attention::product;
use sums::Partials;

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

    /// The maps that a kernel computes value by value; `args` are its arguments behind the result.
    fn computed(&self, kernel: &str, maps: Maps, channels: &[usize], args: &[Arg<'_>]) -> Result<Tensor> {
        let out = self.empty(maps)?;
        self.launch(kernel, maps.count(), channels, &[&[Arg::T(&out)], args].concat())?;
        Ok(out)
    }

    /// Maps with their prologue applied.
    fn materialize(&self, x: Source<'_>) -> Result<Tensor> {
        let data = tensor(x.data)?;
        let maps = x.maps;
        if matches!(x.pre, Pre::None) {
            return Ok(data.clone());
        }
        self.computed("apply", maps, &[maps.c], &[Arg::T(data), shape(maps), pre(x.pre)])
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

    /// What the convolution `g` multiplies: x with its prologue applied, and upsampled if `upsampled`.
    fn conv_input(&self, g: &Geometry, upsampled: bool, x: Source<'_>) -> Result<Tensor> {
        if upsampled { self.spread2x2(x.maps.with(g.h, g.w, g.cin), x.data, x.pre, 1.0) } else { self.materialize(x) }
    }

    /// `factor` times the 2x2 sums of x.
    fn gather2x2(&self, x: Source<'_>, factor: f32) -> Result<Data> {
        let maps = x.maps;
        let small = maps.with(maps.h / 2, maps.w / 2, maps.c);
        let args = [Arg::T(tensor(x.data)?), shape(maps), pre(x.pre), Arg::F(factor)];
        self.computed("gather2x2", small, &[maps.c], &args).map(Data::Tensor)
    }

    /// `factor` times each pixel of x, on its 2x2 pixels of `maps`.
    fn spread2x2(&self, maps: Maps, data: &Data, prologue: Pre<'_>, factor: f32) -> Result<Tensor> {
        let args = [Arg::T(tensor(data)?), shape(maps), pre(prologue), Arg::F(factor)];
        self.computed("spread2x2", maps, &[maps.c], &args)
    }
}

impl Backend for Cuda {
    fn load(&self, x: &Tensor) -> Result<Data> {
        let (n, c, h, w) = x.dims4()?;
        let maps = Maps { n, h, w, c };
        self.computed("load", maps, &[c], &[Arg::T(x), shape(maps)]).map(Data::Tensor)
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
        upsampled: bool,
        x: Source<'_>,
        w: &Tensor,
        bias: Option<&Tensor>,
        moments: bool,
    ) -> Result<(Data, Option<Moments>)> {
        let maps = x.maps.with(g.ho, g.wo, g.cout);
        let x = self.conv_input(g, upsampled, x)?;
        let y = self.empty(maps)?;
        self.engine.convolve(Product::Forward, g, self.precision, [&x, &self.pack_weights(w)?, &y])?;
        if let Some(bias) = bias {
            let args = [Arg::T(&y), Arg::T(bias), shape(maps)];
            self.launch("add_bias", maps.count(), &[maps.c], &args)?;
        }
        let data = Data::Tensor(y);
        let moments = if moments { Some(self.moments(maps, &data)?) } else { None };
        Ok((data, moments))
    }

    fn conv_input_gradient(&self, g: &Geometry, upsampled: bool, dy: &Data, w: &Tensor) -> Result<Data> {
        let dy = tensor(dy)?;
        let maps = Maps { n: dy.dim(0)?, h: g.h, w: g.w, c: g.cin };
        let dx = self.empty(maps)?;
        self.engine.convolve(Product::Input, g, self.precision, [&dx, &self.pack_weights(w)?, dy])?;
        let dx = Data::Tensor(dx);
        if upsampled {
            return self.gather2x2(Source { data: &dx, maps, pre: Pre::None }, 1.0);
        }
        Ok(dx)
    }

    fn conv_weight_gradient(&self, g: &Geometry, upsampled: bool, x: Source<'_>, dy: &Data) -> Result<Tensor> {
        let x = self.conv_input(g, upsampled, x)?;
        let dw = self.engine.empty(&[g.cout, g.k, g.k, g.cin], self.dtype())?;
        self.engine.convolve(Product::Weights, g, self.precision, [&x, &dw, tensor(dy)?])?;
        let out = self.floats(&[g.cout, g.cin, g.k, g.k])?;
        let sizes = [g.cout, g.cin, g.k * g.k].map(|size| Arg::U(size as u32));
        self.launch("unpack_weights", out.elem_count(), &[1], &[&[Arg::T(&out), Arg::T(&dw)], &sizes[..]].concat())?;
        Ok(out)
    }

    fn channel_sums(&self, maps: Maps, dy: &Data) -> Result<Tensor> {
        self.group_sums(Source { data: dy, maps, pre: Pre::None }, 1)?.flatten_all()
    }

    fn moments(&self, maps: Maps, x: &Data) -> Result<Moments> {
        let x = tensor(x)?;
        let count = maps.count() / maps.c;
        let Partials { partial, splits, channels } = self.partial_sums("moments", maps, 1, &[x], &[])?;
        let mean = self.floats(&[maps.c])?;
        let var = self.floats(&[maps.c])?;
        let (name, _) = self.variant("fold_moments", &[1]);
        let given = [Arg::T(&mean), Arg::T(&var), Arg::T(&partial), Arg::T(x)];
        let args = [&given[..], &[splits, channels, Arg::D(count as f64)]].concat();
        self.engine.launch(&name, Grid::columns(maps.c, 1), &args)?;
        Ok(Moments { mean, var, count })
    }

    fn affine(&self, moments: &Moments, gain: &Tensor, shift: &Tensor, eps: f64, training: bool) -> Result<Affine> {
        let gain = gain.contiguous()?;
        let shift = shift.contiguous()?;
        let channels = moments.mean.elem_count();
        let groups = gain.elem_count() / channels;
        let scale = self.floats(gain.dims())?;
        let offset = self.floats(gain.dims())?;
        let mean = moments.mean.contiguous()?.detach();
        let inv = self.floats(&[channels])?;
        let var = moments.var.contiguous()?;
        let made = [Arg::T(&scale), Arg::T(&offset), Arg::T(&inv)];
        let given = [Arg::T(&mean), Arg::T(&var), Arg::T(&gain), Arg::T(&shift), Arg::F(eps as f32)];
        let args = [&made[..], &given[..], &[Arg::U(groups as u32), Arg::U(channels as u32)]].concat();
        self.engine.launch("affine", Grid::each(groups * channels), &args)?;
        Ok(Affine { scale, offset, mean, inv, training })
    }

    fn norm_gradients(
        &self,
        maps: Maps,
        x: &Data,
        affine: &Affine,
        activation: Option<Activation>,
        dy: &Data,
    ) -> Result<NormGradients> {
        let x = tensor(x)?;
        let dy = tensor(dy)?;
        let groups = affine.scale.elem_count() / maps.c;
        let prologue = pre(Pre::Affine(affine, activation));
        let statistics = [Arg::T(&affine.mean), Arg::T(&affine.inv)];
        let rest = [prologue, statistics[0], statistics[1], Arg::U((maps.h * maps.w) as u32)];
        let Partials { partial, splits, channels } = self.partial_sums("norm_sums", maps, groups, &[x, dy], &rest)?;
        let dgain = self.floats(affine.scale.dims())?;
        let dshift = self.floats(affine.scale.dims())?;
        let args = [Arg::T(&dgain), Arg::T(&dshift), Arg::T(&partial), splits, channels];
        self.engine.launch("fold_norm", Grid::columns(maps.c, groups), &args)?;
        let totals = if affine.training {
            let totals = self.floats(&[2, maps.c])?;
            let given = [Arg::T(&totals), Arg::T(&dgain), Arg::T(&dshift), Arg::T(&affine.scale)];
            let count = (maps.n * maps.h * maps.w) as f32;
            let args = [&given[..], &[Arg::U(groups as u32), channels, Arg::F(count)]].concat();
            self.engine.launch("norm_totals", Grid::each(maps.c), &args)?;
            Some(totals)
        } else {
            None
        };
        let totals = totals.as_ref().map_or(Arg::Null, Arg::T);
        let args = [Arg::T(x), Arg::T(dy), shape(maps), prologue, statistics[0], statistics[1], totals];
        let dx = self.computed("norm_dx", maps, &[maps.c], &args).map(Data::Tensor)?;
        Ok(NormGradients { dx, dgain, dshift })
    }

    fn activation_gradient(&self, maps: Maps, x: &Data, activation: Activation, dy: &Data) -> Result<Data> {
        let args = [Arg::T(tensor(x)?), Arg::T(tensor(dy)?), pre(Pre::Activation(activation)), shape(maps)];
        self.computed("mask", maps, &[maps.c], &args).map(Data::Tensor)
    }

    fn add(&self, a: Source<'_>, b: Source<'_>, relu: bool) -> Result<Data> {
        let maps = a.maps;
        let terms = [Arg::T(tensor(a.data)?), pre(a.pre), Arg::T(tensor(b.data)?), pre(b.pre)];
        let args = [&terms[..], &[shape(maps), Arg::U(u32::from(relu))]].concat();
        self.computed("add", maps, &[maps.c], &args).map(Data::Tensor)
    }

    fn accumulate(&self, maps: Maps, sum: &mut Data, more: &Data) -> Result<()> {
        let args = [Arg::T(tensor(sum)?), Arg::T(tensor(more)?), shape(maps)];
        self.launch("accumulate", maps.count(), &[maps.c], &args)
    }

    fn avg_pool(&self, x: Source<'_>) -> Result<Data> {
        self.gather2x2(x, 0.25)
    }

    fn avg_pool_gradient(&self, maps: Maps, dy: &Data) -> Result<Data> {
        self.spread2x2(maps, dy, Pre::None, 0.25).map(Data::Tensor)
    }

    fn max_pool(&self, x: Source<'_>) -> Result<Data> {
        let maps = x.maps;
        let small = maps.with(maps.h / 2, maps.w / 2, maps.c);
        let args = [Arg::T(tensor(x.data)?), shape(maps), pre(x.pre)];
        self.computed("max_pool", small, &[maps.c], &args).map(Data::Tensor)
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
        self.gather2x2(Source { data: dy, maps: larger, pre: Pre::None }, 1.0)
    }

    fn subsample_pad(&self, x: Source<'_>, channels: usize) -> Result<Data> {
        let maps = x.maps;
        let small = maps.with(maps.h.div_ceil(2), maps.w.div_ceil(2), channels);
        let args = [Arg::T(tensor(x.data)?), shape(maps), pre(x.pre), Arg::U(channels as u32)];
        let all = [maps.c, channels, (channels - maps.c) / 2];
        self.computed("subsample", small, &all, &args).map(Data::Tensor)
    }

    fn subsample_pad_gradient(&self, maps: Maps, channels: usize, dy: &Data) -> Result<Data> {
        let args = [Arg::T(tensor(dy)?), shape(maps), Arg::U(channels as u32)];
        let all = [maps.c, channels, (channels - maps.c) / 2];
        self.computed("subsample_gradient", maps, &all, &args).map(Data::Tensor)
    }

    fn sums(&self, x: Source<'_>) -> Result<Tensor> {
        self.group_sums(x, x.maps.n)
    }

    fn sums_gradient(&self, maps: Maps, grad: &Tensor) -> Result<Data> {
        self.computed("spread", maps, &[maps.c], &[Arg::T(grad), shape(maps)]).map(Data::Tensor)
    }

    fn attend(&self, query: Source<'_>, key: Source<'_>, value: Source<'_>) -> Result<Data> {
        let maps = query.maps.with(query.maps.h, query.maps.w, value.maps.c);
        let weights = self.weights(&self.rows(query)?, &self.rows(key)?)?;
        let out = product(&weights, &self.rows(value)?)?;
        out.reshape((maps.n, maps.h, maps.w, maps.c)).map(Data::Tensor)
    }

    fn attend_gradients(&self, query: Source<'_>, key: Source<'_>, value: Source<'_>, dy: &Data) -> Result<[Data; 3]> {
        let [q, k, v] = [self.rows(query)?, self.rows(key)?, self.rows(value)?];
        let n = query.maps.n;
        let positions = query.maps.h * query.maps.w;
        let dy = tensor(dy)?.reshape((n, positions, value.maps.c))?;
        let weights = self.weights(&q, &k)?;
        let dv = product(&weights.transpose(1, 2)?, &dy)?;
        let along = product(&dy, &v.transpose(1, 2)?)?;
        let scores = self.engine.empty(weights.dims(), self.dtype())?;
        let keys = weights.dim(2)?;
        let (name, _) = self.variant("softmax_gradient", &[1]);
        let args = [Arg::T(&scores), Arg::T(&weights), Arg::T(&along), Arg::U(keys as u32)];
        self.engine.launch(&name, Grid::rows(n * positions), &args)?;
        let dq = product(&scores, &k)?;
        let dk = product(&scores.transpose(1, 2)?, &q)?;
        let shaped = |t: Tensor, x: Source<'_>| t.reshape((n, x.maps.h, x.maps.w, x.maps.c)).map(Data::Tensor);
        Ok([shaped(dq, query)?, shaped(dk, key)?, shaped(dv, value)?])
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
