//! The two matrix products that all convolutions are made of.
//!
//! [`Rows`] multiplies rows that lie anywhere in a padded image with a packed matrix: out\[r\]\[j\] = sum over the runs of
//! a\[row r + run + i\] * b\[run, i\]\[j\]. With channels innermost, a row of a kernel is one run of k * C consecutive numbers, so
//! no im2col is needed. [`Outer`] sums the products of two rows over positions: weight gradients.
//!
//! Vectors run along the columns (output channels); what is broadcast is read where it lies. Each result is one chain of
//! multiply-adds in the order of the runs, whatever the blocking, so neither threads nor batch size show in the bits.

#![expect(clippy::needless_range_loop, reason = "register blocks are indexed in two directions")]

use crate::ops::simd::{Kernel, Lane, Level, Scratch};

/// Columns of a panel of packed matrices: the widest vector.
pub(super) const PANEL: usize = 16;

/// Values of a block of runs: with three panels 36 KiB, which L1 and the prefetcher carry.
const BLOCK: usize = 192;

/// Positions that [`Outer`] works through at a time: its right factor then stays in L1.
const POSITIONS: usize = 128;

/// `n` rounded up to whole panels.
pub(super) fn padded(n: usize) -> usize {
    n.next_multiple_of(PANEL)
}

/// The right factor of [`Rows`], (run, i) x column in panels of 16 columns, of `at(run, i, column)`.
pub(super) fn pack(runs: usize, len: usize, n: usize, at: impl Fn(usize, usize, usize) -> f32) -> Vec<f32> {
    let mut packed = vec![0.0; padded(n) * runs * len];
    for (panel, packed) in packed.chunks_exact_mut((runs * len * PANEL).max(1)).enumerate() {
        for run in 0..runs {
            for i in 0..len {
                let to = &mut packed[(run * len + i) * PANEL..][..PANEL];
                for (j, to) in to.iter_mut().enumerate().take(n - panel * PANEL) {
                    *to = at(run, i, panel * PANEL + j);
                }
            }
        }
    }
    packed
}

/// The level for a product of `n` columns: half a vector of AVX-512 is a whole one of AVX2, and there are twice as many a cycle.
pub(super) fn level_for(level: Level, n: usize) -> Level {
    if level == Level::Avx512 && n <= PANEL / 2 { Level::Avx2 } else { level }
}

/// out\[r\]\[j\] = start\[j\] + sum over runs and i of a\[rows\[r\] + runs\[.\] + i\] * b\[.., i\]\[j\], for j < n.
pub(super) struct Rows<'a> {
    pub(super) a: &'a [f32],
    /// Where each row's numbers begin.
    pub(super) rows: &'a [usize],
    /// Offsets of the runs.
    pub(super) runs: &'a [usize],
    /// Numbers of a run.
    pub(super) len: usize,
    /// In panels of 16 columns: (panel, run, i, column), zero beyond n.
    pub(super) b: &'a [f32],
    /// From one panel to the next.
    pub(super) panel: usize,
    pub(super) n: usize,
    /// What the sums start with: n values, or zero.
    pub(super) start: Option<&'a [f32]>,
    /// Row r begins at r * stride.
    pub(super) out: &'a mut [f32],
    /// At least n.
    pub(super) stride: usize,
}

impl Kernel for Rows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lane>(self, lane: L) {
        let Rows { a, rows, runs, len, b, panel: apart, n, start, out, stride } = self;
        if rows.is_empty() || n == 0 {
            return;
        }
        // What the unsafe blocks below build on.
        let depth = runs.len() * len;
        let (last_row, last_run) = (rows.iter().max().copied().unwrap_or(0), runs.iter().max().copied().unwrap_or(0));
        assert!(runs.is_empty() || last_row + last_run + len <= a.len());
        let panels = n.div_ceil(PANEL);
        assert!(depth * PANEL <= apart && b.len() >= (panels - 1) * apart + depth * PANEL);
        assert!(n <= stride && out.len() >= (rows.len() - 1) * stride + n);
        assert!(start.is_none_or(|s| s.len() >= n));

        // Blocks of the depth: (run, first of it, numbers) and where it begins in a panel.
        let pieces = len.div_ceil(BLOCK).max(1);
        let size = len.div_ceil(pieces).max(1);
        // Short runs go several to a block.
        let together = (BLOCK / size).max(1);
        let mut panel = 0;
        while panel < panels {
            let wide = match panels - panel {
                4 | 2 => 2,
                1 => 1,
                _ => 3,
            };
            let columns = (n - panel * PANEL).min(wide * PANEL);
            // What the first block starts with, in whole panels.
            let mut first = [0.0f32; 3 * PANEL];
            if let Some(start) = start {
                first[..columns].copy_from_slice(&start[panel * PANEL..][..columns]);
            }
            let mut first_run = 0;
            loop {
                let last_run = runs.len().min(if pieces == 1 { first_run + together } else { first_run + 1 });
                for piece in 0..pieces {
                    let from = piece * size;
                    let block = Block {
                        a: a.as_ptr(),
                        runs: &runs[first_run..last_run],
                        from,
                        len: size.min(len - from),
                        b: b[panel * apart + (first_run * len + from) * PANEL..].as_ptr(),
                        panel: apart,
                        columns,
                        start: if first_run == 0 && piece == 0 { Start::With(first) } else { Start::Out },
                    };
                    let mut r = 0;
                    while r < rows.len() {
                        let size = tile_rows::<L>(wide, rows.len() - r);
                        let (now, to) = (&rows[r..r + size], &mut out[r * stride + panel * PANEL..]);
                        if columns == wide * PANEL || (wide == 1 && columns == L::N) {
                            // SAFETY: rows, runs and len stay inside a, and `wide` panels from `panel` on inside b, by the
                            // asserts above; `to` has (size - 1) * stride + columns numbers.
                            unsafe { block.run_sized(lane, now, wide, to.as_mut_ptr(), stride) };
                        } else {
                            // Columns that end within a panel go through a tile of whole ones.
                            let mut tile = [0.0f32; 8 * 3 * PANEL];
                            let rows = tile.chunks_exact_mut(3 * PANEL).zip(to.chunks(stride)).take(size);
                            rows.for_each(|(tile, to)| tile[..columns].copy_from_slice(&to[..columns]));
                            // SAFETY: as above, with a `to` of 8 strides of 3 panels.
                            unsafe { block.run_sized(lane, now, wide, tile.as_mut_ptr(), 3 * PANEL) };
                            let rows = tile.chunks_exact(3 * PANEL).zip(to.chunks_mut(stride)).take(size);
                            rows.for_each(|(tile, to)| to[..columns].copy_from_slice(&tile[..columns]));
                        }
                        r += size;
                    }
                }
                first_run = last_run;
                if first_run >= runs.len() {
                    break;
                }
            }
            panel += wide;
        }
    }
}

/// Rows of the next register tile of `panels` panels, of the `left` that are to do: as many as the registers carry.
#[inline(always)]
fn tile_rows<L: Lane>(panels: usize, left: usize) -> usize {
    match left {
        8.. if L::N == PANEL || panels == 1 => 8,
        4.. => 4,
        _ => 1,
    }
}

/// What a block's sums begin with.
#[derive(Clone, Copy)]
enum Start {
    With([f32; 3 * PANEL]),
    /// What an earlier block left.
    Out,
}

/// Some runs of some panels of [`Rows`].
struct Block<'a> {
    a: *const f32,
    runs: &'a [usize],
    from: usize,
    len: usize,
    b: *const f32,
    /// From one panel to the next.
    panel: usize,
    /// Columns that exist, of the panels'.
    columns: usize,
    start: Start,
}

impl Block<'_> {
    /// # Safety
    /// As `run`, for `rows.len()` rows (8, 4 or 1) and `panels` panels (1 to 3).
    #[inline(always)]
    unsafe fn run_sized<L: Lane>(&self, lane: L, rows: &[usize], panels: usize, to: *mut f32, stride: usize) {
        // SAFETY: what the caller promises for these numbers is what `run` asks for <R, P>.
        unsafe {
            match (rows.len(), panels) {
                (8, 3) => self.run::<L, 8, 3>(lane, rows, to, stride),
                (8, 2) => self.run::<L, 8, 2>(lane, rows, to, stride),
                (8, _) => self.run::<L, 8, 1>(lane, rows, to, stride),
                (4, 3) => self.run::<L, 4, 3>(lane, rows, to, stride),
                (4, 2) => self.run::<L, 4, 2>(lane, rows, to, stride),
                (4, _) => self.run::<L, 4, 1>(lane, rows, to, stride),
                (_, 3) => self.run::<L, 1, 3>(lane, rows, to, stride),
                (_, 2) => self.run::<L, 1, 2>(lane, rows, to, stride),
                (_, _) => self.run::<L, 1, 1>(lane, rows, to, stride),
            }
        }
    }

    /// R rows times P panels.
    ///
    /// # Safety
    /// Each of the R rows' runs must be readable from `a`, P panels of the block from `b`, and `to` valid for reads and
    /// writes of 16 P numbers at each of R strides; of N where P is 1 and `columns` no more than N.
    #[inline(always)]
    unsafe fn run<L: Lane, const R: usize, const P: usize>(
        &self,
        lane: L,
        rows: &[usize],
        to: *mut f32,
        stride: usize,
    ) {
        const { assert!(P <= 3) };
        let base: [*const f32; R] = std::array::from_fn(|r| self.a.wrapping_add(rows[r] + self.from));
        // Vectors narrower than a panel take it in turns, so that the accumulators fit into the registers.
        for half in 0..PANEL / L::N {
            let shift = half * L::N;
            if P == 1 && shift >= self.columns {
                break;
            }
            let mut acc = [[lane.splat(0.0); P]; R];
            for r in 0..R {
                let from = match &self.start {
                    Start::With(start) => start.as_ptr(),
                    Start::Out => to.wrapping_add(r * stride).cast_const(),
                };
                for p in 0..P {
                    // SAFETY: P panels of the start or of row r.
                    acc[r][p] = unsafe { lane.load(from.wrapping_add(p * PANEL + shift)) };
                }
            }
            let mut b = self.b.wrapping_add(shift);
            for &run in self.runs {
                let at: [*const f32; R] = std::array::from_fn(|r| base[r].wrapping_add(run));
                for i in 0..self.len {
                    let mut right = [lane.splat(0.0); P];
                    for p in 0..P {
                        // SAFETY: row i of the block in panel p, N numbers from `shift` on.
                        right[p] = unsafe { lane.load(b.wrapping_add(p * self.panel)) };
                    }
                    b = b.wrapping_add(PANEL);
                    for r in 0..R {
                        // SAFETY: number i of the run of row r.
                        let left = lane.splat(unsafe { *at[r].wrapping_add(i) });
                        for p in 0..P {
                            acc[r][p] = lane.fma(left, right[p], acc[r][p]);
                        }
                    }
                }
            }
            for r in 0..R {
                for p in 0..P {
                    // SAFETY: panel p of row r.
                    unsafe { lane.store(to.wrapping_add(r * stride + p * PANEL + shift), acc[r][p]) };
                }
            }
        }
    }
}

/// Columns that [`Outer`] makes for `n`: whole vectors.
pub(super) fn columns(n: usize) -> usize {
    if n <= PANEL / 2 { PANEL / 2 } else { padded(n) }
}

/// Rows of `n` values, filled up with zeros to whole vectors.
pub(super) fn whole_columns<'a>(values: &'a [f32], n: usize, scratch: &'a mut Scratch) -> &'a [f32] {
    let wide = columns(n);
    if n == wide {
        return values;
    }
    let to = scratch.take(values.len() / n * wide);
    for (to, from) in to.chunks_exact_mut(wide).zip(values.chunks_exact(n)) {
        let (head, tail) = to.split_at_mut(n);
        head.copy_from_slice(from);
        tail.fill(0.0);
    }
    to
}

/// sum\[i\]\[j\] += sum over p of a\[rows\[p\] + i\] * d\[p\]\[j\], for i < len and j < n.
pub(super) struct Outer<'a> {
    pub(super) a: &'a [f32],
    /// Where each position's numbers begin in a.
    pub(super) rows: &'a [usize],
    pub(super) len: usize,
    /// Position p begins at p * n.
    pub(super) d: &'a [f32],
    /// Columns, a multiple of 8; of 16 for AVX-512.
    pub(super) n: usize,
    /// (len, n)
    pub(super) sum: &'a mut [f32],
}

impl Kernel for Outer<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lane>(self, lane: L) {
        let Outer { a, rows, len, d, n, sum } = self;
        if rows.is_empty() || len == 0 {
            return;
        }
        // What the unsafe blocks below build on.
        assert!(n.is_multiple_of(L::N) && d.len() >= rows.len() * n && sum.len() >= len * n);
        assert!(rows.iter().max().copied().unwrap_or(0) + len <= a.len());

        for (rows, d) in rows.chunks(POSITIONS).zip(d.chunks(POSITIONS * n)) {
            let part = Positions { a: a.as_ptr(), rows, d: d.as_ptr(), n };
            let mut j = 0;
            while j < n {
                let wide = match (n - j) / L::N {
                    4 | 2 => 2,
                    1 => 1,
                    _ => 3,
                };
                let mut i = 0;
                while i < len {
                    let to = sum[i * n + j..].as_mut_ptr();
                    // SAFETY: i + size <= len and j + wide * N <= n, with the asserts above.
                    i += unsafe {
                        match (wide, tile_rows::<L>(wide, len - i)) {
                            (3, 8) => part.run::<L, 8, 3>(lane, i, j, to),
                            (2, 8) => part.run::<L, 8, 2>(lane, i, j, to),
                            (_, 8) => part.run::<L, 8, 1>(lane, i, j, to),
                            (3, 4) => part.run::<L, 4, 3>(lane, i, j, to),
                            (2, 4) => part.run::<L, 4, 2>(lane, i, j, to),
                            (_, 4) => part.run::<L, 4, 1>(lane, i, j, to),
                            (3, _) => part.run::<L, 1, 3>(lane, i, j, to),
                            (2, _) => part.run::<L, 1, 2>(lane, i, j, to),
                            (_, _) => part.run::<L, 1, 1>(lane, i, j, to),
                        }
                    };
                }
                j += wide * L::N;
            }
        }
    }
}

/// Some positions of [`Outer`].
struct Positions<'a> {
    a: *const f32,
    rows: &'a [usize],
    d: *const f32,
    n: usize,
}

impl Positions<'_> {
    /// R rows from i on times P vectors from column j on; returns R.
    ///
    /// # Safety
    /// `a` readable at each position for i + R numbers, `d` for j + N P at each; `to` readable and writable for N P
    /// numbers at each of R strides of n.
    #[inline(always)]
    unsafe fn run<L: Lane, const R: usize, const P: usize>(&self, lane: L, i: usize, j: usize, to: *mut f32) -> usize {
        let mut acc = [[lane.splat(0.0); P]; R];
        let mut d = self.d.wrapping_add(j);
        let a = self.a.wrapping_add(i);
        for &row in self.rows {
            let mut right = [lane.splat(0.0); P];
            for p in 0..P {
                // SAFETY: columns j + p * N.. of a position.
                right[p] = unsafe { lane.load(d.wrapping_add(p * L::N)) };
            }
            d = d.wrapping_add(self.n);
            let at = a.wrapping_add(row);
            for r in 0..R {
                // SAFETY: number i + r of a position.
                let left = lane.splat(unsafe { *at.wrapping_add(r) });
                for p in 0..P {
                    acc[r][p] = lane.fma(left, right[p], acc[r][p]);
                }
            }
        }
        for r in 0..R {
            for p in 0..P {
                let to = to.wrapping_add(r * self.n + p * L::N);
                // SAFETY: row r, vector p of the sums.
                unsafe { lane.store(to, lane.add(acc[r][p], lane.load(to.cast_const()))) };
            }
        }
        R
    }
}
