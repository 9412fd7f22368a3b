//! 3x3 convolutions of stride 1 by Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray 2016, arXiv 1509.09308): 16
//! multiplications for 2x2 results where the definition takes 36.
//!
//! With Y a 2x2 tile of the result, d the 4x4 tile of the input that it reads and g the weights,
//! Y = A^T ((G g G^T) . (B^T d B)) A, summed over input channels before the last step: 16 matrix products. The input
//! gradient is the same with turned weights. The weight gradient is G^T (sum over tiles of (B^T d B) . (A dY A^T)) G.
//! F(4x4, 3x3) would save more and lose three digits: not worth it in training.

use rayon::prelude::*;

use super::bf16::bits;
use super::gemm::{PANEL, padded};
use super::maps::at_a_time;
use crate::ops::simd::{Kernel, Lane, Level, dispatch};

/// Places of a transformed tile.
pub(super) const PLACES: usize = 16;

/// The transforms want whole vectors of channels, and more than one of them: what they save of 16 multiplications they cost.
pub(super) fn fits(cin: usize, cout: usize) -> bool {
    [cin, cout].into_iter().all(|c| c > PANEL && c.is_multiple_of(PANEL))
}

/// G g G^T.
fn transform_weights(g: [f32; 9]) -> [f32; PLACES] {
    let mut rows = [[0.0; 3]; 4];
    for j in 0..3 {
        let [a, b, c] = [g[j], g[3 + j], g[6 + j]];
        let (even, odd) = (0.5 * (a + c), 0.5 * b);
        for (row, v) in rows.iter_mut().zip([a, even + odd, even - odd, c]) {
            row[j] = v;
        }
    }
    let mut out = [0.0; PLACES];
    for (out, [a, b, c]) in out.chunks_exact_mut(4).zip(rows) {
        let (even, odd) = (0.5 * (a + c), 0.5 * b);
        out.copy_from_slice(&[a, even + odd, even - odd, c]);
    }
    out
}

/// G^T u G.
fn gather_weights(u: [f32; PLACES]) -> [f32; 9] {
    let mut rows = [[0.0; 4]; 3];
    for j in 0..4 {
        let [a, b, c, d] = [u[j], u[4 + j], u[8 + j], u[12 + j]];
        for (row, v) in rows.iter_mut().zip([a + 0.5 * (b + c), 0.5 * (b - c), d + 0.5 * (b + c)]) {
            row[j] = v;
        }
    }
    let mut out = [0.0; 9];
    for (out, [a, b, c, d]) in out.chunks_exact_mut(3).zip(rows) {
        out.copy_from_slice(&[a + 0.5 * (b + c), 0.5 * (b - c), d + 0.5 * (b + c)]);
    }
    out
}

/// Transformed weights as (panel of result channels, place, input channel, 16), of `weight(result channel, input channel)`.
pub(super) fn pack_weights(
    inputs: usize,
    results: usize,
    weight: impl Fn(usize, usize) -> [f32; 9] + Sync,
) -> Vec<f32> {
    let mut packed = vec![0.0; PLACES * padded(results) * inputs];
    let panels = packed.par_chunks_mut((PLACES * inputs * PANEL).max(1)).enumerate();
    panels.with_min_len(at_a_time(PLACES * inputs * PANEL)).for_each(|(panel, packed)| {
        for i in 0..inputs {
            for r in 0..PANEL.min(results - panel * PANEL) {
                for (p, v) in transform_weights(weight(panel * PANEL + r, i)).into_iter().enumerate() {
                    packed[(p * inputs + i) * PANEL + r] = v;
                }
            }
        }
    });
    packed
}

/// Packed weights as `bf16::Rows` wants them for each place: (place, panel, input channel / 2, 16, 2).
pub(super) fn halve_weights(packed: &[f32], inputs: usize, results: usize) -> Vec<u16> {
    let (place, panels) = (inputs * PANEL, results / PANEL);
    let mut halves = vec![0; packed.len()];
    let places = halves.par_chunks_mut(place.max(1)).enumerate();
    places.with_min_len(at_a_time(place)).for_each(|(at, to)| {
        let from = &packed[(at % panels * PLACES + at / panels) * place..][..place];
        for (two, to) in from.chunks_exact(2 * PANEL).zip(to.chunks_exact_mut(2 * PANEL)) {
            let (first, second) = two.split_at(PANEL);
            for ((to, a), b) in to.chunks_exact_mut(2).zip(first).zip(second) {
                to.copy_from_slice(&[bits(*a), bits(*b)]);
            }
        }
    });
    halves
}

/// The weights' gradient (results, inputs, 3, 3) from that of the transformed ones, (place, input channel, result channel).
pub(super) fn unpack_gradient(sums: &[f32], inputs: usize, results: usize) -> Vec<f32> {
    let mut grad = vec![0.0; results * inputs * 9];
    let panels = grad.par_chunks_mut((PANEL * inputs * 9).max(1)).enumerate();
    panels.with_min_len(at_a_time(PANEL * inputs * 9)).for_each(|(panel, grad)| {
        for i in 0..inputs {
            for (r, grad) in grad.chunks_exact_mut(inputs * 9).enumerate() {
                let u = std::array::from_fn(|p| sums[(p * inputs + i) * results + panel * PANEL + r]);
                grad[i * 9..][..9].copy_from_slice(&gather_weights(u));
            }
        }
    });
    grad
}

/// Rows of tiles in a row of images, each of which has `rows` of `across` tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    pub(super) rows: usize,
    pub(super) across: usize,
}

impl Tiles {
    /// The first row of pixels of a row of tiles, both counted through images of `h` rows.
    pub(super) fn first_row(self, h: usize, tile_row: usize) -> usize {
        tile_row / self.rows * h + 2 * (tile_row % self.rows)
    }

    /// The rows of pixels of some rows of tiles.
    pub(super) fn pixel_rows(self, h: usize, tile_rows: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        self.first_row(h, tile_rows.start)..self.first_row(h, tile_rows.end)
    }
}

/// B^T d B of all tiles of `tile_rows` (counted through the images): to (place, tile, channel).
pub(super) fn transform_input(
    level: Level,
    frames: &[f32],
    frame: (usize, usize),
    channels: usize,
    tiles: Tiles,
    tile_rows: std::ops::Range<usize>,
    out: &mut [f32],
) {
    dispatch(level, InputTransform { frames, frame, channels, tiles, tile_rows, out });
}

struct InputTransform<'a> {
    /// Images with zeros around them, one after the other.
    frames: &'a [f32],
    /// Rows and columns of one.
    frame: (usize, usize),
    channels: usize,
    tiles: Tiles,
    tile_rows: std::ops::Range<usize>,
    out: &'a mut [f32],
}

impl Kernel for InputTransform<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lane>(self, lane: L) {
        let InputTransform { frames, frame: (rows, cols), channels, tiles, tile_rows, out } = self;
        let across = tiles.across;
        let (place, pitch) = (tile_rows.len() * across * channels, cols * channels);
        // What the unsafe blocks below build on.
        assert!(channels.is_multiple_of(PANEL) && out.len() >= PLACES * place);
        assert!(2 * tiles.rows + 2 <= rows && 2 * across + 2 <= cols);
        assert!(frames.len() >= tile_rows.end.div_ceil(tiles.rows) * rows * pitch);
        for (at, tile_row) in tile_rows.enumerate() {
            let first = (tile_row / tiles.rows * rows + 2 * (tile_row % tiles.rows)) * pitch;
            for c in (0..channels).step_by(L::N) {
                let from = frames[first + c..].as_ptr();
                let to = out[at * across * channels + c..].as_mut_ptr();
                // B^T d for one column of a tile.
                let column = |col: usize| -> [L::V; 4] {
                    let d: [L::V; 4] = std::array::from_fn(|r| {
                        // SAFETY: row 2 * tile row + r < rows and column col < 2 * across + 2 <= cols of a frame, N
                        // channels from c on, c + N <= channels.
                        unsafe { lane.load(from.wrapping_add(r * pitch + col * channels)) }
                    });
                    [lane.sub(d[0], d[2]), lane.add(d[1], d[2]), lane.sub(d[2], d[1]), lane.sub(d[1], d[3])]
                };
                let (mut zero, mut one) = (column(0), column(1));
                for tile in 0..across {
                    let (two, three) = (column(2 * tile + 2), column(2 * tile + 3));
                    let to = to.wrapping_add(tile * channels);
                    for r in 0..4 {
                        let row = [
                            lane.sub(zero[r], two[r]),
                            lane.add(one[r], two[r]),
                            lane.sub(two[r], one[r]),
                            lane.sub(one[r], three[r]),
                        ];
                        for (j, v) in row.into_iter().enumerate() {
                            // SAFETY: place 4 r + j < 16, a tile of the block, N channels from c on.
                            unsafe { lane.store(to.wrapping_add((4 * r + j) * place), v) };
                        }
                    }
                    (zero, one) = (two, three);
                }
            }
        }
    }
}

/// A dY A^T of all tiles: from the rows of pixels that are theirs, of `images` (h, w, channels) without borders, to (place,
/// tile, channel).
pub(super) fn transform_gradient(
    level: Level,
    images: &[f32],
    size: (usize, usize),
    channels: usize,
    tiles: Tiles,
    tile_rows: std::ops::Range<usize>,
    out: &mut [f32],
) {
    dispatch(level, GradientTransform { images, size, channels, tiles, tile_rows, out });
}

struct GradientTransform<'a> {
    images: &'a [f32],
    size: (usize, usize),
    channels: usize,
    tiles: Tiles,
    tile_rows: std::ops::Range<usize>,
    out: &'a mut [f32],
}

impl Kernel for GradientTransform<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lane>(self, lane: L) {
        let GradientTransform { images, size: (h, w), channels, tiles, tile_rows, out } = self;
        let across = tiles.across;
        let place = tile_rows.len() * across * channels;
        // What the unsafe blocks below build on.
        assert!(channels.is_multiple_of(PANEL) && out.len() >= PLACES * place);
        assert!(tiles.rows == h.div_ceil(2) && across == w.div_ceil(2));
        let rows = tiles.pixel_rows(h, &tile_rows);
        assert!(images.len() >= rows.len() * w * channels);
        for (at, tile_row) in tile_rows.enumerate() {
            // The first of the tiles' rows in `images`, and in its own image.
            let (first, row) = (tiles.first_row(h, tile_row) - rows.start, 2 * (tile_row % tiles.rows));
            for tile in 0..across {
                for c in (0..channels).step_by(L::N) {
                    let get = |r: usize, s: usize| {
                        let s = 2 * tile + s;
                        if row + r >= h || s >= w {
                            return lane.splat(0.0);
                        }
                        // SAFETY: a pixel of the image, N channels from c on.
                        unsafe { lane.load(images.as_ptr().wrapping_add(((first + r) * w + s) * channels + c)) }
                    };
                    // A dY: 4 x 2.
                    let column = |s: usize| {
                        let (a, b) = (get(0, s), get(1, s));
                        [a, lane.add(a, b), lane.sub(a, b), lane.sub(lane.splat(0.0), b)]
                    };
                    let (left, right) = (column(0), column(1));
                    let to = out[(at * across + tile) * channels + c..].as_mut_ptr();
                    for r in 0..4 {
                        let (a, b) = (left[r], right[r]);
                        let row = [a, lane.add(a, b), lane.sub(a, b), lane.sub(lane.splat(0.0), b)];
                        for (j, v) in row.into_iter().enumerate() {
                            // SAFETY: place 4 r + j < 16, a tile of the block, N channels from c on.
                            unsafe { lane.store(to.wrapping_add((4 * r + j) * place), v) };
                        }
                    }
                }
            }
        }
    }
}

/// A^T m A of all tiles, plus bias: from (place, tile, channel) to the rows of pixels that are theirs, of `images` (h, w,
/// channels).
#[expect(clippy::too_many_arguments, reason = "as the other two transforms, and a bias")]
pub(super) fn transform_output(
    level: Level,
    products: &[f32],
    size: (usize, usize),
    channels: usize,
    tiles: Tiles,
    tile_rows: std::ops::Range<usize>,
    bias: Option<&[f32]>,
    images: &mut [f32],
) {
    dispatch(level, OutputTransform { products, size, channels, tiles, tile_rows, bias, images });
}

struct OutputTransform<'a> {
    products: &'a [f32],
    size: (usize, usize),
    channels: usize,
    tiles: Tiles,
    tile_rows: std::ops::Range<usize>,
    bias: Option<&'a [f32]>,
    images: &'a mut [f32],
}

impl Kernel for OutputTransform<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lane>(self, lane: L) {
        let OutputTransform { products, size: (h, w), channels, tiles, tile_rows, bias, images } = self;
        let across = tiles.across;
        let place = tile_rows.len() * across * channels;
        // What the unsafe blocks below build on.
        assert!(channels.is_multiple_of(PANEL) && products.len() >= PLACES * place);
        assert!(tiles.rows == h.div_ceil(2) && across == w.div_ceil(2));
        let rows = tiles.pixel_rows(h, &tile_rows);
        assert!(images.len() >= rows.len() * w * channels);
        assert!(bias.is_none_or(|b| b.len() >= channels));
        for (at, tile_row) in tile_rows.enumerate() {
            // The first of the tiles' rows in `images`, and in its own image.
            let (first, row) = (tiles.first_row(h, tile_row) - rows.start, 2 * (tile_row % tiles.rows));
            for tile in 0..across {
                let col = 2 * tile;
                for c in (0..channels).step_by(L::N) {
                    let from = products[(at * across + tile) * channels + c..].as_ptr();
                    let start = match bias {
                        // SAFETY: N channels from c on.
                        Some(bias) => unsafe { lane.load(bias[c..].as_ptr()) },
                        None => lane.splat(0.0),
                    };
                    let mut halves = [[lane.splat(0.0); 2]; 4];
                    for (j, half) in halves.iter_mut().enumerate() {
                        let m: [L::V; 4] = std::array::from_fn(|r| {
                            // SAFETY: place 4 r + j < 16, a tile of the block, N channels from c on.
                            unsafe { lane.load(from.wrapping_add((4 * r + j) * place)) }
                        });
                        let (plus, minus) = (lane.add(m[1], m[2]), lane.sub(m[1], m[2]));
                        *half = [lane.add(m[0], plus), lane.sub(minus, m[3])];
                    }
                    for r in 0..2.min(h - row) {
                        let [a, b, c2, d] = halves.map(|half| half[r]);
                        let (plus, minus) = (lane.add(b, c2), lane.sub(b, c2));
                        let pair = [lane.add(a, plus), lane.sub(minus, d)];
                        for (s, v) in pair.into_iter().enumerate().take(w - col) {
                            let to = ((first + r) * w + col + s) * channels + c;
                            // SAFETY: a pixel of the image, N channels from c on.
                            unsafe { lane.store(images.as_mut_ptr().wrapping_add(to), lane.add(v, start)) };
                        }
                    }
                }
            }
        }
    }
}
