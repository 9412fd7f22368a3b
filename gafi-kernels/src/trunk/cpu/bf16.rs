//! Products of bf16 matrices with f32 sums: what convolutions of bf16 maps are made of on a CPU.
//!
//! Two kernels. [`Rows`] multiplies rows found at arbitrary offsets with packed weights: a convolution reads a padded
//! image in place, one segment for each row of its kernel, and nothing is unfolded. [`Outer`] sums outer products over
//! positions: the gradient of weights. Each runs at the [`Level`] it is asked for. bf16 are `u16` bits throughout,
//! multiplied in adjacent pairs, as that is what both AVX-512-BF16 and AMX do.
//!
//! Every element of a result is one chain of sums whose order follows from the shapes alone, so the way in which rows
//! are shared out among calls doesn't show in the bits. Levels differ in their last bits, and the instructions of
//! AVX-512-BF16 and AMX take subnormal numbers for zero.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod pack;
mod portable;

pub(super) use pack::{bits, interleave, pack, pairs, round, rounded_pairs, value};

/// Columns of a panel of packed weights.
pub(super) const PANEL: usize = 16;

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// Tiles of 16 x 16 sums (Intel, from Sapphire Rapids on).
    Amx,
    /// Vectors of 16 sums (AMD from Zen 4 on, Intel from Cooper Lake on).
    Avx512Bf16,
    /// Widened to f32, with whatever the f32 kernels use.
    Portable,
}

impl Level {
    /// Whether this CPU has it, and the system lets us use it.
    pub(super) fn supported(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            Level::Amx => amx::supported(),
            Level::Avx512Bf16 => avx512::supported(),
            Level::Portable => true,
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Level::Portable
        }
    }

    /// For people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Level::Amx => "amx",
            Level::Avx512Bf16 => "avx512-bf16",
            Level::Portable => "portable",
        }
    }

    /// The fastest that this CPU has.
    pub(super) fn best() -> Level {
        [Level::Amx, Level::Avx512Bf16].into_iter().find(|l| l.supported()).unwrap_or(Level::Portable)
    }
}

/// Whether AMX can be used, and why not.
pub(super) fn amx_state() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    return amx::state();
    #[cfg(not(target_arch = "x86_64"))]
    "not in this CPU"
}

/// What [`Rows`] adds its products to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start<'a> {
    /// Zero.
    Zero,
    /// These `n` values in every row.
    Bias(&'a [f32]),
    /// What `c` holds.
    Sum,
}

/// c\[r\]\[j\] = start + sum over segments s and i in 0..len of a\[rows\[r\] + segments\[s\] + i\] * b\[s\]\[i\]\[j\].
#[derive(Debug)]
pub(super) struct Rows<'a> {
    /// Padded images.
    pub(super) a: &'a [u16],
    /// Where each row of the result begins to read.
    pub(super) rows: &'a [usize],
    /// Offsets from there.
    pub(super) segments: &'a [usize],
    /// Numbers of a segment; even.
    pub(super) len: usize,
    /// From [`pack()`]: \[panel\]\[segment\]\[i / 2\]\[16\]\[2\].
    pub(super) b: &'a [u16],
    /// Columns; a multiple of [`PANEL`].
    pub(super) n: usize,
    /// What is added to.
    pub(super) start: Start<'a>,
    /// (rows, n), row r at r * ldc.
    pub(super) c: &'a mut [f32],
    /// At least `n`.
    pub(super) ldc: usize,
    /// Where the results go in the end; c is then but room for sums.
    pub(super) rounded: Option<Rounded<'a>>,
}

/// Results in bf16: row r of (.., n) begins at n times its pixel.
#[derive(Debug)]
pub(super) struct Rounded<'a> {
    pub(super) to: &'a mut [u16],
    /// Columns that count; the others only fill up panels.
    pub(super) n: usize,
    /// The pixel of row 0; the others follow.
    pub(super) first: usize,
    /// The pixel of each row, if they don't.
    pub(super) pixels: Option<&'a [usize]>,
}

impl Rounded<'_> {
    fn pixel(&self, row: usize) -> usize {
        self.pixels.map_or(self.first + row, |pixels| pixels[row])
    }

    /// Rounds what is in c.
    fn store(self, c: &[f32], rows: usize, ldc: usize) {
        let n = self.n;
        for r in 0..rows {
            let at = self.pixel(r) * n;
            round(&c[r * ldc..][..n], &mut self.to[at..][..n]);
        }
    }
}

impl Rows<'_> {
    /// Does it at `level`, or with portable code where this CPU doesn't have that level.
    pub(super) fn run(mut self, level: Level) {
        if !self.check() {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if level == Level::Avx512Bf16 && level.supported() {
            // SAFETY: `check` has found all indices within their slices, `supported` the instructions.
            return unsafe { avx512::rows(self) };
        }
        let (rounded, rows, ldc) = (self.rounded.take(), self.rows.len(), self.ldc);
        let c = &mut *self.c;
        let sums = Rows { c: &mut *c, rounded: None, ..self };
        #[cfg(target_arch = "x86_64")]
        match level {
            // SAFETY: as above.
            Level::Amx if level.supported() => unsafe { amx::rows(sums) },
            _ => portable::rows(sums),
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = level;
            portable::rows(sums);
        }
        if let Some(rounded) = rounded {
            rounded.store(c, rows, ldc);
        }
    }

    /// Products a sum is made of.
    fn depth(&self) -> usize {
        self.segments.len() * self.len
    }

    /// Asserts what the kernels' unsafe blocks build on; whether there is anything to do.
    fn check(&self) -> bool {
        let Rows { a, rows, segments, len, b, n, ldc, .. } = self;
        let (Some(last), false) = (rows.iter().max(), *n == 0) else { return false };
        let reach = segments.iter().max().map_or(0, |s| s + len);
        assert!(len.is_multiple_of(2) && n.is_multiple_of(PANEL) && n <= ldc);
        assert!(last.checked_add(reach).is_some_and(|end| end <= a.len()));
        assert!(b.len() >= n * self.depth());
        assert!(self.c.len() >= (rows.len() - 1) * ldc + n);
        assert!(!matches!(self.start, Start::Bias(bias) if bias.len() < *n));
        if let Some(Rounded { to, n: columns, first, pixels }) = &self.rounded {
            assert!(columns.next_multiple_of(PANEL) == *n && pixels.is_none_or(|pixels| pixels.len() >= rows.len()));
            let last = match pixels {
                Some(pixels) => pixels[..rows.len()].iter().max().copied().unwrap_or(0),
                None => first + rows.len() - 1,
            };
            assert!(last.checked_add(1).and_then(|end| end.checked_mul(*columns)).is_some_and(|end| end <= to.len()));
        }
        true
    }
}

/// c\[s\]\[i\]\[j\] += sum over q of a2\[rows\[q\] + segments\[s\] + i\] . d2\[q\]\[j\], where a2 and d2 are of pairs:
/// of two positions, interleaved.
#[derive(Debug)]
pub(super) struct Outer<'a> {
    /// Pairs of inputs, \[pair\]\[channel\]\[2\].
    pub(super) a2: &'a [u16],
    /// Where each pair of positions begins, counted in `[u16; 2]`.
    pub(super) rows: &'a [usize],
    /// Offsets from there, likewise.
    pub(super) segments: &'a [usize],
    /// Rows of the result for each segment.
    pub(super) len: usize,
    /// Pairs of gradients, \[q\]\[n\]\[2\].
    pub(super) d2: &'a [u16],
    /// Columns; a multiple of [`PANEL`].
    pub(super) n: usize,
    /// (segments, len, n), each row `ldc` after the last.
    pub(super) c: &'a mut [f32],
    /// At least `n`.
    pub(super) ldc: usize,
}

impl Outer<'_> {
    /// Does it at `level`, or with portable code where this CPU doesn't have that level.
    pub(super) fn run(self, level: Level) {
        if self.check() {
            #[cfg(target_arch = "x86_64")]
            match level {
                // SAFETY: `check` has found all indices within their slices, `supported` the instructions.
                Level::Amx if level.supported() => return unsafe { amx::outer(self) },
                // SAFETY: as above.
                Level::Avx512Bf16 if level.supported() => return unsafe { avx512::outer(self) },
                _ => {}
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = level;
            portable::outer(self);
        }
    }

    /// As [`Rows::check`].
    fn check(&self) -> bool {
        let Outer { a2, rows, segments, len, d2, n, ldc, .. } = self;
        let (Some(last), Some(reach), false) = (rows.iter().max(), segments.iter().max(), *n == 0 || *len == 0) else {
            return false;
        };
        assert!(n.is_multiple_of(PANEL) && n <= ldc);
        assert!(last.checked_add(reach + len).is_some_and(|end| end <= a2.len() / 2));
        assert!(d2.len() >= rows.len() * n * 2);
        assert!(self.c.len() >= (segments.len() * len - 1) * ldc + n);
        true
    }
}

#[cfg(test)]
pub(super) mod tests;
