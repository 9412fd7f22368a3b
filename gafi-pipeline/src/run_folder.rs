//! The folder of a run: locked as a whole, one configuration at a time.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use gafi_core::{Lock, RunControl, clear_temporary, write_atomic};
use serde::Serialize;

use crate::record::{RECORD, RECORD_MAX, REPORT_PAGE, RunRecord, SAMPLES_PICTURE, SUPERSEDED, TIMINGS, Timings};

/// Files with results, in the order in which they move; the record is last, so that an interrupted move continues.
const RESULTS: [&str; 4] = [TIMINGS, REPORT_PAGE, SAMPLES_PICTURE, RECORD];

/// Digits of a configuration's hash that name its folder.
const HASH_DIGITS: usize = 12;

/// A run's folder, held by this process.
#[derive(Debug)]
pub(crate) struct RunFolder {
    dir: PathBuf,
    lock: Lock,
}

impl RunFolder {
    /// Locks `dir`, which is created if it does not exist.
    ///
    /// # Errors
    /// When another process holds it and `control.wait` is off; when a stop was requested.
    pub(crate) fn lock(dir: &Path, control: &RunControl) -> Result<Self> {
        // Inside the folder, so that it works for `.` and needs no write access to the parent.
        let lock = Lock::acquire(&dir.join(RECORD), control)
            .with_context(|| format!("cannot write into the run folder {}", dir.display()))?;
        clear_temporary(dir)?;
        Ok(Self { dir: dir.into(), lock })
    }

    /// Moves the records of another configuration than `config_hash` to `superseded/HASH/`. Artifacts stay: a stage reuses
    /// those with its fingerprint.
    pub(crate) fn supersede(&self, config_hash: &str) -> Result<()> {
        if !RESULTS.iter().any(|name| self.dir.join(name).exists()) {
            return Ok(());
        }
        let old = self.recorded_hash();
        if old.as_deref() == Some(config_hash) {
            return Ok(());
        }
        let old: String = old.as_deref().unwrap_or("unknown").chars().take(HASH_DIGITS).collect();
        let to = self.dir.join(SUPERSEDED).join(old);
        std::fs::create_dir_all(&to).with_context(|| format!("creating {}", to.display()))?;
        for name in RESULTS {
            match std::fs::rename(self.dir.join(name), to.join(name)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("moving {name} to {}", to.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The hash in the record, whatever its schema.
    fn recorded_hash(&self) -> Option<String> {
        let bytes = gafi_core::read_regular(self.dir.join(RECORD), RECORD_MAX).ok()?;
        let record: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        let hash = record.get("config_hash")?.as_str()?;
        // It becomes the name of a folder.
        (!hash.is_empty() && hash.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| hash.into())
    }

    /// Replaces `run.json`.
    pub(crate) fn write_record(&self, record: &RunRecord) -> Result<()> {
        self.write(RECORD, &RunRecord { checksum: Some(record.sum()?), ..record.clone() })
    }

    /// Replaces `timings.json`.
    pub(crate) fn write_timings(&self, timings: &Timings) -> Result<()> {
        self.write(TIMINGS, timings)
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        self.lock.check()?;
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        Ok(write_atomic(&self.dir.join(name), &text)?)
    }
}
