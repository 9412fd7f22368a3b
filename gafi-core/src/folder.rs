//! `FolderWriter`: a folder of plain files without a manifest, for other programs, that is complete or absent.
//!
//! As with artifacts, files are written in the hidden neighbour `.NAME.partial`, which is renamed when complete. Nothing
//! resumes: such folders are quickly written again from an artifact.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use crate::control::RunControl;
use crate::error::{Error, Result};
use crate::files::{create, is_free, put_in_place, remove, sibling, sync_tree};
use crate::lock::Lock;

/// Writes a folder for other programs. Dropped without [`FolderWriter::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct FolderWriter {
    dest: PathBuf,
    partial: PathBuf,
    replace: bool,
    // Held while the writer lives.
    lock: Lock,
}

impl FolderWriter {
    /// Starts the folder `dest`. With `replace`, an existing one is replaced at the end; the caller checks that it may be.
    ///
    /// # Errors
    /// [`Error::Occupied`] when `dest` is neither absent nor an empty folder and `replace` is off; [`Error::Locked`] when
    /// another process writes it and `control.wait` is off.
    pub fn begin(dest: &Path, replace: bool, control: &RunControl) -> Result<Self> {
        let lock = Lock::acquire(dest, control)?;
        let partial = sibling(dest, "partial")?;
        let old = sibling(dest, "old")?;
        let exists = |path: &Path| fs::symlink_metadata(path).is_ok();
        // A crash interrupted a replacement between its two renames.
        if exists(&old) && !exists(dest) {
            fs::rename(&old, dest).map_err(Error::io("put back", dest))?;
        }
        if !replace && !is_free(dest) {
            return Err(Error::Occupied { path: dest.into(), found: "an earlier call or another program".into() });
        }
        remove(&partial)?;
        fs::create_dir_all(&partial).map_err(Error::io("create", &partial))?;
        Ok(Self { dest: dest.into(), partial, replace, lock })
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
        Ok(BufWriter::with_capacity(1 << 17, create(&path)?))
    }

    /// The path of a file until [`FolderWriter::finish`], for errors.
    pub fn path(&self, name: &str) -> PathBuf {
        self.partial.join(name)
    }

    /// Syncs every file and renames the folder into place.
    ///
    /// # Errors
    /// [`Error::Io`]; the destination is then unchanged.
    pub fn finish(self) -> Result<()> {
        sync_tree(&self.partial)?;
        self.lock.check()?;
        put_in_place(&self.partial, &self.dest, self.replace)
    }
}

impl Drop for FolderWriter {
    fn drop(&mut self) {
        // After `finish` nothing has that name.
        if let Err(e) = remove(&self.partial) {
            tracing::warn!(path = %self.partial.display(), error = %e, "a partial folder stays behind");
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
        let writer = begin(&dest, true).unwrap();
        fill(&writer, "new");
        assert_eq!(names(&dest), ["old"]);
        writer.finish().unwrap();
        assert_eq!((names(&dest), names(dir.path())), (vec!["a".into()], vec!["x".into()]));
        // Killed between the renames: the next call moves the old folder back.
        fs::rename(&dest, dir.path().join(".x.old")).unwrap();
        assert!(matches!(begin(&dest, false), Err(Error::Occupied { .. })));
        assert_eq!(names(&dest), ["a"]);
        // Killed after them: the old folder is removed.
        fs::create_dir(dir.path().join(".x.old")).unwrap();
        begin(&dest, true).unwrap().finish().unwrap();
        assert_eq!(names(dir.path()), ["x"]);
    }
}
