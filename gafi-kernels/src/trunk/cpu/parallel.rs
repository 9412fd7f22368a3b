//! Parallel loops over the chunks of a slice.
//!
//! All loops of the CPU kernels go through these functions. They take the work as a trait object, so that rayon's machinery
//! is compiled once for each element type and not once for each loop.

use rayon::prelude::*;

/// Number of values that are worth a task of their own.
const TASK: usize = 16 * 1024;

/// How many items of `values` values each to put into one task: enough to be worth waking a thread for, but no more. A loop
/// ends with its last task, and the system may suspend a thread in the middle of a long one.
fn items_per_task(values: usize) -> usize {
    (TASK / values.max(1)).max(1)
}

/// How to divide the chunks of a loop into tasks.
#[derive(Clone, Copy)]
pub(super) struct Tasks {
    min: usize,
    max: usize,
}

impl Tasks {
    /// One chunk in each task, for heavy chunks.
    pub(super) const SINGLE: Self = Self { min: 1, max: 1 };
    /// As rayon chooses.
    pub(super) const AUTO: Self = Self { min: 1, max: usize::MAX };

    /// Small tasks of chunks that process `values` values each.
    pub(super) fn small(values: usize) -> Self {
        Self { min: 1, max: items_per_task(values) }
    }

    /// Tasks as rayon chooses, but large enough to be worth a task, for chunks that process `values` values each.
    pub(super) fn large(values: usize) -> Self {
        Self { min: items_per_task(values), max: usize::MAX }
    }
}

/// Calls `work(index, chunk)` for every chunk of `size` values; the last one may be shorter.
pub(super) fn for_each_chunk<T: Send>(
    values: &mut [T],
    size: usize,
    tasks: Tasks,
    work: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    let chunks = values.par_chunks_mut(size.max(1)).enumerate();
    chunks.with_min_len(tasks.min).with_max_len(tasks.max).for_each(|(i, chunk)| work(i, chunk));
}

/// The work of [`for_each_chunk_pair`].
type PairWork<'a, A, B> = dyn Fn(usize, &mut [A], &mut [B]) + Sync + 'a;

/// Calls `work(index, a, b)` for every chunk of `a_size` values of `a` and of `b_size` values of `b`, each in a task of its
/// own.
pub(super) fn for_each_chunk_pair<A: Send, B: Send>(
    (a, a_size): (&mut [A], usize),
    (b, b_size): (&mut [B], usize),
    work: &PairWork<'_, A, B>,
) {
    let chunks = a.par_chunks_mut(a_size.max(1)).zip(b.par_chunks_mut(b_size.max(1))).enumerate();
    chunks.with_max_len(1).for_each(|(i, (a, b))| work(i, a, b));
}
