//! DiffAugment (Zhao et al. 2020, arXiv 2006.10738): real and generated images pass through the same random,
//! differentiable transformations before the discriminator, so that it cannot memorise a small training set.

use candle_core::{Result, Tensor};
use gafi_core::Stream;
use gafi_core::stream::{below, unit_f32};
use serde::{Deserialize, Serialize};

/// A transformation of DiffAugment, with the published strength. Several are applied in the order of this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Augment {
    /// Brightness by -0.5 to 0.5, saturation times 0 to 2, contrast times 0.5 to 1.5.
    Colour,
    /// A shift by up to 1/8 of the size in each direction; zeros fill the gap.
    Translation,
    /// A box of half the height and width, at a random place, set to zero.
    Cutout,
}

/// The random numbers for a batch of N images.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draws {
    /// Brightness, saturation and contrast, each in [0, 1).
    pub colour: Vec<[f32; 3]>,
    /// Shift of the content up and to the left, in pixels.
    pub shift: Vec<[i64; 2]>,
    /// Row and column of the box's centre.
    pub centre: Vec<[i64; 2]>,
}

impl Draws {
    /// Draws for `n` images of `height` x `width` from `stream`.
    pub fn new(n: usize, height: usize, width: usize, stream: &Stream) -> Self {
        let mut rng = stream.rng();
        let mut draws = Self::default();
        let up_to = |size: usize| (size as f64 / 8.0 + 0.5) as i64;
        let (sh, sw) = (up_to(height), up_to(width));
        for _ in 0..n {
            draws.colour.push([unit_f32(&mut rng), unit_f32(&mut rng), unit_f32(&mut rng)]);
            let mut within = |reach: i64| below(&mut rng, 2 * reach as u64 + 1) as i64 - reach;
            draws.shift.push([within(sh), within(sw)]);
            // A box of even size has no central pixel; `size + 1` centres let both edges clip it equally often.
            let mut centre = |size: usize| below(&mut rng, (size + 1 - half(size) % 2) as u64) as i64;
            draws.centre.push([centre(height), centre(width)]);
        }
        draws
    }
}

/// Height or width of the cutout box for an image of that `size`.
fn half(size: usize) -> usize {
    (size as f64 * 0.5 + 0.5) as usize
}

/// Applies the transformations of `policy` to x (N, C, H, W), with one draw for each image.
pub fn diff_augment(policy: &[Augment], x: &Tensor, draws: &Draws) -> Result<Tensor> {
    let mut x = x.clone();
    if policy.contains(&Augment::Colour) {
        x = colour(&x, draws)?;
    }
    let shift = policy.contains(&Augment::Translation);
    let cut = policy.contains(&Augment::Cutout);
    if shift || cut { moved(&x, draws, shift, cut) } else { Ok(x) }
}

fn colour(x: &Tensor, draws: &Draws) -> Result<Tensor> {
    let n = x.dim(0)?;
    let each = |f: &dyn Fn(&[f32; 3]) -> f32| {
        Tensor::from_vec(draws.colour.iter().map(f).collect::<Vec<_>>(), (n, 1, 1, 1), x.device())
    };
    let x = x.broadcast_add(&each(&|d| d[0] - 0.5)?)?;
    let grey = x.mean_keepdim(1)?;
    let x = x.broadcast_sub(&grey)?.broadcast_mul(&each(&|d| d[1] * 2.0)?)?.broadcast_add(&grey)?;
    let mean = x.flatten_from(1)?.mean(1)?.reshape((n, 1, 1, 1))?;
    x.broadcast_sub(&mean)?.broadcast_mul(&each(&|d| d[2] + 0.5)?)?.broadcast_add(&mean)
}

/// Translation and cutout in one lookup: a pixel whose source lies outside the image, or that lies in the box, is zero.
fn moved(x: &Tensor, draws: &Draws, shift: bool, cut: bool) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let mut from = Vec::with_capacity(n * c * h * w);
    let mut keep = Vec::with_capacity(n * h * w);
    for i in 0..n {
        let [dy, dx] = if shift { draws.shift[i] } else { [0, 0] };
        let [cy, cx] = draws.centre[i];
        let hidden = |at: i64, centre: i64, size: usize| {
            let box_size = half(size) as i64;
            let (lo, hi) = (centre - box_size / 2, centre - box_size / 2 + box_size - 1);
            // The published code clamps the coordinates, so even a box outside the image covers the border.
            let limit = size as i64 - 1;
            (lo.clamp(0, limit)..=hi.clamp(0, limit)).contains(&at)
        };
        let plane = from.len();
        for y in 0..h as i64 {
            for x in 0..w as i64 {
                let (sy, sx) = (y + dy, x + dx);
                let inside = (0..h as i64).contains(&sy) && (0..w as i64).contains(&sx);
                let cut_out = cut && hidden(y, cy, h) && hidden(x, cx, w);
                from.push(if inside { (sy * w as i64 + sx) as u32 } else { 0 });
                keep.push(if inside && !cut_out { 1f32 } else { 0.0 });
            }
        }
        for _ in 1..c {
            from.extend_from_within(plane..plane + h * w);
        }
    }
    let from = Tensor::from_vec(from, (n, c, h * w), x.device())?;
    let keep = Tensor::from_vec(keep, (n, 1, h, w), x.device())?;
    x.reshape((n, c, h * w))?.gather(&from, 2)?.reshape((n, c, h, w))?.broadcast_mul(&keep)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn draws_cover_their_ranges_and_depend_on_the_stream_alone() {
        let stream = Stream::new(3);
        let draws = Draws::new(2000, 32, 16, &stream);
        assert_eq!(draws, Draws::new(2000, 32, 16, &stream));
        let range = |f: &dyn Fn(usize) -> i64| ((0..2000).map(f).min().unwrap(), (0..2000).map(f).max().unwrap());
        assert_eq!(range(&|i| draws.shift[i][0]), (-4, 4));
        assert_eq!(range(&|i| draws.shift[i][1]), (-2, 2));
        assert_eq!(range(&|i| draws.centre[i][0]), (0, 32));
        assert_eq!(range(&|i| draws.centre[i][1]), (0, 16));
        assert!(draws.colour.iter().flatten().all(|v| (0.0..1.0).contains(v)));
    }

    #[test]
    fn an_empty_policy_changes_nothing() {
        let x = Tensor::arange(0f32, 32.0, &Device::Cpu).unwrap().reshape((2, 1, 4, 4)).unwrap();
        let y = diff_augment(&[], &x, &Draws::new(2, 4, 4, &Stream::new(1))).unwrap();
        assert_eq!(
            x.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        );
    }
}
