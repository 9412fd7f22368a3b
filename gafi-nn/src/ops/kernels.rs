//! The two inner loops of convolution, over "shifted planes".
//!
//! Images are packed into flat planes with zeros around them (`planes.rs`), so that each tap of a kernel is one offset:
//! out\[c\]\[p\] = sum over taps t of w\[c\]\[t\] * buf\[off\[t\] + p\], with p running through whole planes, rows and gaps alike.
//! No im2col, and loads of consecutive floats only. Each element of the result is one chain of multiply-adds in the order of
//! the taps, whatever the blocking, so neither threads nor batch size show in the bits.
//!
//! Blocking: a register block is up to 8 channels x 3 vectors (AVX-512) or 4 x 2 (AVX2); taps come in blocks whose inputs
//! and weights stay in the L1 cache.

#![expect(clippy::needless_range_loop, reason = "register blocks are indexed in two directions")]

use super::simd::{Kernel, Lane};

/// The largest power of two of channels, at most `max`, that fits into `left`.
fn block(left: usize, max: usize) -> usize {
    [8, 4, 2].into_iter().find(|&b| b <= max && b <= left).unwrap_or(1)
}

/// The channel blocks of `channels` at a lane's largest block: (first, size), sizes falling.
pub(super) fn blocks(channels: usize, max: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        (first < channels).then(|| {
            let (at, size) = (first, block(channels - first, max));
            first += size;
            (at, size)
        })
    })
}

/// The largest block of channels at the level that the kernel runs at: how weights must be packed.
pub(super) struct MaxBlock;

impl Kernel for MaxBlock {
    type Out = usize;
    #[inline(always)]
    fn run<L: Lane>(self, _: L) -> usize {
        L::MAX_BLOCK
    }
}

/// out\[c\]\[p\] = bias\[c\] + sum over t of w\[c\]\[t\] * buf\[taps\[t\] + p\], for p in 0..len.
pub(super) struct Correlate<'a> {
    /// Packed planes; what lies between and behind the images must be initialised, its values don't matter.
    pub(super) buf: &'a [f32],
    /// Offset of each tap.
    pub(super) taps: &'a [usize],
    /// For each channel block (`blocks`) at first * taps.len(): tap by tap the weights of its channels.
    pub(super) weights: &'a [f32],
    /// One per channel, or none.
    pub(super) bias: Option<&'a [f32]>,
    /// How many.
    pub(super) channels: usize,
    /// Taps worked through at a time.
    pub(super) tap_block: usize,
    /// Channel c begins at c * stride.
    pub(super) out: &'a mut [f32],
    /// At least `len`.
    pub(super) stride: usize,
    /// Positions; a multiple of 16.
    pub(super) len: usize,
}

impl Kernel for Correlate<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lane>(self, lane: L) {
        let Correlate { buf, taps, weights, bias, channels, tap_block, out, stride, len } = self;
        // What the unsafe blocks below build on.
        assert!(len.is_multiple_of(16) && len <= stride && channels > 0);
        assert!(out.len() >= (channels - 1) * stride + len);
        assert!(weights.len() >= channels * taps.len());
        assert!(bias.is_none_or(|b| b.len() >= channels));
        assert!(taps.iter().all(|&t| t <= buf.len() && len <= buf.len() - t));

        let mut done = 0;
        loop {
            let now = &taps[done..taps.len().min(done + tap_block.max(1))];
            // Blocks of one size run over the positions together: a stretch of input serves all of them from L1.
            let mut first = 0;
            while first < channels {
                let size = block(channels - first, L::MAX_BLOCK);
                let end = first + (channels - first) / size * size;
                let mut p = 0;
                while p < len {
                    let vectors = tile_vectors(size, L::N, (len - p) / L::N);
                    for c in (first..end).step_by(size) {
                        let tile = Tile {
                            buf: buf[p..].as_ptr(),
                            taps: now,
                            weights: weights[c * taps.len() + done * size..].as_ptr(),
                            start: if done > 0 { Start::Out } else { Start::Bias(bias.map(|b| &b[c..c + size])) },
                            out: out[c * stride + p..].as_mut_ptr(),
                            stride,
                        };
                        // SAFETY: p + vectors * N <= len, so each tap's reads end before taps[t] + len <= buf.len(); `size`
                        // channels from c on have `now.len()` taps of weights from `done` on, inside channels * taps.len();
                        // writes end before (c + size - 1) * stride + len <= out.len(). All asserted above.
                        unsafe { tile.run_sized(lane, size, vectors) }
                    }
                    p += vectors * L::N;
                }
                first = end;
            }
            done += now.len();
            if done >= taps.len() {
                return;
            }
        }
    }
}

/// How many vectors the next register block of `size` channels takes of the `left` that are to do.
#[inline(always)]
fn tile_vectors(size: usize, lane: usize, left: usize) -> usize {
    let options: &[usize] = match (lane, size) {
        (16, 8) => {
            // 4 = 2 + 2, as a block of 1 would wait for its own multiply-adds.
            if left == 4 {
                return 2;
            }
            &[3, 2]
        }
        (16, 4) => &[6, 3, 2],
        (16, _) => &[8, 4, 2],
        // 3 would fill all 16 registers, and the compiler shuffles them.
        (_, 4) => &[2],
        (_, 2) => &[4, 2],
        _ => &[8, 4, 2],
    };
    options.iter().copied().find(|&v| v <= left).unwrap_or(1)
}

/// What a register block begins with.
enum Start<'a> {
    /// The bias of its channels, or zero.
    Bias(Option<&'a [f32]>),
    /// What an earlier block of taps left in `out`.
    Out,
}

/// One register block of [`Correlate`].
struct Tile<'a> {
    buf: *const f32,
    taps: &'a [usize],
    weights: *const f32,
    start: Start<'a>,
    out: *mut f32,
    stride: usize,
}

impl Tile<'_> {
    /// # Safety
    /// For M channels and V vectors: `buf` + tap readable for V * N floats for each tap, `weights` readable for M * taps floats,
    /// `out` + m * stride readable and writable for V * N floats for each m < M, a bias of M floats.
    #[inline(always)]
    unsafe fn run_sized<L: Lane>(self, lane: L, channels: usize, vectors: usize) {
        // SAFETY: what the caller promises for (channels, vectors) is what `run` asks for <M, V>.
        unsafe {
            match (channels, vectors) {
                (8, 3) if L::N == 16 => self.run::<L, 8, 3>(lane),
                (8, 2) if L::N == 16 => self.run::<L, 8, 2>(lane),
                (8, 1) if L::N == 16 => self.run::<L, 8, 1>(lane),
                (4, 6) if L::N == 16 => self.run::<L, 4, 6>(lane),
                (4, 3) if L::N == 16 => self.run::<L, 4, 3>(lane),
                (4, 2) => self.run::<L, 4, 2>(lane),
                (4, 1) => self.run::<L, 4, 1>(lane),
                (2, 8) if L::N == 16 => self.run::<L, 2, 8>(lane),
                (2, 4) => self.run::<L, 2, 4>(lane),
                (2, 2) => self.run::<L, 2, 2>(lane),
                (2, 1) => self.run::<L, 2, 1>(lane),
                (1, 8) => self.run::<L, 1, 8>(lane),
                (1, 4) => self.run::<L, 1, 4>(lane),
                (1, 2) => self.run::<L, 1, 2>(lane),
                (1, 1) => self.run::<L, 1, 1>(lane),
                _ => unreachable!("tile_vectors gives none but the sizes above"),
            }
        }
    }

    /// # Safety
    /// As `run_sized`.
    #[inline(always)]
    unsafe fn run<L: Lane, const M: usize, const V: usize>(self, lane: L) {
        let mut acc = [[lane.splat(0.0); V]; M];
        // `wrapping_add` throughout: it is `add` to the CPU, and debug builds don't check it.
        for m in 0..M {
            for v in 0..V {
                acc[m][v] = match self.start {
                    Start::Bias(Some(bias)) => lane.splat(bias[m]),
                    Start::Bias(None) => lane.splat(0.0),
                    // SAFETY: row m < M, floats v * N.. of the V * N that the caller promises.
                    Start::Out => unsafe { lane.load(self.out.wrapping_add(m * self.stride + v * L::N)) },
                };
            }
        }
        let mut weights = self.weights;
        for &tap in self.taps {
            let from = self.buf.wrapping_add(tap);
            let mut x = [lane.splat(0.0); V];
            for v in 0..V {
                // SAFETY: V * N floats from `buf` + tap on are promised.
                x[v] = unsafe { lane.load(from.wrapping_add(v * L::N)) };
            }
            for m in 0..M {
                // SAFETY: M weights for each tap are promised; `weights` stands at this tap's.
                let w = lane.splat(unsafe { *weights.wrapping_add(m) });
                for v in 0..V {
                    acc[m][v] = lane.fma(x[v], w, acc[m][v]);
                }
            }
            weights = weights.wrapping_add(M);
        }
        for m in 0..M {
            for v in 0..V {
                // SAFETY: as the loads of `Start::Out`.
                unsafe { lane.store(self.out.wrapping_add(m * self.stride + v * L::N), acc[m][v]) }
            }
        }
    }
}

/// Positions that are worked through at a time, so that the gradient planes of a channel block stay in L1.
const CHUNK: usize = 1024;

/// grad\[c\]\[t\] += sum over p in 0..len of dout\[c\]\[p\] * buf\[taps\[t\] + p\].
pub(super) struct WeightGradient<'a> {
    /// Packed planes, zeros around the images; all initialised.
    pub(super) buf: &'a [f32],
    /// Offset of each tap.
    pub(super) taps: &'a [usize],
    /// Output gradient, channel c from c * stride on, in the flat positions of `buf`, zero where there is no output.
    pub(super) dout: &'a [f32],
    /// At least `len`.
    pub(super) stride: usize,
    /// How many.
    pub(super) channels: usize,
    /// Positions; a multiple of 16.
    pub(super) len: usize,
    /// (channels, taps), row by row.
    pub(super) grad: &'a mut [f32],
}

impl Kernel for WeightGradient<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lane>(self, lane: L) {
        let WeightGradient { buf, taps, dout, stride, channels, len, grad } = self;
        // What the unsafe blocks below build on.
        assert!(len.is_multiple_of(16) && len <= stride && channels > 0);
        assert!(dout.len() >= (channels - 1) * stride + len);
        assert!(grad.len() >= channels * taps.len());
        assert!(taps.iter().all(|&t| t <= buf.len() && len <= buf.len() - t));

        for from in (0..len).step_by(CHUNK) {
            let steps = CHUNK.min(len - from) / L::N;
            for (c, size) in blocks(channels, 4) {
                let rows = Rows { dout: dout[c * stride + from..].as_ptr(), stride, buf: buf[from..].as_ptr(), steps };
                let grad = &mut grad[c * taps.len()..(c + size) * taps.len()];
                // SAFETY: for each of `size` channels from c on, dout has `len` floats of which from + steps * N <= len are
                // read; so has buf behind each tap. Asserted above.
                unsafe {
                    match (size, L::N) {
                        (4, 16) => rows.all_taps::<L, 4, 6>(lane, taps, grad),
                        (2, 16) => rows.all_taps::<L, 2, 9>(lane, taps, grad),
                        (1, 16) => rows.all_taps::<L, 1, 9>(lane, taps, grad),
                        (4, _) => rows.all_taps::<L, 4, 2>(lane, taps, grad),
                        (2, _) => rows.all_taps::<L, 2, 4>(lane, taps, grad),
                        _ => rows.all_taps::<L, 1, 6>(lane, taps, grad),
                    }
                }
            }
        }
    }
}

/// A channel block and a chunk of positions of [`WeightGradient`].
struct Rows {
    dout: *const f32,
    stride: usize,
    buf: *const f32,
    steps: usize,
}

impl Rows {
    /// `grad` is (M, taps).
    ///
    /// # Safety
    /// `dout` + m * stride readable for steps * N floats for each m < M, `buf` + tap likewise for each tap.
    #[inline(always)]
    unsafe fn all_taps<L: Lane, const M: usize, const T: usize>(&self, lane: L, taps: &[usize], grad: &mut [f32]) {
        let count = taps.len();
        for t in (0..count).step_by(T) {
            // The last block repeats its last tap, and drops what comes of it.
            let offsets: [usize; T] = std::array::from_fn(|i| taps[(t + i).min(count - 1)]);
            // SAFETY: the caller's promise, for taps out of `taps`.
            let sums = unsafe { self.some_taps::<L, M, T>(lane, &offsets) };
            for (m, row) in sums.iter().enumerate() {
                for (g, s) in grad[m * count..(m + 1) * count][t..].iter_mut().zip(row) {
                    *g += s;
                }
            }
        }
    }

    /// # Safety
    /// As `all_taps`.
    #[inline(always)]
    unsafe fn some_taps<L: Lane, const M: usize, const T: usize>(
        &self,
        lane: L,
        offsets: &[usize; T],
    ) -> [[f32; T]; M] {
        let mut acc = [[lane.splat(0.0); T]; M];
        for step in 0..self.steps {
            let p = step * L::N;
            let mut d = [lane.splat(0.0); M];
            for m in 0..M {
                // SAFETY: row m < M, p + N <= steps * N floats of it.
                d[m] = unsafe { lane.load(self.dout.wrapping_add(m * self.stride + p)) };
            }
            for t in 0..T {
                // SAFETY: `buf` + offset is readable for steps * N floats.
                let x = unsafe { lane.load(self.buf.wrapping_add(offsets[t] + p)) };
                for m in 0..M {
                    acc[m][t] = lane.fma(d[m], x, acc[m][t]);
                }
            }
        }
        let mut sums = [[0.0; T]; M];
        for m in 0..M {
            for t in 0..T {
                sums[m][t] = lane.sum(acc[m][t]);
            }
        }
        sums
    }
}
