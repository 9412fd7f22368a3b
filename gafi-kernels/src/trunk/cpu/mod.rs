//! Trunks on the CPU.

mod attention;
mod bf16;
mod channels;
mod conv;
mod conv_bf16;
mod element;
mod frame;
mod gemm;
mod norm;
mod parallel;
mod pointwise;
mod pools;
mod stored;
#[cfg(test)]
mod tests;
mod view;
mod winograd;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Result, Tensor, bail};

use crate::activation::Activation;

use super::backend::{Affine, Backend, Data, Moments, NormGradients, Source};
use crate::geometry::{Geometry, Maps};
use crate::host::lock;
use crate::precision::{Bf16Support, Precision};
use crate::simd::Level;
use attention::Attention;
pub use bf16::Amx;
use conv::{Direction, Results, Upsampled};
use norm::{HostNorm, Upstream};
use stored::Stored;
use view::{HostPre, HostSource, Images, host};

/// The backend for one run.
pub(super) fn backend(precision: Precision, in_pieces: bool) -> Arc<dyn Backend> {
    match precision {
        Precision::F32 | Precision::Tf32 => Arc::new(Cpu::<f32>::new(in_pieces)),
        Precision::Bf16 => Arc::new(Cpu::<u16>::new(in_pieces)),
    }
}

/// How this CPU multiplies bf16.
pub(crate) fn bf16_support() -> Bf16Support {
    match bf16::Level::best() {
        bf16::Level::Amx => Bf16Support::Fast,
        bf16::Level::Avx512Bf16 => Bf16Support::Slow,
        bf16::Level::Portable => Bf16Support::None,
    }
}

/// The instruction sets that the kernels use on this CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuKernels {
    /// For f32: `avx512`, `avx2` or `portable`.
    pub f32: &'static str,
    /// For bf16: `amx`, `avx512-bf16` or `portable`.
    pub bf16: &'static str,
    /// Whether AMX can be used.
    pub amx: Amx,
}

impl CpuKernels {
    /// The kernels of this CPU, the same for the whole life of the process.
    pub fn detect() -> Self {
        let f32 = match Level::best() {
            Level::Avx512 => "avx512",
            Level::Avx2 => "avx2",
            Level::Portable => "portable",
        };
        Self { f32, bf16: bf16::Level::best().name(), amx: Amx::detect() }
    }
}

/// The CPU backend for maps stored as `E`.
struct Cpu<E: Stored> {
    level: Level,
    /// The convolution plans of this run. Kept only for a batch in pieces, each of which needs all of them.
    plans: Option<Mutex<Plans<E::Plan>>>,
}

/// Convolution plans by direction, geometry, whether the convolution is of upsampled maps, and the address of the weights.
/// The weights are kept alive so that no others can take their address.
type Plans<P> = HashMap<(Direction, Geometry, bool, usize), (Tensor, Arc<P>)>;

fn values<E: Stored>(data: &Data) -> Result<&[E]> {
    match E::values(data) {
        Some(values) => Ok(values),
        None => bail!("trunk: these maps belong to another device or type"),
    }
}

/// The prologue of maps that are read unchanged.
const PLAIN: HostPre = HostPre::None;

fn plain<E: Stored>(data: &Data) -> Result<Images<'_, E>> {
    Ok(Images { values: values(data)?, pre: &PLAIN })
}

fn source<E: Stored>(x: Source<'_>) -> Result<HostSource<'_, E>> {
    Ok(HostSource { values: values(x.data)?, pre: HostPre::new(x.pre)?, maps: x.maps })
}

fn tensor(values: Vec<f32>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

impl<E: Stored> Cpu<E> {
    fn new(in_pieces: bool) -> Self {
        Self { level: Level::best(), plans: in_pieces.then(Mutex::default) }
    }

    /// The plan of a convolution with these weights.
    fn plan(&self, direction: Direction, g: &Geometry, upsampled: bool, weights: &Tensor) -> Result<Arc<E::Plan>> {
        let weights = weights.contiguous()?;
        lock!("trunk", values = weights);
        let key = (direction, *g, upsampled, values.as_ptr() as usize);
        let cache = || self.plans.as_ref().map(|plans| plans.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(plan) = cache().and_then(|cache| cache.get(&key).map(|(_, plan)| Arc::clone(plan))) {
            return Ok(plan);
        }
        let plan = if upsampled {
            // A convolution of upsampled maps is the input gradient of another one.
            let up = Upsampled::new(g);
            let opposite = match direction {
                Direction::Forward => Direction::Backward,
                Direction::Backward => Direction::Forward,
            };
            E::plan(self.level, opposite, &up.transposed, &up.fold(values))
        } else {
            E::plan(self.level, direction, g, values)
        };
        let plan = Arc::new(plan);
        if let Some(mut cache) = cache() {
            cache.insert(key, (weights.clone(), Arc::clone(&plan)));
        }
        Ok(plan)
    }
}

impl<E: Stored> Backend for Cpu<E> {
    fn load(&self, x: &Tensor) -> Result<Data> {
        let (n, c, h, w) = x.dims4()?;
        let x = x.contiguous()?;
        lock!("trunk", values = x);
        Ok(E::data(pointwise::channels_last(Maps { n, h, w, c }, values)))
    }

    fn store(&self, x: Source<'_>) -> Result<Tensor> {
        let Maps { n, h, w, c } = x.maps;
        tensor(pointwise::channels_first(self.level, x.maps, source::<E>(x)?.images()), (n, c, h, w))
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
        let plan = self.plan(Direction::Forward, g, upsampled, w)?;
        let host_x = source::<E>(x)?;
        let bias = bias.map(host).transpose()?;
        let bias = bias.as_deref();
        if !moments {
            return Ok((E::data(E::run(&plan, host_x.images(), bias, 0, &|_, _, _| {}).values), None));
        }
        let c = g.cout;
        let Results { values, sums } = E::run(&plan, host_x.images(), bias, 2 * c, &|_, images, sums| {
            norm::add_moments(self.level, c, images, sums);
        });
        Ok((E::data(values), Some(norm::moments_of(&sums, x.maps.with(g.ho, g.wo, c))?)))
    }

    fn conv_input_gradient(&self, g: &Geometry, upsampled: bool, dy: &Data, w: &Tensor) -> Result<Data> {
        let plan = self.plan(Direction::Backward, g, upsampled, w)?;
        Ok(E::data(E::run(&plan, plain::<E>(dy)?, None, 0, &|_, _, _| {}).values))
    }

    fn conv_activation_gradient(
        &self,
        g: &Geometry,
        dy: &Data,
        w: &Tensor,
        x: &Data,
        maps: Maps,
        activation: Activation,
    ) -> Result<Data> {
        let plan = self.plan(Direction::Backward, g, false, w)?;
        let x = values::<E>(x)?;
        let image = maps.image();
        let results = E::run(&plan, plain::<E>(dy)?, None, 0, &|first, dx, _| {
            norm::activation_backward_in_place(self.level, &x[first * image..][..dx.len()], activation, dx);
        });
        Ok(E::data(results.values))
    }

    fn conv_weight_gradient(&self, g: &Geometry, upsampled: bool, x: Source<'_>, dy: &Data) -> Result<Tensor> {
        let x = source::<E>(x)?;
        let dy = plain::<E>(dy)?;
        let gradient = if upsampled {
            let up = Upsampled::new(g);
            up.unfold(&E::weight_gradient(self.level, &up.transposed, dy, x.images()))
        } else {
            E::weight_gradient(self.level, g, x.images(), dy)
        };
        tensor(gradient, (g.cout, g.cin, g.k, g.k))
    }

    fn channel_sums(&self, maps: Maps, dy: &Data) -> Result<Tensor> {
        let c = maps.c;
        let sums = pointwise::position_sums(self.level, maps, plain::<E>(dy)?);
        let mut total = vec![0.0f64; c];
        for image in sums.chunks_exact(c.max(1)) {
            total.iter_mut().zip(image).for_each(|(t, v)| *t += f64::from(*v));
        }
        tensor(total.into_iter().map(|v| v as f32).collect(), c)
    }

    fn moments(&self, maps: Maps, x: &Data) -> Result<Moments> {
        norm::moments(self.level, maps, values::<E>(x)?)
    }

    fn affine(&self, moments: &Moments, gain: &Tensor, shift: &Tensor, eps: f64, training: bool) -> Result<Affine> {
        let mean = host(&moments.mean)?;
        let var = host(&moments.var)?;
        let gains = host(gain)?;
        let shifts = host(shift)?;
        let inv: Vec<f32> = var.iter().map(|&v| (1.0 / (f64::from(v) + eps).sqrt()) as f32).collect();
        let c = mean.len().max(1);
        let scale: Vec<f32> = gains.iter().enumerate().map(|(i, g)| g * inv[i % c]).collect();
        let offset = shifts.iter().zip(&scale).enumerate().map(|(i, (s, scale))| s - mean[i % c] * scale).collect();
        let inv = tensor(inv, c)?;
        let scale = tensor(scale, gain.dims())?;
        let offset = tensor(offset, gain.dims())?;
        Ok(Affine { scale, offset, mean: moments.mean.clone(), inv, training })
    }

    fn norm_gradients(
        &self,
        maps: Maps,
        x: &Data,
        affine: &Affine,
        activation: Option<Activation>,
        dy: &Data,
    ) -> Result<NormGradients> {
        let norm = HostNorm::new(affine, activation)?;
        let x = values::<E>(x)?;
        let dy = values::<E>(dy)?;
        let sums = norm::sums(self.level, maps, x, &norm, dy);
        norm::gradients(self.level, maps, x, &norm, &sums, Upstream::Shared(dy))
    }

    fn conv_norm_gradients(
        &self,
        g: &Geometry,
        upsampled: bool,
        dy: &Data,
        w: &Tensor,
        x: &Data,
        maps: Maps,
        affine: &Affine,
        activation: Option<Activation>,
    ) -> Result<NormGradients> {
        let plan = self.plan(Direction::Backward, g, upsampled, w)?;
        let norm = HostNorm::new(affine, activation)?;
        let x = values::<E>(x)?;
        let upstream = E::run(&plan, plain::<E>(dy)?, None, 2 * maps.c, &|first, dy, sums| {
            norm.add_sums(self.level, first, x, dy, sums);
        });
        norm::gradients(self.level, maps, x, &norm, &upstream.sums, Upstream::Owned(upstream.values))
    }

    fn activation_gradient(&self, _: Maps, x: &Data, activation: Activation, dy: &Data) -> Result<Data> {
        Ok(E::data(norm::activation_gradient(self.level, values::<E>(x)?, activation, values::<E>(dy)?)))
    }

    fn add(&self, a: Source<'_>, b: Source<'_>, relu: bool) -> Result<Data> {
        let maps = a.maps;
        Ok(E::data(pointwise::add(self.level, maps, source::<E>(a)?.images(), source::<E>(b)?.images(), relu)))
    }

    fn accumulate(&self, maps: Maps, sum: &mut Data, more: &Data) -> Result<()> {
        let Some(sum) = E::values_mut(sum) else { bail!("trunk: these maps belong to another device or type") };
        pointwise::accumulate(self.level, maps, sum, values::<E>(more)?);
        Ok(())
    }

    fn avg_pool(&self, x: Source<'_>) -> Result<Data> {
        Ok(E::data(pools::gather2x2(self.level, x.maps, source::<E>(x)?.images(), 0.25)))
    }

    fn avg_pool_gradient(&self, maps: Maps, dy: &Data) -> Result<Data> {
        Ok(E::data(pools::spread2x2(self.level, maps, plain::<E>(dy)?, 0.25)))
    }

    fn max_pool(&self, x: Source<'_>) -> Result<Data> {
        Ok(E::data(pools::max_pool(self.level, x.maps, source::<E>(x)?.images())))
    }

    fn max_pool_gradient(&self, x: Source<'_>, dy: &Data) -> Result<Data> {
        Ok(E::data(pools::max_pool_gradient(self.level, x.maps, source::<E>(x)?.images(), values::<E>(dy)?)))
    }

    fn upsample(&self, x: Source<'_>) -> Result<Data> {
        let Maps { h, w, c, .. } = x.maps;
        let large = x.maps.with(2 * h, 2 * w, c);
        Ok(E::data(pools::spread2x2(self.level, large, source::<E>(x)?.images(), 1.0)))
    }

    fn upsample_gradient(&self, maps: Maps, dy: &Data) -> Result<Data> {
        let large = maps.with(2 * maps.h, 2 * maps.w, maps.c);
        Ok(E::data(pools::gather2x2(self.level, large, plain::<E>(dy)?, 1.0)))
    }

    fn subsample_pad(&self, x: Source<'_>, channels: usize) -> Result<Data> {
        Ok(E::data(pointwise::subsample_pad(self.level, x.maps, source::<E>(x)?.images(), channels)))
    }

    fn subsample_pad_gradient(&self, maps: Maps, channels: usize, dy: &Data) -> Result<Data> {
        Ok(E::data(pointwise::subsample_pad_gradient(self.level, maps, channels, plain::<E>(dy)?)))
    }

    fn sums(&self, x: Source<'_>) -> Result<Tensor> {
        tensor(pointwise::position_sums(self.level, x.maps, source::<E>(x)?.images()), (x.maps.n, x.maps.c))
    }

    fn sums_gradient(&self, maps: Maps, grad: &Tensor) -> Result<Data> {
        Ok(E::data(pointwise::broadcast(maps, &host(grad)?)))
    }

    fn attend(&self, query: Source<'_>, key: Source<'_>, value: Source<'_>) -> Result<Data> {
        let attention = Attention::<E> { query: source(query)?, key: source(key)?, value: source(value)? };
        Ok(E::data(attention.forward(self.level)))
    }

    fn attend_gradients(&self, query: Source<'_>, key: Source<'_>, value: Source<'_>, dy: &Data) -> Result<[Data; 3]> {
        let attention = Attention::<E> { query: source(query)?, key: source(key)?, value: source(value)? };
        Ok(attention.gradients(self.level, values::<E>(dy)?).map(E::data))
    }
}
