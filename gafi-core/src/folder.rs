//! `FolderWriter`: a folder of plain files without a manifest, for other programs, that is complete or absent.
//!
//! As with artifacts, files are written in the hidden neighbour `.NAME.partial`, which is renamed when complete. Nothing
//! resumes: writing such a folder again from an artifact is quick.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::atomic::write_atomic;
use crate::control::RunControl;
use crate::error::{Error, Result};
use crate::files::{create, is_free, put_in_place, read_regular, remove, sibling, sync_tree};
use crate::lock::Lock;

/// The hidden file that lists all others of the folder, as a JSON array of relative paths with `/`.
pub const FILES_LIST: &str = ".gafi-files.json";

/// Longest list in bytes: ten million files.
const LIST_MAX: u64 = 1 << 30;

/// Writes a folder for other programs. Dropped without [`FolderWriter::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct FolderWriter {
    dest: PathBuf,
    partial: PathBuf,
    replace: bool,
    // Files created so far, as relative paths with `/`.
    names: Mutex<BTreeSet<String>>,
    // Held while the writer lives.
    lock: Lock,
}

impl FolderWriter {
    /// Starts the folder `dest`. With `replace`, an existing one is replaced at the end.
    ///
    /// # Errors
    /// [`Error::Config`] when a folder to be replaced holds a file that is not in its [`FILES_LIST`]; [`Error::Occupied`] when
    /// `dest` is neither absent nor an empty folder and `replace` is off; [`Error::Locked`] when another process writes it and
    /// `control.wait` is off.
    pub fn begin(dest: &Path, replace: bool, control: &RunControl) -> Result<Self> {
        let lock = Lock::acquire(dest, control)?;
        let partial = sibling(dest, "partial")?;
        let old = sibling(dest, "old")?;
        let exists = |path: &Path| fs::symlink_metadata(path).is_ok();
        // A crash interrupted a replacement between its two renames: undo the first.
        if exists(&old) && !exists(dest) {
            fs::rename(&old, dest).map_err(Error::io("put back", dest))?;
        }
        if !replace && !is_free(dest) {
            return Err(Error::Occupied { path: dest.into(), found: "of an earlier call or another program".into() });
        }
        if replace {
            check_own(dest)?;
        }
        if exists(&old) {
            check_own(&old)?;
        }
        remove(&partial)?;
        fs::create_dir_all(&partial).map_err(Error::io("create", &partial))?;
        Ok(Self { dest: dest.into(), partial, replace, names: Mutex::default(), lock })
    }

    /// Creates a file, and its parent folders. `name` is a relative path with `/`.
    ///
    /// # Errors
    /// [`Error::Io`], also when the file already exists.
    pub fn create(&self, name: &str) -> Result<BufWriter<File>> {
        let path = self.partial.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        let file = create(&path)?;
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into());
        Ok(BufWriter::with_capacity(1 << 17, file))
    }

    /// The path of a file until [`FolderWriter::finish`], for errors.
    pub fn path(&self, name: &str) -> PathBuf {
        self.partial.join(name)
    }

    /// Lists the files in [`FILES_LIST`], syncs them and renames the folder into place.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Config`] when another program added a file to the folder to be replaced; the destination
    /// is then unchanged.
    pub fn finish(self) -> Result<()> {
        let names = std::mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner));
        let list = serde_json::to_vec(&names).map_err(Error::other(format!("writing {FILES_LIST}")))?;
        write_atomic(&self.partial.join(FILES_LIST), &list)?;
        if self.replace {
            check_own(&self.dest)?;
        }
        sync_tree(&self.partial)?;
        self.lock.check()?;
        put_in_place(&self.partial, &self.dest, self.replace)
    }
}

/// Checks that `dest`, if it exists, is a folder that holds nothing but listed files, so that replacing it deletes nothing else.
fn check_own(dest: &Path) -> Result<()> {
    let bad = |path: &Path, found: &str| {
        let expected = format!("a folder with nothing but the files listed in its {FILES_LIST}; move other files away");
        Err(Error::config("destination", format!("{}, {found}", path.display()), expected))
    };
    match fs::symlink_metadata(dest) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("read", dest)(e)),
        Ok(found) if !found.is_dir() => return bad(dest, "a file or a link"),
        Ok(_) if is_free(dest) => return Ok(()),
        Ok(_) => {}
    }
    let list = read_regular(dest.join(FILES_LIST), LIST_MAX).ok();
    let Some(names) = list.and_then(|bytes| serde_json::from_slice::<BTreeSet<String>>(&bytes).ok()) else {
        return bad(dest, "which has no such list");
    };
    let mut folders = vec![(dest.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::io("read", &folder))? {
            let entry = entry.map_err(Error::io("read", &folder))?;
            let name = entry.file_name().to_str().map(|name| format!("{prefix}{name}"));
            if entry.file_type().map_err(Error::io("read", entry.path()))?.is_dir() {
                match name {
                    Some(name) => folders.push((entry.path(), format!("{name}/"))),
                    None => return bad(&entry.path(), "which is not listed"),
                }
            } else if !name.is_some_and(|name| name == FILES_LIST || names.contains(&name)) {
                return bad(&entry.path(), "which is not listed");
            }
        }
    }
    Ok(())
}

impl Drop for FolderWriter {
    fn drop(&mut self) {
        // After `finish` there is nothing left to remove.
        if let Err(e) = remove(&self.partial) {
            tracing::warn!(path = %self.partial.display(), error = %e, "cannot remove a partial folder");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn begin(dest: &Path, replace: bool) -> Result<FolderWriter> {
        FolderWriter::begin(dest, replace, &RunControl::default())
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|n| !n.ends_with(".lock")).collect();
        names.sort();
        names
    }

    fn error(result: Result<()>) -> String {
        result.unwrap_err().to_string()
    }

    fn fill(writer: &FolderWriter, text: &str) {
        let mut file = writer.create("a/b.txt").unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.flush().unwrap();
    }

    #[test]
    fn folder_is_complete_or_absent() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("x");
        let writer = begin(&dest, false).unwrap();
        fill(&writer, "one");
        assert!(writer.create("a/b.txt").is_err(), "a second file of the name");
        assert!(!dest.exists());
        assert!(matches!(begin(&dest, false), Err(Error::Locked { .. })));
        drop(writer);
        assert_eq!(names(dir.path()), [""; 0]);

        let writer = begin(&dest, false).unwrap();
        fill(&writer, "two");
        writer.finish().unwrap();
        assert_eq!(names(dir.path()), ["x"]);
        assert_eq!(fs::read_to_string(dest.join("a/b.txt")).unwrap(), "two");
    }

    #[test]
    fn existing_folder_is_replaced_only_on_request_and_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("x");
        fs::create_dir(&dest).unwrap();
        fs::write(dest.join("old"), "").unwrap();
        assert!(matches!(begin(&dest, false), Err(Error::Occupied { .. })));
        // Files of another program are never replaced: here there is no list, below a file is missing from it.
        assert!(begin(&dest, true).unwrap_err().to_string().contains("which has no such list"));
        fs::remove_file(dest.join("old")).unwrap();
        let own = begin(&dest, true).unwrap();
        fill(&own, "old");
        own.finish().unwrap();
        let writer = begin(&dest, true).unwrap();
        fill(&writer, "new");
        fs::write(dest.join("a/mine"), "").unwrap();
        assert!(error(writer.finish()).contains("x/a/mine, which is not listed"));
        assert!(error(begin(&dest, true).map(drop)).contains("x/a/mine, which is not listed"));
        assert_eq!(fs::read_to_string(dest.join("a/b.txt")).unwrap(), "old");
        fs::remove_file(dest.join("a/mine")).unwrap();
        let writer = begin(&dest, true).unwrap();
        fill(&writer, "new");
        writer.finish().unwrap();
        assert_eq!(fs::read_to_string(dest.join("a/b.txt")).unwrap(), "new");
        assert_eq!((names(&dest), names(dir.path())), (vec![FILES_LIST.into(), "a".into()], vec!["x".into()]));
        // Killed between the renames: the next call moves the old folder back.
        fs::rename(&dest, dir.path().join(".x.old")).unwrap();
        assert!(matches!(begin(&dest, false), Err(Error::Occupied { .. })));
        assert_eq!(names(&dest), [FILES_LIST, "a"]);
        // Killed after them: the old folder is removed.
        fs::create_dir(dir.path().join(".x.old")).unwrap();
        begin(&dest, true).unwrap().finish().unwrap();
        assert_eq!(names(dir.path()), ["x"]);
    }
}
