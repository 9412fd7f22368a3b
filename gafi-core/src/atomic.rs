//! Atomic writes: a file holds all of its old content or all of the new, even if the writer crashes.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::{remove, sibling};
use crate::owner::Owner;

/// Writes a file atomically: to a temporary neighbour `.NAME.HOST-BOOT-PID.tmp`, synced, then renamed to `path`.
///
/// # Errors
/// [`Error::Io`]; the neighbour is removed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_parts_atomic(path, &[bytes])
}

/// [`write_atomic`] of the bytes of `parts`, one after another.
pub(crate) fn write_parts_atomic(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let temp = temporary(path)?;
    // Always a new file, so an existing link or pipe of this name is never written to.
    remove(&temp)?;
    let written = File::create_new(&temp).and_then(|mut f| {
        parts.iter().try_for_each(|part| f.write_all(part))?;
        f.sync_all()
    });
    written.and_then(|()| fs::rename(&temp, path)).map_err(|e| {
        let _ = fs::remove_file(&temp);
        Error::io("write", path)(e)
    })
}

/// The temporary neighbour of `path`. Its name is unique to this process, because processes on two machines may write the same
/// file on a shared file system.
fn temporary(path: &Path) -> Result<PathBuf> {
    sibling(path, &format!("{}.tmp", Owner::tag()))
}

/// Removes the temporary files that dead processes of this machine left in `folder`.
///
/// # Errors
/// [`Error::Io`].
pub fn clear_temporary(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let tag =
            name.strip_suffix(".tmp").filter(|rest| rest.starts_with('.')).and_then(|rest| rest.rsplit('.').next());
        if tag.is_some_and(Owner::is_dead_tag) {
            remove(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe or a link under the temporary name is replaced, neither written to nor followed.
    #[cfg(unix)]
    #[test]
    fn a_temporary_neighbour_is_always_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let temp = temporary(&at("file")).unwrap();
        fs::write(at("victim"), "mine").unwrap();
        std::os::unix::fs::symlink(at("victim"), &temp).unwrap();
        write_atomic(&at("file"), b"new").unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&temp).status().unwrap().success());
        write_atomic(&at("file"), b"newer").unwrap();
        assert_eq!((fs::read(at("victim")).unwrap(), fs::read(at("file")).unwrap()), (b"mine".into(), b"newer".into()));
    }

    /// Temporary files of other machines, of living processes and of other programs stay.
    #[cfg(target_os = "linux")]
    #[test]
    fn only_temporary_files_of_dead_processes_of_this_machine_are_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let own = Owner::tag();
        let dead = own.replace(&format!("-{}", std::process::id()), &format!("-{}", child.id()));
        let stay = [format!(".a.{own}.tmp"), format!(".a.elsewhere-0123abcd-{}.tmp", child.id()), ".a.tmp".into()];
        for name in stay.iter().chain([&format!(".a.{dead}.tmp"), &format!(".b.json.{dead}.tmp")]) {
            fs::write(dir.path().join(name), "").unwrap();
        }
        clear_temporary(dir.path()).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        let mut stay = stay.to_vec();
        left.sort();
        stay.sort();
        assert_eq!(left, stay);
    }
}
