//! `Lock`: keeps two processes from writing the same destination.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::control::RunControl;
use crate::error::{Error, Result};
use crate::files::{open_regular_with, sibling};

/// Time between two attempts of a process that waits.
const RETRY: Duration = Duration::from_millis(200);
/// Time between two lines that say what a process waits for.
const REMIND: Duration = Duration::from_secs(600);

/// Holds the lock `.NAME.lock` beside a destination while it lives. The system releases it when the process dies.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock of `dest`, creating its parent folder if necessary.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process, or another handle of this one, holds it.
    pub fn take(dest: &Path) -> Result<Self> {
        let path = sibling(dest, "lock")?;
        if let Some(parent) = dest.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        loop {
            let file = open_regular_with(OpenOptions::new().create(true).truncate(false).write(true), &path);
            let file = file.map_err(Error::io("create", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Err(Error::Locked { path: dest.into(), lock: path }),
                Err(fs::TryLockError::Error(e)) => return Err(Error::io("lock", &path)(e)),
            }
            // The previous holder may have removed the file between our opening and our locking it, and a third process
            // would then lock a new file of that name. So the lock counts only if the name still refers to this file.
            if is_at(&file, &path).map_err(Error::io("lock", &path))? {
                return Ok(Self { path, _file: file });
            }
        }
    }

    /// As [`Lock::take`]. With `control.wait`, it waits while another process holds the lock, and logs that first at once, then
    /// every ten minutes.
    ///
    /// # Errors
    /// As [`Lock::take`]; [`Error::Interrupted`].
    pub fn acquire(dest: &Path, control: &RunControl) -> Result<Self> {
        let mut logged: Option<Instant> = None;
        loop {
            match Self::take(dest) {
                Err(held @ Error::Locked { .. }) if control.wait => {
                    if logged.is_none_or(|at| at.elapsed() >= REMIND) {
                        control.progress.log(&format!("{held}; waiting until it ends"));
                        logged = Some(Instant::now());
                    }
                    control.checkpoint()?;
                    std::thread::sleep(RETRY);
                }
                taken => return taken,
            }
        }
    }

    /// Removes the lock file of `dest` that a process left when it was killed after its commit.
    pub(crate) fn sweep(dest: &Path) {
        if sibling(dest, "lock").is_ok_and(|path| path.exists()) {
            drop(Self::take(dest));
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while still locked, since the file closes after this: so it is this lock's own file. A lock file left
        // behind is harmless, hence no error.
        if cfg!(unix) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((held.dev(), held.ino()) == (named.dev(), named.ino())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> std::io::Result<bool> {
    Ok(true) // never removed there
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Lock files come and go between the opening and the locking of others; never do two hold the lock.
    #[test]
    fn a_lock_has_one_holder_while_its_file_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("x");
        let (inside, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..4000 {
                        let Ok(lock) = Lock::take(&dest) else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                        taken.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), usize::from(!cfg!(unix)), "its file stays behind");
    }
}
