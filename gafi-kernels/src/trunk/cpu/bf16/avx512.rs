//! The kernels for AVX-512-BF16, whose `vdpbf16ps` adds two products to each of 16 sums.
//!
//! A register block is R rows x V vectors of sums: enough to hide the latency of the instruction, and few enough to leave
//! registers for V vectors of b and a broadcast pair of a. The depth is divided into blocks of pairs, so that the part of b
//! that a register block reads stays in L1 for the next one.

#![expect(clippy::needless_range_loop, reason = "register blocks are indexed in two directions")]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::{Outer, PANEL, Rows, Start};

/// Number of pairs of factors in a block of the depth.
const PAIRS: usize = 144;

/// Number of `u16` in a panel for each pair of rows of b.
const STEP: usize = 2 * PANEL;

/// Whether this CPU has the instructions.
pub(super) fn supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
}

/// Number of panels of the next register blocks, with `left` panels to do.
fn group(left: usize) -> usize {
    // 5 = 3 + 2, as a single panel is slowest.
    if left == 5 { 3 } else { left.min(4) }
}

/// A stretch of a segment.
#[derive(Clone, Copy)]
struct Piece {
    /// Offset in a, relative to a row.
    a: usize,
    /// Index of the first pair of rows of b.
    b: usize,
    /// Number of pairs.
    pairs: usize,
}

/// The segments, divided into blocks of at most `PAIRS` pairs.
fn blocks(segments: &[usize], len: usize) -> Vec<Vec<Piece>> {
    let total = segments.len() * len / 2;
    let count = total.div_ceil(PAIRS).max(1);
    let size = total.div_ceil(count);
    let mut blocks = vec![Vec::new()];
    let mut b = 0;
    let mut room = size;
    for segment in segments {
        let mut done = 0;
        while done < len / 2 {
            if room == 0 {
                blocks.push(Vec::new());
                room = size;
            }
            let pairs = room.min(len / 2 - done);
            if let Some(block) = blocks.last_mut() {
                block.push(Piece { a: segment + 2 * done, b, pairs });
            }
            done += pairs;
            b += pairs;
            room -= pairs;
        }
    }
    blocks
}

/// # Safety
/// The CPU must have AVX-512-BF16, and `Rows::check` must have passed.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn rows(mut job: Rows<'_>) {
    let depth = job.depth();
    let blocks = blocks(job.segments, job.len);
    for (index, block) in blocks.iter().enumerate() {
        let start = if index == 0 { job.start } else { Start::Sum };
        let mut panel = 0;
        while panel < job.n / PANEL {
            let vectors = group(job.n / PANEL - panel);
            let size = [8, 12, 8, 6][vectors - 1];
            let first = panel * PANEL;
            let start = match start {
                Start::Bias(bias) => Start::Bias(&bias[first..]),
                other => other,
            };
            for (at, rows) in job.rows.chunks(size).enumerate() {
                // Only the last block rounds.
                let half = job.rounded.as_mut().filter(|_| index + 1 == blocks.len()).map(|rounded| Half {
                    to: rounded.to.as_mut_ptr().wrapping_add(first),
                    n: rounded.n,
                    columns: rounded.n - first,
                    first: rounded.first + at * size,
                    pixels: rounded.pixels.map(|pixels| &pixels[at * size..]),
                });
                let tile = RowTile {
                    half,
                    a: job.a.as_ptr(),
                    rows,
                    block,
                    b: job.b[panel * depth * PANEL..].as_ptr(),
                    panel: depth * PANEL,
                    start,
                    c: job.c[at * size * job.n + first..].as_mut_ptr(),
                    n: job.n,
                };
                // SAFETY: by `check`, rows + segments + len are inside a, panels `panel..panel + vectors` of `depth` rows
                // inside b, `rows.len()` rows of `vectors` panels inside c, and n columns of each pixel inside `to`.
                unsafe {
                    match vectors {
                        1 => tile.run::<8, 1>(),
                        2 => tile.run::<12, 2>(),
                        3 => tile.run::<8, 3>(),
                        _ => tile.run::<6, 4>(),
                    }
                }
            }
            panel += vectors;
        }
    }
}

/// The bf16 destination of a register block.
struct Half<'a> {
    /// The block's first column of pixel 0.
    to: *mut u16,
    /// Distance between two pixels.
    n: usize,
    /// Number of columns from the block's first on, without padding.
    columns: usize,
    /// The pixel of the block's first row. Without `pixels`, the other rows follow it.
    first: usize,
    /// The pixel of each of the block's rows, if they are not consecutive.
    pixels: Option<&'a [usize]>,
}

impl Half<'_> {
    /// Rounds and stores vector v of row r.
    ///
    /// # Safety
    /// The columns from 16 v on without padding, at least one and at most 16, must be writable in the pixel of row r.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn store(&self, r: usize, v: usize, sums: __m512) {
        let pixel = self.pixels.map_or(self.first.wrapping_add(r), |pixels| pixels[r]);
        let at = self.to.wrapping_add(pixel.wrapping_mul(self.n).wrapping_add(v * PANEL));
        let left = self.columns.wrapping_sub(v * PANEL);
        // SAFETY: both types have 32 bytes and any bits are valid; the caller guarantees the columns.
        unsafe {
            let halves = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(sums));
            if left >= PANEL {
                _mm256_storeu_si256(at.cast(), halves);
            } else {
                _mm256_mask_storeu_epi16(at.cast(), (1 << left) - 1, halves);
            }
        }
    }
}

/// One register block of [`Rows`].
struct RowTile<'a> {
    half: Option<Half<'a>>,
    a: *const u16,
    rows: &'a [usize],
    block: &'a [Piece],
    b: *const u16,
    panel: usize,
    start: Start<'a>,
    c: *mut f32,
    /// Distance between two rows of `c`.
    n: usize,
}

impl RowTile<'_> {
    /// Computes the block.
    ///
    /// # Safety
    /// There must be 1 to R rows. For each of them, `a` must be readable at all pieces of the block. V panels of `b`, `panel`
    /// apart, must be readable at all pieces. `c` must be valid for reads and writes of V vectors in each row. A bias must
    /// have as many floats as V vectors. `half` must be writable for the columns of V vectors, at least one of each.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn run<const R: usize, const V: usize>(self) {
        // SAFETY: the caller guarantees it.
        unsafe {
            match self.rows.first_chunk() {
                Some(rows) => self.run_rows::<R, V, true>(rows),
                // Missing rows repeat the last one and are not stored.
                None => self.run_rows::<R, V, false>(&from_fn(|r| self.rows[r.min(self.rows.len() - 1)])),
            }
        }
    }

    /// Computes the block. Whole blocks have their own version: all its loops have a fixed length, so that the sums never
    /// leave the registers. Addresses are computed without overflow checks, as a block may be as short as 16 pairs.
    ///
    /// # Safety
    /// The same as for `run`. `rows` must be the rows of `self`, R of them if `WHOLE`, else followed by repetitions.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn run_rows<const R: usize, const V: usize, const WHOLE: bool>(&self, rows: &[usize; R]) {
        let count = if WHOLE { R } else { self.rows.len() };
        let a: [*const u16; R] = from_fn(|r| self.a.wrapping_add(rows[r]));
        let c: [*mut f32; R] = from_fn(|r| self.c.wrapping_add(r.min(count - 1).wrapping_mul(self.n)));
        let mut acc = match self.start {
            Start::Zero => [[_mm512_setzero_ps(); V]; R],
            // SAFETY: the caller guarantees V vectors of the bias.
            Start::Bias(bias) => [from_fn(|v| unsafe { _mm512_loadu_ps(bias.as_ptr().wrapping_add(v * PANEL)) }); R],
            // SAFETY: the caller guarantees V vectors in each row of c.
            Start::Sum => from_fn(|r| from_fn(|v| unsafe { _mm512_loadu_ps(c[r].wrapping_add(v * PANEL)) })),
        };
        for piece in self.block {
            let from: [*const u16; R] = from_fn(|r| a[r].wrapping_add(piece.a));
            let first = self.b.wrapping_add(piece.b.wrapping_mul(STEP));
            let b: [*const u16; V] = from_fn(|v| first.wrapping_add(v.wrapping_mul(self.panel)));
            for k in 0..piece.pairs {
                // SAFETY: the caller guarantees the pairs of a piece in each panel.
                let y: [_; V] = from_fn(|v| unsafe { load(b[v].wrapping_add(k.wrapping_mul(STEP))) });
                for r in 0..R {
                    // SAFETY: the caller guarantees the pairs of a piece in each row.
                    let x = unsafe { broadcast(from[r].wrapping_add(k.wrapping_mul(2))) };
                    for v in 0..V {
                        acc[r][v] = _mm512_dpbf16_ps(acc[r][v], x, y[v]);
                    }
                }
            }
        }
        for r in 0..R {
            if r >= count {
                break;
            }
            for v in 0..V {
                match &self.half {
                    // SAFETY: the caller guarantees V vectors in each row of c.
                    None => unsafe { _mm512_storeu_ps(c[r].wrapping_add(v * PANEL), acc[r][v]) },
                    // SAFETY: the caller guarantees the columns of V vectors in each pixel.
                    Some(half) => unsafe { half.store(r, v, acc[r][v]) },
                }
            }
        }
    }
}

/// # Safety
/// The CPU must have AVX-512-BF16, and `Outer::check` must have passed.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn outer(job: Outer<'_>) {
    for (index, rows) in job.rows.chunks(PAIRS).enumerate() {
        let mut panel = 0;
        while panel < job.n / PANEL {
            let vectors = group(job.n / PANEL - panel);
            let size = [8, 12, 8, 6][vectors - 1];
            for (s, segment) in job.segments.iter().enumerate() {
                for i in (0..job.len).step_by(size) {
                    let tile = OuterTile {
                        a: job.a2[2 * (segment + i)..].as_ptr(),
                        rows,
                        count: size.min(job.len - i),
                        d: job.d2[2 * (index * PAIRS * job.n + panel * PANEL)..].as_ptr(),
                        step: 2 * job.n,
                        c: job.c[(s * job.len + i) * job.n + panel * PANEL..].as_mut_ptr(),
                        n: job.n,
                    };
                    // SAFETY: by `check`, rows + segment + i + count are inside a2, rows.len() pairs of n channels from
                    // index * PAIRS on inside d2, and `count` rows of `vectors` panels inside c.
                    unsafe {
                        match vectors {
                            1 => tile.run::<8, 1>(),
                            2 => tile.run::<12, 2>(),
                            3 => tile.run::<8, 3>(),
                            _ => tile.run::<6, 4>(),
                        }
                    }
                }
            }
            panel += vectors;
        }
    }
}

/// One register block of [`Outer`].
struct OuterTile<'a> {
    a: *const u16,
    rows: &'a [usize],
    count: usize,
    d: *const u16,
    step: usize,
    c: *mut f32,
    /// Distance between two rows of `c`.
    n: usize,
}

impl OuterTile<'_> {
    /// Computes the block.
    ///
    /// # Safety
    /// `count` must be 1 to R. `a` must be readable for `count` pairs from each of `rows` on, and `d` for V vectors at as many
    /// multiples of `step` as there are rows. `c` must be valid for reads and writes of V vectors in each of `count` rows.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn run<const R: usize, const V: usize>(self) {
        // SAFETY: the caller guarantees it.
        unsafe { if self.count == R { self.run_count::<R, V, true>() } else { self.run_count::<R, V, false>() } }
    }

    /// Computes the block. Whole blocks have their own version, in which addresses differ by constants.
    ///
    /// # Safety
    /// The same as for `run`. `count` must be R if `WHOLE`.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn run_count<const R: usize, const V: usize, const WHOLE: bool>(self) {
        // Missing rows repeat the last one and are not stored.
        let row = |r: usize| if WHOLE { r } else { r.min(self.count - 1) };
        let mut acc = [[_mm512_setzero_ps(); V]; R];
        let mut d = self.d;
        for q in self.rows {
            let from = self.a.wrapping_add(2 * q);
            // SAFETY: the caller guarantees V vectors at each multiple of `step`.
            let y: [_; V] = from_fn(|v| unsafe { load(d.wrapping_add(v * STEP)) });
            for r in 0..R {
                // SAFETY: the caller guarantees `count` pairs from each of `rows` on.
                let x = unsafe { broadcast(from.wrapping_add(2 * row(r))) };
                for v in 0..V {
                    acc[r][v] = _mm512_dpbf16_ps(acc[r][v], x, y[v]);
                }
            }
            d = d.wrapping_add(self.step);
        }
        for r in 0..R {
            if !WHOLE && r >= self.count {
                break;
            }
            for v in 0..V {
                let c = self.c.wrapping_add(r.wrapping_mul(self.n).wrapping_add(v * PANEL));
                // SAFETY: the caller guarantees V vectors in each row of c.
                unsafe { _mm512_storeu_ps(c, _mm512_add_ps(_mm512_loadu_ps(c), acc[r][v])) }
            }
        }
    }
}

/// Rounds each number to the nearest bf16; subnormal numbers become zero.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn round(from: &[f32], to: &mut [u16]) {
    let (from, last) = from.as_chunks::<PANEL>();
    let (to, last_to) = to.as_chunks_mut::<PANEL>();
    for (from, to) in from.iter().zip(to) {
        *to = rounded(from);
    }
    // The rest takes the same instruction, so that a result does not depend on its position.
    let mut padded = [0.0; PANEL];
    padded[..last.len()].copy_from_slice(last);
    last_to.iter_mut().zip(rounded(&padded)).for_each(|(to, v)| *to = v);
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(from: &[f32; PANEL]) -> [u16; PANEL] {
    // SAFETY: 16 floats are readable; both types have 32 bytes and any bits are valid.
    unsafe { std::mem::transmute::<__m256bh, [u16; PANEL]>(_mm512_cvtneps_pbh(_mm512_loadu_ps(from.as_ptr()))) }
}

/// Rounds whole panels to bf16 in pairs: to\[i\] = (first\[i\], second\[i\]).
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn round_pairs(first: &[f32], second: &[f32], to: &mut [u16]) {
    // The permutation from 16 numbers of `first` followed by 16 of `second` to pairs.
    const ORDER: [u16; STEP] = {
        let mut order = [0; STEP];
        let mut i = 0;
        while i < STEP {
            order[i] = (i / 2 + i % 2 * PANEL) as u16;
            i += 1;
        }
        order
    };
    // SAFETY: ORDER has 64 bytes.
    let order = unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) };
    let both = first.as_chunks::<PANEL>().0.iter().zip(second.as_chunks::<PANEL>().0);
    for ((first, second), to) in both.zip(to.as_chunks_mut::<STEP>().0) {
        // SAFETY: 16 floats are readable in each and 32 u16 writable; both transmuted types have 64 bytes and any bits are
        // valid.
        unsafe {
            let first = _mm512_loadu_ps(first.as_ptr());
            let second = _mm512_loadu_ps(second.as_ptr());
            let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_permutexvar_epi16(order, halves));
        }
    }
}

/// A vector of 16 pairs.
///
/// # Safety
/// 64 bytes must be readable at `at`.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn load(at: *const u16) -> __m512bh {
    // SAFETY: the caller guarantees the memory; both types have 64 bytes and any bits are valid.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast())) }
}

/// A vector of 16 copies of one pair.
///
/// # Safety
/// 4 bytes must be readable at `at`.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn broadcast(at: *const u16) -> __m512bh {
    // SAFETY: the caller guarantees the memory; both types have 64 bytes and any bits are valid.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(at.cast::<i32>().read_unaligned())) }
}
