//! `ArtifactWriter`: a process killed at any moment leaves either a complete artifact, or only a partial folder from which the
//! same call resumes.
//!
//! The order on disk: `.NAME.partial/begun.json` with the fingerprint; files, each written to a temporary neighbour, synced
//! and renamed; resume state in `.NAME.partial/state/`; the manifest. From then on nothing can be lost: the state is removed,
//! an artifact to be replaced moves to `.NAME.old`, the folder is renamed into place, and the old one is removed. [`recover`]
//! and [`ArtifactWriter::finish_left_over`] complete what was interrupted after the manifest.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::artifact::Artifact;
use crate::atomic::{clear_temporary, write_atomic, write_parts_atomic};
use crate::error::{Error, Result};
use crate::files::{
    LOG_FILE, hash_file, is_plain_name, open_regular_with, put_in_place, read_regular, remove, sibling, sync_dir,
    sync_file,
};
use crate::lock::Lock;
use crate::manifest::{FORMAT_VERSION, FileEntry, Kind, MANIFEST_FILE, Manifest, Provenance};

const STATE: &str = "state";
const BEGUN: &str = "begun.json";
/// A fingerprint has 64 bytes.
const FINGERPRINT_MAX: u64 = 1 << 10;

/// Writes an artifact. [`crate::execute`] hands one to each stage.
#[derive(Debug)]
pub struct ArtifactWriter {
    dest: PathBuf,
    partial: PathBuf,
    kind: Kind,
    made_by: Provenance,
    content: Value,
    files: BTreeMap<String, FileEntry>,
    // Held while the writer lives.
    lock: Lock,
}

impl ArtifactWriter {
    /// Starts the artifact `dest`, or resumes it when an earlier process left partial work of the same fingerprint.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process writes it.
    pub fn begin(dest: &Path, kind: Kind, made_by: Provenance) -> Result<Self> {
        Self::begin_locked(dest, kind, made_by, Lock::take(dest)?)
    }

    pub(crate) fn begin_locked(dest: &Path, kind: Kind, made_by: Provenance, lock: Lock) -> Result<Self> {
        let partial = sibling(dest, "partial")?;
        let begun = partial.join(BEGUN);
        let state = partial.join(STATE);
        let fingerprint = made_by.fingerprint();
        // A partial folder with a manifest starts over: the caller found it damaged, or wants it replaced.
        let same = read_regular(&begun, FINGERPRINT_MAX).is_ok_and(|b| b == fingerprint.as_bytes())
            && !partial.join(MANIFEST_FILE).exists();
        if same {
            tracing::debug!(path = %dest.display(), "resuming partial work");
            fs::create_dir_all(&state).map_err(Error::io("create", &state))?;
            clear_temporary(&partial)?;
            clear_temporary(&state)?;
        } else {
            remove(&partial)?;
            let created = fs::create_dir_all(&state).map_err(Error::io("create", &state));
            if let Err(e) = created.and_then(|()| write_atomic(&begun, fingerprint.as_bytes())) {
                let _ = remove(&partial);
                return Err(e);
            }
        }
        Ok(Self { dest: dest.into(), partial, kind, made_by, content: Value::Null, files: BTreeMap::new(), lock })
    }

    /// Renames a partial folder of this fingerprint into place if its manifest is written. The caller holds the lock of
    /// `dest`.
    pub(crate) fn finish_left_over(
        dest: &Path,
        kind: Kind,
        fingerprint: &str,
        replace: bool,
    ) -> Result<Option<Artifact>> {
        let partial = sibling(dest, "partial")?;
        match Artifact::open_as(&partial, kind).and_then(|a| a.verify().map(|()| a)) {
            Ok(a) if a.manifest().fingerprint == fingerprint => rename_into_place(&partial, dest, replace).map(Some),
            // Absent, damaged or of another configuration: the stage runs.
            _ => Ok(None),
        }
    }

    /// The folder being written. Files written there by other means than [`ArtifactWriter::write`] have to be listed by
    /// [`ArtifactWriter::add`].
    pub fn dir(&self) -> &Path {
        &self.partial
    }

    /// Writes or replaces a listed file, atomically and synced.
    ///
    /// # Errors
    /// [`Error::Format`] when `name` is not a plain file name; [`Error::Io`].
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write_parts(name, &[bytes])
    }

    /// Writes a listed file of the bytes of `parts`, one after another.
    pub(crate) fn write_parts(&mut self, name: &str, parts: &[&[u8]]) -> Result<()> {
        self.check_name(name)?;
        write_parts_atomic(&self.partial.join(name), parts)?;
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(part);
        }
        let entry = FileEntry { bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() };
        self.files.insert(name.into(), entry);
        Ok(())
    }

    /// Writes a listed JSON file, indented, with a final newline.
    ///
    /// # Errors
    /// As [`ArtifactWriter::write`].
    pub fn write_json(&mut self, name: &str, value: &impl Serialize) -> Result<()> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(Error::other(format!("writing {name}")))?;
        bytes.push(b'\n');
        self.write(name, &bytes)
    }

    /// Lists a file that is already in [`ArtifactWriter::dir`], perhaps from before an interruption.
    ///
    /// # Errors
    /// [`Error::Format`] when it is a folder or a link: the artifact would depend on other files.
    pub fn add(&mut self, name: &str) -> Result<()> {
        self.check_name(name)?;
        let path = self.partial.join(name);
        if !fs::symlink_metadata(&path).map_err(Error::io("read", &path))?.is_file() {
            return Err(Error::format(path, "type", "a regular file", "a folder, a link or a device"));
        }
        sync_file(&path)?;
        self.files.insert(name.into(), hash_file(&path)?);
        Ok(())
    }

    /// Sets the content section of the manifest.
    ///
    /// # Errors
    /// [`Error::Other`] when `content` has no JSON form.
    pub fn set_content(&mut self, content: &impl Serialize) -> Result<()> {
        self.content = serde_json::to_value(content).map_err(Error::other("writing the manifest's content"))?;
        Ok(())
    }

    /// Stores resume state for a later process, atomically. It is removed once the artifact is complete.
    ///
    /// # Errors
    /// [`Error::Format`] when `name` is not a plain file name; [`Error::Io`].
    pub fn save_state(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_atomic(&self.state(name)?, bytes)
    }

    /// The state stored by [`ArtifactWriter::save_state`], perhaps by an earlier process.
    ///
    /// # Errors
    /// As [`ArtifactWriter::save_state`].
    pub fn load_state(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.state(name)?;
        match read_regular(&path, u64::MAX) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", path)(e)),
        }
    }

    /// Removes the state stored by [`ArtifactWriter::save_state`], if any.
    ///
    /// # Errors
    /// As [`ArtifactWriter::save_state`].
    pub fn drop_state(&self, name: &str) -> Result<()> {
        remove(&self.state(name)?)
    }

    /// Appends a line to [`LOG_FILE`], for times, rates and losses. The log does not affect the artifact's id.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn log(&self, line: &impl Serialize) -> Result<()> {
        let path = self.partial.join(LOG_FILE);
        let mut text = serde_json::to_string(line).map_err(Error::other("writing a line of the log"))?;
        text.push('\n');
        let file = open_regular_with(OpenOptions::new().create(true).append(true), &path);
        let mut file = file.map_err(Error::io("open", &path))?;
        file.write_all(text.as_bytes()).map_err(Error::io("write", &path))
    }

    /// Completes the artifact: writes the manifest and renames the folder into place.
    pub(crate) fn commit(mut self, replace: bool) -> Result<Artifact> {
        let mut manifest = Manifest {
            format: FORMAT_VERSION,
            kind: self.kind,
            fingerprint: self.made_by.fingerprint(),
            made_by: self.made_by.clone(),
            content: self.content.take(),
            files: std::mem::take(&mut self.files),
            checksum: None,
        };
        if let Err(e) = manifest.check_content(&self.partial.join(MANIFEST_FILE)) {
            // Resuming would fail here again.
            let _ = remove(&self.partial);
            return Err(e);
        }
        manifest.checksum = Some(manifest.sum()?);
        match self.publish(&manifest, replace) {
            Err(error @ Error::Io { .. }) => self.look_again(replace).ok_or(error),
            done => done,
        }
    }

    /// The finished artifact, after an I/O error. A network file system may report an error for a call that it carried out, and a
    /// process that lost its lock may find that another one finished first: the same fingerprint in place is success.
    pub(crate) fn look_again(&self, replace: bool) -> Option<Artifact> {
        let fingerprint = self.made_by.fingerprint();
        let found = Artifact::open_as(&self.dest, self.kind).ok()?;
        // An artifact to be replaced may have the same fingerprint; it is the new one only if the partial folder is gone.
        let old = replace && fs::symlink_metadata(&self.partial).is_ok();
        if old || found.manifest().fingerprint != fingerprint || found.verify().is_err() {
            return None;
        }
        let aside = sibling(&self.dest, "old").ok()?;
        [&self.partial, &aside].into_iter().all(|left| remove(left).is_ok()).then_some(found)
    }

    fn publish(&self, manifest: &Manifest, replace: bool) -> Result<Artifact> {
        self.lock.check()?;
        let mut bytes = serde_json::to_vec_pretty(manifest).map_err(Error::other("writing manifest.json"))?;
        bytes.push(b'\n');
        write_atomic(&self.partial.join(MANIFEST_FILE), &bytes)?;
        rename_into_place(&self.partial, &self.dest, replace)
    }

    /// After an error: keeps the partial folder only if it holds resume state.
    pub(crate) fn abandon(self, error: &Error) {
        let resumable = fs::read_dir(self.partial.join(STATE)).is_ok_and(|mut entries| entries.next().is_some());
        if !resumable
            && !matches!(error, Error::Interrupted)
            && let Err(e) = remove(&self.partial)
        {
            tracing::warn!(path = %self.partial.display(), error = %e, "cannot remove a partial folder");
        }
    }

    fn state(&self, name: &str) -> Result<PathBuf> {
        self.check_name(name)?;
        Ok(self.partial.join(STATE).join(name))
    }

    fn check_name(&self, name: &str) -> Result<()> {
        if is_plain_name(name) && name != STATE && name != BEGUN {
            return Ok(());
        }
        Err(Error::format(&self.partial, "file name", "a plain name without a path, not a reserved one", name))
    }
}

/// Turns a partial folder with a manifest into the artifact. Every step can be repeated if the process is killed after it.
fn rename_into_place(partial: &Path, dest: &Path, replace: bool) -> Result<Artifact> {
    // Opening checks that every listed file exists before anything is removed.
    let listed = Artifact::open(partial)?;
    // Unlisted files are scratch files of this or an earlier process.
    for entry in fs::read_dir(partial).map_err(Error::io("read", partial))? {
        let entry = entry.map_err(Error::io("read", partial))?;
        let name = entry.file_name();
        let known = name
            .to_str()
            .is_some_and(|n| n == MANIFEST_FILE || n == LOG_FILE || listed.manifest().files.contains_key(n));
        if !known {
            remove(&entry.path())?;
        }
    }
    sync_dir(partial)?;
    put_in_place(partial, dest, replace)?;
    Artifact::open(dest)
}

/// Whether a replaced artifact was left at `.NAME.old`.
pub(crate) fn is_aside(dest: &Path) -> bool {
    sibling(dest, "old").is_ok_and(|old| fs::symlink_metadata(old).is_ok())
}

/// Completes an interrupted replacement: moves the old artifact back, or removes it when the new one is in place. The caller
/// holds the lock of `dest`.
pub(crate) fn recover(dest: &Path) -> Result<()> {
    let old = sibling(dest, "old")?;
    if !is_aside(dest) {
        return Ok(());
    }
    if dest.join(MANIFEST_FILE).exists() {
        return remove(&old);
    }
    fs::rename(&old, dest).map_err(Error::io("put back", dest))
}
