//! Files and folders on disk: names beside a destination, atomic writes, hashes, and the lock that keeps two processes
//! from writing the same artifact.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::manifest::{FileEntry, MANIFEST_FILE};

/// The one file of an artifact that its manifest does not list: times, rates, hardware. Two runs of a stage on the same
/// inputs differ in nothing else.
pub const LOG_FILE: &str = "log.jsonl";

/// Whether a manifest may list `name`: a file directly in the artifact's folder, on every system (`:` names a drive or a
/// stream on some), not hidden, and neither the manifest nor the log.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let odd = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    !name.is_empty() && !name.starts_with('.') && !name.contains(odd) && name != MANIFEST_FILE && name != LOG_FILE
}

/// `.NAME.suffix` beside `dest`.
pub(crate) fn sibling(dest: &Path, suffix: &str) -> Result<PathBuf> {
    let name = dest.file_name().ok_or_else(|| Error::format(dest, "path", "a folder with a name", "none"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden.push(suffix);
    Ok(dest.with_file_name(hidden))
}

/// Removes a folder with its contents, a file, or a link (not its target), if it exists.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Whether `dest` is absent or an empty folder, which a rename replaces. (A link to an empty folder it does not.)
pub(crate) fn is_free(dest: &Path) -> bool {
    match fs::symlink_metadata(dest) {
        Ok(m) if m.is_dir() => fs::read_dir(dest).is_ok_and(|mut entries| entries.next().is_none()),
        Ok(_) => false,
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Writes a file atomically: to a temporary neighbour, synced, then renamed to `path`.
///
/// # Errors
/// [`Error::Io`]; the neighbour is removed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let temp = sibling(path, "tmp")?;
    let written = File::create(&temp).and_then(|mut f| {
        f.write_all(bytes)?;
        f.sync_all()
    });
    written.and_then(|()| fs::rename(&temp, path)).map_err(|e| {
        let _ = fs::remove_file(&temp);
        Error::io("write", path)(e)
    })
}

/// Creates a new file.
pub(crate) fn create(path: &Path) -> Result<File> {
    File::create_new(path).map_err(Error::io("create", path))
}

/// Syncs the content of a file to disk.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    // Windows syncs only files that are open for writing; elsewhere a file may be read-only.
    let file = OpenOptions::new().read(true).write(cfg!(windows)).open(path);
    file.and_then(|f| f.sync_all()).map_err(Error::io("sync", path))
}

/// Syncs the entries of a folder to disk.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    // Other systems cannot open folders, and their renames are as durable as they get.
    if cfg!(unix) { File::open(path).and_then(|f| f.sync_all()).map_err(Error::io("sync", path)) } else { Ok(()) }
}

/// Syncs a folder and everything below it to disk.
pub(crate) fn sync_tree(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).map_err(Error::io("read", path))? {
        let entry = entry.map_err(Error::io("read", path))?;
        let is_dir = entry.file_type().map_err(Error::io("read", entry.path()))?.is_dir();
        if is_dir { sync_tree(&entry.path()) } else { sync_file(&entry.path()) }?;
    }
    sync_dir(path)
}

/// Renames a finished folder into place. With `replace`, an existing `dest` moves to `.NAME.old` until the new folder has its
/// name, so a process killed at any step loses neither.
pub(crate) fn put_in_place(partial: &Path, dest: &Path, replace: bool) -> Result<()> {
    let old = sibling(dest, "old")?;
    if replace && fs::symlink_metadata(dest).is_ok() {
        remove(&old)?;
        fs::rename(dest, &old).map_err(Error::io("move aside", dest))?;
    }
    if let Err(e) = fs::rename(partial, dest) {
        // Best effort: if this fails too, the next call recovers `.NAME.old`.
        if fs::symlink_metadata(dest).is_err() {
            let _ = fs::rename(&old, dest);
        }
        return Err(Error::io("rename the finished folder to", dest)(e));
    }
    if let Some(parent) = dest.parent() {
        sync_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
    }
    remove(&old)
}

/// Length and BLAKE3 of a file, read in chunks.
///
/// # Errors
/// [`Error::Io`].
pub fn hash_file(path: &Path) -> Result<FileEntry> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(Error::io("read", path))?;
    Ok(FileEntry { bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() })
}

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
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
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

    #[test]
    fn names_beside_a_destination() {
        assert_eq!(sibling(Path::new("a/b"), "lock").unwrap(), Path::new("a/.b.lock"));
        assert_eq!(sibling(Path::new("b/"), "old").unwrap(), Path::new(".b.old"));
        assert!(sibling(Path::new("/"), "old").is_err());
        assert!(sibling(Path::new("a/.."), "old").is_err());
    }

    #[test]
    fn removing_what_is_not_there_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        remove(&dir.path().join("none")).unwrap();
        fs::create_dir_all(dir.path().join("d/e")).unwrap();
        fs::write(dir.path().join("f"), "").unwrap();
        remove(&dir.path().join("d")).unwrap();
        remove(&dir.path().join("f")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
