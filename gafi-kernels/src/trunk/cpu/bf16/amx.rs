//! The kernels for AMX, where each instruction adds 32 products to each of 16 x 16 sums.
//!
//! A register block is 2 x 2 tiles of sums, and takes two tiles of either factor. A tile is 16 rows of 64 bytes at a constant
//! distance. Packed weights and pairs of gradients have that form in memory. So do rows of an image that are complete and a
//! constant distance apart. Everything else is first copied to a stage and padded with zeros.
//!
//! The addressing is generic over [`Tiles`]: the hardware, or an emulation for tests that runs on any CPU.

mod tiles;

use std::arch::x86_64::*;
use std::array::from_fn;

use super::{Outer, PANEL, Rows, Start};
use tiles::{Hardware, Tiles};
pub(super) use tiles::{state, supported};

/// Number of products that an instruction adds to a sum.
const DEPTH: usize = 32;
/// Number of steps before the sums return to memory; the part of one factor that they read stays in L1.
const STEPS: usize = 16;
/// Size of a row of a tile, in bytes.
const ROW: isize = 64;

/// Memory to load a tile from: 16 rows of 32 bf16.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Stage([[u16; DEPTH]; 16]);

/// A tile of sums.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Sums([[f32; PANEL]; 16]);

const NO_STAGE: Stage = Stage([[0; DEPTH]; 16]);
const NO_SUMS: Sums = Sums([[0.0; PANEL]; 16]);

/// The tiles of both factors in a step. With one row or column of tiles to do, the second pointer is not used.
#[derive(Clone, Copy)]
struct Step {
    left: [*const u16; 2],
    right: [*const u16; 2],
}

/// # Safety
/// `supported` must be true, and `Rows::check` must have passed.
pub(super) unsafe fn rows(job: Rows<'_>) {
    // SAFETY: the caller guarantees it.
    unsafe { rows_on(&mut Hardware::new(), job) }
}

/// # Safety
/// `supported` must be true, and `Outer::check` must have passed.
pub(super) unsafe fn outer(job: Outer<'_>) {
    // SAFETY: the caller guarantees it; `supported` includes AVX-512.
    unsafe { outer_on(&mut Hardware::new(), job) }
}

/// The distance in bytes between 16 rows, if there are 16 and it is constant. `rows` are offsets in units of `unit` bytes.
fn distance(rows: &[usize], unit: usize) -> Option<isize> {
    let (&[first, second, ..], 16) = (rows, rows.len()) else { return None };
    let step = second.wrapping_sub(first);
    let even = rows.windows(2).all(|two| two[1].wrapping_sub(two[0]) == step);
    even.then(|| step.wrapping_mul(unit) as isize)
}

/// Adds the products of all `steps` to M x N tiles of sums.
///
/// # Safety
/// The tiles of each step must be readable: 16 rows of 64 bytes, `left` and `right` bytes apart.
#[inline(always)]
unsafe fn multiply<T: Tiles, const M: usize, const N: usize>(
    tiles: &mut T,
    steps: &[Step],
    left: [isize; 2],
    right: [isize; 2],
) {
    for step in steps {
        // SAFETY: the caller guarantees that these tiles are readable.
        unsafe {
            tiles.load::<4>(step.left[0].cast(), left[0]);
            tiles.load::<6>(step.right[0].cast(), right[0]);
            tiles.multiply::<0, 4, 6>();
            if N == 2 {
                tiles.load::<7>(step.right[1].cast(), right[1]);
                tiles.multiply::<1, 4, 7>();
            }
            if M == 2 {
                tiles.load::<5>(step.left[1].cast(), left[1]);
                tiles.multiply::<2, 5, 6>();
                if N == 2 {
                    tiles.multiply::<3, 5, 7>();
                }
            }
        }
    }
}

/// [`multiply`] for m x n tiles.
///
/// # Safety
/// The same as for [`multiply`].
unsafe fn multiply_some<T: Tiles>(
    tiles: &mut T,
    (m, n): (usize, usize),
    steps: &[Step],
    left: [isize; 2],
    right: [isize; 2],
) {
    // SAFETY: the caller guarantees it.
    unsafe {
        match (m, n) {
            (1, 1) => multiply::<T, 1, 1>(tiles, steps, left, right),
            (1, _) => multiply::<T, 1, 2>(tiles, steps, left, right),
            (_, 1) => multiply::<T, 2, 1>(tiles, steps, left, right),
            _ => multiply::<T, 2, 2>(tiles, steps, left, right),
        }
    }
}

/// [`Tiles::load`] for the tile of sums with index `tile`.
///
/// # Safety
/// The same as for [`Tiles::load`].
unsafe fn load_sums<T: Tiles>(tiles: &mut T, tile: usize, from: *const f32, stride: isize) {
    let from = from.cast();
    // SAFETY: the caller guarantees it.
    unsafe {
        match tile {
            0 => tiles.load::<0>(from, stride),
            1 => tiles.load::<1>(from, stride),
            2 => tiles.load::<2>(from, stride),
            _ => tiles.load::<3>(from, stride),
        }
    }
}

/// [`Tiles::store`] for the tile of sums with index `tile`.
///
/// # Safety
/// The same as for [`Tiles::store`].
unsafe fn store_sums<T: Tiles>(tiles: &mut T, tile: usize, to: *mut f32, stride: isize) {
    let to = to.cast();
    // SAFETY: the caller guarantees it.
    unsafe {
        match tile {
            0 => tiles.store::<0>(to, stride),
            1 => tiles.store::<1>(to, stride),
            2 => tiles.store::<2>(to, stride),
            _ => tiles.store::<3>(to, stride),
        }
    }
}

/// # Safety
/// `Rows::check` must have passed.
unsafe fn rows_on<T: Tiles>(tiles: &mut T, mut job: Rows<'_>) {
    let depth = job.depth();
    let steps = depth.div_ceil(DEPTH);
    let panels = job.n / PANEL;
    let rest = depth % DEPTH;
    // The last rows of b, padded to a tile.
    let mut tails = vec![NO_STAGE; if rest > 0 { panels } else { 0 }];
    for (p, tail) in tails.iter_mut().enumerate() {
        let from = &job.b[p * depth * PANEL..][..depth * PANEL][(depth - rest) * PANEL..];
        tail.0.as_flattened_mut()[..rest * PANEL].copy_from_slice(from);
    }
    let mut stage = vec![[NO_STAGE; 2]; STEPS];
    let mut done = 0;
    loop {
        let now = done..steps.min(done + STEPS);
        for (at, rows) in job.rows.chunks(32).enumerate() {
            let halves = rows.len().div_ceil(16);
            let mut left = [[job.a.as_ptr(); 2]; STEPS];
            let mut distances = [ROW; 2];
            for (half, rows) in rows.chunks(16).enumerate() {
                let direct = if job.len.is_multiple_of(DEPTH) { distance(rows, 2) } else { None };
                if let Some(distance) = direct {
                    distances[half] = distance;
                } else {
                    stage_rows(&job, rows, now.clone(), half, &mut stage);
                }
                for (left, s) in left.iter_mut().zip(now.clone()) {
                    left[half] = match direct {
                        Some(_) => {
                            let k = s * DEPTH;
                            job.a[rows[0] + job.segments[k / job.len] + k % job.len..].as_ptr()
                        }
                        None => stage[s - done][half].0.as_ptr().cast(),
                    };
                }
            }
            for p in (0..panels).step_by(2) {
                let wide = 2.min(panels - p);
                let all: [Step; STEPS] = from_fn(|s| Step {
                    left: left[s],
                    right: from_fn(|i| match (p + i < panels, done + s) {
                        (true, s) if (s + 1) * DEPTH <= depth => {
                            job.b[((p + i) * depth + s * DEPTH) * PANEL..].as_ptr()
                        }
                        (true, s) if s < steps => tails[p + i].0.as_ptr().cast(),
                        _ => job.b.as_ptr(),
                    }),
                });
                let first = done == 0;
                for half in 0..halves {
                    for i in 0..wide {
                        let start = if first { job.start } else { Start::Sum };
                        // SAFETY: row tile `half` and panel p + i exist.
                        unsafe { begin(tiles, 2 * half + i, &job, start, 32 * at + 16 * half, (p + i) * PANEL) }
                    }
                }
                // SAFETY: `left` points to a stage or to 16 whole rows of 32 in a; `right` to a stage or 16 whole rows of b.
                unsafe { multiply_some(tiles, (halves, wide), &all[..now.len()], distances, [ROW; 2]) }
                for half in 0..halves {
                    for i in 0..wide {
                        // SAFETY: as above.
                        unsafe { finish(tiles, 2 * half + i, &mut job, 32 * at + 16 * half, (p + i) * PANEL) }
                    }
                }
            }
        }
        done = now.end;
        if done >= steps {
            return;
        }
    }
}

/// Copies the `steps` of up to 16 rows into their stages, with zeros after the last segment.
fn stage_rows(job: &Rows<'_>, rows: &[usize], steps: std::ops::Range<usize>, half: usize, stage: &mut [[Stage; 2]]) {
    let depth = job.depth();
    for (r, row) in rows.iter().enumerate() {
        let mut k = steps.start * DEPTH;
        while k < steps.end * DEPTH {
            let step = k / DEPTH - steps.start;
            let at = k % DEPTH;
            let to = &mut stage[step][half].0[r][at..];
            k += if k < depth {
                let segment = k / job.len;
                let i = k % job.len;
                let count = to.len().min(job.len - i);
                to[..count].copy_from_slice(&job.a[row + job.segments[segment] + i..][..count]);
                count
            } else {
                to.fill(0);
                to.len()
            };
        }
    }
}

/// Loads the initial sums of a tile, whose first row and column are `r` and `j`.
///
/// # Safety
/// Row r and 16 columns from j on must exist.
unsafe fn begin<T: Tiles>(tiles: &mut T, tile: usize, job: &Rows<'_>, start: Start<'_>, r: usize, j: usize) {
    let rows = 16.min(job.rows.len() - r);
    // SAFETY: 16 rows of 16 sums exist in NO_SUMS, in `sums`, and in c if `rows` is 16; 16 values of the bias exist, and a
    // distance of 0 reads the same ones for each row.
    unsafe {
        match start {
            Start::Zero => load_sums(tiles, tile, NO_SUMS.0.as_ptr().cast(), ROW),
            Start::Bias(bias) => load_sums(tiles, tile, bias[j..][..PANEL].as_ptr(), 0),
            Start::Sum if rows == 16 => load_sums(tiles, tile, job.c[r * job.n + j..].as_ptr(), 4 * job.n as isize),
            Start::Sum => {
                let mut sums = NO_SUMS;
                for (i, to) in sums.0.iter_mut().enumerate().take(rows) {
                    to.copy_from_slice(&job.c[(r + i) * job.n + j..][..PANEL]);
                }
                load_sums(tiles, tile, sums.0.as_ptr().cast(), ROW);
            }
        }
    }
}

/// Stores the sums of a tile, whose first row and column are `r` and `j`.
///
/// # Safety
/// The same as for [`begin`].
unsafe fn finish<T: Tiles>(tiles: &mut T, tile: usize, job: &mut Rows<'_>, r: usize, j: usize) {
    let rows = 16.min(job.rows.len() - r);
    // SAFETY: 16 rows of 16 sums exist in `sums`, and in c if `rows` is 16.
    unsafe {
        if rows == 16 {
            store_sums(tiles, tile, job.c[r * job.n + j..].as_mut_ptr(), 4 * job.n as isize);
        } else {
            let mut sums = NO_SUMS;
            store_sums(tiles, tile, sums.0.as_mut_ptr().cast(), ROW);
            for (i, from) in sums.0.iter().enumerate().take(rows) {
                job.c[(r + i) * job.n + j..][..PANEL].copy_from_slice(from);
            }
        }
    }
}

/// Computes the transposed sums, (j, i): in AMX only the second factor can have positions as rows. So the gradients are
/// transposed, once for all inputs that they are multiplied with.
///
/// # Safety
/// The CPU must have AVX-512, and `Outer::check` must have passed.
#[target_feature(enable = "avx512f")]
unsafe fn outer_on<T: Tiles>(tiles: &mut T, job: Outer<'_>) {
    let panels = job.n / PANEL;
    let groups = job.len.div_ceil(PANEL);
    let mut sums = vec![NO_SUMS; job.segments.len() * groups * panels];
    let mut gradients = vec![[NO_STAGE; STEPS]; panels];
    let mut stage = vec![[NO_STAGE; 2]; STEPS];
    for (chunk, rows) in job.rows.chunks(16 * STEPS).enumerate() {
        let steps = rows.len().div_ceil(16);
        for (p, gradients) in gradients.iter_mut().enumerate() {
            for (s, to) in gradients.iter_mut().enumerate().take(steps) {
                let mut pairs = NO_SUMS;
                for (q, to) in (16 * s..rows.len()).zip(&mut pairs.0) {
                    let from = &job.d2[2 * ((chunk * 16 * STEPS + q) * job.n + p * PANEL)..][..DEPTH];
                    for (to, pair) in to.iter_mut().zip(from.as_chunks::<2>().0) {
                        *to = f32::from_bits(u32::from(pair[0]) | u32::from(pair[1]) << 16);
                    }
                }
                // SAFETY: both are 1 KiB.
                unsafe { transpose(pairs.0.as_ptr().cast(), to.0.as_mut_ptr().cast()) }
            }
        }
        for (segment, sums) in job.segments.iter().zip(sums.chunks_exact_mut(groups * panels)) {
            for group in (0..groups).step_by(2) {
                let wide = 2.min(groups - group);
                // One distance must hold for all steps. A group whose inputs have no constant distance throughout is staged.
                let mut right = [[job.a2.as_ptr(); 2]; STEPS];
                let mut distances = [ROW; 2];
                for i in 0..wide {
                    let first = (group + i) * PANEL;
                    let whole = first + PANEL <= job.len;
                    let at = |s: usize| distance(&rows[16 * s..rows.len().min(16 * s + 16)], 4);
                    let direct = at(0).filter(|one| whole && (1..steps).all(|s| at(s) == Some(*one)));
                    distances[i] = direct.unwrap_or(ROW);
                    for (s, (to, rows)) in stage.iter_mut().zip(rows.chunks(16)).enumerate() {
                        if direct.is_some() {
                            right[s][i] = job.a2[2 * (rows[0] + segment + first)..].as_ptr();
                            continue;
                        }
                        let count = PANEL.min(job.len - first);
                        let to = &mut to[i].0;
                        for (to, row) in to.iter_mut().zip(rows) {
                            to[..2 * count].copy_from_slice(&job.a2[2 * (row + segment + first)..][..2 * count]);
                        }
                        // The gradients of missing rows are zero, but a leftover in the stage may be infinite.
                        to[rows.len()..].fill([0; DEPTH]);
                        right[s][i] = to.as_ptr().cast();
                    }
                }
                for p in (0..panels).step_by(2) {
                    let high = 2.min(panels - p);
                    let all: [Step; STEPS] = from_fn(|s| Step {
                        left: from_fn(|i| gradients[(p + i).min(panels - 1)][s].0.as_ptr().cast()),
                        right: right[s],
                    });
                    for (m, i) in [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().filter(|(m, i)| *m < high && *i < wide) {
                        let from = &sums[(group + i) * panels + p + m];
                        // SAFETY: a tile of sums is 1 KiB.
                        unsafe { load_sums(tiles, 2 * m + i, from.0.as_ptr().cast(), ROW) }
                    }
                    // SAFETY: `left` points to stages; `right` to a stage or to 16 whole rows of 16 pairs in a2.
                    unsafe { multiply_some(tiles, (high, wide), &all[..steps], [ROW; 2], distances) }
                    for (m, i) in [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().filter(|(m, i)| *m < high && *i < wide) {
                        let to = &mut sums[(group + i) * panels + p + m];
                        // SAFETY: a tile of sums is 1 KiB.
                        unsafe { store_sums(tiles, 2 * m + i, to.0.as_mut_ptr().cast(), ROW) }
                    }
                }
            }
        }
    }
    for (index, sums) in sums.chunks_exact(panels).enumerate() {
        let segment = index / groups;
        let first = index % groups * PANEL;
        for (p, sums) in sums.iter().enumerate() {
            let mut upright = NO_SUMS;
            // SAFETY: both are 1 KiB.
            unsafe { transpose(sums.0.as_ptr().cast(), upright.0.as_mut_ptr().cast()) }
            for (i, row) in (first..job.len).zip(&upright.0) {
                let c = &mut job.c[(segment * job.len + i) * job.n + p * PANEL..][..PANEL];
                c.iter_mut().zip(row).for_each(|(c, v)| *c += v);
            }
        }
    }
}

/// Transposes 16 x 16 numbers of 32 bits.
///
/// # Safety
/// 1 KiB must be readable at `from` and writable at `to`.
#[target_feature(enable = "avx512f")]
unsafe fn transpose(from: *const i32, to: *mut i32) {
    // SAFETY: the caller guarantees 16 vectors of 64 bytes.
    let rows: [__m512i; 16] = from_fn(|i| unsafe { _mm512_loadu_si512(from.wrapping_add(16 * i).cast()) });
    // Interleaves two rows, then four: quads[4 * k + m] holds column 4 * lane + m of rows 4 * k to 4 * k + 3.
    let twos: [__m512i; 16] = from_fn(|i| match i % 2 {
        0 => _mm512_unpacklo_epi32(rows[i], rows[i + 1]),
        _ => _mm512_unpackhi_epi32(rows[i - 1], rows[i]),
    });
    let quads: [__m512i; 16] = from_fn(|i| {
        let first = i / 4 * 4 + i % 4 / 2;
        let (a, b) = (twos[first], twos[first + 2]);
        if i % 2 == 0 { _mm512_unpacklo_epi64(a, b) } else { _mm512_unpackhi_epi64(a, b) }
    });
    for m in 0..4 {
        let [a, b, c, d] = from_fn(|k| quads[4 * k + m]);
        let even = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d)];
        let odd = [_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d)];
        let columns = [
            _mm512_shuffle_i32x4::<0x88>(even[0], even[1]),
            _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]),
            _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]),
            _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]),
        ];
        for (lane, column) in columns.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_storeu_si512(to.wrapping_add(16 * (4 * lane + m)).cast(), column) }
        }
    }
}

#[cfg(test)]
mod tests;
