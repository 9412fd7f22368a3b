//! The two f32 matrix products that convolutions consist of.
//!
//! [`Rows`] multiplies rows at arbitrary offsets of a padded image with a packed matrix: out\[r\]\[j\] = sum over the runs of
//! a\[row r + run + i\] * b\[run, i\]\[j\]. With channels innermost, a row of a kernel is one run of k * C consecutive numbers,
//! so no im2col is needed. [`Outer`] sums outer products over positions, for weight gradients.
//!
//! Vectors run along the columns (output channels); the other factor is broadcast from memory. Each result is one chain of
//! multiply-adds in the order of the runs, whatever the blocking, so its bits depend neither on threads nor on batch size.

#![expect(clippy::needless_range_loop, reason = "register blocks are indexed in two directions")]

use crate::memory::Scratch;
use crate::simd::{Kernel, Lane, Level};

/// Number of columns in a panel of a packed matrix: the width of the widest vector.
pub(super) const PANEL: usize = 16;

/// Number of values in a block of runs: 36 KiB for three panels, which L1 and the prefetcher can supply.
const BLOCK: usize = 192;

/// Number of positions in a block of [`Outer`], so that its right factor stays in L1.
const POSITIONS: usize = 128;

/// `n` rounded up to whole panels.
pub(super) fn padded(n: usize) -> usize {
    n.next_multiple_of(PANEL)
}

/// The right factor of [`Rows`], whose elements are `at(run, i, column)`, in panels of 16 columns.
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

/// The level for a product with `n` columns. Half a vector of AVX-512 is a whole one of AVX2, and many CPUs (such as Zen 4)
/// execute twice as many of those per cycle.
pub(super) fn level_for(level: Level, n: usize) -> Level {
    if level == Level::Avx512 && n <= PANEL / 2 { Level::Avx2 } else { level }
}

/// out\[r\]\[j\] = start\[j\] + sum over runs and i of a\[rows\[r\] + runs\[.\] + i\] * b\[.., i\]\[j\], for j < n.
pub(super) struct Rows<'a> {
    pub(super) a: &'a [f32],
    /// The offset of each row in `a`.
    pub(super) rows: &'a [usize],
    /// Offsets of the runs, relative to a row.
    pub(super) runs: &'a [usize],
    /// Length of a run.
    pub(super) len: usize,
    /// In panels of 16 columns: (panel, run, i, column), zero beyond column n.
    pub(super) b: &'a [f32],
    /// Distance between two panels.
    pub(super) panel: usize,
    /// Number of columns.
    pub(super) n: usize,
    /// Initial values of the sums, one for each column, or zero.
    pub(super) start: Option<&'a [f32]>,
    /// The result, (rows, n).
    pub(super) out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lane>(self, lane: L) {
        let Rows { a, rows, runs, len, b, panel: apart, n, start, out } = self;
        if rows.is_empty() || n == 0 {
            return;
        }
        // The unsafe blocks below rely on these assertions.
        let depth = runs.len() * len;
        let last_row = rows.iter().max().copied().unwrap_or(0);
        let last_run = runs.iter().max().copied().unwrap_or(0);
        assert!(runs.is_empty() || last_row + last_run + len <= a.len());
        let panels = n.div_ceil(PANEL);
        assert!(depth * PANEL <= apart && b.len() >= (panels - 1) * apart + depth * PANEL);
        assert!(out.len() >= rows.len() * n);
        assert!(start.is_none_or(|s| s.len() >= n));

        // Long runs are cut into pieces of equal size.
        let pieces = len.div_ceil(BLOCK).max(1);
        let size = len.div_ceil(pieces).max(1);
        // Short runs share a block.
        let shared = (BLOCK / size).max(1);
        let mut panel = 0;
        while panel < panels {
            let wide = together(panels - panel);
            let columns = (n - panel * PANEL).min(wide * PANEL);
            // The initial values of the first block, in whole panels.
            let mut first = [0.0f32; 3 * PANEL];
            if let Some(start) = start {
                first[..columns].copy_from_slice(&start[panel * PANEL..][..columns]);
            }
            let mut first_run = 0;
            loop {
                let last_run = runs.len().min(if pieces == 1 { first_run + shared } else { first_run + 1 });
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
                        let now = &rows[r..r + size];
                        let to = &mut out[r * n + panel * PANEL..];
                        if columns == wide * PANEL || (wide == 1 && columns == L::N) {
                            // SAFETY: by the assertions above, rows, runs and len stay inside a, and `wide` panels from `panel`
                            // on inside b; `to` has (size - 1) * n + columns numbers.
                            unsafe { block.run_sized(lane, now, wide, to.as_mut_ptr(), n) };
                        } else {
                            // Columns that end within a panel go through a tile of whole panels.
                            let mut tile = [0.0f32; 8 * 3 * PANEL];
                            let rows = tile.chunks_exact_mut(3 * PANEL).zip(to.chunks(n)).take(size);
                            rows.for_each(|(tile, to)| tile[..columns].copy_from_slice(&to[..columns]));
                            // SAFETY: as above; the tile has 8 strides of 3 panels.
                            unsafe { block.run_sized(lane, now, wide, tile.as_mut_ptr(), 3 * PANEL) };
                            let rows = tile.chunks_exact(3 * PANEL).zip(to.chunks_mut(n)).take(size);
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

/// Number of panels (or vectors) of the next register tile, with `left` to do.
#[inline(always)]
fn together(left: usize) -> usize {
    match left {
        4 | 2 => 2,
        1 => 1,
        _ => 3,
    }
}

/// Number of rows of the next register tile of `panels` panels, with `left` rows to do: as many as fit into the registers.
#[inline(always)]
fn tile_rows<L: Lane>(panels: usize, left: usize) -> usize {
    match left {
        8.. if L::N == PANEL || panels == 1 => 8,
        4.. => 4,
        _ => 1,
    }
}

/// The initial values of a block's sums.
#[derive(Clone, Copy)]
enum Start {
    With([f32; 3 * PANEL]),
    /// The values in `out`, from earlier blocks.
    Out,
}

/// A block of [`Rows`]: some runs of some panels.
struct Block<'a> {
    a: *const f32,
    runs: &'a [usize],
    from: usize,
    len: usize,
    b: *const f32,
    /// Distance between two panels.
    panel: usize,
    /// Number of columns before the padding of the last panel.
    columns: usize,
    start: Start,
}

impl Block<'_> {
    /// # Safety
    /// The same as for `run`, with `rows.len()` rows (8, 4 or 1) and `panels` panels (1 to 3).
    #[inline(always)]
    unsafe fn run_sized<L: Lane>(&self, lane: L, rows: &[usize], panels: usize, to: *mut f32, stride: usize) {
        // SAFETY: the caller guarantees for these numbers what `run` requires for <R, P>.
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

    /// Multiplies R rows with P panels.
    ///
    /// # Safety
    /// The runs of each of the R rows must be readable from `a`, and P panels of the block from `b`. `to` must be valid for
    /// reads and writes of 16 P numbers at each of R strides, or of N numbers if P is 1 and `columns` is at most N.
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
        // Narrower vectors process a panel in several steps, so that the accumulators fit into the registers.
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
                    // SAFETY: panel p of the initial values or of row r.
                    acc[r][p] = unsafe { lane.load(from.wrapping_add(p * PANEL + shift)) };
                }
            }
            let mut b = self.b.wrapping_add(shift);
            for &run in self.runs {
                let at: [*const f32; R] = std::array::from_fn(|r| base[r].wrapping_add(run));
                for i in 0..self.len {
                    let mut right = [lane.splat(0.0); P];
                    for p in 0..P {
                        // SAFETY: N numbers from `shift` on, in row i of the block's panel p.
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

/// Number of columns that [`Outer`] computes for `n`: whole vectors.
pub(super) fn columns(n: usize) -> usize {
    if n <= PANEL / 2 { PANEL / 2 } else { padded(n) }
}

/// Rows of `n` values, padded with zeros to whole vectors.
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
    /// The offset of each position in `a`.
    pub(super) rows: &'a [usize],
    /// Number of values of a position in `a`: rows of the result.
    pub(super) len: usize,
    /// Position p begins at p * n.
    pub(super) d: &'a [f32],
    /// Number of columns: a multiple of 8, and of 16 for AVX-512.
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
        // The unsafe blocks below rely on these assertions.
        assert!(n.is_multiple_of(L::N) && d.len() >= rows.len() * n && sum.len() >= len * n);
        assert!(rows.iter().max().copied().unwrap_or(0) + len <= a.len());

        for (rows, d) in rows.chunks(POSITIONS).zip(d.chunks(POSITIONS * n)) {
            let part = Positions { a: a.as_ptr(), rows, d: d.as_ptr(), n };
            let mut j = 0;
            while j < n {
                let wide = together((n - j) / L::N);
                let mut i = 0;
                while i < len {
                    let to = sum[i * n + j..].as_mut_ptr();
                    // SAFETY: i + size <= len and j + wide * N <= n; the rest is asserted above.
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

/// A block of positions of [`Outer`].
struct Positions<'a> {
    a: *const f32,
    rows: &'a [usize],
    d: *const f32,
    n: usize,
}

impl Positions<'_> {
    /// Adds to R rows from i on and P vectors from column j on; returns R.
    ///
    /// # Safety
    /// At each position, `a` must be readable for i + R numbers and `d` for j + N P numbers. `to` must be valid for reads and
    /// writes of N P numbers at each of R strides of n.
    #[inline(always)]
    unsafe fn run<L: Lane, const R: usize, const P: usize>(&self, lane: L, i: usize, j: usize, to: *mut f32) -> usize {
        let mut acc = [[lane.splat(0.0); P]; R];
        let mut d = self.d.wrapping_add(j);
        let a = self.a.wrapping_add(i);
        for &row in self.rows {
            let mut right = [lane.splat(0.0); P];
            for p in 0..P {
                // SAFETY: N columns from j + p * N on of a position.
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
                // SAFETY: vector p of row r of the sums.
                unsafe { lane.store(to, lane.add(acc[r][p], lane.load(to.cast_const()))) };
            }
        }
        R
    }
}
