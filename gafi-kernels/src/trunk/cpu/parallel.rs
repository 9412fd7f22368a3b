//! How work is divided into tasks for rayon.

/// Number of values that are worth a task of their own.
const TASK: usize = 16 * 1024;

/// How many items of `values` values each to put into one task: enough to be worth waking a thread for, but no more, as the
/// end of a loop waits for every thread that the system has suspended in the middle of its task.
pub(super) fn items_per_task(values: usize) -> usize {
    (TASK / values.max(1)).max(1)
}
