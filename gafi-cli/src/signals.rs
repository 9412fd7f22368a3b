//! Signals: each requests a stop at the next safe point.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use signal_hook::consts::SIGINT;
use signal_hook::flag;

use crate::exit::INTERRUPTED;

/// Signals of batch systems. Slurm sends TERM at a time limit, on preemption and on `scancel`, and any of these with `--signal`.
/// Grid Engine sends USR1 and USR2. A terminal that is closed sends HUP.
#[cfg(unix)]
const BATCH: [i32; 4] = {
    use signal_hook::consts::{SIGHUP, SIGTERM, SIGUSR1, SIGUSR2};
    [SIGTERM, SIGUSR1, SIGUSR2, SIGHUP]
};
#[cfg(not(unix))]
const BATCH: [i32; 1] = [signal_hook::consts::SIGTERM];

const INTERRUPT: usize = SIGINT as usize;

/// The signal that requested a stop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals(Arc<AtomicUsize>);

impl Signals {
    /// Sets `stop` on a signal. After that, an interrupt ends the process at once. The other signals only repeat the request: batch
    /// systems signal both a job and its processes, so a process often gets two, and is killed if it does not end in time.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub(crate) fn catch(stop: &Arc<AtomicBool>) -> Result<Self> {
        let signals = Self::default();
        let register = || {
            flag::register_conditional_shutdown(SIGINT, INTERRUPTED.into(), stop.clone())?;
            for signal in [SIGINT].into_iter().chain(BATCH).filter(|signal| !ignored(*signal)) {
                // In this order, so that code that sees the stop also finds its reason.
                flag::register_usize(signal, signals.0.clone(), usize::try_from(signal).unwrap_or_default())?;
                flag::register(signal, stop.clone())?;
            }
            std::io::Result::Ok(())
        };
        register().context("catching signals")?;
        Ok(signals)
    }

    /// Whether the last signal came from a batch system rather than from a user at a terminal.
    pub(crate) fn is_batch_stop(&self) -> bool {
        !matches!(self.0.load(Ordering::SeqCst), 0 | INTERRUPT)
    }
}

/// Whether this process ignores `signal`: `nohup` starts programs with HUP ignored, and it must stay so. Only Linux shows this
/// without a raw system call.
fn ignored(signal: i32) -> bool {
    signal != SIGINT && gafi_core::read_text("/proc/self/status", 1 << 20).is_ok_and(|status| ignores(&status, signal))
}

/// Whether `SigIgn` of a process's status, a hexadecimal mask, contains `signal`.
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    u32::try_from(signal - 1).ok().and_then(|bit| mask.checked_shr(bit)).is_some_and(|rest| rest & 1 == 1)
}
