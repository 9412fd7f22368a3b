//! The addressing of the kernels, on emulated tiles.

use super::super::tests::{OUTER_SHAPES, OuterCase, ROW_SHAPES, RowCase, noise_bits};
use super::super::value;
use super::*;

/// The tiles in plain Rust, computing what Intel's manual specifies, with bounds checks.
struct Emulated {
    tiles: [[[u8; 64]; 16]; 8],
    /// Memory that must not be accessed.
    guards: Vec<std::ops::Range<usize>>,
}

impl Emulated {
    /// Tiles that guard the memory around these slices, which must be inside larger buffers.
    fn guarding(slices: &[std::ops::Range<usize>]) -> Self {
        let guards = slices.iter().flat_map(|s| [s.start - GUARD..s.start, s.end..s.end + GUARD]).collect();
        // Not zeros, as no kernel may rely on the old values of a tile.
        Emulated { tiles: [[[0xff; 64]; 16]; 8], guards }
    }

    fn check(&self, at: *const u8) {
        let from = at as usize;
        let to = from + 64;
        assert!(self.guards.iter().all(|g| to <= g.start || g.end <= from), "access outside of a slice");
    }
}

impl Tiles for Emulated {
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: isize) {
        for r in 0..16 {
            let at = from.wrapping_offset(r as isize * stride);
            self.check(at);
            // SAFETY: the caller guarantees the memory.
            self.tiles[T][r] = unsafe { at.cast::<[u8; 64]>().read() };
        }
    }

    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self) {
        let half = |tile: &[[u8; 64]; 16], row: usize, i: usize| {
            value(u16::from_le_bytes([tile[row][2 * i], tile[row][2 * i + 1]]))
        };
        for m in 0..16 {
            for n in 0..16 {
                // The manual sums even and odd products separately, and adds both sums to C in the end.
                let mut sums = [0.0f32; 2];
                for k in 0..16 {
                    for (t, sum) in sums.iter_mut().enumerate() {
                        *sum = half(&self.tiles[A], m, 2 * k + t).mul_add(half(&self.tiles[B], k, 2 * n + t), *sum);
                    }
                }
                let c = self.tiles[C][m].as_chunks_mut::<4>().0;
                c[n] = (f32::from_le_bytes(c[n]) + (sums[0] + sums[1])).to_le_bytes();
            }
        }
    }

    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: isize) {
        for r in 0..16 {
            let at = to.wrapping_offset(r as isize * stride);
            self.check(at);
            // SAFETY: the caller guarantees the memory.
            unsafe { at.cast::<[u8; 64]>().write(self.tiles[T][r]) };
        }
    }
}

/// Number of guarded bytes before and after a slice.
const GUARD: usize = 4096;

/// A copy of a slice between guards, which are filled with NaN.
struct Guarded<T>(Vec<T>);

impl<T: Copy> Guarded<T> {
    fn new(values: &[T], nan: T) -> Self {
        let guard = vec![nan; GUARD / size_of::<T>()];
        Guarded([&guard[..], values, &guard].concat())
    }

    fn slice(&mut self) -> &mut [T] {
        let guard = GUARD / size_of::<T>();
        let end = self.0.len() - guard;
        &mut self.0[guard..end]
    }
}

fn range<T>(slice: &[T]) -> std::ops::Range<usize> {
    let range = slice.as_ptr_range();
    range.start as usize..range.end as usize
}

/// Runs a job on guarded copies of its slices.
fn guarded_rows(job: Rows<'_>) {
    let mut a = Guarded::new(job.a, 0x7fc0);
    let mut b = Guarded::new(job.b, 0x7fc0);
    let mut bias = Guarded::new(if let Start::Bias(bias) = job.start { bias } else { &[] }, f32::NAN);
    let mut c = Guarded::new(job.c, f32::NAN);
    {
        let (a, b, bias, c) = (&*a.slice(), &*b.slice(), &*bias.slice(), c.slice());
        let mut tiles = Emulated::guarding(&[range(a), range(b), range(bias), range(c)]);
        let start = if let Start::Bias(_) = job.start { Start::Bias(bias) } else { job.start };
        let job = Rows { a, b, start, c, ..job };
        if job.check() {
            // SAFETY: checked.
            unsafe { rows_on(&mut tiles, job) }
        }
    }
    job.c.copy_from_slice(c.slice());
}

#[test]
fn rows_match_f64_without_stray_accesses() {
    for shape @ (rows, width, step, segments, len, n) in ROW_SHAPES {
        RowCase::new(rows, width, step, segments, len, n).check(&format!("{shape:?}"), guarded_rows);
    }
}

#[test]
fn rows_do_not_depend_on_their_division_into_calls() {
    for len in [64, 150] {
        let case = RowCase::new(64, 16, 64, 3, len, 48);
        let mut whole = case.c.clone();
        guarded_rows(case.job(Start::Zero, &mut whole));
        // Incomplete tiles are staged; complete ones are read in place.
        for size in [1, 7, 16, 33] {
            let mut parts = case.c.clone();
            for (rows, c) in case.rows.chunks(size).zip(parts.chunks_mut(size * case.n)) {
                guarded_rows(Rows { rows, c, ..case.job(Start::Zero, &mut []) });
            }
            assert!(whole.iter().zip(&parts).all(|(a, b)| a.to_bits() == b.to_bits()), "{size} rows");
        }
    }
}

#[test]
fn outer_products_match_f64_without_stray_accesses() {
    if !is_x86_feature_detected!("avx512f") {
        return;
    }
    for shape @ (pairs, width, step, segments, len, n) in OUTER_SHAPES {
        OuterCase::new(pairs, width, step, segments, len, n).check(&format!("{shape:?}"), |job| {
            let mut a2 = Guarded::new(job.a2, 0x7fc0);
            let mut d2 = Guarded::new(job.d2, 0x7fc0);
            let mut c = Guarded::new(job.c, f32::NAN);
            {
                let (a2, d2, c) = (&*a2.slice(), &*d2.slice(), c.slice());
                let mut tiles = Emulated::guarding(&[range(a2), range(d2), range(c)]);
                let job = Outer { a2, d2, c, ..job };
                assert!(job.check());
                // SAFETY: checked, and the CPU has AVX-512.
                unsafe { outer_on(&mut tiles, job) }
            }
            job.c.copy_from_slice(c.slice());
        });
    }
}

#[test]
fn transpose_swaps_rows_and_columns() {
    if !is_x86_feature_detected!("avx512f") {
        return;
    }
    let from: [[i32; 16]; 16] = std::array::from_fn(|i| std::array::from_fn(|j| (100 * i + j) as i32));
    let mut to = [[0; 16]; 16];
    // SAFETY: both arrays are 1 KiB, and the CPU has AVX-512.
    unsafe { transpose(from.as_ptr().cast(), to.as_mut_ptr().cast()) }
    for (i, row) in from.iter().enumerate() {
        assert!(row.iter().enumerate().all(|(j, v)| to[j][i] == *v), "row {i}");
    }
}

#[test]
fn the_emulation_multiplies_pairs() {
    let a = noise_bits(512, 1);
    let b = noise_bits(512, 2);
    let mut c = [[1.5f32; 16]; 16];
    let mut tiles = Emulated::guarding(&[]);
    // SAFETY: all three are 1 KiB.
    unsafe {
        tiles.load::<0>(c.as_ptr().cast(), ROW);
        tiles.load::<4>(a.as_ptr().cast(), ROW);
        tiles.load::<6>(b.as_ptr().cast(), ROW);
        tiles.multiply::<0, 4, 6>();
        tiles.store::<0>(c.as_mut_ptr().cast(), ROW);
    }
    for (m, row) in c.iter().enumerate() {
        for (n, got) in row.iter().enumerate() {
            let want: f32 = (0..32).map(|k| value(a[32 * m + k]) * value(b[k / 2 * 32 + 2 * n + k % 2])).sum();
            assert!((got - 1.5 - want).abs() < 1e-4, "{m}, {n}: {got}, {want}");
        }
    }
}
