//! Parallel loops over the chunks of a slice.
//!
//! All loops go through these functions, which take the work as a trait object: rayon's machinery is then compiled once for
//! each element type instead of once for each loop.

use rayon::prelude::*;

/// Number of values that are worth a task of their own.
const TASK: usize = 16 * 1024;

/// How many items of `values` values each to put into one task: enough to be worth waking a thread for, but no more, as the
/// end of a loop waits for every thread that the system has suspended in the middle of its task.
pub(super) fn items_per_task(values: usize) -> usize {
    (TASK / values.max(1)).max(1)
}

/// Calls `work(index, chunk)` for every chunk of `size` values, with at most `per_task` chunks in a task.
pub(super) fn for_each_chunk<T: Send>(
    values: &mut [T],
    size: usize,
    per_task: usize,
    work: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    let chunks = values.par_chunks_mut(size.max(1)).enumerate();
    chunks.with_max_len(per_task).for_each(|(i, chunk)| work(i, chunk));
}

/// Calls `work(index, a, b)` for every chunk of `sizes.0` values of `a` and of `sizes.1` values of `b`, one chunk in a task.
pub(super) fn for_each_chunk_pair<A: Send, B: Send>(
    a: &mut [A],
    b: &mut [B],
    sizes: (usize, usize),
    work: &(dyn Fn(usize, &mut [A], &mut [B]) + Sync),
) {
    let chunks = a.par_chunks_mut(sizes.0.max(1)).zip(b.par_chunks_mut(sizes.1.max(1))).enumerate();
    chunks.with_max_len(1).for_each(|(i, (a, b))| work(i, a, b));
}
