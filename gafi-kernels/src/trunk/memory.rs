//! Memory for feature maps, kept between steps.
//!
//! A training step makes and drops the same hundreds of megabytes each time. Given back to the system, every page of them is
//! cleared again at its next use: a quarter of a small network's step. So large buffers go to a free list of the process,
//! which together with what is in use never holds more than one and a half times what was once in use at the same time: the
//! sizes that are wanted together change in the course of a step.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Buffers below this many bytes are left to the allocator.
const SMALL: usize = 64 * 1024;

/// A 64-byte line: what buffers are counted in, and aligned to.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Numbers that may lie in a buffer: any bits are a value of theirs, and they divide a line.
pub(crate) trait Plain: Copy + Send + Sync + 'static {}
impl Plain for f32 {}
impl Plain for u16 {}

/// Free buffers by their number of lines.
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
        // Up to a quarter larger than asked for.
        let size = *self.free.range(lines..=2 * lines).next()?.0;
        let buffers = self.free.get_mut(&size)?;
        let found = buffers.pop();
        if buffers.is_empty() {
            self.free.remove(&size);
        }
        self.free_lines -= size;
        found
    }

    /// Lines that may be kept free.
    fn room(&self) -> usize {
        2 * self.peak_lines - self.live_lines
    }

    /// Frees the largest buffers until no more than `lines` are kept.
    fn shrink(&mut self, lines: usize) {
        while self.free_lines > lines {
            let Some(mut entry) = self.free.last_entry() else { return };
            self.free_lines -= *entry.key();
            entry.get_mut().pop();
            if entry.get().is_empty() {
                entry.remove();
            }
        }
    }
}

/// A buffer of numbers, aligned to cache lines, that goes back to the pool when dropped.
pub(crate) struct Pooled<T: Plain> {
    lines: ManuallyDrop<Vec<Line>>,
    len: usize,
    kind: std::marker::PhantomData<T>,
}

impl<T: Plain> Pooled<T> {
    /// `len` numbers with whatever an earlier use left in them.
    pub(crate) fn new(len: usize) -> Self {
        let wanted = (len * size_of::<T>()).div_ceil(64);
        let lines = if wanted * 64 < SMALL {
            vec![Line([0; 64]); wanted]
        } else {
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            let lines = pool.take(wanted).unwrap_or_else(|| vec![Line([0; 64]); wanted]);
            pool.live_lines += lines.len();
            pool.peak_lines = pool.peak_lines.max(pool.live_lines);
            let room = pool.room();
            pool.shrink(room);
            lines
        };
        Self { lines: ManuallyDrop::new(lines), len, kind: std::marker::PhantomData }
    }

    /// Forgets all but the first `len` numbers.
    pub(crate) fn shorten(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl<T: Plain> Drop for Pooled<T> {
    fn drop(&mut self) {
        // SAFETY: `self` is being dropped, so this is the last use of the field.
        let lines = unsafe { ManuallyDrop::take(&mut self.lines) };
        if lines.len() * 64 < SMALL {
            return;
        }
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        pool.live_lines -= lines.len();
        pool.free_lines += lines.len();
        pool.free.entry(lines.len()).or_default().push(lines);
        let room = pool.room();
        pool.shrink(room);
    }
}

impl<T: Plain> Deref for Pooled<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the lines are initialised memory of at least len * size_of::<T>() bytes in one allocation that `self` owns,
        // aligned to 64; `T: Plain` takes any bits.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_whole_and_reused() {
        for len in [0, 1, 15, 16, 17, 20_000, 100_003] {
            let mut a = Pooled::<f32>::new(len);
            a.fill(1.5);
            assert_eq!((a.len(), a.as_ptr() as usize % 64), (len, 0));
            assert!(a.iter().all(|&v| v == 1.5));
        }
        // Not of any other test's size: the pool is the process's.
        let odd = 12_345_677;
        let first = Pooled::<f32>::new(odd);
        let at = first.as_ptr();
        drop(first);
        let mut again = Pooled::<f32>::new(odd);
        assert_eq!(again.as_ptr(), at);
        again.shorten(3);
        assert_eq!(again.len(), 3);
    }
}
