//! Reading and writing feature maps: storage types, what is applied on the way, frames of zeros, sums of channels.

use candle_core::{Result, Tensor, bail};

use super::super::backend::{Affine, Pre};
use super::super::memory::{Plain, Pooled};
use super::bf16;
use crate::ops::host::locked;
use crate::ops::simd::{Kernel, Lane, Level, dispatch};

/// A type that maps are stored in. Arithmetic is f32.
pub(super) trait Element: Plain + Default {
    fn get(self) -> f32;
    fn put(value: f32) -> Self;
    /// The numbers themselves, where they are f32 already.
    fn floats(values: &[Self]) -> Option<&[f32]>;
    fn floats_mut(values: &mut [Self]) -> Option<&mut [f32]>;
    /// Stores numbers.
    fn write(from: &[f32], to: &mut [Self]);
    /// Whether it is more than 0; a NaN is not.
    fn is_positive(self) -> bool;
}

impl Element for f32 {
    #[inline(always)]
    fn get(self) -> f32 {
        self
    }

    #[inline(always)]
    fn put(value: f32) -> Self {
        value
    }

    fn floats(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }

    fn floats_mut(values: &mut [Self]) -> Option<&mut [f32]> {
        Some(values)
    }

    fn write(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }

    #[inline(always)]
    fn is_positive(self) -> bool {
        self > 0.0
    }
}

/// bf16: the upper half of an f32.
impl Element for u16 {
    #[inline(always)]
    fn get(self) -> f32 {
        bf16::value(self)
    }

    #[inline(always)]
    fn put(value: f32) -> Self {
        bf16::bits(value)
    }

    fn floats(_: &[Self]) -> Option<&[f32]> {
        None
    }

    fn floats_mut(_: &mut [Self]) -> Option<&mut [f32]> {
        None
    }

    fn write(from: &[f32], to: &mut [Self]) {
        bf16::round(from, to);
    }

    #[inline(always)]
    fn is_positive(self) -> bool {
        // From the smallest number to infinity.
        self.wrapping_sub(1) < 0x7f80
    }
}

/// The floats of a small contiguous tensor, on the host's memory for the time of a call.
pub(super) fn host(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    Ok(locked("trunk", &storage, layout)?.to_vec())
}

/// [`Pre`] with its numbers at hand.
#[derive(Clone, Debug)]
pub(super) enum HostPre {
    None,
    Leaky(f32),
    /// Scale and offset, (C) or (N, C).
    Affine {
        scale: Vec<f32>,
        offset: Vec<f32>,
        slope: Option<f32>,
    },
}

/// What is applied to one image.
#[derive(Clone, Copy, Debug)]
pub(super) enum ImagePre<'a> {
    None,
    Leaky(f32),
    /// One scale and offset a channel.
    Affine {
        scale: &'a [f32],
        offset: &'a [f32],
        slope: Option<f32>,
    },
}

impl<'a> ImagePre<'a> {
    /// The same for several pixels at a time, where a pixel has few channels; see [`tile`].
    pub(super) fn tiled<'b>(self, tiles: &'b mut Tiles) -> ImagePre<'b>
    where
        'a: 'b,
    {
        match self {
            Self::Affine { scale, offset, slope } => {
                let (first, second) = tiles.0.get_or_insert(([0.0; TILE], [0.0; TILE]));
                ImagePre::Affine { scale: tile(scale, first), offset: tile(offset, second), slope }
            }
            other => other,
        }
    }
}

impl HostPre {
    pub(super) fn new(pre: Pre<'_>) -> Result<Self> {
        Ok(match pre {
            Pre::None => Self::None,
            Pre::Leaky(slope) => Self::Leaky(slope),
            Pre::Affine(affine, slope) => Self::of(affine, slope)?,
        })
    }

    pub(super) fn of(affine: &Affine, slope: Option<f32>) -> Result<Self> {
        let (scale, offset) = (host(&affine.scale)?, host(&affine.offset)?);
        if scale.len() != offset.len() {
            bail!("trunk: {} scales and {} offsets", scale.len(), offset.len())
        }
        Ok(Self::Affine { scale, offset, slope })
    }

    /// For image `n` of `channels`.
    pub(super) fn image(&self, n: usize, channels: usize) -> ImagePre<'_> {
        match self {
            Self::None => ImagePre::None,
            Self::Leaky(slope) => ImagePre::Leaky(*slope),
            Self::Affine { scale, offset, slope } => {
                let from = if scale.len() > channels { n * channels } else { 0 };
                let of = |v: &'_ [f32]| -> std::ops::Range<usize> { from..(from + channels).min(v.len()) };
                ImagePre::Affine { scale: &scale[of(scale)], offset: &offset[of(offset)], slope: *slope }
            }
        }
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// `leaky(x)`, without changing a NaN; a relu makes 0 of minus infinity too.
#[inline(always)]
pub(super) fn leaky(x: f32, slope: f32) -> f32 {
    let below = if slope == 0.0 { 0.0 } else { slope * x };
    if x < 0.0 { below } else { x }
}

/// Pixels of one image, `pre` applied, as f32.
struct Read<'a, E>(&'a [E], ImagePre<'a>, &'a mut [f32]);

impl<E: Element> Kernel for Read<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let Read(from, pre, to) = self;
        match pre {
            ImagePre::None => to.iter_mut().zip(from).for_each(|(t, f)| *t = f.get()),
            ImagePre::Leaky(slope) => to.iter_mut().zip(from).for_each(|(t, f)| *t = leaky(f.get(), slope)),
            ImagePre::Affine { scale, offset, slope } => {
                let c = scale.len().max(1);
                for (to, from) in to.chunks_mut(c).zip(from.chunks(c)) {
                    let all = to.iter_mut().zip(from).zip(scale.iter().zip(offset));
                    match slope {
                        Some(slope) => all.for_each(|((t, f), (s, o))| *t = leaky(f.get() * s + o, slope)),
                        None => all.for_each(|((t, f), (s, o))| *t = f.get() * s + o),
                    }
                }
            }
        }
    }
}

/// Writes the pixels of one image, `pre` applied, to `to`.
pub(super) fn read<E: Element>(level: Level, from: &[E], pre: ImagePre<'_>, to: &mut [f32]) {
    let mut tiles = Tiles::default();
    dispatch(level, Read(from, pre.tiled(&mut tiles), to));
}

/// Values that a loop over the channels should have at least, to be worth vectorising.
pub(super) const TILE: usize = 64;

/// The values of few channels, repeated.
pub(super) type Tile = [f32; TILE];

/// Room for the scales and offsets of few channels, repeated.
#[derive(Default)]
pub(super) struct Tiles(Option<(Tile, Tile)>);

/// Values of a channel each, repeated for as many pixels as fit into `room`; as they are where that is no two. Loops over them
/// meet several pixels at a time; the last may be cut short.
#[inline(always)]
pub(super) fn tile<'a>(values: &'a [f32], room: &'a mut Tile) -> &'a [f32] {
    let c = values.len();
    if c == 0 || 2 * c > TILE {
        return values;
    }
    room.chunks_exact_mut(c).for_each(|to| to.copy_from_slice(values));
    &room[..TILE / c * c]
}

/// Values of a piece of work that is worth sharing out.
const SHARE: usize = 16 * 1024;

/// How many things of so many values a thread takes at a time: enough to be worth waking another thread for, and few, as a loop's
/// end waits for whoever lost its core in the midst of them.
pub(super) fn at_a_time(values: usize) -> usize {
    (SHARE / values.max(1)).max(1)
}

/// A growing buffer of bf16 that keeps its memory between uses.
#[derive(Default)]
pub(super) struct Halves(Option<Pooled<u16>>);

impl Halves {
    /// `len` numbers with whatever an earlier use left in them.
    pub(super) fn take(&mut self, len: usize) -> &mut [u16] {
        if self.0.as_ref().is_none_or(|kept| kept.len() < len) {
            self.0 = None;
        }
        &mut self.0.get_or_insert_with(|| Pooled::new(len))[..len]
    }
}

/// Zeros around an image: row r, column c of it is the image's (r - top, c - left).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) top: usize,
    pub(super) left: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Frame {
    /// Whether an image of this size is its own frame.
    pub(super) fn is_tight(&self, h: usize, w: usize) -> bool {
        *self == Frame { top: 0, left: 0, rows: h, cols: w }
    }

    /// Puts the image (h, w, channels), `pre` applied, into `to` (rows, cols, channels). What of the image doesn't fit is left out.
    pub(super) fn fill<E: Element>(
        &self,
        level: Level,
        image: &[E],
        (h, w, channels): (usize, usize, usize),
        pre: ImagePre<'_>,
        to: &mut [f32],
    ) {
        let pitch = self.cols * channels;
        let (inner, width) =
            (self.rows.saturating_sub(self.top).min(h), self.cols.saturating_sub(self.left).min(w) * channels);
        let left = self.left * channels;
        let mut tiles = Tiles::default();
        // Once for all rows.
        let pre = pre.tiled(&mut tiles);
        to[..self.top * pitch].fill(0.0);
        for (r, row) in to[self.top * pitch..self.rows * pitch].chunks_exact_mut(pitch).enumerate() {
            if r >= inner {
                row.fill(0.0);
                continue;
            }
            row[..left].fill(0.0);
            row[left + width..].fill(0.0);
            read(level, &image[r * w * channels..][..width], pre, &mut row[left..left + width]);
        }
    }
}

/// Work on some channels at a time.
pub(super) trait Channels {
    /// Does channels `at..at + N`. Mark it `#[inline(always)]`: it must end up inside the function that has the level's
    /// target features.
    fn block<const N: usize>(&mut self, at: usize);
}

/// Does all channels in blocks of 16, which then fit into registers, then of 8, then one by one.
#[inline(always)]
pub(super) fn channel_blocks(channels: usize, work: &mut impl Channels) {
    let mut at = 0;
    while at + 16 <= channels {
        work.block::<16>(at);
        at += 16;
    }
    if at + 8 <= channels {
        work.block::<8>(at);
        at += 8;
    }
    while at < channels {
        work.block::<1>(at);
        at += 1;
    }
}

/// The `N` values from `at` on.
#[inline(always)]
pub(super) fn block<const N: usize, T>(values: &[T], at: usize) -> Option<&[T; N]> {
    values.get(at..at + N)?.first_chunk()
}

/// Sums and sums of squares of each channel, in f64.
struct Sums<'a, E>(&'a [E], &'a mut [f64]);

impl<E: Element> Channels for Sums<'_, E> {
    #[inline(always)]
    fn block<const N: usize>(&mut self, at: usize) {
        let c = self.1.len() / 2;
        let (mut s, mut q) = ([0.0f64; N], [0.0f64; N]);
        for pixel in self.0.chunks_exact(c) {
            let Some(v) = block::<N, E>(pixel, at) else { return };
            for i in 0..N {
                let v = f64::from(v[i].get());
                s[i] += v;
                q[i] += v * v;
            }
        }
        for i in 0..N {
            self.1[at + i] += s[i];
            self.1[c + at + i] += q[i];
        }
    }
}

impl<E: Element> Kernel for Sums<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(mut self, _: L) {
        channel_blocks(self.1.len() / 2, &mut self);
    }
}

/// Adds the sums and the sums of squares of an image's channels to `out` (2, C).
pub(super) fn add_sums<E: Element>(level: Level, image: &[E], out: &mut [f64]) {
    dispatch(level, Sums(image, out));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_nearest_even_and_keeps_nan_and_infinity() {
        let put = |v: f32| <u16 as Element>::put(v).get();
        for exact in [0.0, -0.0, 1.0, -2.5, f32::INFINITY, f32::NEG_INFINITY, 1.0 + 2f32.powi(-7)] {
            assert_eq!(put(exact).to_bits(), exact.to_bits());
        }
        let ulp = 2f32.powi(-7);
        assert_eq!(put(1.0 + 0.5 * ulp), 1.0, "a tie goes to the even one");
        assert_eq!(put(1.0 + 1.5 * ulp), 1.0 + 2.0 * ulp);
        assert_eq!(put(1.0 + 0.51 * ulp), 1.0 + ulp);
        assert!(put(f32::NAN).is_nan());
        assert!(put(f32::from_bits(0x7f80_0001)).is_nan(), "a NaN whose upper half is infinity");
        assert_eq!(put(f32::MAX), f32::INFINITY);
    }

    #[test]
    fn a_relu_cuts_minus_infinity_and_keeps_nan() {
        assert_eq!((leaky(f32::NEG_INFINITY, 0.0), leaky(-2.0, 0.5)), (0.0, -1.0));
        assert!(leaky(f32::NAN, 0.0).is_nan() && leaky(-f32::NAN, 0.0).is_nan());
        for v in [0.0, -0.0, 1e-40, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            assert_eq!(<u16 as Element>::put(v).is_positive(), <f32 as Element>::is_positive(v), "{v}");
        }
    }

    #[test]
    fn frames_are_filled_and_cropped() {
        let image: Vec<f32> = (1..=12).map(|v| v as f32).collect();
        let frame = Frame { top: 1, left: 1, rows: 3, cols: 4 };
        let mut out = vec![9.0; 24];
        frame.fill(Level::Portable, &image, (3, 2, 2), ImagePre::Leaky(0.0), &mut out);
        #[rustfmt::skip]
        assert_eq!(out, [
            0., 0., 0., 0., 0., 0., 0., 0.,
            0., 0., 1., 2., 3., 4., 0., 0.,
            0., 0., 5., 6., 7., 8., 0., 0.,
        ]);
        assert!(Frame { top: 0, left: 0, rows: 3, cols: 2 }.is_tight(3, 2) && !frame.is_tight(3, 4));
    }
}
