//! Memory for the kernels: scratch buffers, and a process-wide pool of buffers for feature maps.
//!
//! Each training step allocates and drops the same hundreds of megabytes. If they were returned to the system, it would
//! clear every page again at its next use, which took a quarter of a small network's step. So large buffers go to a free
//! list. The mix of sizes changes during a step, so free and live buffers together may take up to twice the peak of live
//! memory, never more.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Buffers smaller than this, in bytes, are left to the allocator.
const SMALL: usize = 64 * 1024;

/// A cache line: the unit and the alignment of buffers.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Number types that a buffer may hold: every bit pattern is a valid value, and the size divides that of a line.
pub(crate) trait Plain: Copy + Send + Sync + 'static {}
impl Plain for f32 {}
impl Plain for u16 {}

/// Free buffers by size in lines.
#[derive(Default)]
struct Pool {
    free: BTreeMap<usize, Vec<Vec<Line>>>,
    free_lines: usize,
    live_lines: usize,
    peak_lines: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: BTreeMap::new(), free_lines: 0, live_lines: 0, peak_lines: 0 });

impl Pool {
    fn take(&mut self, lines: usize) -> Option<Vec<Line>> {
        // Accepts a buffer of up to twice the requested size.
        let size = *self.free.range(lines..=2 * lines).next()?.0;
        let buffers = self.free.get_mut(&size)?;
        let found = buffers.pop();
        if buffers.is_empty() {
            self.free.remove(&size);
        }
        self.free_lines -= size;
        found
    }

    /// Returns the largest buffers to the system until no more are kept than allowed.
    fn shrink(&mut self) {
        let room = 2 * self.peak_lines - self.live_lines;
        while self.free_lines > room {
            let Some(mut entry) = self.free.last_entry() else { return };
            self.free_lines -= *entry.key();
            entry.get_mut().pop();
            if entry.get().is_empty() {
                entry.remove();
            }
        }
    }
}

/// A buffer of numbers, aligned to cache lines, that returns to the pool when dropped.
pub(crate) struct Pooled<T: Plain> {
    lines: ManuallyDrop<Vec<Line>>,
    len: usize,
    kind: PhantomData<T>,
}

impl<T: Plain> Pooled<T> {
    /// `len` numbers with unspecified values, left over from earlier uses.
    pub(crate) fn new(len: usize) -> Self {
        let wanted = (len * size_of::<T>()).div_ceil(64);
        let lines = if wanted * 64 < SMALL {
            vec![Line([0; 64]); wanted]
        } else {
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            let lines = pool.take(wanted).unwrap_or_else(|| vec![Line([0; 64]); wanted]);
            pool.live_lines += lines.len();
            pool.peak_lines = pool.peak_lines.max(pool.live_lines);
            pool.shrink();
            lines
        };
        Self { lines: ManuallyDrop::new(lines), len, kind: PhantomData }
    }

    /// Truncates to the first `len` numbers.
    pub(crate) fn shorten(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl<T: Plain> Drop for Pooled<T> {
    fn drop(&mut self) {
        // SAFETY: `self` is being dropped, so the field is never used again.
        let lines = unsafe { ManuallyDrop::take(&mut self.lines) };
        if lines.len() * 64 < SMALL {
            return;
        }
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        pool.live_lines -= lines.len();
        pool.free_lines += lines.len();
        pool.free.entry(lines.len()).or_default().push(lines);
        pool.shrink();
    }
}

impl<T: Plain> Deref for Pooled<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `self` owns one initialised allocation of at least len * size_of::<T>() bytes, aligned to 64, and every
        // bit pattern is a valid `T: Plain`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast::<T>(), self.len) }
    }
}

impl<T: Plain> DerefMut for Pooled<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast::<T>(), self.len) }
    }
}

impl<T: Plain> std::fmt::Debug for Pooled<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pooled").field("len", &self.len).finish()
    }
}

/// A growing buffer of numbers, aligned to cache lines, that keeps its memory between uses.
#[derive(Default)]
pub(crate) struct Scratch<T = f32>(Vec<Line>, PhantomData<T>);

impl<T: Plain> Scratch<T> {
    /// `len` numbers with unspecified values, left over from earlier uses.
    pub(crate) fn take(&mut self, len: usize) -> &mut [T] {
        let lines = len.div_ceil(64 / size_of::<T>());
        if self.0.len() < lines {
            self.0.resize(lines, Line([0; 64]));
        }
        // SAFETY: `self` owns one initialised allocation of at least `lines` lines without padding (repr(C), size 64), which
        // is enough for `len` numbers, every bit pattern is a valid `T: Plain`, and the result borrows it mutably.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast::<T>(), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_reused() {
        for len in [0, 1, 15, 16, 17, 20_000, 100_003] {
            let mut a = Pooled::<f32>::new(len);
            a.fill(1.5);
            assert_eq!((a.len(), a.as_ptr() as usize % 64), (len, 0));
            assert!(a.iter().all(|&v| v == 1.5));
        }
        // A size that no other test uses, as the pool is shared by the whole process.
        let odd = 12_345_677;
        let first = Pooled::<f32>::new(odd);
        let at = first.as_ptr();
        drop(first);
        let mut again = Pooled::<f32>::new(odd);
        assert_eq!(again.as_ptr(), at);
        again.shorten(3);
        assert_eq!(again.len(), 3);
    }

    #[test]
    fn scratch_is_aligned_and_grows() {
        let mut scratch = Scratch::<f32>::default();
        for len in [1, 16, 17, 1000, 5, 4000] {
            let floats = scratch.take(len);
            assert_eq!((floats.len(), floats.as_ptr() as usize % 64), (len, 0));
            floats.fill(len as f32);
        }
        assert!(scratch.take(0).is_empty());
    }
}
