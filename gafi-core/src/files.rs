//! Files and folders on disk: opening regular files only, names beside a destination, and hashes.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read};
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

/// Opens a regular file for reading, following links. Anything else is refused without blocking: a named pipe would block until
/// another process writes to it, and a device may be endless.
///
/// # Errors
/// The system's errors; [`io::ErrorKind::InvalidInput`] naming what it found instead of a regular file.
pub fn open_regular(path: impl AsRef<Path>) -> io::Result<File> {
    open_regular_with(OpenOptions::new().read(true), path.as_ref())
}

/// Opens a regular file with `options`; see [`open_regular`]. Its type is checked after opening, so it cannot change in between.
pub(crate) fn open_regular_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK, opening a pipe waits for its other end; regular files ignore the flag. O_NOCTTY keeps a terminal from
    // becoming this process's controlling terminal.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, libc::O_NONBLOCK | libc::O_NOCTTY);
    let opened = options.open(path).and_then(|file| {
        let found = file.metadata()?.file_type();
        if found.is_file() { Ok(file) } else { Err(not_regular(found)) }
    });
    // For sockets, and pipes opened for writing, the system's error does not name the type.
    opened.map_err(|e| match fs::metadata(path) {
        Ok(found) if !found.is_file() => not_regular(found.file_type()),
        _ => e,
    })
}

fn not_regular(found: FileType) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {}, not a regular file", kind(found)))
}

#[cfg(unix)]
fn kind(found: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match found {
        _ if found.is_dir() => "a folder",
        _ if found.is_fifo() => "a named pipe",
        _ if found.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(not(unix))]
fn kind(found: FileType) -> &'static str {
    if found.is_dir() { "a folder" } else { "a device" }
}

/// Reads a regular file of at most `limit` bytes; see [`open_regular`].
///
/// # Errors
/// As [`open_regular`]; [`io::ErrorKind::FileTooLarge`] for a longer file, [`io::ErrorKind::OutOfMemory`] for one that does not
/// fit into memory.
pub fn read_regular(path: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    if length <= limit {
        let expected = usize::try_from(length).unwrap_or(usize::MAX);
        bytes.try_reserve_exact(expected).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // The file may grow while it is read.
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    }
    let found = length.max(bytes.len() as u64);
    if found > limit {
        let why = format!("expected at most {limit} bytes, found {found}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// Reads a regular file of at most `limit` bytes as text; see [`read_regular`].
///
/// # Errors
/// As [`read_regular`]; [`io::ErrorKind::InvalidData`] for text that is not UTF-8.
pub fn read_text(path: impl AsRef<Path>, limit: u64) -> io::Result<String> {
    String::from_utf8(read_regular(path, limit)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
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

/// The folder that `dest` is in.
pub(crate) fn parent(dest: &Path) -> &Path {
    match dest.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
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

/// Whether `dest` is absent or an empty folder, which a rename replaces. (It does not replace a link to one.)
pub(crate) fn is_free(dest: &Path) -> bool {
    match fs::symlink_metadata(dest) {
        Ok(m) if m.is_dir() => fs::read_dir(dest).is_ok_and(|mut entries| entries.next().is_none()),
        Ok(_) => false,
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Creates a new file.
pub(crate) fn create(path: &Path) -> Result<File> {
    File::create_new(path).map_err(Error::io("create", path))
}

/// Syncs the content of a file to disk.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    // Windows syncs only files that are open for writing; elsewhere a file may be read-only.
    let file = open_regular_with(OpenOptions::new().read(true).write(cfg!(windows)), path);
    file.and_then(|f| f.sync_all()).map_err(Error::io("sync", path))
}

/// Syncs the entries of a folder to disk.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    // Other systems cannot open folders; nothing more can be done there.
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
    sync_dir(parent(dest))?;
    remove(&old)
}

/// Length and BLAKE3 of a file, read in chunks.
///
/// # Errors
/// [`Error::Io`].
pub fn hash_file(path: &Path) -> Result<FileEntry> {
    let file = open_regular(path).map_err(Error::io("open", path))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(Error::io("read", path))?;
    Ok(FileEntry { bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::Lock;

    /// Every reader and writer refuses anything but a regular file without blocking; the harness's time limit catches a hang.
    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_opened() {
        use std::os::unix::{fs::symlink, net::UnixListener};
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        let _socket = UnixListener::bind(at("socket")).unwrap();
        fs::write(at("plain"), "12345").unwrap();
        for (link, to) in [("to-pipe", at("pipe")), ("to-zero", "/dev/zero".into()), ("to-plain", at("plain"))] {
            symlink(to, at(link)).unwrap();
        }
        for (path, words) in [
            (at("pipe"), "a named pipe, not a regular file"),
            (at("to-pipe"), "a named pipe, not a regular file"),
            (at("socket"), "a socket, not a regular file"),
            (at("to-zero"), "a device, not a regular file"),
            ("/dev/null".into(), "a device, not a regular file"),
            (dir.path().into(), "a folder, not a regular file"),
        ] {
            let refused = |error: String| assert!(error.contains(words), "{}: {error}", path.display());
            refused(open_regular(&path).unwrap_err().to_string());
            refused(read_regular(&path, u64::MAX).unwrap_err().to_string());
            refused(hash_file(&path).unwrap_err().to_string());
            if !path.is_dir() {
                refused(open_regular_with(OpenOptions::new().append(true), &path).unwrap_err().to_string());
                // A lock, and the temporary neighbour of a file.
                let dest = at("locked");
                symlink(&path, at(".locked.lock")).unwrap();
                refused(Lock::take(&dest).unwrap_err().to_string());
                fs::remove_file(at(".locked.lock")).unwrap();
            }
        }
        assert_eq!(read_regular(at("to-plain"), 5).unwrap(), b"12345");
        let error = read_regular(at("plain"), 4).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (io::ErrorKind::FileTooLarge, "expected at most 4 bytes, found 5".into())
        );
        assert_eq!(open_regular(at("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
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
