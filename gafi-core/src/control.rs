//! `RunControl`: progress and interruption of long-running work, and whether it waits for other processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::progress::{Progress, Silent};

/// Reports progress and carries the request to stop. It never changes a result.
#[derive(Clone)]
pub struct RunControl {
    /// Receives progress.
    pub progress: Arc<dyn Progress>,
    /// Set to request a stop at the next safe point.
    pub stop: Arc<AtomicBool>,
    /// Wait while another process writes the same destination, instead of ending with [`Error::Locked`].
    pub wait: bool,
}

impl RunControl {
    /// A safe point: long-running work calls this between steps.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when a stop was requested.
    pub fn checkpoint(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

impl Default for RunControl {
    /// Silent, with a stop flag of its own.
    fn default() -> Self {
        Self { progress: Arc::new(Silent), stop: Arc::default(), wait: false }
    }
}

impl std::fmt::Debug for RunControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunControl").field("stop", &self.stop).field("wait", &self.wait).finish_non_exhaustive()
    }
}
