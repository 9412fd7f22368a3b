//! Trunks on the CPU.

mod attention;
mod bf16;
mod conv;
mod conv_bf16;
mod gemm;
mod maps;
mod norm;
mod pointwise;
#[cfg(test)]
mod tests;
mod winograd;

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Result, Tensor, bail};

use super::backend::{Affine, Backend, Data, Geometry, Maps, Moments, NormGradients, Pre, Precision, Source};
use super::memory::Pooled;
use crate::ops::simd::Level;
use attention::Attention;
use conv::{Images, Results, Upsampled};
use maps::{Element, HostPre, host};
use norm::HostNorm;

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

/// A storage type and where [`Data`] has it.
trait Stored: Element {
    fn values(data: &Data) -> Option<&[Self]>;
    fn values_mut(data: &mut Data) -> Option<&mut [Self]>;
    fn data(values: Pooled<Self>) -> Data;

    /// How convolutions of such maps are done.
    type Plan: Send + Sync;
    fn forward(level: Level, g: &Geometry, w: &[f32]) -> Self::Plan;
    fn input_gradient(level: Level, g: &Geometry, w: &[f32]) -> Self::Plan;
    fn run(
        plan: &Self::Plan,
        images: Images<'_, Self>,
        bias: Option<&[f32]>,
        sums: bool,
        finish: impl Fn(usize, &mut [Self]) + Sync,
    ) -> Results<Self>;
    fn weight_gradient(level: Level, g: &Geometry, x: Images<'_, Self>, dy: Images<'_, Self>) -> Vec<f32>;
}

impl Stored for f32 {
    fn values(data: &Data) -> Option<&[Self]> {
        if let Data::F32(values) = data { Some(values) } else { None }
    }

    fn values_mut(data: &mut Data) -> Option<&mut [Self]> {
        if let Data::F32(values) = data { Some(values) } else { None }
    }

    fn data(values: Pooled<Self>) -> Data {
        Data::F32(values)
    }

    type Plan = conv::Plan;

    fn forward(level: Level, g: &Geometry, w: &[f32]) -> Self::Plan {
        conv::Plan::forward(level, g, w)
    }

    fn input_gradient(level: Level, g: &Geometry, w: &[f32]) -> Self::Plan {
        conv::Plan::input_gradient(level, g, w)
    }

    fn run(
        plan: &Self::Plan,
        images: Images<'_, Self>,
        bias: Option<&[f32]>,
        sums: bool,
        finish: impl Fn(usize, &mut [Self]) + Sync,
    ) -> Results<Self> {
        plan.run(images, bias, sums, finish)
    }

    fn weight_gradient(level: Level, g: &Geometry, x: Images<'_, Self>, dy: Images<'_, Self>) -> Vec<f32> {
        conv::weight_gradient(level, g, x, dy)
    }
}

/// A plan for bf16. Where the CPU has no instructions for it, that of f32, whose transforms save more than widening costs; with
/// AVX-512-BF16 the transforms of f32 and products of bf16, where there are transforms.
enum HalfPlan {
    Own(conv_bf16::Plan),
    Widened(conv::Plan),
}

fn half_plan(
    g: &Geometry,
    widened: impl Fn(&Geometry) -> conv::Plan,
    own: impl Fn(bf16::Level, &Geometry) -> conv_bf16::Plan,
) -> HalfPlan {
    match bf16::Level::best() {
        bf16::Level::Portable => HalfPlan::Widened(widened(g)),
        level if level != bf16::Level::Amx && conv::transforms_in_halves(g) => match widened(g).halved(level) {
            Some(plan) => HalfPlan::Widened(plan),
            None => HalfPlan::Own(own(level, g)),
        },
        level => HalfPlan::Own(own(level, g)),
    }
}

impl Stored for u16 {
    fn values(data: &Data) -> Option<&[Self]> {
        if let Data::Bf16(values) = data { Some(values) } else { None }
    }

    fn values_mut(data: &mut Data) -> Option<&mut [Self]> {
        if let Data::Bf16(values) = data { Some(values) } else { None }
    }

    fn data(values: Pooled<Self>) -> Data {
        Data::Bf16(values)
    }

    type Plan = HalfPlan;

    fn forward(level: Level, g: &Geometry, w: &[f32]) -> Self::Plan {
        half_plan(g, |g| conv::Plan::forward(level, g, w), |own, g| conv_bf16::Plan::forward(own, g, w))
    }

    fn input_gradient(level: Level, g: &Geometry, w: &[f32]) -> Self::Plan {
        half_plan(g, |g| conv::Plan::input_gradient(level, g, w), |own, g| conv_bf16::Plan::input_gradient(own, g, w))
    }

    fn run(
        plan: &Self::Plan,
        images: Images<'_, Self>,
        bias: Option<&[f32]>,
        sums: bool,
        finish: impl Fn(usize, &mut [Self]) + Sync,
    ) -> Results<Self> {
        match plan {
            HalfPlan::Own(plan) => plan.run(images, bias, sums, finish),
            HalfPlan::Widened(plan) => plan.run(images, bias, sums, finish),
        }
    }

    fn weight_gradient(level: Level, g: &Geometry, x: Images<'_, Self>, dy: Images<'_, Self>) -> Vec<f32> {
        match bf16::Level::best() {
            bf16::Level::Portable => conv::weight_gradient(level, g, x, dy),
            bf16::Level::Amx => conv_bf16::weight_gradient(bf16::Level::Amx, g, x, dy),
            own => match conv::halved_weight_gradient(level, g, x, dy, own) {
                Some(gradient) => gradient,
                None => conv_bf16::weight_gradient(own, g, x, dy),
            },
        }
    }
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
        let Results { values, sums } = E::run(plan, images, bias.as_deref(), moments, |_, _| {});
        let moments = sums.map(|sums| norm::moments_of(&sums, result)).transpose()?;
        Ok((E::data(values), moments))
    }

    fn weight_gradient(&self, g: &Geometry, x: Source<'_>, dy: Source<'_>) -> Result<Vec<f32>> {
        let (x_pre, dy_pre) = (HostPre::new(x.pre)?, HostPre::new(dy.pre)?);
        let x = Images { values: values::<E>(x.data)?, pre: &x_pre };
        let dy = Images { values: values::<E>(dy.data)?, pre: &dy_pre };
        Ok(E::weight_gradient(self.level, g, x, dy))
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
        let results = E::run(&plan, plain::<E>(dy)?, None, false, |first, dx| {
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
        let norm = HostNorm {
            pre: HostPre::of(affine, slope)?,
            mean: host(&affine.mean)?,
            inv: host(&affine.inv)?,
            training: affine.training,
        };
        let (dx, dgain, dshift) = norm::gradients(self.level, maps, values::<E>(x)?, &norm, values::<E>(dy)?);
        let shape = affine.scale.dims();
        Ok(NormGradients { dx: E::data(dx), dgain: tensor(dgain, shape)?, dshift: tensor(dshift, shape)? })
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
        Ok(E::data(self.on(x, |images| pointwise::shrink(self.level, x.maps, images, 0.25))?))
    }

    fn avg_pool_gradient(&self, maps: Maps, dy: &Data) -> Result<Data> {
        Ok(E::data(pointwise::grow(self.level, maps, plain::<E>(dy)?, 0.25)))
    }

    fn max_pool(&self, x: Source<'_>) -> Result<Data> {
        Ok(E::data(self.on(x, |images| pointwise::max_pool(self.level, x.maps, images))?))
    }

    fn max_pool_gradient(&self, x: Source<'_>, dy: &Data) -> Result<Data> {
        let dy = values::<E>(dy)?;
        Ok(E::data(self.on(x, |images| pointwise::max_pool_gradient(self.level, x.maps, images, dy))?))
    }

    fn upsample(&self, x: Source<'_>) -> Result<Data> {
        let Maps { h, w, c, .. } = x.maps;
        let large = x.maps.with(2 * h, 2 * w, c);
        Ok(E::data(self.on(x, |images| pointwise::grow(self.level, large, images, 1.0))?))
    }

    fn upsample_gradient(&self, maps: Maps, dy: &Data) -> Result<Data> {
        let large = maps.with(2 * maps.h, 2 * maps.w, maps.c);
        Ok(E::data(pointwise::shrink(self.level, large, plain::<E>(dy)?, 1.0)))
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
