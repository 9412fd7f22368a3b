//! 3x3 convolutions of stride 1 by Winograd's minimal filtering F(MxM, 3x3) (Lavin and Gray 2016, arXiv 1509.09308): 36
//! multiplications for a 4x4 result, where the definition takes 144, or 16 for a 2x2 result.
//!
//! With Y an MxM tile of the result, d the tile of the input that it depends on, M + 2 wide, and g the weights,
//! Y = A^T ((G g G^T) . (B^T d B)) A, summed over input channels before the last step: a matrix product for each of the
//! (M + 2)^2 places of a tile. The input gradient is the same with rotated weights. The weight gradient is G^T (sum over
//! tiles of (B^T d B) . (A dY A^T)) G.
//!
//! F(4x4, 3x3) at the usual points 0, +-1, +-2 triples the rounding error of direct sums. At 0, +-5/8, +-5/4, which like their
//! powers are exact in binary, the error stays below twice that of direct sums.

#![expect(
    clippy::needless_range_loop,
    reason = "loops of a fixed length that are unrolled, where closures would not be inlined"
)]

use std::ops::Range;

use super::bf16::bits;
use super::gemm::{PANEL, padded};
use super::parallel::{Tasks, for_each_chunk};
use crate::simd::{Kernel, Lane, Level, dispatch};

/// Whether the transforms apply to these numbers of channels and make a convolution faster. Results must fill whole vectors; with
/// a single vector, the transforms of small tiles cost as much as they save.
pub(super) fn fits(size: TileSize, cin: usize, cout: usize) -> bool {
    let fewest = match size {
        TileSize::Two => PANEL + 1,
        TileSize::Four => PANEL,
    };
    cin.min(cout) >= fewest && cin.is_multiple_of(PANEL / 2) && cout.is_multiple_of(PANEL)
}

/// The steps of the transforms along one axis: F(M, 3), whose tiles of the input are T = M + 2 wide.
pub(super) trait Filtering<const M: usize, const T: usize>: Copy {
    /// G g
    fn weights(g: [f32; 3]) -> [f32; T];
    /// G^T u
    fn gathered(u: [f32; T]) -> [f32; 3];
    /// B^T d
    fn input<L: Lane>(lane: L, d: [L::V; T]) -> [L::V; T];
    /// A dy
    fn gradient<L: Lane>(lane: L, dy: [L::V; M]) -> [L::V; T];
    /// A^T m
    fn output<L: Lane>(lane: L, m: [L::V; T]) -> [L::V; M];
}

/// F(2, 3) at the points 0, 1, -1 and infinity.
#[derive(Clone, Copy)]
struct Two;

impl Filtering<2, 4> for Two {
    fn weights([a, b, c]: [f32; 3]) -> [f32; 4] {
        let even = 0.5 * (a + c);
        let odd = 0.5 * b;
        [a, even + odd, even - odd, c]
    }

    fn gathered([a, b, c, d]: [f32; 4]) -> [f32; 3] {
        [a + 0.5 * (b + c), 0.5 * (b - c), d + 0.5 * (b + c)]
    }

    #[inline(always)]
    fn input<L: Lane>(lane: L, d: [L::V; 4]) -> [L::V; 4] {
        [lane.sub(d[0], d[2]), lane.add(d[1], d[2]), lane.sub(d[2], d[1]), lane.sub(d[1], d[3])]
    }

    #[inline(always)]
    fn gradient<L: Lane>(lane: L, [a, b]: [L::V; 2]) -> [L::V; 4] {
        [a, lane.add(a, b), lane.sub(a, b), lane.sub(lane.splat(0.0), b)]
    }

    #[inline(always)]
    fn output<L: Lane>(lane: L, m: [L::V; 4]) -> [L::V; 2] {
        let plus = lane.add(m[1], m[2]);
        let minus = lane.sub(m[1], m[2]);
        [lane.add(m[0], plus), lane.sub(minus, m[3])]
    }
}

/// F(4, 3) at the points 0, P, -P, Q, -Q and infinity.
#[derive(Clone, Copy)]
struct Four;

const P: f32 = 0.625;
const Q: f32 = 1.25;
const P2: f32 = P * P;
const Q2: f32 = Q * Q;

impl Filtering<4, 6> for Four {
    fn weights([a, b, c]: [f32; 3]) -> [f32; 6] {
        // Each row is divided by the product of the differences of its point and the others.
        let pair = |point: f32, scale: f32| {
            let even = scale * (a + point * point * c);
            let odd = scale * point * b;
            [even + odd, even - odd]
        };
        let [p, minus_p] = pair(P, 0.5 / (P2 * (P2 - Q2)));
        let [q, minus_q] = pair(Q, 0.5 / (Q2 * (Q2 - P2)));
        [a / (P2 * Q2), p, minus_p, q, minus_q, c]
    }

    fn gathered(u: [f32; 6]) -> [f32; 3] {
        let p = 0.5 / (P2 * (P2 - Q2));
        let q = 0.5 / (Q2 * (Q2 - P2));
        let even = [p * (u[1] + u[2]), q * (u[3] + u[4])];
        let odd = [p * (u[1] - u[2]), q * (u[3] - u[4])];
        [u[0] / (P2 * Q2) + (even[0] + even[1]), P * odd[0] + Q * odd[1], P2 * even[0] + Q2 * even[1] + u[5]]
    }

    #[inline(always)]
    fn input<L: Lane>(lane: L, d: [L::V; 6]) -> [L::V; 6] {
        let [p2, q2] = [lane.splat(-P2), lane.splat(-Q2)];
        let [product, sum] = [lane.splat(P2 * Q2), lane.splat(-(P2 + Q2))];
        let even = [lane.fma(q2, d[2], d[4]), lane.fma(p2, d[2], d[4])];
        let odd = [lane.fma(q2, d[1], d[3]), lane.fma(p2, d[1], d[3])];
        [
            lane.fma(product, d[0], lane.fma(sum, d[2], d[4])),
            lane.fma(lane.splat(P), odd[0], even[0]),
            lane.fma(lane.splat(-P), odd[0], even[0]),
            lane.fma(lane.splat(Q), odd[1], even[1]),
            lane.fma(lane.splat(-Q), odd[1], even[1]),
            lane.fma(product, d[1], lane.fma(sum, d[3], d[5])),
        ]
    }

    #[inline(always)]
    fn gradient<L: Lane>(lane: L, dy: [L::V; 4]) -> [L::V; 6] {
        let [p2, q2] = [lane.splat(P2), lane.splat(Q2)];
        let even = [lane.fma(p2, dy[2], dy[0]), lane.fma(q2, dy[2], dy[0])];
        let odd = [lane.fma(p2, dy[3], dy[1]), lane.fma(q2, dy[3], dy[1])];
        [
            dy[0],
            lane.fma(lane.splat(P), odd[0], even[0]),
            lane.fma(lane.splat(-P), odd[0], even[0]),
            lane.fma(lane.splat(Q), odd[1], even[1]),
            lane.fma(lane.splat(-Q), odd[1], even[1]),
            dy[3],
        ]
    }

    #[inline(always)]
    fn output<L: Lane>(lane: L, m: [L::V; 6]) -> [L::V; 4] {
        let even = [lane.add(m[1], m[2]), lane.add(m[3], m[4])];
        let odd = [lane.sub(m[1], m[2]), lane.sub(m[3], m[4])];
        let [p2, q2] = [lane.splat(P2), lane.splat(Q2)];
        let [p3, q3] = [lane.splat(P2 * P), lane.splat(Q2 * Q)];
        [
            lane.add(m[0], lane.add(even[0], even[1])),
            lane.fma(lane.splat(P), odd[0], lane.fma(lane.splat(Q), odd[1], lane.splat(0.0))),
            lane.fma(p2, even[0], lane.fma(q2, even[1], lane.splat(0.0))),
            lane.fma(p3, odd[0], lane.fma(q3, odd[1], m[5])),
        ]
    }
}

/// G g G^T: transformed weights, row by row.
fn transform_weights<F: Filtering<M, T>, const M: usize, const T: usize>(_: F, g: [f32; 9], out: &mut [f32]) {
    let columns: [[f32; T]; 3] = std::array::from_fn(|j| F::weights([g[j], g[3 + j], g[6 + j]]));
    for (r, out) in out.chunks_exact_mut(T).enumerate() {
        out.copy_from_slice(&F::weights(columns.map(|column| column[r])));
    }
}

/// G^T u G: the gradient of the weights from that of the transformed weights.
fn gather_weights<F: Filtering<M, T>, const M: usize, const T: usize>(_: F, u: impl Fn(usize) -> f32) -> [f32; 9] {
    let columns: [[f32; 3]; T] = std::array::from_fn(|j| F::gathered(std::array::from_fn(|r| u(r * T + j))));
    let rows: [[f32; 3]; 3] = std::array::from_fn(|r| F::gathered(columns.map(|column| column[r])));
    std::array::from_fn(|i| rows[i / 3][i % 3])
}

/// The transformed weights of `weight(result channel, input channel)`, packed as (panel of result channels, place, input
/// channel, 16).
pub(super) fn pack_weights(
    tiles: Tiles,
    inputs: usize,
    results: usize,
    weight: impl Fn(usize, usize) -> [f32; 9] + Sync,
) -> Vec<f32> {
    let places = tiles.places();
    let mut packed = vec![0.0; places * padded(results) * inputs];
    let size = places * inputs * PANEL;
    for_each_chunk(&mut packed, size, Tasks::large(size), &|panel, packed| {
        let mut transformed = [0.0; MAX_PLACES];
        for i in 0..inputs {
            for r in 0..PANEL.min(results - panel * PANEL) {
                let weight = weight(panel * PANEL + r, i);
                match tiles.size {
                    TileSize::Two => transform_weights(Two, weight, &mut transformed[..places]),
                    TileSize::Four => transform_weights(Four, weight, &mut transformed[..places]),
                }
                for (p, v) in transformed[..places].iter().enumerate() {
                    packed[(p * inputs + i) * PANEL + r] = *v;
                }
            }
        }
    });
    packed
}

/// Packed weights in bf16, in the layout of `bf16::Rows` for each place: (place, panel, input channel / 2, 16, 2).
pub(super) fn bf16_weights(tiles: Tiles, packed: &[f32], inputs: usize, results: usize) -> Vec<u16> {
    let place = inputs * PANEL;
    let panels = results / PANEL;
    let mut halves = vec![0; packed.len()];
    for_each_chunk(&mut halves, place, Tasks::large(place), &|at, to| {
        let from = &packed[(at % panels * tiles.places() + at / panels) * place..][..place];
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
pub(super) fn unpack_gradient(tiles: Tiles, sums: &[f32], inputs: usize, results: usize) -> Vec<f32> {
    let mut grad = vec![0.0; results * inputs * 9];
    let size = PANEL * inputs * 9;
    for_each_chunk(&mut grad, size, Tasks::large(size), &|panel, grad| {
        for i in 0..inputs {
            for (r, grad) in grad.chunks_exact_mut(inputs * 9).enumerate() {
                let u = |p: usize| sums[(p * inputs + i) * results + panel * PANEL + r];
                let gathered = match tiles.size {
                    TileSize::Two => gather_weights(Two, u),
                    TileSize::Four => gather_weights(Four, u),
                };
                grad[i * 9..][..9].copy_from_slice(&gathered);
            }
        }
    });
    grad
}

/// Height and width of a tile of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TileSize {
    Two,
    Four,
}

/// Maximum number of places in a transformed tile.
const MAX_PLACES: usize = 36;

/// The tiles of an image: `rows` rows of `across` tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    pub(super) size: TileSize,
    pub(super) rows: usize,
    pub(super) across: usize,
}

impl Tiles {
    /// Tiles of a given size for a result of h x w.
    pub(super) fn of_size(size: TileSize, (h, w): (usize, usize)) -> Self {
        let mut tiles = Self { size, rows: 0, across: 0 };
        tiles.rows = h.div_ceil(tiles.width());
        tiles.across = w.div_ceil(tiles.width());
        tiles
    }

    /// The tiles that take fewer multiplications for a result of h x w. A result that a single large tile would cover gets small
    /// tiles: one tile an image is too few to divide among threads.
    pub(super) fn best(size: (usize, usize)) -> Self {
        let small = Self::of_size(TileSize::Two, size);
        let large = Self::of_size(TileSize::Four, size);
        let products = |tiles: Self| tiles.places() * tiles.rows * tiles.across;
        if large.rows * large.across > 1 && products(large) < products(small) { large } else { small }
    }

    /// Height and width of a tile of the result.
    pub(super) fn width(self) -> usize {
        match self.size {
            TileSize::Two => 2,
            TileSize::Four => 4,
        }
    }

    /// Number of places in a transformed tile.
    pub(super) fn places(self) -> usize {
        (self.width() + 2).pow(2)
    }

    /// The first pixel row of a row of tiles, both counted through images of `h` pixel rows.
    pub(super) fn first_row(self, h: usize, tile_row: usize) -> usize {
        tile_row / self.rows * h + self.width() * (tile_row % self.rows)
    }

    /// The pixel rows of some rows of tiles.
    pub(super) fn pixel_rows(self, h: usize, tile_rows: &Range<usize>) -> Range<usize> {
        self.first_row(h, tile_rows.start)..self.first_row(h, tile_rows.end)
    }
}

/// A transform of tiles. The rows of tiles are counted through the images.
pub(super) trait Transform {
    /// By `filtering`, with vectors of `lane`.
    fn run<L: Lane, F: Filtering<M, T>, const M: usize, const T: usize>(self, lane: L, filtering: F);
}

/// Transforms tiles of this size.
pub(super) fn transform(level: Level, size: TileSize, transform: impl Transform) {
    match size {
        TileSize::Two => dispatch(level, By::<_, _, 2, 4>(Two, transform)),
        TileSize::Four => dispatch(level, By::<_, _, 4, 6>(Four, transform)),
    }
}

/// A transform by a filtering.
struct By<F, K, const M: usize, const T: usize>(F, K);

impl<F: Filtering<M, T>, K: Transform, const M: usize, const T: usize> Kernel for By<F, K, M, T> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lane>(self, lane: L) {
        self.1.run::<L, F, M, T>(lane, self.0);
    }
}

/// Transforms the input, B^T d B, for all tiles of `tile_rows`, to (place, tile, channel).
pub(super) struct InputTransform<'a> {
    /// Zero-padded images, one after the other.
    pub(super) frames: &'a [f32],
    /// Rows and columns of a frame.
    pub(super) frame: (usize, usize),
    pub(super) channels: usize,
    pub(super) tiles: Tiles,
    pub(super) tile_rows: Range<usize>,
    pub(super) out: &'a mut [f32],
}

impl Transform for InputTransform<'_> {
    #[inline(always)]
    fn run<L: Lane, F: Filtering<M, T>, const M: usize, const T: usize>(self, lane: L, _: F) {
        let InputTransform { frames, frame: (rows, cols), channels, tiles, tile_rows, out } = self;
        let across = tiles.across;
        let place = tile_rows.len() * across * channels;
        let pitch = cols * channels;
        // The unsafe blocks below rely on these assertions.
        assert!(channels >= PANEL && out.len() >= T * T * place && T == M + 2 && tiles.width() == M);
        assert!(M * tiles.rows + 2 <= rows && M * across + 2 <= cols);
        assert!(frames.len() >= tile_rows.end.div_ceil(tiles.rows) * rows * pitch);
        for (at, tile_row) in tile_rows.enumerate() {
            let first = (tile_row / tiles.rows * rows + M * (tile_row % tiles.rows)) * pitch;
            for c in (0..channels).step_by(L::N) {
                // The last vector may overlap the one before.
                let c = c.min(channels - L::N);
                let from = frames[first + c..].as_ptr();
                let to = out[at * across * channels + c..].as_mut_ptr();
                // B^T d, column by column. A tile shares its first two columns with the one before.
                let mut columns = [[lane.splat(0.0); T]; T];
                for tile in 0..across {
                    columns[0] = columns[M];
                    columns[1] = columns[M + 1];
                    for j in if tile == 0 { 0 } else { 2 }..T {
                        let mut d = [lane.splat(0.0); T];
                        for r in 0..T {
                            let at = r * pitch + (M * tile + j) * channels;
                            // SAFETY: N channels from c on, c + N <= channels, in row M * tile row + r < rows and column
                            // M * tile + j < M * across + 2 <= cols of a frame.
                            d[r] = unsafe { lane.load(from.wrapping_add(at)) };
                        }
                        columns[j] = F::input(lane, d);
                    }
                    let to = to.wrapping_add(tile * channels);
                    for r in 0..T {
                        let mut row = [lane.splat(0.0); T];
                        for j in 0..T {
                            row[j] = columns[j][r];
                        }
                        let row = F::input(lane, row);
                        for j in 0..T {
                            // SAFETY: N channels from c on, at place T r + j < T^2 of a tile of the block.
                            unsafe { lane.store(to.wrapping_add((T * r + j) * place), row[j]) };
                        }
                    }
                }
            }
        }
    }
}

/// Transforms the gradient of the result, A dY A^T, for all tiles of `tile_rows`, to (place, tile, channel).
pub(super) struct GradientTransform<'a> {
    /// The pixel rows of these tiles, of images (h, w, channels) without padding.
    pub(super) images: &'a [f32],
    /// Height and width of an image.
    pub(super) size: (usize, usize),
    pub(super) channels: usize,
    pub(super) tiles: Tiles,
    pub(super) tile_rows: Range<usize>,
    pub(super) out: &'a mut [f32],
}

impl Transform for GradientTransform<'_> {
    #[inline(always)]
    fn run<L: Lane, F: Filtering<M, T>, const M: usize, const T: usize>(self, lane: L, _: F) {
        let GradientTransform { images, size: (h, w), channels, tiles, tile_rows, out } = self;
        let across = tiles.across;
        let place = tile_rows.len() * across * channels;
        // The unsafe blocks below rely on these assertions.
        assert!(channels >= PANEL && out.len() >= T * T * place && tiles.width() == M);
        assert!(tiles.rows == h.div_ceil(M) && across == w.div_ceil(M));
        let rows = tiles.pixel_rows(h, &tile_rows);
        assert!(images.len() >= rows.len() * w * channels);
        for (at, tile_row) in tile_rows.enumerate() {
            // The first pixel row of the tiles, counted in `images` and in its own image.
            let first = tiles.first_row(h, tile_row) - rows.start;
            let row = M * (tile_row % tiles.rows);
            for tile in 0..across {
                for c in (0..channels).step_by(L::N) {
                    let c = c.min(channels - L::N);
                    // A dY, column by column.
                    let mut columns = [[lane.splat(0.0); T]; M];
                    for s in 0..M {
                        let mut dy = [lane.splat(0.0); M];
                        for r in 0..M {
                            if row + r < h && M * tile + s < w {
                                let at = ((first + r) * w + M * tile + s) * channels + c;
                                // SAFETY: N channels from c on, of a pixel of the image.
                                dy[r] = unsafe { lane.load(images.as_ptr().wrapping_add(at)) };
                            }
                        }
                        columns[s] = F::gradient(lane, dy);
                    }
                    let to = out[(at * across + tile) * channels + c..].as_mut_ptr();
                    for r in 0..T {
                        let mut row = [lane.splat(0.0); M];
                        for s in 0..M {
                            row[s] = columns[s][r];
                        }
                        let row = F::gradient(lane, row);
                        for j in 0..T {
                            // SAFETY: N channels from c on, at place T r + j < T^2 of a tile of the block.
                            unsafe { lane.store(to.wrapping_add((T * r + j) * place), row[j]) };
                        }
                    }
                }
            }
        }
    }
}

/// Transforms the products (place, tile, channel), A^T m A, and adds the bias, for all tiles of `tile_rows`.
pub(super) struct OutputTransform<'a> {
    pub(super) products: &'a [f32],
    /// Height and width of an image.
    pub(super) size: (usize, usize),
    pub(super) channels: usize,
    pub(super) tiles: Tiles,
    pub(super) tile_rows: Range<usize>,
    pub(super) bias: Option<&'a [f32]>,
    /// The pixel rows of these tiles, of images (h, w, channels).
    pub(super) images: &'a mut [f32],
}

impl Transform for OutputTransform<'_> {
    #[inline(always)]
    fn run<L: Lane, F: Filtering<M, T>, const M: usize, const T: usize>(self, lane: L, _: F) {
        let OutputTransform { products, size: (h, w), channels, tiles, tile_rows, bias, images } = self;
        let across = tiles.across;
        let place = tile_rows.len() * across * channels;
        // The unsafe blocks below rely on these assertions.
        assert!(channels >= PANEL && products.len() >= T * T * place && tiles.width() == M);
        assert!(tiles.rows == h.div_ceil(M) && across == w.div_ceil(M));
        let rows = tiles.pixel_rows(h, &tile_rows);
        assert!(images.len() >= rows.len() * w * channels);
        assert!(bias.is_none_or(|b| b.len() >= channels));
        for (at, tile_row) in tile_rows.enumerate() {
            // The first pixel row of the tiles, counted in `images` and in its own image.
            let first = tiles.first_row(h, tile_row) - rows.start;
            let row = M * (tile_row % tiles.rows);
            for tile in 0..across {
                let col = M * tile;
                for c in (0..channels).step_by(L::N) {
                    let c = c.min(channels - L::N);
                    let from = products[(at * across + tile) * channels + c..].as_ptr();
                    let start = match bias {
                        // SAFETY: c + N <= channels, and the bias has one value for each channel.
                        Some(bias) => unsafe { lane.load(bias[c..].as_ptr()) },
                        None => lane.splat(0.0),
                    };
                    // A^T m, column by column.
                    let mut columns = [[lane.splat(0.0); M]; T];
                    for j in 0..T {
                        let mut m = [lane.splat(0.0); T];
                        for r in 0..T {
                            // SAFETY: N channels from c on, at place T r + j < T^2 of a tile of the block.
                            m[r] = unsafe { lane.load(from.wrapping_add((T * r + j) * place)) };
                        }
                        columns[j] = F::output(lane, m);
                    }
                    for r in 0..M.min(h - row) {
                        let mut values = [lane.splat(0.0); T];
                        for j in 0..T {
                            values[j] = columns[j][r];
                        }
                        let values = F::output(lane, values);
                        for s in 0..M.min(w - col) {
                            let to = ((first + r) * w + col + s) * channels + c;
                            // SAFETY: N channels from c on, of a pixel of the image.
                            unsafe { lane.store(images.as_mut_ptr().wrapping_add(to), lane.add(values[s], start)) };
                        }
                    }
                }
            }
        }
    }
}
