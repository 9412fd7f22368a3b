//! 3x3 convolutions of stride 1 by Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray 2016, arXiv 1509.09308): 16
//! multiplications for a 2x2 result, where the definition takes 36.
//!
//! With Y a 2x2 tile of the result, d the 4x4 tile of the input that it depends on and g the weights,
//! Y = A^T ((G g G^T) . (B^T d B)) A, summed over input channels before the last step: 16 matrix products. The input
//! gradient is the same with rotated weights. The weight gradient is G^T (sum over tiles of (B^T d B) . (A dY A^T)) G.
//! F(4x4, 3x3) would save more but lose three digits, too many for training.

use super::bf16::bits;
use super::gemm::{PANEL, padded};
use super::parallel::{Tasks, for_each_chunk};
use crate::simd::{Kernel, Lane, Level, dispatch};

/// Number of places in a transformed tile.
pub(super) const PLACES: usize = 16;

/// Whether the transforms apply: they need whole vectors of channels, and with a single vector they cost as much as they
/// save.
pub(super) fn fits(cin: usize, cout: usize) -> bool {
    [cin, cout].into_iter().all(|c| c > PANEL && c.is_multiple_of(PANEL))
}

/// G g G^T: transformed weights.
fn transform_weights(g: [f32; 9]) -> [f32; PLACES] {
    let mut rows = [[0.0; 3]; 4];
    for j in 0..3 {
        let [a, b, c] = [g[j], g[3 + j], g[6 + j]];
        let even = 0.5 * (a + c);
        let odd = 0.5 * b;
        for (row, v) in rows.iter_mut().zip([a, even + odd, even - odd, c]) {
            row[j] = v;
        }
    }
    let mut out = [0.0; PLACES];
    for (out, [a, b, c]) in out.chunks_exact_mut(4).zip(rows) {
        let even = 0.5 * (a + c);
        let odd = 0.5 * b;
        out.copy_from_slice(&[a, even + odd, even - odd, c]);
    }
    out
}

/// G^T u G: the gradient of the weights from that of the transformed weights.
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

/// The transformed weights of `weight(result channel, input channel)`, packed as (panel of result channels, place, input
/// channel, 16).
pub(super) fn pack_weights(
    inputs: usize,
    results: usize,
    weight: impl Fn(usize, usize) -> [f32; 9] + Sync,
) -> Vec<f32> {
    let mut packed = vec![0.0; PLACES * padded(results) * inputs];
    let size = PLACES * inputs * PANEL;
    for_each_chunk(&mut packed, size, Tasks::large(size), &|panel, packed| {
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

/// Packed weights in bf16, in the layout of `bf16::Rows` for each place: (place, panel, input channel / 2, 16, 2).
pub(super) fn bf16_weights(packed: &[f32], inputs: usize, results: usize) -> Vec<u16> {
    let place = inputs * PANEL;
    let panels = results / PANEL;
    let mut halves = vec![0; packed.len()];
    for_each_chunk(&mut halves, place, Tasks::large(place), &|at, to| {
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

/// The gradient (results, inputs, 3, 3) of the weights from that of the transformed weights, (place, input channel, result
/// channel).
pub(super) fn unpack_gradient(sums: &[f32], inputs: usize, results: usize) -> Vec<f32> {
    let mut grad = vec![0.0; results * inputs * 9];
    let size = PANEL * inputs * 9;
    for_each_chunk(&mut grad, size, Tasks::large(size), &|panel, grad| {
        for i in 0..inputs {
            for (r, grad) in grad.chunks_exact_mut(inputs * 9).enumerate() {
                let u = std::array::from_fn(|p| sums[(p * inputs + i) * results + panel * PANEL + r]);
                grad[i * 9..][..9].copy_from_slice(&gather_weights(u));
            }
        }
    });
    grad
}

/// The tiles of an image: `rows` rows of `across` tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    pub(super) rows: usize,
    pub(super) across: usize,
}

impl Tiles {
    /// The first pixel row of a row of tiles, both counted through images of `h` pixel rows.
    pub(super) fn first_row(self, h: usize, tile_row: usize) -> usize {
        tile_row / self.rows * h + 2 * (tile_row % self.rows)
    }

    /// The pixel rows of some rows of tiles.
    pub(super) fn pixel_rows(self, h: usize, tile_rows: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        self.first_row(h, tile_rows.start)..self.first_row(h, tile_rows.end)
    }
}

/// Transforms the input, B^T d B, for all tiles of `tile_rows` (counted through the images), to (place, tile, channel).
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
    /// Zero-padded images, one after the other.
    frames: &'a [f32],
    /// Rows and columns of a frame.
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
        let place = tile_rows.len() * across * channels;
        let pitch = cols * channels;
        // The unsafe blocks below rely on these assertions.
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
                        // SAFETY: N channels from c on, c + N <= channels, in row 2 * tile row + r < rows and column
                        // col < 2 * across + 2 <= cols of a frame.
                        unsafe { lane.load(from.wrapping_add(r * pitch + col * channels)) }
                    });
                    [lane.sub(d[0], d[2]), lane.add(d[1], d[2]), lane.sub(d[2], d[1]), lane.sub(d[1], d[3])]
                };
                let mut zero = column(0);
                let mut one = column(1);
                for tile in 0..across {
                    let two = column(2 * tile + 2);
                    let three = column(2 * tile + 3);
                    let to = to.wrapping_add(tile * channels);
                    for r in 0..4 {
                        let row = [
                            lane.sub(zero[r], two[r]),
                            lane.add(one[r], two[r]),
                            lane.sub(two[r], one[r]),
                            lane.sub(one[r], three[r]),
                        ];
                        for (j, v) in row.into_iter().enumerate() {
                            // SAFETY: N channels from c on, at place 4 r + j < 16 of a tile of the block.
                            unsafe { lane.store(to.wrapping_add((4 * r + j) * place), v) };
                        }
                    }
                    (zero, one) = (two, three);
                }
            }
        }
    }
}

/// Transforms the gradient of the result, A dY A^T, for all tiles of `tile_rows`, to (place, tile, channel). `images` holds
/// the pixel rows of these tiles, of images (h, w, channels) without padding.
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
        // The unsafe blocks below rely on these assertions.
        assert!(channels.is_multiple_of(PANEL) && out.len() >= PLACES * place);
        assert!(tiles.rows == h.div_ceil(2) && across == w.div_ceil(2));
        let rows = tiles.pixel_rows(h, &tile_rows);
        assert!(images.len() >= rows.len() * w * channels);
        for (at, tile_row) in tile_rows.enumerate() {
            // The first pixel row of the tiles, counted in `images` and in its own image.
            let first = tiles.first_row(h, tile_row) - rows.start;
            let row = 2 * (tile_row % tiles.rows);
            for tile in 0..across {
                for c in (0..channels).step_by(L::N) {
                    let get = |r: usize, s: usize| {
                        let s = 2 * tile + s;
                        if row + r >= h || s >= w {
                            return lane.splat(0.0);
                        }
                        // SAFETY: N channels from c on, of a pixel of the image.
                        unsafe { lane.load(images.as_ptr().wrapping_add(((first + r) * w + s) * channels + c)) }
                    };
                    // A dY: 4 x 2.
                    let column = |s: usize| {
                        let a = get(0, s);
                        let b = get(1, s);
                        [a, lane.add(a, b), lane.sub(a, b), lane.sub(lane.splat(0.0), b)]
                    };
                    let left = column(0);
                    let right = column(1);
                    let to = out[(at * across + tile) * channels + c..].as_mut_ptr();
                    for r in 0..4 {
                        let a = left[r];
                        let b = right[r];
                        let row = [a, lane.add(a, b), lane.sub(a, b), lane.sub(lane.splat(0.0), b)];
                        for (j, v) in row.into_iter().enumerate() {
                            // SAFETY: N channels from c on, at place 4 r + j < 16 of a tile of the block.
                            unsafe { lane.store(to.wrapping_add((4 * r + j) * place), v) };
                        }
                    }
                }
            }
        }
    }
}

/// Transforms the products (place, tile, channel), A^T m A, and adds the bias, for all tiles of `tile_rows`. `images` holds
/// the pixel rows of these tiles, of images (h, w, channels).
#[expect(clippy::too_many_arguments, reason = "the arguments of the other two transforms, and a bias")]
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
        // The unsafe blocks below rely on these assertions.
        assert!(channels.is_multiple_of(PANEL) && products.len() >= PLACES * place);
        assert!(tiles.rows == h.div_ceil(2) && across == w.div_ceil(2));
        let rows = tiles.pixel_rows(h, &tile_rows);
        assert!(images.len() >= rows.len() * w * channels);
        assert!(bias.is_none_or(|b| b.len() >= channels));
        for (at, tile_row) in tile_rows.enumerate() {
            // The first pixel row of the tiles, counted in `images` and in its own image.
            let first = tiles.first_row(h, tile_row) - rows.start;
            let row = 2 * (tile_row % tiles.rows);
            for tile in 0..across {
                let col = 2 * tile;
                for c in (0..channels).step_by(L::N) {
                    let from = products[(at * across + tile) * channels + c..].as_ptr();
                    let start = match bias {
                        // SAFETY: c + N <= channels, and the bias has one value for each channel.
                        Some(bias) => unsafe { lane.load(bias[c..].as_ptr()) },
                        None => lane.splat(0.0),
                    };
                    let mut halves = [[lane.splat(0.0); 2]; 4];
                    for (j, half) in halves.iter_mut().enumerate() {
                        let m: [L::V; 4] = std::array::from_fn(|r| {
                            // SAFETY: N channels from c on, at place 4 r + j < 16 of a tile of the block.
                            unsafe { lane.load(from.wrapping_add((4 * r + j) * place)) }
                        });
                        let plus = lane.add(m[1], m[2]);
                        let minus = lane.sub(m[1], m[2]);
                        *half = [lane.add(m[0], plus), lane.sub(minus, m[3])];
                    }
                    for r in 0..2.min(h - row) {
                        let [a, b, c2, d] = halves.map(|half| half[r]);
                        let plus = lane.add(b, c2);
                        let minus = lane.sub(b, c2);
                        let pair = [lane.add(a, plus), lane.sub(minus, d)];
                        for (s, v) in pair.into_iter().enumerate().take(w - col) {
                            let to = ((first + r) * w + col + s) * channels + c;
                            // SAFETY: N channels from c on, of a pixel of the image.
                            unsafe { lane.store(images.as_mut_ptr().wrapping_add(to), lane.add(v, start)) };
                        }
                    }
                }
            }
        }
    }
}
