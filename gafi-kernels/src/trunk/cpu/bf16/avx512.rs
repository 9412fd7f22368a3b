//! The kernels with AVX-512-BF16: `vdpbf16ps` adds two products to each of 16 sums.
//!
//! A register block is R rows x V vectors of sums, at least as many as hide the latency of the instruction, and few
//! enough to leave room for V vectors of b and a broadcast pair of a. The sums come in blocks of pairs such that what a
//! register block reads of b stays in L1 for the next.

#![expect(clippy::needless_range_loop, reason = "register blocks are indexed in two directions")]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::{Outer, PANEL, Rows, Start};

/// Pairs of factors that are worked through before the next rows.
const PAIRS: usize = 144;

/// `u16` of a panel for each pair of rows of b.
const STEP: usize = 2 * PANEL;

/// Whether this CPU has the instructions.
pub(super) fn supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
}

/// The panels that the next register blocks take of the `left` that are to do.
fn group(left: usize) -> usize {
    // 5 = 3 + 2: a single panel is the slowest.
    if left == 5 { 3 } else { left.min(4) }
}

/// A stretch of a segment: where in a (from a row's start), which pair of rows of b, how many pairs.
#[derive(Clone, Copy)]
struct Piece {
    a: usize,
    b: usize,
    pairs: usize,
}

/// The segments, cut into blocks of at most about `PAIRS` pairs.
fn blocks(segments: &[usize], len: usize) -> Vec<Vec<Piece>> {
    let total = segments.len() * len / 2;
    let count = total.div_ceil(PAIRS).max(1);
    let size = total.div_ceil(count);
    let mut blocks = vec![Vec::new()];
    let (mut b, mut room) = (0, size);
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
            (done, b, room) = (done + pairs, b + pairs, room - pairs);
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
                // The last block rounds.
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
                    c: job.c[at * size * job.ldc + first..].as_mut_ptr(),
                    ldc: job.ldc,
                };
                // SAFETY: rows + segments + len lie inside a; panels `panel..panel + vectors` of `depth` rows inside b;
                // `rows.len()` rows of `vectors` panels inside c; n columns of each pixel inside `to`, by `check`.
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

/// Where a register block's results go in bf16.
struct Half<'a> {
    /// The first of the block's columns of pixel 0.
    to: *mut u16,
    /// From one pixel to the next.
    n: usize,
    /// Columns that count, from the block's first on.
    columns: usize,
    /// The pixel of the block's first row; the others follow.
    first: usize,
    /// The pixels of the block's rows, if they don't.
    pixels: Option<&'a [usize]>,
}

impl Half<'_> {
    /// # Safety
    /// Columns 16 v.. that count, at least one, of row r's pixel must be writable.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn store(&self, r: usize, v: usize, sums: __m512) {
        let pixel = self.pixels.map_or(self.first.wrapping_add(r), |pixels| pixels[r]);
        let at = self.to.wrapping_add(pixel.wrapping_mul(self.n).wrapping_add(v * PANEL));
        let left = self.columns.wrapping_sub(v * PANEL);
        // SAFETY: the types are of the same 32 bytes, any bits of which are values; the columns are promised.
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
    ldc: usize,
}

impl RowTile<'_> {
    /// # Safety
    /// At most R rows, at least one; for each, `a` readable at all pieces of the block; V panels of `b` readable at all
    /// pieces, each `panel` after the last; `c` readable and writable for V vectors a row; a bias of as many floats; of
    /// `half` the columns of V vectors, of each vector at least one.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn run<const R: usize, const V: usize>(self) {
        // SAFETY: handed on.
        unsafe {
            match self.rows.first_chunk() {
                Some(rows) => self.run_rows::<R, V, true>(rows),
                // Rows that are missing repeat the last one, and are not stored.
                None => self.run_rows::<R, V, false>(&from_fn(|r| self.rows[r.min(self.rows.len() - 1)])),
            }
        }
    }

    /// Whole blocks apart: all loops over them have a fixed length, so that sums never leave the registers. (Nor are there
    /// checks for overflow: a block may be as short as 16 pairs.)
    ///
    /// # Safety
    /// As `run`; `rows` as many as there are, which are R if `WHOLE`, and repetitions.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn run_rows<const R: usize, const V: usize, const WHOLE: bool>(&self, rows: &[usize; R]) {
        let count = if WHOLE { R } else { self.rows.len() };
        let a: [*const u16; R] = from_fn(|r| self.a.wrapping_add(rows[r]));
        let c: [*mut f32; R] = from_fn(|r| self.c.wrapping_add(r.min(count - 1).wrapping_mul(self.ldc)));
        let mut acc = match self.start {
            Start::Zero => [[_mm512_setzero_ps(); V]; R],
            // SAFETY: V vectors of the bias are promised.
            Start::Bias(bias) => [from_fn(|v| unsafe { _mm512_loadu_ps(bias.as_ptr().wrapping_add(v * PANEL)) }); R],
            // SAFETY: V vectors of each row of c are promised.
            Start::Sum => from_fn(|r| from_fn(|v| unsafe { _mm512_loadu_ps(c[r].wrapping_add(v * PANEL)) })),
        };
        for piece in self.block {
            let from: [*const u16; R] = from_fn(|r| a[r].wrapping_add(piece.a));
            let first = self.b.wrapping_add(piece.b.wrapping_mul(STEP));
            let b: [*const u16; V] = from_fn(|v| first.wrapping_add(v.wrapping_mul(self.panel)));
            for k in 0..piece.pairs {
                // SAFETY: the pairs of a piece are promised of each panel.
                let y: [_; V] = from_fn(|v| unsafe { load(b[v].wrapping_add(k.wrapping_mul(STEP))) });
                for r in 0..R {
                    // SAFETY: the pairs of a piece are promised of each row.
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
                    // SAFETY: V vectors of each row of c are promised.
                    None => unsafe { _mm512_storeu_ps(c[r].wrapping_add(v * PANEL), acc[r][v]) },
                    // SAFETY: as are their columns.
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
                        c: job.c[(s * job.len + i) * job.ldc + panel * PANEL..].as_mut_ptr(),
                        ldc: job.ldc,
                    };
                    // SAFETY: rows + segment + i + count lie inside a2; rows.len() pairs of n channels from index *
                    // PAIRS on inside d2; `count` rows of `vectors` panels inside c, by `check`.
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
    ldc: usize,
}

impl OuterTile<'_> {
    /// # Safety
    /// At most R for `count`, at least one; `a` readable for `count` pairs from each of `rows` on; `d` for V vectors at
    /// each of as many multiples of `step`; `c` readable and writable for V vectors in each of `count` rows.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn run<const R: usize, const V: usize>(self) {
        // SAFETY: handed on.
        unsafe { if self.count == R { self.run_count::<R, V, true>() } else { self.run_count::<R, V, false>() } }
    }

    /// Whole blocks apart, as their addresses differ by constants.
    ///
    /// # Safety
    /// As `run`; `count` is R if `WHOLE`.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn run_count<const R: usize, const V: usize, const WHOLE: bool>(self) {
        // Rows that are missing repeat the last one, and are not stored.
        let row = |r: usize| if WHOLE { r } else { r.min(self.count - 1) };
        let mut acc = [[_mm512_setzero_ps(); V]; R];
        let mut d = self.d;
        for q in self.rows {
            let from = self.a.wrapping_add(2 * q);
            // SAFETY: V vectors of each multiple of `step` are promised.
            let y: [_; V] = from_fn(|v| unsafe { load(d.wrapping_add(v * STEP)) });
            for r in 0..R {
                // SAFETY: `count` pairs from each of `rows` on are promised.
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
                let c = self.c.wrapping_add(r.wrapping_mul(self.ldc).wrapping_add(v * PANEL));
                // SAFETY: V vectors of each row of c are promised.
                unsafe { _mm512_storeu_ps(c, _mm512_add_ps(_mm512_loadu_ps(c), acc[r][v])) }
            }
        }
    }
}

/// The nearest bf16 of each number. Subnormal ones become zero.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn round(from: &[f32], to: &mut [u16]) {
    let ((from, last), (to, last_to)) = (from.as_chunks::<PANEL>(), to.as_chunks_mut::<PANEL>());
    for (from, to) in from.iter().zip(to) {
        *to = rounded(from);
    }
    // As the others, so that it doesn't matter where a number stands.
    let mut padded = [0.0; PANEL];
    padded[..last.len()].copy_from_slice(last);
    last_to.iter_mut().zip(rounded(&padded)).for_each(|(to, v)| *to = v);
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(from: &[f32; PANEL]) -> [u16; PANEL] {
    // SAFETY: 16 floats are readable; the two types are of the same 32 bytes, any bits of which are values.
    unsafe { std::mem::transmute::<__m256bh, [u16; PANEL]>(_mm512_cvtneps_pbh(_mm512_loadu_ps(from.as_ptr()))) }
}

/// to\[i\] = the nearest bf16 of (first\[i\], second\[i\]), side by side, of whole panels.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn round_pairs(first: &[f32], second: &[f32], to: &mut [u16]) {
    // Where the numbers of a vector (16 of the first, then 16 of the second) go.
    const ORDER: [u16; STEP] = {
        let mut order = [0; STEP];
        let mut i = 0;
        while i < STEP {
            order[i] = (i / 2 + i % 2 * PANEL) as u16;
            i += 1;
        }
        order
    };
    // SAFETY: 64 readable bytes.
    let order = unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) };
    let both = first.as_chunks::<PANEL>().0.iter().zip(second.as_chunks::<PANEL>().0);
    for ((first, second), to) in both.zip(to.as_chunks_mut::<STEP>().0) {
        // SAFETY: 16 readable floats each, 32 writable u16; the two types are of the same 64 bytes, any bits of which are
        // values.
        unsafe {
            let (first, second) = (_mm512_loadu_ps(first.as_ptr()), _mm512_loadu_ps(second.as_ptr()));
            let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_permutexvar_epi16(order, halves));
        }
    }
}

/// # Safety
/// 64 readable bytes.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn load(at: *const u16) -> __m512bh {
    // SAFETY: the caller's promise; the types are of the same 64 bytes, any bits of which are values.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast())) }
}

/// A pair in all places.
///
/// # Safety
/// 4 readable bytes.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn broadcast(at: *const u16) -> __m512bh {
    // SAFETY: the caller's promise; the types are of the same 64 bytes, any bits of which are values.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(at.cast::<i32>().read_unaligned())) }
}
