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

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Result, Tensor, bail};

use crate::activation::Activation;

use super::backend::{Affine, Backend, Data, Moments, NormGradients, Pre, Source};
use crate::geometry::{Geometry, Maps};
use crate::host::locked;
use crate::precision::{Bf16Support, Precision};
use crate::simd::Level;
use attention::Attention;
pub use bf16::Amx;
use conv::{Results, Upsampled};
use norm::{HostNorm, Upstream};
use stored::Stored;
use view::{HostPre, Images, host};

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
    plans: Option<Mutex<Vec<CachedPlan<E::Plan>>>>,
}

/// The direction of a convolution plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// A convolution.
    Forward,
    /// Its input gradient.
    Backward,
    /// A convolution of upsampled maps.
    Up,
    /// Its input gradient.
    UpBackward,
}

/// A plan and its key: direction, geometry, and the address of the weights. The weights are kept alive so that no others
/// can take their address.
struct CachedPlan<P> {
    address: usize,
    _weights: Tensor,
    direction: Direction,
    geometry: Geometry,
    plan: Arc<P>,
}

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

fn tensor(values: Vec<f32>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

impl<E: Stored> Cpu<E> {
    fn new(in_pieces: bool) -> Self {
        Self { level: Level::best(), plans: in_pieces.then(Mutex::default) }
    }

    /// The plan of a convolution with these weights.
    fn plan(&self, direction: Direction, g: &Geometry, weights: &Tensor) -> Result<Arc<E::Plan>> {
        let weights = weights.contiguous()?;
        let (storage, layout) = weights.storage_and_layout();
        let values = locked("trunk", &storage, layout)?;
        let address = values.as_ptr() as usize;
        let cache = || self.plans.as_ref().map(|plans| plans.lock().unwrap_or_else(PoisonError::into_inner));
        let same = |k: &&CachedPlan<E::Plan>| k.address == address && k.direction == direction && k.geometry == *g;
        if let Some(plan) = cache().and_then(|cache| cache.iter().find(same).map(|k| Arc::clone(&k.plan))) {
            return Ok(plan);
        }
        let plan = Arc::new(match direction {
            Direction::Forward => E::forward(self.level, g, values),
            Direction::Backward => E::input_gradient(self.level, g, values),
            Direction::Up | Direction::UpBackward => {
                let up = Upsampled::new(g);
                let make = if direction == Direction::Up { E::input_gradient } else { E::forward };
                make(self.level, &up.transposed, &up.fold(values))
            }
        });
        if let Some(mut cache) = cache() {
            let plan = Arc::clone(&plan);
            cache.push(CachedPlan { address, _weights: weights.clone(), direction, geometry: *g, plan });
        }
        Ok(plan)
    }

    fn convolve(
        &self,
        plan: &E::Plan,
        result: Maps,
        x: Source<'_>,
        bias: Option<&Tensor>,
        moments: bool,
    ) -> Result<(Data, Option<Moments>)> {
        let pre = HostPre::new(x.pre)?;
        let bias = bias.map(host).transpose()?;
        let images = Images { values: values::<E>(x.data)?, pre: &pre };
        if !moments {
            return Ok((E::data(E::run(plan, images, bias.as_deref(), 0, &|_, _, _| {}).values), None));
        }
        let c = result.c;
        let Results { values, sums } = E::run(plan, images, bias.as_deref(), 2 * c, &|_, images, sums| {
            norm::add_moments(self.level, c, images, sums);
        });
        Ok((E::data(values), Some(norm::moments_of(&sums, result)?)))
    }

    fn weight_gradient(&self, g: &Geometry, x: Source<'_>, dy: Source<'_>) -> Result<Vec<f32>> {
        let x_pre = HostPre::new(x.pre)?;
        let dy_pre = HostPre::new(dy.pre)?;
        let x = Images { values: values::<E>(x.data)?, pre: &x_pre };
        let dy = Images { values: values::<E>(dy.data)?, pre: &dy_pre };
        Ok(E::weight_gradient(self.level, g, x, dy))
    }

    /// The gradients of a norm, from its upstream gradient and the sums over it.
    fn finish_norm(
        &self,
        maps: Maps,
        x: &[E],
        norm: &HostNorm,
        sums: &[f64],
        dy: Upstream<'_, E>,
        shape: &[usize],
    ) -> Result<NormGradients> {
        let (dx, dgain, dshift) = norm::gradients(self.level, maps, x, norm, sums, dy);
        Ok(NormGradients { dx: E::data(dx), dgain: tensor(dgain, shape)?, dshift: tensor(dshift, shape)? })
    }

    /// Runs `work` on the images of a source.
    fn on<R>(&self, x: Source<'_>, work: impl FnOnce(Images<'_, E>) -> R) -> Result<R> {
        let pre = HostPre::new(x.pre)?;
        Ok(work(Images { values: values::<E>(x.data)?, pre: &pre }))
    }
}

/// Maps read without a prologue.
fn unchanged(data: &Data, maps: Maps) -> Source<'_> {
    Source { data, maps, pre: Pre::None }
}

impl<E: Stored> Backend for Cpu<E> {
    fn load(&self, x: &Tensor) -> Result<Data> {
        let (n, c, h, w) = x.dims4()?;
        let x = x.contiguous()?;
        let (storage, layout) = x.storage_and_layout();
        let values = locked("trunk", &storage, layout)?;
        Ok(E::data(pointwise::channels_last(Maps { n, h, w, c }, values)))
    }

    fn store(&self, x: Source<'_>) -> Result<Tensor> {
        let Maps { n, h, w, c } = x.maps;
        tensor(self.on(x, |images| pointwise::channels_first(self.level, x.maps, images))?, (n, c, h, w))
    }

    fn conv(
        &self,
        g: &Geometry,
        x: Source<'_>,
        w: &Tensor,
        bias: Option<&Tensor>,
        moments: bool,
    ) -> Result<(Data, Option<Moments>)> {
        let plan = self.plan(Direction::Forward, g, w)?;
        self.convolve(&plan, x.maps.with(g.ho, g.wo, g.cout), x, bias, moments)
    }

    fn conv_input_gradient(&self, g: &Geometry, n: usize, dy: &Data, w: &Tensor) -> Result<Data> {
        let plan = self.plan(Direction::Backward, g, w)?;
        let maps = Maps { n, h: g.ho, w: g.wo, c: g.cout };
        Ok(self.convolve(&plan, maps.with(g.h, g.w, g.cin), unchanged(dy, maps), None, false)?.0)
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
        let plan = self.plan(Direction::Backward, g, w)?;
        let x = values::<E>(x)?;
        let image = maps.image();
        let results = E::run(&plan, plain::<E>(dy)?, None, 0, &|first, dx, _| {
            norm::activation_backward_in_place(self.level, &x[first * image..][..dx.len()], activation, dx);
        });
        Ok(E::data(results.values))
    }

    fn conv_weight_gradient(&self, g: &Geometry, x: Source<'_>, dy: &Data) -> Result<Tensor> {
        let dy = unchanged(dy, x.maps.with(g.ho, g.wo, g.cout));
        tensor(self.weight_gradient(g, x, dy)?, (g.cout, g.cin, g.k, g.k))
    }

    fn upconv(
        &self,
        g: &Geometry,
        x: Source<'_>,
        w: &Tensor,
        bias: Option<&Tensor>,
        moments: bool,
    ) -> Result<(Data, Option<Moments>)> {
        let plan = self.plan(Direction::Up, g, w)?;
        self.convolve(&plan, x.maps.with(g.ho, g.wo, g.cout), x, bias, moments)
    }

    fn upconv_input_gradient(&self, g: &Geometry, n: usize, dy: &Data, w: &Tensor) -> Result<Data> {
        let plan = self.plan(Direction::UpBackward, g, w)?;
        let maps = Maps { n, h: g.ho, w: g.wo, c: g.cout };
        Ok(self.convolve(&plan, maps.with(g.h / 2, g.w / 2, g.cin), unchanged(dy, maps), None, false)?.0)
    }

    fn upconv_weight_gradient(&self, g: &Geometry, x: Source<'_>, dy: &Data) -> Result<Tensor> {
        let up = Upsampled::new(g);
        let dy = unchanged(dy, x.maps.with(g.ho, g.wo, g.cout));
        tensor(up.unfold(&self.weight_gradient(&up.transposed, dy, x)?), (g.cout, g.cin, g.k, g.k))
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
        self.finish_norm(maps, x, &norm, &sums, Upstream::Shared(dy), affine.scale.dims())
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
        let plan = self.plan(if upsampled { Direction::UpBackward } else { Direction::Backward }, g, w)?;
        let norm = HostNorm::new(affine, activation)?;
        let x = values::<E>(x)?;
        let upstream = E::run(&plan, plain::<E>(dy)?, None, 2 * maps.c, &|first, dy, sums| {
            norm.add_sums(self.level, first, x, dy, sums);
        });
        self.finish_norm(maps, x, &norm, &upstream.sums, Upstream::Owned(upstream.values), affine.scale.dims())
    }

    fn activation_gradient(&self, _: Maps, x: &Data, activation: Activation, dy: &Data) -> Result<Data> {
        Ok(E::data(norm::activation_gradient(self.level, values::<E>(x)?, activation, values::<E>(dy)?)))
    }

    fn add(&self, a: Source<'_>, b: Source<'_>, relu: bool) -> Result<Data> {
        let b_pre = HostPre::new(b.pre)?;
        let b = Images { values: values::<E>(b.data)?, pre: &b_pre };
        Ok(E::data(self.on(a, |a_images| pointwise::add(self.level, a.maps, a_images, b, relu))?))
    }

    fn relu_gradient(&self, maps: Maps, y: &Data, dy: &Data) -> Result<Data> {
        self.activation_gradient(maps, y, Activation::RELU, dy)
    }

    fn accumulate(&self, maps: Maps, sum: &mut Data, more: &Data) -> Result<()> {
        let more = values::<E>(more)?;
        match E::values_mut(sum) {
            Some(sum) => pointwise::accumulate(self.level, maps, sum, more),
            None => bail!("trunk: these maps belong to another device or type"),
        }
        Ok(())
    }

    fn avg_pool(&self, x: Source<'_>) -> Result<Data> {
        Ok(E::data(self.on(x, |images| pools::gather2x2(self.level, x.maps, images, 0.25))?))
    }

    fn avg_pool_gradient(&self, maps: Maps, dy: &Data) -> Result<Data> {
        Ok(E::data(pools::spread2x2(self.level, maps, plain::<E>(dy)?, 0.25)))
    }

    fn max_pool(&self, x: Source<'_>) -> Result<Data> {
        Ok(E::data(self.on(x, |images| pools::max_pool(self.level, x.maps, images))?))
    }

    fn max_pool_gradient(&self, x: Source<'_>, dy: &Data) -> Result<Data> {
        let dy = values::<E>(dy)?;
        Ok(E::data(self.on(x, |images| pools::max_pool_gradient(self.level, x.maps, images, dy))?))
    }

    fn upsample(&self, x: Source<'_>) -> Result<Data> {
        let Maps { h, w, c, .. } = x.maps;
        let large = x.maps.with(2 * h, 2 * w, c);
        Ok(E::data(self.on(x, |images| pools::spread2x2(self.level, large, images, 1.0))?))
    }

    fn upsample_gradient(&self, maps: Maps, dy: &Data) -> Result<Data> {
        let large = maps.with(2 * maps.h, 2 * maps.w, maps.c);
        Ok(E::data(pools::gather2x2(self.level, large, plain::<E>(dy)?, 1.0)))
    }

    fn subsample_pad(&self, x: Source<'_>, channels: usize) -> Result<Data> {
        Ok(E::data(self.on(x, |images| pointwise::subsample_pad(self.level, x.maps, images, channels))?))
    }

    fn subsample_pad_gradient(&self, maps: Maps, channels: usize, dy: &Data) -> Result<Data> {
        Ok(E::data(pointwise::subsample_pad_gradient(self.level, maps, channels, plain::<E>(dy)?)))
    }

    fn sums(&self, x: Source<'_>) -> Result<Tensor> {
        let sums = self.on(x, |images| pointwise::position_sums(self.level, x.maps, images))?;
        tensor(sums, (x.maps.n, x.maps.c))
    }

    fn sums_gradient(&self, maps: Maps, grad: &Tensor) -> Result<Data> {
        Ok(E::data(pointwise::broadcast(maps, &host(grad)?)))
    }

    fn attend(&self, query: Source<'_>, key: Source<'_>, value: Source<'_>) -> Result<Data> {
        let pres = [HostPre::new(query.pre)?, HostPre::new(key.pre)?, HostPre::new(value.pre)?];
        Ok(E::data(attention::<E>([query, key, value], &pres)?.forward(self.level)))
    }

    fn attend_gradients(&self, query: Source<'_>, key: Source<'_>, value: Source<'_>, dy: &Data) -> Result<[Data; 3]> {
        let pres = [HostPre::new(query.pre)?, HostPre::new(key.pre)?, HostPre::new(value.pre)?];
        let grads = attention::<E>([query, key, value], &pres)?.gradients(self.level, values::<E>(dy)?);
        Ok(grads.map(E::data))
    }
}

fn attention<'a, E: Stored>(sources: [Source<'a>; 3], pres: &'a [HostPre; 3]) -> Result<Attention<'a, E>> {
    let one = |i: usize| -> Result<(Images<'a, E>, Maps)> {
        Ok((Images { values: values::<E>(sources[i].data)?, pre: &pres[i] }, sources[i].maps))
    };
    Ok(Attention { query: one(0)?, key: one(1)?, value: one(2)? })
}
