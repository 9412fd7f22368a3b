//! How long-running work tells how far it is, without knowing who listens.

/// Hears of work; the host program shows it.
pub trait Progress: Send + Sync {
    /// Work of `total` steps begins (unknown when `None`).
    fn begin(&self, label: &str, total: Option<u64>) -> Box<dyn Task>;

    /// Shows a line that stays.
    fn log(&self, line: &str);
}

/// One piece of work; dropping it ends it.
pub trait Task: Send {
    /// `n` further steps are done.
    fn advance(&mut self, n: u64);

    /// How it stands, in a few words: "loss 0.41".
    fn note(&mut self, text: &str);
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: Option<u64>) -> Box<dyn Task> {
        Box::new(Self)
    }
    fn log(&self, _: &str) {}
}

impl Task for Silent {
    fn advance(&mut self, _: u64) {}
    fn note(&mut self, _: &str) {}
}
