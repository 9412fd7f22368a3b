//! A folder of plain files that is whole or not there: what leaves GaFi for other programs, and so has no manifest.
//!
//! As with artifacts, files are written in the hidden neighbour `.NAME.partial`, which is renamed when it is whole.
//! Unlike them, nothing goes on after an interruption: what is written here can be written again from an artifact in no
//! time.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::{Lock, create, is_free, put_in_place, remove, sibling, sync_tree};

/// Writes a folder: see the module's header. Dropped without [`FolderWriter::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct FolderWriter {
    dest: PathBuf,
    partial: PathBuf,
    replace: bool,
    // Held for as long as the writer lives.
    _lock: Lock,
}

impl FolderWriter {
    /// Begins the folder `dest`. With `replace`, what is there already is replaced in the end; whether it may be is for
    /// the caller to know.
    ///
    /// # Errors
    /// [`Error::Occupied`] when something but an empty folder is there and `replace` is off, [`Error::Locked`] when
    /// another process is at it.
    pub fn begin(dest: &Path, replace: bool) -> Result<Self> {
        let lock = Lock::take(dest)?;
        let (partial, old) = (sibling(dest, "partial")?, sibling(dest, "old")?);
        let there = |path: &Path| fs::symlink_metadata(path).is_ok();
        // A replacement that a crash cut off between its two renames.
        if there(&old) && !there(dest) {
            fs::rename(&old, dest).map_err(Error::io("put back", dest))?;
        }
        if !replace && !is_free(dest) {
            return Err(Error::Occupied { path: dest.into(), found: "an earlier call or another program".into() });
        }
        remove(&partial)?;
        fs::create_dir_all(&partial).map_err(Error::io("create", &partial))?;
        Ok(Self { dest: dest.into(), partial, replace, _lock: lock })
    }

    /// A new file of the folder, with the folders on its way. `name` is a relative path with `/`.
    ///
    /// # Errors
    /// [`Error::Io`], also when the file is there already: two files of one name are a mistake of the caller's.
    pub fn create(&self, name: &str) -> Result<BufWriter<File>> {
        let path = self.partial.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        Ok(BufWriter::with_capacity(1 << 17, create(&path)?))
    }

    /// Where a file of the folder lies until the end, for errors.
    pub fn path(&self, name: &str) -> PathBuf {
        self.partial.join(name)
    }

    /// Syncs every file and puts the folder in its place.
    ///
    /// # Errors
    /// [`Error::Io`]; what was at the destination is there still.
    pub fn finish(self) -> Result<()> {
        sync_tree(&self.partial)?;
        put_in_place(&self.partial, &self.dest, self.replace)
    }
}

impl Drop for FolderWriter {
    fn drop(&mut self) {
        // After `finish` there is nothing under that name.
        if let Err(e) = remove(&self.partial) {
            tracing::warn!(path = %self.partial.display(), error = %e, "a partial folder stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

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
    fn a_folder_is_whole_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("x");
        let writer = FolderWriter::begin(&dest, false).unwrap();
        fill(&writer, "one");
        assert!(writer.create("a/b.txt").is_err(), "a second file of the name");
        assert!(!dest.exists());
        assert!(matches!(FolderWriter::begin(&dest, false), Err(Error::Locked { .. })));
        drop(writer);
        assert_eq!(names(dir.path()), [""; 0]);

        let writer = FolderWriter::begin(&dest, false).unwrap();
        fill(&writer, "two");
        writer.finish().unwrap();
        assert_eq!(names(dir.path()), ["x"]);
        assert_eq!(fs::read_to_string(dest.join("a/b.txt")).unwrap(), "two");
    }

    #[test]
    fn what_is_there_is_replaced_only_when_asked_and_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("x");
        fs::create_dir(&dest).unwrap();
        fs::write(dest.join("old"), "").unwrap();
        assert!(matches!(FolderWriter::begin(&dest, false), Err(Error::Occupied { .. })));
        let writer = FolderWriter::begin(&dest, true).unwrap();
        fill(&writer, "new");
        assert_eq!(names(&dest), ["old"]);
        writer.finish().unwrap();
        assert_eq!((names(&dest), names(dir.path())), (vec!["a".into()], vec!["x".into()]));
        // Cut between the renames: the next call finds what had moved aside.
        fs::rename(&dest, dir.path().join(".x.old")).unwrap();
        assert!(matches!(FolderWriter::begin(&dest, false), Err(Error::Occupied { .. })));
        assert_eq!(names(&dest), ["a"]);
        // Cut after them: what had moved aside goes.
        fs::create_dir(dir.path().join(".x.old")).unwrap();
        FolderWriter::begin(&dest, true).unwrap().finish().unwrap();
        assert_eq!(names(dir.path()), ["x"]);
    }
}
