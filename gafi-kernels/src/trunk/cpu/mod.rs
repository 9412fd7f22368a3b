//! Trunks on the CPU.

mod attention;
mod bf16;
mod conv;
mod conv_bf16;
mod gemm;
mod maps;
mod norm;
mod pointwise;
mod pools;
mod stored;
#[cfg(test)]
mod tests;
mod winograd;

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Result, Tensor, bail};

use super::backend::{Affine, Backend, Data, Geometry, Maps, Moments, NormGradients, Pre, Precision, Source};
use crate::ops::simd::Level;
use attention::Attention;
use conv::{Images, Results, Upsampled};
use maps::{HostPre, host};
use norm::{Behind, HostNorm};
use stored::Stored;

/// The backend of a precision, for one run.
pub(super) fn backend(precision: Precision, in_pieces: bool) -> Arc<dyn Backend> {
    match precision {
        Precision::F32 | Precision::Tf32 => Arc::new(Cpu::<f32>::new(in_pieces)),
        Precision::Bf16 => Arc::new(Cpu::<u16>::new(in_pieces)),
    }
}

/// Whether this CPU multiplies bf16: `None` if not, else whether that is known to be faster than f32.
pub(super) fn has_fast_bf16() -> Option<bool> {
    match bf16::Level::best() {
        bf16::Level::Amx => Some(true),
        bf16::Level::Avx512Bf16 => Some(false),
        bf16::Level::Portable => None,
    }
}

/// The kernels for f32 and for bf16, and how it stands with AMX.
pub(super) fn kernels() -> super::Kernels {
    let f32 = match Level::best() {
        Level::Avx512 => "avx512",
        Level::Avx2 => "avx2",
        Level::Portable => "portable",
    };
    super::Kernels { f32, bf16: bf16::Level::best().name(), amx: bf16::amx_state() }
}

/// Maps of `E`, kernels of `level`.
struct Cpu<E: Stored> {
    level: Level,
    /// Those of this run, kept for a batch in pieces, which asks for each of them again and again.
    plans: Option<Mutex<Vec<Known<E::Plan>>>>,
}

/// Which way a plan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Forward,
    Back,
    Up,
    BackUp,
}

/// A plan, the weights that it was made of (alive, so that no others can have their place) and where they lie.
struct Known<P> {
    at: usize,
    _weights: Tensor,
    way: Way,
    geometry: Geometry,
    plan: Arc<P>,
}

fn values<E: Stored>(data: &Data) -> Result<&[E]> {
    match E::values(data) {
        Some(values) => Ok(values),
        None => bail!("trunk: maps of another device or type"),
    }
}

/// Nothing to apply.
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
    fn plan(&self, way: Way, g: &Geometry, weights: &Tensor) -> Result<Arc<E::Plan>> {
        let weights = weights.contiguous()?;
        let (storage, layout) = weights.storage_and_layout();
        let values = crate::ops::host::locked("trunk", &storage, layout)?;
        let at = values.as_ptr() as usize;
        let known = || self.plans.as_ref().map(|plans| plans.lock().unwrap_or_else(PoisonError::into_inner));
        let same = |k: &&Known<E::Plan>| k.at == at && k.way == way && k.geometry == *g;
        if let Some(plan) = known().and_then(|known| known.iter().find(same).map(|k| Arc::clone(&k.plan))) {
            return Ok(plan);
        }
        let plan = Arc::new(match way {
            Way::Forward => E::forward(self.level, g, values),
            Way::Back => E::input_gradient(self.level, g, values),
            Way::Up | Way::BackUp => {
                let up = Upsampled::new(g);
                let make = if way == Way::Up { E::input_gradient } else { E::forward };
                make(self.level, &up.transposed, &up.fold(values))
            }
        });
        if let Some(mut known) = known() {
            known.push(Known { at, _weights: weights.clone(), way, geometry: *g, plan: Arc::clone(&plan) });
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
        let (pre, bias) = (HostPre::new(x.pre)?, bias.map(host).transpose()?);
        let images = Images { values: values::<E>(x.data)?, pre: &pre };
        if !moments {
            return Ok((E::data(E::run(plan, images, bias.as_deref(), 0, |_, _, _| {}).values), None));
        }
        let c = result.c;
        let Results { values, sums } = E::run(plan, images, bias.as_deref(), 2 * c, |_, images, sums| {
            norm::add_moments(self.level, c, images, sums);
        });
        Ok((E::data(values), Some(norm::moments_of(&sums, result)?)))
    }

    fn weight_gradient(&self, g: &Geometry, x: Source<'_>, dy: Source<'_>) -> Result<Vec<f32>> {
        let (x_pre, dy_pre) = (HostPre::new(x.pre)?, HostPre::new(dy.pre)?);
        let x = Images { values: values::<E>(x.data)?, pre: &x_pre };
        let dy = Images { values: values::<E>(dy.data)?, pre: &dy_pre };
        Ok(E::weight_gradient(self.level, g, x, dy))
    }

    /// The gradients of a norm, from that behind it and its sums.
    fn before_norm(
        &self,
        maps: Maps,
        x: &[E],
        norm: &HostNorm,
        sums: &[f64],
        dy: Behind<'_, E>,
        shape: &[usize],
    ) -> Result<NormGradients> {
        let (dx, dgain, dshift) = norm::gradients(self.level, maps, x, norm, sums, dy);
        Ok(NormGradients { dx: E::data(dx), dgain: tensor(dgain, shape)?, dshift: tensor(dshift, shape)? })
    }

    /// Runs `work` on a source's images.
    fn on<R>(&self, x: Source<'_>, work: impl FnOnce(Images<'_, E>) -> R) -> Result<R> {
        let pre = HostPre::new(x.pre)?;
        Ok(work(Images { values: values::<E>(x.data)?, pre: &pre }))
    }
}

/// Maps that are read as they are.
fn as_is(data: &Data, maps: Maps) -> Source<'_> {
    Source { data, maps, pre: Pre::None }
}

impl<E: Stored> Backend for Cpu<E> {
    fn load(&self, x: &Tensor) -> Result<Data> {
        let (n, c, h, w) = x.dims4()?;
        let x = x.contiguous()?;
        let (storage, layout) = x.storage_and_layout();
        let values = crate::ops::host::locked("trunk", &storage, layout)?;
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
        let plan = self.plan(Way::Forward, g, w)?;
        self.convolve(&plan, x.maps.with(g.ho, g.wo, g.cout), x, bias, moments)
    }

    fn conv_input_gradient(&self, g: &Geometry, n: usize, dy: &Data, w: &Tensor) -> Result<Data> {
        let (plan, maps) = (self.plan(Way::Back, g, w)?, Maps { n, h: g.ho, w: g.wo, c: g.cout });
        Ok(self.convolve(&plan, maps.with(g.h, g.w, g.cin), as_is(dy, maps), None, false)?.0)
    }

    fn conv_leaky_gradient(
        &self,
        g: &Geometry,
        dy: &Data,
        w: &Tensor,
        x: &Data,
        maps: Maps,
        slope: f32,
    ) -> Result<Data> {
        let plan = self.plan(Way::Back, g, w)?;
        let (x, image) = (values::<E>(x)?, maps.image());
        let results = E::run(&plan, plain::<E>(dy)?, None, 0, |first, dx, _| {
            norm::leaky_back(self.level, &x[first * image..][..dx.len()], slope, dx);
        });
        Ok(E::data(results.values))
    }

    fn conv_weight_gradient(&self, g: &Geometry, x: Source<'_>, dy: &Data) -> Result<Tensor> {
        let dy = as_is(dy, x.maps.with(g.ho, g.wo, g.cout));
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
        let plan = self.plan(Way::Up, g, w)?;
        self.convolve(&plan, x.maps.with(g.ho, g.wo, g.cout), x, bias, moments)
    }

    fn upconv_input_gradient(&self, g: &Geometry, n: usize, dy: &Data, w: &Tensor) -> Result<Data> {
        let (plan, maps) = (self.plan(Way::BackUp, g, w)?, Maps { n, h: g.ho, w: g.wo, c: g.cout });
        Ok(self.convolve(&plan, maps.with(g.h / 2, g.w / 2, g.cin), as_is(dy, maps), None, false)?.0)
    }

    fn upconv_weight_gradient(&self, g: &Geometry, x: Source<'_>, dy: &Data) -> Result<Tensor> {
        let up = Upsampled::new(g);
        let dy = as_is(dy, x.maps.with(g.ho, g.wo, g.cout));
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
        let (mean, var, gains, shifts) = (host(&moments.mean)?, host(&moments.var)?, host(gain)?, host(shift)?);
        let inv: Vec<f32> = var.iter().map(|&v| (1.0 / (f64::from(v) + eps).sqrt()) as f32).collect();
        let c = mean.len().max(1);
        let scale: Vec<f32> = gains.iter().enumerate().map(|(i, g)| g * inv[i % c]).collect();
        let offset = shifts.iter().zip(&scale).enumerate().map(|(i, (s, scale))| s - mean[i % c] * scale).collect();
        let inv = tensor(inv, c)?;
        let (scale, offset) = (tensor(scale, gain.dims())?, tensor(offset, gain.dims())?);
        Ok(Affine { scale, offset, mean: moments.mean.clone(), inv, training })
    }

    fn norm_gradients(
        &self,
        maps: Maps,
        x: &Data,
        affine: &Affine,
        slope: Option<f32>,
        dy: &Data,
    ) -> Result<NormGradients> {
        let (norm, x, dy) = (HostNorm::new(affine, slope)?, values::<E>(x)?, values::<E>(dy)?);
        let sums = norm::sums(self.level, maps, x, &norm, dy);
        self.before_norm(maps, x, &norm, &sums, Behind::Shared(dy), affine.scale.dims())
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
        slope: Option<f32>,
    ) -> Result<NormGradients> {
        let plan = self.plan(if upsampled { Way::BackUp } else { Way::Back }, g, w)?;
        let (norm, x) = (HostNorm::new(affine, slope)?, values::<E>(x)?);
        let behind = E::run(&plan, plain::<E>(dy)?, None, 2 * maps.c, |first, dy, sums| {
            norm.add_sums(self.level, first, x, dy, sums);
        });
        self.before_norm(maps, x, &norm, &behind.sums, Behind::Own(behind.values), affine.scale.dims())
    }

    fn leaky_gradient(&self, _: Maps, x: &Data, slope: f32, dy: &Data) -> Result<Data> {
        Ok(E::data(norm::leaky_gradient(self.level, values::<E>(x)?, slope, values::<E>(dy)?)))
    }

    fn add(&self, a: Source<'_>, b: Source<'_>, relu: bool) -> Result<Data> {
        let b_pre = HostPre::new(b.pre)?;
        let b = Images { values: values::<E>(b.data)?, pre: &b_pre };
        Ok(E::data(self.on(a, |a_images| pointwise::add(self.level, a.maps, a_images, b, relu))?))
    }

    fn relu_gradient(&self, maps: Maps, y: &Data, dy: &Data) -> Result<Data> {
        self.leaky_gradient(maps, y, 0.0, dy)
    }

    fn accumulate(&self, maps: Maps, sum: &mut Data, more: &Data) -> Result<()> {
        let more = values::<E>(more)?;
        match E::values_mut(sum) {
            Some(sum) => pointwise::accumulate(self.level, maps, sum, more),
            None => bail!("trunk: maps of another device or type"),
        }
        Ok(())
    }

    fn avg_pool(&self, x: Source<'_>) -> Result<Data> {
        Ok(E::data(self.on(x, |images| pools::shrink(self.level, x.maps, images, 0.25))?))
    }

    fn avg_pool_gradient(&self, maps: Maps, dy: &Data) -> Result<Data> {
        Ok(E::data(pools::grow(self.level, maps, plain::<E>(dy)?, 0.25)))
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
        Ok(E::data(self.on(x, |images| pools::grow(self.level, large, images, 1.0))?))
    }

    fn upsample_gradient(&self, maps: Maps, dy: &Data) -> Result<Data> {
        let large = maps.with(2 * maps.h, 2 * maps.w, maps.c);
        Ok(E::data(pools::shrink(self.level, large, plain::<E>(dy)?, 1.0)))
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
        Ok(E::data(pointwise::spread(maps, &host(grad)?)))
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
