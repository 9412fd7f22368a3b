//! Products of bf16 matrices with f32 sums, for convolutions of bf16 maps on a CPU.
//!
//! There are two kernels. [`Rows`] multiplies rows at arbitrary offsets with packed weights: a convolution reads a padded
//! image in place, one segment for each row of its kernel, without im2col. [`Outer`] sums outer products over positions,
//! for weight gradients. Each runs at the requested [`Level`]. bf16 values are `u16` bits throughout, multiplied in adjacent
//! pairs, as both AVX-512-BF16 and AMX do.
//!
//! Each element of a result is one chain of sums, whose order depends only on the shapes. So its bits do not depend on
//! how rows are divided among calls. Levels differ in the last bits, and the instructions of AVX-512-BF16 and AMX treat
//! subnormal numbers as zero.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod pack;
mod portable;

pub(super) use pack::{bits, interleave, pack, pairs, round, rounded_pairs, value};

/// Number of columns in a panel of packed weights.
pub(super) const PANEL: usize = 16;

/// The instructions that multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// AMX: tiles of 16 x 16 sums (Intel, from Sapphire Rapids on).
    Amx,
    /// AVX-512-BF16: vectors of 16 sums (AMD from Zen 4 on, Intel from Cooper Lake on).
    Avx512Bf16,
    /// Factors widened to f32, with the best f32 instructions.
    Portable,
}

impl Level {
    /// Whether this CPU supports it and the system permits it.
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

    /// The name shown to users.
    pub(super) fn name(self) -> &'static str {
        match self {
            Level::Amx => "amx",
            Level::Avx512Bf16 => "avx512-bf16",
            Level::Portable => "portable",
        }
    }

    /// The fastest supported level.
    pub(super) fn best() -> Level {
        [Level::Amx, Level::Avx512Bf16].into_iter().find(|l| l.supported()).unwrap_or(Level::Portable)
    }
}

/// Whether this process can use AMX, the matrix unit of Intel CPUs from Sapphire Rapids on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amx {
    /// It can.
    Available,
    /// The CPU has no AMX for bf16.
    NotInCpu,
    /// The operating system does not save AMX registers when it switches threads.
    NotSaved,
    /// The operating system refused permission.
    Refused,
}

impl Amx {
    /// The state of this process.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        return amx::state();
        #[cfg(not(target_arch = "x86_64"))]
        Self::NotInCpu
    }
}

impl std::fmt::Display for Amx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Available => "available",
            Self::NotInCpu => "not in this CPU",
            Self::NotSaved => "the system does not save its registers",
            Self::Refused => "the system refuses permission",
        })
    }
}

/// The initial values of the sums of [`Rows`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Start<'a> {
    /// Zero.
    Zero,
    /// These `n` values in every row.
    Bias(&'a [f32]),
    /// The values in `c`.
    Sum,
}

/// c\[r\]\[j\] = start + sum over segments s and i in 0..len of a\[rows\[r\] + segments\[s\] + i\] * b\[s\]\[i\]\[j\].
#[derive(Debug)]
pub(super) struct Rows<'a> {
    /// Padded images.
    pub(super) a: &'a [u16],
    /// The offset in `a` of each row of the result.
    pub(super) rows: &'a [usize],
    /// Offsets of the segments, relative to a row.
    pub(super) segments: &'a [usize],
    /// Length of a segment; even.
    pub(super) len: usize,
    /// Weights from [`pack()`]: \[panel\]\[segment\]\[i / 2\]\[16\]\[2\].
    pub(super) b: &'a [u16],
    /// Number of columns; a multiple of [`PANEL`].
    pub(super) n: usize,
    /// Initial values of the sums.
    pub(super) start: Start<'a>,
    /// The sums (rows, n).
    pub(super) c: &'a mut [f32],
    /// The destination of the rounded results, if any; `c` then only holds intermediate sums.
    pub(super) rounded: Option<Rounded<'a>>,
}

/// A destination in bf16. Each row of the result has a pixel; row r begins at n times its pixel.
#[derive(Debug)]
pub(super) struct Rounded<'a> {
    pub(super) to: &'a mut [u16],
    /// Number of columns without the padding of the last panel.
    pub(super) n: usize,
    /// The pixel of row 0. Without `pixels`, the other rows follow it.
    pub(super) first: usize,
    /// The pixel of each row, if they are not consecutive.
    pub(super) pixels: Option<&'a [usize]>,
}

impl Rounded<'_> {
    /// Rounds and stores the sums in `c`, whose rows have `wide` columns.
    fn store(self, c: &[f32], rows: usize, wide: usize) {
        let n = self.n;
        for r in 0..rows {
            let at = self.pixels.map_or(self.first + r, |pixels| pixels[r]) * n;
            round(&c[r * wide..][..n], &mut self.to[at..][..n]);
        }
    }
}

impl Rows<'_> {
    /// Multiplies at `level`, or with portable code if this CPU does not support that level.
    pub(super) fn run(mut self, level: Level) {
        if !self.check() {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if level == Level::Avx512Bf16 && level.supported() {
            // SAFETY: `check` has confirmed that all indices are within their slices, `supported` the instructions.
            return unsafe { avx512::rows(self) };
        }
        let rounded = self.rounded.take();
        let rows = self.rows.len();
        let wide = self.n;
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
            rounded.store(c, rows, wide);
        }
    }

    /// Number of products in a sum.
    fn depth(&self) -> usize {
        self.segments.len() * self.len
    }

    /// Asserts what the unsafe blocks of the kernels rely on. Returns whether there is anything to do.
    fn check(&self) -> bool {
        let Rows { a, rows, segments, len, b, n, .. } = self;
        let (Some(last), false) = (rows.iter().max(), *n == 0) else { return false };
        let reach = segments.iter().max().map_or(0, |s| s + len);
        assert!(len.is_multiple_of(2) && n.is_multiple_of(PANEL));
        assert!(last.checked_add(reach).is_some_and(|end| end <= a.len()));
        assert!(b.len() >= n * self.depth());
        assert!(self.c.len() >= rows.len() * n);
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

/// c\[s\]\[i\]\[j\] += sum over q of a2\[rows\[q\] + segments\[s\] + i\] . d2\[q\]\[j\], where the elements of a2 and d2 are pairs
/// of two positions.
#[derive(Debug)]
pub(super) struct Outer<'a> {
    /// Pairs of inputs, \[pair\]\[channel\]\[2\].
    pub(super) a2: &'a [u16],
    /// The offset of each pair of positions in `a2`, in units of `[u16; 2]`.
    pub(super) rows: &'a [usize],
    /// Offsets of the segments, relative to a pair of positions, in the same units.
    pub(super) segments: &'a [usize],
    /// Number of rows of the result for each segment.
    pub(super) len: usize,
    /// Pairs of gradients, \[q\]\[n\]\[2\].
    pub(super) d2: &'a [u16],
    /// Number of columns; a multiple of [`PANEL`].
    pub(super) n: usize,
    /// The sums (segments, len, n).
    pub(super) c: &'a mut [f32],
}

impl Outer<'_> {
    /// Multiplies at `level`, or with portable code if this CPU does not support that level.
    pub(super) fn run(self, level: Level) {
        if self.check() {
            #[cfg(target_arch = "x86_64")]
            match level {
                // SAFETY: `check` has confirmed that all indices are within their slices, `supported` the instructions.
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

    /// Like [`Rows::check`].
    fn check(&self) -> bool {
        let Outer { a2, rows, segments, len, d2, n, .. } = self;
        let (Some(last), Some(reach), false) = (rows.iter().max(), segments.iter().max(), *n == 0 || *len == 0) else {
            return false;
        };
        assert!(n.is_multiple_of(PANEL));
        assert!(last.checked_add(reach + len).is_some_and(|end| end <= a2.len() / 2));
        assert!(d2.len() >= rows.len() * n * 2);
        assert!(self.c.len() >= segments.len() * len * n);
        true
    }
}

#[cfg(test)]
pub(super) mod tests;
