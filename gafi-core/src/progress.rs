//! Progress of long-running work: libraries report it, the host program decides how to show it.

/// Receives progress and log lines from libraries.
pub trait Progress: Send + Sync {
    /// Starts a task of `total` steps (unknown when `None`), shown under `label`.
    fn begin(&self, label: &str, total: Option<u64>) -> Box<dyn Task>;

    /// Shows a line of text; ignored by default.
    fn log(&self, _line: &str) {}
}

/// A running task; dropping it ends it.
pub trait Task: Send {
    /// Reports `n` more finished steps.
    fn advance(&mut self, n: u64);

    /// Sets a short status, such as "loss 0.41".
    fn note(&mut self, text: &str);
}

/// Ignores all progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: Option<u64>) -> Box<dyn Task> {
        Box::new(Self)
    }
}

impl Task for Silent {
    fn advance(&mut self, _: u64) {}
    fn note(&mut self, _: &str) {}
}
