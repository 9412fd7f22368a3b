//! Additions, shortcuts and sums on the CPU. These ops are bound by memory, so each loop runs through its maps in long
//! stretches, as prefetchers expect, and keeps nothing in between.

use std::cell::RefCell;

use super::channels::{Channels, block, channel_blocks};
use super::element::{Element, as_floats};
use super::parallel::{Tasks, for_each_chunk};
use super::view::{HostPre, ImageAffine, ImagePre, Images, Tile, leaky, read, tile};
use crate::activation::Activation;
use crate::geometry::Maps;
use crate::memory::{Pooled, Scratch};
use crate::simd::{Kernel, Lane, Level, dispatch, vectorised};

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Computes a result image from an image and its index.
type ImageWork<'a, E> = dyn Fn(usize, &[E], &mut [E]) + Sync + 'a;

/// Result images of `to` values each, computed by `work(index, image, result)` from the images after their prologue.
pub(super) fn each_image<E: Element>(
    level: Level,
    maps: Maps,
    x: Images<'_, E>,
    to: usize,
    work: &ImageWork<'_, E>,
) -> Pooled<E> {
    let from = maps.image();
    let viewed = (!x.pre.is_none()).then(|| applied(level, maps, x));
    let values = viewed.as_deref().unwrap_or(x.values);
    let mut out = Pooled::<E>::new(maps.n * to);
    for_each_chunk(&mut out, to, Tasks::small(from.max(to)), &|i, out| work(i, &values[i * from..][..from], out));
    out
}

/// Maps after their prologue. Pooling a norm or an activation is rare, so this is not optimised.
fn applied<E: Element>(level: Level, maps: Maps, x: Images<'_, E>) -> Pooled<E> {
    let image = maps.image();
    let mut out = Pooled::<E>::new(maps.count());
    for_each_chunk(&mut out, image, Tasks::AUTO, &|i, out| {
        let values = &x.values[i * image..][..image];
        SCRATCH.with_borrow_mut(|scratch| {
            as_floats(out, scratch, |out| read(level, values, x.pre.image(i, maps.c), out));
        });
    });
    out
}

/// A term of [`Add`]: leaky(x * scale + offset). Without a prologue, scale, offset and slope are neutral. Other activations
/// are applied before; see [`add`].
struct Term<'a, E> {
    x: &'a [E],
    scale: &'a [f32],
    offset: &'a [f32],
    slope: f32,
}

impl<'a, E> Term<'a, E> {
    /// Image `i`. `neutral` is the scale and offset for images without an affine prologue.
    fn new(images: Images<'a, E>, i: usize, maps: Maps, neutral: (&'a [f32], &'a [f32])) -> Self {
        let x = &images.values[i * maps.image()..][..maps.image()];
        let (scale, offset, activation) = match images.pre.image(i, maps.c) {
            ImagePre::None => (neutral.0, neutral.1, None),
            ImagePre::Activation(activation) => (neutral.0, neutral.1, Some(activation)),
            ImagePre::Affine(ImageAffine { scale, offset, activation }) => (scale, offset, activation),
        };
        let slope = if let Some(Activation::Leaky(slope)) = activation { slope } else { 1.0 };
        Term { x, scale, offset, slope }
    }
}

/// a + b, or relu(a + b) if `relu`.
struct Add<'a, E> {
    a: Term<'a, E>,
    b: Term<'a, E>,
    relu: bool,
    sum: &'a mut [E],
}

impl<E: Element> Kernel for Add<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let Add { a, b, relu, sum } = self;
        let mut rooms: [Tile; 4] = [[0.0; _]; 4];
        let [r0, r1, r2, r3] = &mut rooms;
        let scale_a = tile(a.scale, r0);
        let offset_a = tile(a.offset, r1);
        let scale_b = tile(b.scale, r2);
        let offset_b = tile(b.offset, r3);
        let c = scale_a.len();
        for (i, sum) in sum.chunks_mut(c).enumerate() {
            let a_x = &a.x[i * c..][..sum.len()];
            let b_x = &b.x[i * c..][..sum.len()];
            // Equal lengths, so that the loop below needs no bounds checks.
            let n = sum.len().min(c);
            let (scale_a, offset_a) = (&scale_a[..n], &offset_a[..n]);
            let (scale_b, offset_b) = (&scale_b[..n], &offset_b[..n]);
            for i in 0..n {
                let left = leaky(a_x[i].get() * scale_a[i] + offset_a[i], a.slope);
                let right = leaky(b_x[i].get() * scale_b[i] + offset_b[i], b.slope);
                let v = left + right;
                // Not `max`, which would turn a NaN into 0.
                sum[i] = E::put(if relu && v < 0.0 { 0.0 } else { v });
            }
        }
    }
}

/// a + b, or relu(a + b) if `relu`, for maps of one shape.
pub(super) fn add<E: Element>(level: Level, maps: Maps, a: Images<'_, E>, b: Images<'_, E>, relu: bool) -> Pooled<E> {
    let image = maps.image();
    let ones = vec![1.0; maps.c];
    let zeros = vec![0.0; maps.c];
    let neutral = (&ones[..], &zeros[..]);
    let gelus = [a, b].map(|x| x.pre.is_gelu().then(|| applied(level, maps, x)));
    let [a, b] = [(a, &gelus[0]), (b, &gelus[1])].map(|(x, gelu)| match gelu {
        Some(values) => Images { values, pre: &HostPre::None },
        None => x,
    });
    let mut sum = Pooled::<E>::new(maps.count());
    for_each_chunk(&mut sum, image, Tasks::small(image), &|i, sum| {
        dispatch(level, Add { a: Term::new(a, i, maps, neutral), b: Term::new(b, i, maps, neutral), relu, sum })
    });
    sum
}

/// sum += more.
pub(super) fn accumulate<E: Element>(level: Level, maps: Maps, sum: &mut [E], more: &[E]) {
    let image = maps.image();
    for_each_chunk(sum, image, Tasks::small(image), &|i, sum| {
        let more = &more[i * image..][..image];
        vectorised(
            level,
            #[inline(always)]
            || sum.iter_mut().zip(more).for_each(|(s, m)| *s = E::put(s.get() + m.get())),
        );
    });
}

/// Every second pixel of every second row, with zero channels on both sides.
pub(super) fn subsample_pad<E: Element>(level: Level, maps: Maps, x: Images<'_, E>, channels: usize) -> Pooled<E> {
    let Maps { h, w, c, .. } = maps;
    let (rows, cols, before) = (h.div_ceil(2), w.div_ceil(2), (channels - c) / 2);
    each_image(level, maps, x, rows * cols * channels, &|_, large, small| {
        small.fill(E::default());
        for (to, pixel) in small.chunks_exact_mut(channels).enumerate() {
            let from = (2 * (to / cols) * w + 2 * (to % cols)) * c;
            pixel[before..before + c].copy_from_slice(&large[from..][..c]);
        }
    })
}

/// The gradient of [`subsample_pad`] from that of its result.
pub(super) fn subsample_pad_gradient<E: Element>(
    level: Level,
    maps: Maps,
    channels: usize,
    dy: Images<'_, E>,
) -> Pooled<E> {
    let Maps { h, w, c, .. } = maps;
    let (rows, cols, before) = (h.div_ceil(2), w.div_ceil(2), (channels - c) / 2);
    each_image(level, maps.with(rows, cols, channels), dy, h * w * c, &|_, small, large| {
        large.fill(E::default());
        for (from, pixel) in small.chunks_exact(channels).enumerate() {
            let to = (2 * (from / cols) * w + 2 * (from % cols)) * c;
            large[to..][..c].copy_from_slice(&pixel[before..before + c]);
        }
    })
}

/// Sums over the positions of an image: in f32 within blocks of pixels, in f64 across them.
struct PositionSums<'a>(&'a [f32], &'a mut [f32]);

impl Channels for PositionSums<'_> {
    #[inline(always)]
    fn block<const N: usize>(&mut self, at: usize) {
        const PIXELS: usize = 32;
        let c = self.1.len();
        let mut total = [0.0f64; N];
        for pixels in self.0.chunks(PIXELS * c) {
            let mut s = [0.0f32; N];
            for pixel in pixels.chunks_exact(c) {
                let Some(v) = block::<N, f32>(pixel, at) else { return };
                (0..N).for_each(|i| s[i] += v[i]);
            }
            (0..N).for_each(|i| total[i] += f64::from(s[i]));
        }
        (0..N).for_each(|i| self.1[at + i] = total[i] as f32);
    }
}

impl Kernel for PositionSums<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(mut self, _: L) {
        channel_blocks(self.1.len(), &mut self);
    }
}

/// Sums over the positions of each image, (N, C).
pub(super) fn position_sums<E: Element>(level: Level, maps: Maps, x: Images<'_, E>) -> Vec<f32> {
    let c = maps.c;
    let image = maps.image();
    let mut sums = vec![0.0f32; maps.n * c];
    for_each_chunk(&mut sums, c, Tasks::small(image), &|i, sums| {
        SCRATCH.with_borrow_mut(|scratch| dispatch(level, PositionSums(x.read(level, maps, i, scratch), sums)));
    });
    sums
}

/// `grad` (N, C) at each position.
pub(super) fn broadcast<E: Element>(maps: Maps, grad: &[f32]) -> Pooled<E> {
    let mut dx = Pooled::<E>::new(maps.count());
    for_each_chunk(&mut dx, maps.image(), Tasks::AUTO, &|i, dx| {
        let grad = &grad[i * maps.c..][..maps.c];
        for pixel in dx.chunks_exact_mut(maps.c) {
            pixel.iter_mut().zip(grad).for_each(|(to, g)| *to = E::put(*g));
        }
    });
    dx
}

/// Maps from the values of a tensor (N, C, H, W).
pub(super) fn channels_last<E: Element>(maps: Maps, x: &[f32]) -> Pooled<E> {
    let Maps { h, w, c, .. } = maps;
    let mut out = Pooled::<E>::new(maps.count());
    let image = maps.image();
    for_each_chunk(&mut out, image, Tasks::AUTO, &|i, to| {
        for (ch, plane) in x[i * image..][..image].chunks_exact(h * w).enumerate() {
            to[ch..].iter_mut().step_by(c).zip(plane).for_each(|(to, from)| *to = E::put(*from));
        }
    });
    out
}

/// The values of a tensor (N, C, H, W) from maps.
pub(super) fn channels_first<E: Element>(level: Level, maps: Maps, x: Images<'_, E>) -> Vec<f32> {
    let Maps { h, w, c, .. } = maps;
    let image = maps.image();
    let mut out = vec![0.0f32; maps.count()];
    for_each_chunk(&mut out, image, Tasks::AUTO, &|i, to| {
        SCRATCH.with_borrow_mut(|scratch| {
            let values = x.read(level, maps, i, scratch);
            for (ch, plane) in to.chunks_exact_mut(h * w).enumerate() {
                plane.iter_mut().zip(values[ch..].iter().step_by(c)).for_each(|(to, from)| *to = *from);
            }
        });
    });
    out
}
