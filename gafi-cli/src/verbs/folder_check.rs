//! `doctor --folder`: checks from two processes that a folder's file system supports the locks and commits of artifacts. Both run on
//! this machine, so the check misses locks that do not reach other machines. GaFi recognises those by file system and mount options,
//! and uses leases there.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use gafi_core::{Lock, read_text, write_atomic};
use serde::{Deserialize, Serialize};

/// The files of a check.
const FLOCK: &str = "flock";
const EXCLUSIVE: &str = "exclusive";
const RENAMED: &str = "renamed";
const LOCKED: &str = "locked";

/// What the second process finds: for each check, `None` or what is wrong.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Found {
    flock: Option<String>,
    exclusive: Option<String>,
    rename: Option<String>,
    lock: Option<String>,
}

/// What is known about a folder.
#[derive(Debug, Serialize)]
pub(super) struct FolderReport {
    folder: PathBuf,
    /// Whether artifacts are locked there by a lease rather than by `flock` alone.
    lease: bool,
    #[serde(flatten)]
    found: Found,
    free_bytes: Option<u64>,
    free_inodes: Option<u64>,
}

/// Removed at the end, whatever happens.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Checks an existing folder with a second process of `program`, which is `gafi-cli`.
///
/// # Errors
/// When nothing can be written there, or no second process started.
pub(super) fn check(folder: &Path, program: &Path) -> Result<FolderReport> {
    let scratch = Scratch(folder.join(format!(".gafi-doctor-{}", std::process::id())));
    let at = |name: &str| scratch.0.join(name);
    fs::create_dir(&scratch.0).with_context(|| format!("cannot write into {}", folder.display()))?;
    let flock = File::create_new(at(FLOCK))?;
    // An error shows in the second process as well.
    let _ = flock.try_lock();
    File::create_new(at(EXCLUSIVE))?.write_all(b"first")?;
    write_atomic(&at(RENAMED), b"old")?;
    write_atomic(&at(RENAMED), b"new")?;
    let lock = Lock::take(&at(LOCKED))?;
    let output = Command::new(program).args(["doctor", "--second"]).arg(&scratch.0).output();
    let output = output.context("starting a second process")?;
    let found = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the second process failed: {}", String::from_utf8_lossy(&output.stderr).trim()))?;
    let lease = at(&format!(".{LOCKED}.lease")).exists();
    drop(lock);
    let free_bytes = free(folder, "-Pk").and_then(|blocks| blocks.checked_mul(1024));
    Ok(FolderReport { folder: folder.into(), lease, found, free_bytes, free_inodes: free(folder, "-Pi") })
}

/// The checks of the second process, while the first one holds its locks and files in `scratch`.
pub(super) fn second(scratch: &Path) -> Found {
    let at = |name: &str| scratch.join(name);
    let flock = match File::options().read(true).write(true).open(at(FLOCK)).map(|file| file.try_lock()) {
        Ok(Err(fs::TryLockError::WouldBlock)) => None,
        Ok(Ok(())) => Some("two processes can lock one file".into()),
        Ok(Err(fs::TryLockError::Error(e))) | Err(e) => Some(format!("refused: {e}")),
    };
    let exclusive = match File::create_new(at(EXCLUSIVE)) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => None,
        Err(e) => Some(e.to_string()),
        Ok(_) => Some("two processes can create one file".into()),
    };
    let rename = match read_text(at(RENAMED), 64) {
        Ok(text) if text == "new" => None,
        Ok(text) => Some(format!("the file still holds {text:?}")),
        Err(e) => Some(e.to_string()),
    };
    let lock = match Lock::take(&at(LOCKED)) {
        Err(gafi_core::Error::Locked { .. }) => None,
        Err(e) => Some(e.to_string()),
        Ok(_) => Some("two processes can hold one lock".into()),
    };
    Found { flock, exclusive, rename, lock }
}

/// Free space or inodes of a file system: the fourth column of the second line of `df`.
fn free(folder: &Path, option: &str) -> Option<u64> {
    let output = Command::new("df").arg(option).arg(folder).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()
}

impl FolderReport {
    /// The failed checks. A failing `flock` is not listed, because a lease replaces it.
    pub(super) fn broken(&self) -> Vec<String> {
        let Found { exclusive, rename, lock, .. } = &self.found;
        let checks = [
            ("exclusive creation", exclusive),
            ("replacing by rename", rename),
            ("locks of artifacts (GAFI_LOCKS=lease may help)", lock),
        ];
        let failed = checks.iter().filter_map(|(what, why)| why.as_ref().map(|why| format!("{what}: {why}")));
        failed.map(|why| format!("{}: {why}", self.folder.display())).collect()
    }

    /// A line for each check, with its result.
    pub(super) fn lines(&self) -> Vec<String> {
        let Found { flock, exclusive, rename, lock } = &self.found;
        let works = |why: &Option<String>| why.clone().unwrap_or_else(|| "works".into());
        let mut lines = vec![
            self.folder.display().to_string(),
            format!("flock between processes: {}", works(flock)),
            format!("exclusive creation: {}", works(exclusive)),
            format!("replacing by rename: {}", works(rename)),
            format!("locks of artifacts, by {}: {}", if self.lease { "leases" } else { "flock" }, works(lock)),
        ];
        if let Some(bytes) = self.free_bytes {
            lines.push(format!("{:.1} GiB free", bytes as f64 / f64::from(1 << 30)));
        }
        lines.extend(self.free_inodes.map(|inodes| format!("{inodes} inodes free")));
        lines
    }
}
