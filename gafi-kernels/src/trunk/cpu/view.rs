//! Reading maps through their prologue.

use candle_core::{Result, Tensor, bail};

use super::element::Element;
use crate::activation::Activation;
use crate::geometry::Maps;
use crate::host::lock;
use crate::math::gelu;
use crate::memory::Scratch;
use crate::simd::{Kernel, Lane, Level, dispatch};
use crate::trunk::backend::{Affine, Pre};

/// Images and the prologue of their read.
#[derive(Clone, Copy)]
pub(super) struct Images<'a, E> {
    pub(super) values: &'a [E],
    pub(super) pre: &'a HostPre,
}

/// Maps and the prologue of their read, in host memory.
pub(super) struct HostSource<'a, E> {
    pub(super) values: &'a [E],
    pub(super) pre: HostPre,
    pub(super) maps: Maps,
}

impl<E: Element> HostSource<'_, E> {
    pub(super) fn images(&self) -> Images<'_, E> {
        Images { values: self.values, pre: &self.pre }
    }

    /// Image `i`; see [`Images::read`].
    pub(super) fn image<'s>(&'s self, level: Level, i: usize, scratch: &'s mut Scratch) -> &'s [f32] {
        self.images().read(level, self.maps, i, scratch)
    }
}

impl<'a, E: Element> Images<'a, E> {
    /// Image `i`, of the shape of `maps`, after its prologue: in place if it needs no conversion, else in `scratch`.
    pub(super) fn read(self, level: Level, maps: Maps, i: usize, scratch: &'a mut Scratch) -> &'a [f32] {
        let values = &self.values[i * maps.image()..][..maps.image()];
        if let (true, Some(floats)) = (self.pre.is_none(), E::floats(values)) {
            return floats;
        }
        let to = scratch.take(values.len());
        read(level, values, self.pre.image(i, maps.c), to);
        to
    }
}

/// A copy of the values of a small CPU tensor.
pub(super) fn host(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.contiguous()?;
    lock!("trunk", values = tensor);
    Ok(values.to_vec())
}

/// [`Pre`] with its values in host memory.
#[derive(Clone, Debug)]
pub(super) enum HostPre {
    None,
    Activation(Activation),
    Affine(HostAffine),
}

/// An affine map and an activation, with their values in host memory.
#[derive(Clone, Debug)]
pub(super) struct HostAffine {
    /// (C) or (N, C), like `offset`.
    pub(super) scale: Vec<f32>,
    pub(super) offset: Vec<f32>,
    pub(super) activation: Option<Activation>,
}

/// The prologue of one image.
#[derive(Clone, Copy, Debug)]
pub(super) enum ImagePre<'a> {
    None,
    Activation(Activation),
    Affine(ImageAffine<'a>),
}

/// [`HostAffine`] for one image.
#[derive(Clone, Copy, Debug)]
pub(super) struct ImageAffine<'a> {
    /// One for each channel, like `offset`.
    pub(super) scale: &'a [f32],
    pub(super) offset: &'a [f32],
    pub(super) activation: Option<Activation>,
}

impl<'a> ImagePre<'a> {
    /// The same prologue, with scales and offsets repeated for several pixels if a pixel has few channels; see [`tile`].
    pub(super) fn tiled<'b>(self, tiles: &'b mut Tiles) -> ImagePre<'b>
    where
        'a: 'b,
    {
        match self {
            Self::Affine(ImageAffine { scale, offset, activation }) => {
                let (first, second) = tiles.0.get_or_insert(([0.0; TILE], [0.0; TILE]));
                ImagePre::Affine(ImageAffine { scale: tile(scale, first), offset: tile(offset, second), activation })
            }
            other => other,
        }
    }
}

impl HostPre {
    pub(super) fn new(pre: Pre<'_>) -> Result<Self> {
        Ok(match pre {
            Pre::None => Self::None,
            Pre::Activation(activation) => Self::Activation(activation),
            Pre::Affine(affine, activation) => Self::Affine(HostAffine::new(affine, activation)?),
        })
    }

    /// The prologue of image `n`, which has `channels` channels.
    pub(super) fn image(&self, n: usize, channels: usize) -> ImagePre<'_> {
        match self {
            Self::None => ImagePre::None,
            Self::Activation(activation) => ImagePre::Activation(*activation),
            Self::Affine(affine) => ImagePre::Affine(affine.image(n, channels)),
        }
    }

    /// Whether it ends with a GELU.
    pub(super) fn is_gelu(&self) -> bool {
        matches!(
            self,
            Self::Activation(Activation::Gelu) | Self::Affine(HostAffine { activation: Some(Activation::Gelu), .. })
        )
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl HostAffine {
    pub(super) fn new(affine: &Affine, activation: Option<Activation>) -> Result<Self> {
        let scale = host(&affine.scale)?;
        let offset = host(&affine.offset)?;
        if scale.len() != offset.len() {
            bail!("trunk: {} scales don't fit {} offsets", scale.len(), offset.len())
        }
        Ok(Self { scale, offset, activation })
    }

    /// The scale, offset and activation of image `n`, which has `channels` channels.
    pub(super) fn image(&self, n: usize, channels: usize) -> ImageAffine<'_> {
        let from = if self.scale.len() > channels { n * channels } else { 0 };
        let range = from..(from + channels).min(self.scale.len());
        ImageAffine { scale: &self.scale[range.clone()], offset: &self.offset[range], activation: self.activation }
    }
}

/// The leaky relu. It keeps NaN, and a relu maps minus infinity to 0.
#[inline(always)]
pub(super) fn leaky(x: f32, slope: f32) -> f32 {
    let below = if slope == 0.0 { 0.0 } else { slope * x };
    if x < 0.0 { below } else { x }
}

/// Reads pixels of one image into f32, applying the prologue.
struct Read<'a, E>(&'a [E], ImagePre<'a>, &'a mut [f32]);

impl<E: Element> Kernel for Read<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let Read(from, pre, to) = self;
        match pre {
            ImagePre::None => to.iter_mut().zip(from).for_each(|(t, f)| *t = f.get()),
            ImagePre::Activation(Activation::Leaky(slope)) => {
                to.iter_mut().zip(from).for_each(|(t, f)| *t = leaky(f.get(), slope));
            }
            ImagePre::Activation(Activation::Gelu) => {
                to.iter_mut().zip(from).for_each(|(t, f)| *t = gelu(f.get()));
            }
            ImagePre::Affine(ImageAffine { scale, offset, activation }) => {
                let c = scale.len().max(1);
                for (to, from) in to.chunks_mut(c).zip(from.chunks(c)) {
                    let all = to.iter_mut().zip(from).zip(scale.iter().zip(offset));
                    match activation {
                        Some(Activation::Gelu) => all.for_each(|((t, f), (s, o))| *t = gelu(f.get() * s + o)),
                        Some(Activation::Leaky(slope)) => {
                            all.for_each(|((t, f), (s, o))| *t = leaky(f.get() * s + o, slope))
                        }
                        None => all.for_each(|((t, f), (s, o))| *t = f.get() * s + o),
                    }
                }
            }
        }
    }
}

/// Reads the pixels of one image into `to`, applying `pre`.
pub(super) fn read<E: Element>(level: Level, from: &[E], pre: ImagePre<'_>, to: &mut [f32]) {
    let mut tiles = Tiles::default();
    dispatch(level, Read(from, pre.tiled(&mut tiles), to));
}

/// Minimum length of a loop over channels that is worth vectorising.
pub(super) const TILE: usize = 64;

/// Per-channel values, repeated for several pixels.
pub(super) type Tile = [f32; TILE];

/// Memory for repeated scales and offsets.
#[derive(Default)]
pub(super) struct Tiles(Option<(Tile, Tile)>);

/// Per-channel `values`, repeated in `room` for as many whole pixels as fit, or unchanged if not even two fit. A loop over
/// the result covers several pixels at a time; the last stretch of an image may be shorter.
#[inline(always)]
pub(super) fn tile<'a>(values: &'a [f32], room: &'a mut Tile) -> &'a [f32] {
    let c = values.len();
    if c == 0 || 2 * c > TILE {
        return values;
    }
    room.chunks_exact_mut(c).for_each(|to| to.copy_from_slice(values));
    &room[..TILE / c * c]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relu_clips_minus_infinity_and_keeps_nan() {
        assert_eq!((leaky(f32::NEG_INFINITY, 0.0), leaky(-2.0, 0.5)), (0.0, -1.0));
        assert!(leaky(f32::NAN, 0.0).is_nan() && leaky(-f32::NAN, 0.0).is_nan());
        for v in [0.0, -0.0, 1e-40, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            assert_eq!(<u16 as Element>::put(v).is_positive(), <f32 as Element>::is_positive(v), "{v}");
        }
    }
}
