//! Every level against f64, on shapes with tails in every direction.

use super::*;

/// Numbers in -1..1 that depend only on `seed` and their position.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

pub(super) fn noise_bits(len: usize, seed: u64) -> Vec<u16> {
    noise(len, seed).into_iter().map(bits).collect()
}

/// Panics unless each of `got` is within 1e-5 of the sum of magnitudes of `want`, (sum, sum of magnitudes).
pub(super) fn assert_close(got: &[f32], want: &[(f64, f64)], what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (got, (want, size))) in got.iter().zip(want).enumerate() {
        assert!(
            (f64::from(*got) - want).abs() <= 1e-5 * size + 1e-30,
            "{what}: element {i}: expected {want}, got {got}"
        );
    }
}

/// The offset of row `r`: rows of images of this `width` are `step` apart, with a gap between images. Width 0 scatters them.
fn place(r: usize, width: usize, step: usize) -> usize {
    match width {
        0 => r * 37 % 101,
        width => r / width * (width * step + 6) + r % width * step,
    }
}

/// The factors of a [`Rows`].
pub(super) struct RowCase {
    pub(super) a: Vec<u16>,
    pub(super) rows: Vec<usize>,
    pub(super) segments: Vec<usize>,
    pub(super) len: usize,
    pub(super) b: Vec<u16>,
    pub(super) n: usize,
    pub(super) bias: Vec<f32>,
    pub(super) c: Vec<f32>,
}

impl RowCase {
    pub(super) fn new(rows: usize, width: usize, step: usize, segments: usize, len: usize, n: usize) -> Self {
        let rows: Vec<usize> = (0..rows).map(|r| place(r, width, step)).collect();
        let segments: Vec<usize> = (0..segments).map(|s| s * (len + 10)).collect();
        let end = rows.iter().max().unwrap_or(&0) + segments.last().unwrap_or(&0) + len;
        let a = noise_bits(end, 1);
        let weights = noise(segments.len() * len * n, 2);
        let wide = n.next_multiple_of(PANEL);
        let depth = segments.len() * len;
        let mut b = vec![7; depth * wide];
        let bases: Vec<Option<usize>> = (0..depth).map(|k| (k % 5 != 3).then_some(k * n)).collect();
        pack(&weights, &bases, 1, n, &mut b);
        let mut bias = noise(n, 3);
        let c = noise(rows.len() * wide, 4);
        bias.resize(wide, 0.0);
        RowCase { a, rows, segments, len, b, n: wide, bias, c }
    }

    pub(super) fn job<'a>(&'a self, start: Start<'a>, c: &'a mut [f32]) -> Rows<'a> {
        let RowCase { a, rows, segments, len, b, n, .. } = self;
        Rows { a, rows, segments, len: *len, b, n: *n, start, c, rounded: None }
    }

    /// The result in f64, with the sum of magnitudes of each element.
    pub(super) fn want(&self, start: Start<'_>) -> Vec<(f64, f64)> {
        let depth = self.segments.len() * self.len;
        let mut want = Vec::with_capacity(self.c.len());
        for (r, row) in self.rows.iter().enumerate() {
            for j in 0..self.n {
                let begin = match start {
                    Start::Zero => 0.0,
                    Start::Bias(bias) => f64::from(bias[j]),
                    Start::Sum => f64::from(self.c[r * self.n + j]),
                };
                let mut sum = begin;
                let mut size = begin.abs();
                for (s, segment) in self.segments.iter().enumerate() {
                    for i in 0..self.len {
                        let k = s * self.len + i;
                        let b = self.b[((j / 16 * depth / 2 + k / 2) * 16 + j % 16) * 2 + k % 2];
                        let product = f64::from(value(self.a[row + segment + i])) * f64::from(value(b));
                        sum += product;
                        size += product.abs();
                    }
                }
                want.push((sum, size));
            }
        }
        want
    }

    /// Compares `run` with f64, for each kind of start.
    pub(super) fn check(&self, what: &str, run: impl Fn(Rows<'_>)) {
        for start in [Start::Zero, Start::Bias(&self.bias), Start::Sum] {
            let mut c = self.c.clone();
            run(self.job(start, &mut c));
            assert_close(&c, &self.want(start), what);
        }
    }
}

/// Shapes with tails: (rows, width, step, segments, len, n).
pub(super) const ROW_SHAPES: [(usize, usize, usize, usize, usize, usize); 14] = [
    (1, 0, 0, 1, 2, 1),
    (7, 0, 0, 3, 12, 17),
    (13, 5, 4, 3, 12, 16),
    (48, 16, 32, 3, 96, 64),
    (33, 16, 64, 3, 192, 40),
    (70, 10, 64, 1, 64, 80),
    (32, 32, 8, 2, 32, 96),
    (5, 5, 2, 5, 10, 130),
    (31, 8, 48, 3, 144, 48),
    (65, 65, 2, 1, 1000, 33),
    (64, 64, 160, 1, 160, 32),
    (3, 0, 0, 0, 8, 20),
    (12, 6, 34, 7, 34, 65),
    (16, 16, 600, 1, 576, 16),
];

const LEVELS: [Level; 3] = [Level::Amx, Level::Avx512Bf16, Level::Portable];

#[test]
fn rows_match_f64_at_every_level() {
    for shape @ (rows, width, step, segments, len, n) in ROW_SHAPES {
        let case = RowCase::new(rows, width, step, segments, len, n);
        for level in LEVELS {
            case.check(&format!("{level:?} {shape:?}"), |job| job.run(level));
        }
    }
}

#[test]
fn rows_do_not_depend_on_their_division_into_calls() {
    let case = RowCase::new(45, 9, 48, 3, 146, 70);
    for level in LEVELS {
        let mut whole = case.c.clone();
        case.job(Start::Zero, &mut whole).run(level);
        for size in [1, 5, 16, 32] {
            let mut parts = case.c.clone();
            for (rows, c) in case.rows.chunks(size).zip(parts.chunks_mut(size * case.n)) {
                Rows { rows, c, ..case.job(Start::Zero, &mut []) }.run(level);
            }
            assert!(whole.iter().zip(&parts).all(|(a, b)| a.to_bits() == b.to_bits()), "{level:?}, {size} rows");
        }
    }
}

#[test]
fn rounded_rows_are_rounded_sums() {
    for shape @ (rows, width, step, segments, len, n) in ROW_SHAPES {
        let case = RowCase::new(rows, width, step, segments, len, n);
        let scattered: Vec<usize> = (0..rows).map(|r| (rows - r) * 2).collect();
        for level in LEVELS {
            let mut sums = case.c.clone();
            case.job(Start::Bias(&case.bias), &mut sums).run(level);
            for pixels in [None, Some(&scattered[..])] {
                let mut c = case.c.clone();
                let mut to = vec![7; (2 * rows + 3) * n];
                let rounded = Some(Rounded { to: &mut to, n, first: 3, pixels });
                Rows { rounded, ..case.job(Start::Bias(&case.bias), &mut c) }.run(level);
                let mut want = vec![7; to.len()];
                for r in 0..rows {
                    let at = pixels.map_or(3 + r, |pixels| pixels[r]) * n;
                    want[at..at + n].iter_mut().zip(&sums[r * case.n..]).for_each(|(to, v)| *to = bits(*v));
                }
                assert!(to == want, "{level:?} {shape:?}");
            }
        }
    }
}

#[test]
fn slices_round_like_single_values() {
    let edges = [0.0, -0.0, f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1.003_906_3, 1.011_718_8];
    let values: Vec<f32> = edges.into_iter().chain(noise(59, 3)).collect();
    let want: Vec<u16> = values.iter().map(|v| bits(*v)).collect();
    for len in [1, 15, 16, 17, values.len()] {
        let mut got = vec![7; len];
        round(&values[..len], &mut got);
        assert_eq!(got, want[..len]);
    }
    // Two pairs of rows of 16, and a row without a partner.
    let rows = noise(5 * PANEL, 4);
    let n = PANEL;
    let mut got = vec![7; 6 * n];
    rounded_pairs(&rows, n, &mut got);
    for (i, got) in got.iter().enumerate() {
        let (pair, channel, second) = (i / (2 * n), i / 2 % n, i % 2);
        assert_eq!(*got, rows.get((2 * pair + second) * n + channel).map_or(0, |v| bits(*v)), "{i}");
    }
}

#[test]
#[should_panic(expected = "assertion")]
fn rounded_rows_out_of_bounds_panic() {
    let case = RowCase::new(8, 8, 4, 3, 12, 16);
    let mut c = case.c.clone();
    let mut to = vec![0; 10 * 16];
    let rounded = Some(Rounded { to: &mut to, n: 16, first: 3, pixels: None });
    Rows { rounded, ..case.job(Start::Zero, &mut c) }.run(Level::best());
}

#[test]
#[should_panic(expected = "assertion")]
fn rows_out_of_bounds_panic() {
    let mut case = RowCase::new(8, 8, 4, 3, 12, 16);
    case.a.pop();
    let mut c = case.c.clone();
    case.job(Start::Zero, &mut c).run(Level::best());
}

/// The factors of an [`Outer`].
pub(super) struct OuterCase {
    pub(super) a2: Vec<u16>,
    pub(super) rows: Vec<usize>,
    pub(super) segments: Vec<usize>,
    pub(super) len: usize,
    pub(super) d2: Vec<u16>,
    pub(super) n: usize,
    pub(super) c: Vec<f32>,
}

impl OuterCase {
    pub(super) fn new(pairs: usize, width: usize, step: usize, segments: usize, len: usize, n: usize) -> Self {
        let rows: Vec<usize> = (0..pairs).map(|r| place(r, width, step)).collect();
        let segments: Vec<usize> = (0..segments).map(|s| s * (len + 3)).collect();
        let end = rows.iter().max().unwrap_or(&0) + segments.last().unwrap_or(&0) + len;
        let a2 = noise_bits(2 * end, 5);
        let d2 = noise_bits(2 * pairs * n, 6);
        let c = noise(segments.len() * len * n, 7);
        OuterCase { a2, rows, segments, len, d2, n, c }
    }

    /// Compares `run` with f64.
    pub(super) fn check(&self, what: &str, run: impl Fn(Outer<'_>)) {
        let OuterCase { a2, rows, segments, len, d2, n, c } = self;
        let mut got = c.clone();
        run(Outer { a2, rows, segments, len: *len, d2, n: *n, c: &mut got });
        let mut want: Vec<(f64, f64)> = c.iter().map(|v| (f64::from(*v), f64::from(v.abs()))).collect();
        let cells = (0..segments.len() * len).flat_map(|i| (0..*n).map(move |j| (i, j)));
        for (i, j) in cells {
            let (sum, size) = &mut want[i * n + j];
            for (q, row) in rows.iter().enumerate() {
                for t in 0..2 {
                    let a = a2[2 * (row + segments[i / len] + i % len) + t];
                    let product = f64::from(value(a)) * f64::from(value(d2[2 * (q * n + j) + t]));
                    *sum += product;
                    *size += product.abs();
                }
            }
        }
        assert_close(&got, &want, what);
    }
}

/// Shapes with tails: (pairs, width, step, segments, len, n).
pub(super) const OUTER_SHAPES: [(usize, usize, usize, usize, usize, usize); 11] = [
    (1, 0, 0, 1, 1, 16),
    (5, 0, 0, 3, 12, 32),
    (16, 16, 8, 2, 48, 16),
    (128, 16, 32, 3, 96, 64),
    (130, 8, 64, 1, 193, 80),
    (33, 33, 6, 2, 7, 48),
    (500, 5, 12, 3, 13, 16),
    (300, 300, 20, 1, 32, 96),
    (64, 32, 16, 2, 34, 112),
    (48, 3, 10, 1, 50, 32),
    (272, 272, 16, 3, 48, 64),
];

#[test]
fn outer_products_match_f64_at_every_level() {
    for shape @ (pairs, width, step, segments, len, n) in OUTER_SHAPES {
        let case = OuterCase::new(pairs, width, step, segments, len, n);
        for level in LEVELS {
            case.check(&format!("{level:?} {shape:?}"), |job| job.run(level));
        }
    }
}

#[test]
fn rounding_is_to_nearest_even_and_keeps_nan() {
    // The upper half of an f32 is a bf16; a lower half of 0x8000 is a tie.
    for (from, want) in [
        (0x3f80_0000, 0x3f80),
        (0x3f80_8000, 0x3f80),
        (0x3f80_8001, 0x3f81),
        (0x3f81_8000, 0x3f82),
        (0x3f80_7fff, 0x3f80),
        (0x8000_0000, 0x8000),
        (0x7f7f_ffff, 0x7f80),
        (0x7f80_0000, 0x7f80),
        (0xff80_0000, 0xff80),
        (0x0000_8001, 0x0001),
    ] {
        assert_eq!(bits(f32::from_bits(from)), want, "{from:#x}");
    }
    for nan in [0x7f80_0001, 0x7fc0_0000, 0xffff_ffff, 0xff80_8000] {
        assert!(value(bits(f32::from_bits(nan))).is_nan(), "{nan:#x}");
    }
    for bits in 0..=u16::MAX {
        assert!(self::bits(value(bits)) == bits || value(bits).is_nan());
    }
}

#[test]
fn pairs_are_interleaved_to_the_last_element() {
    for len in [0, 1, 15, 33, 100] {
        let first = noise_bits(len, 8);
        let second = noise_bits(len, 9);
        let want: Vec<u16> = first.iter().zip(&second).flat_map(|(a, b)| [*a, *b]).collect();
        let mut got = vec![7; 2 * len];
        interleave(&first, &second, &mut got);
        assert_eq!(got, want);
    }
    // Three positions of two channels; the last has no partner.
    let mut got = [7; 12];
    pairs(&[1, 2, 3, 4, 5, 6], 2, 3, &mut got);
    assert_eq!(got, [1, 3, 2, 4, 0, 0, 5, 0, 6, 0, 0, 0]);
}
