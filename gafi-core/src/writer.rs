//! Writing an artifact, so that a process killed at any moment leaves either no artifact and a partial folder, which the
//! same call picks up again, or a whole artifact.
//!
//! The order of things on disk: `.NAME.partial/begun.json` with the fingerprint; files, each written to a temporary
//! neighbour, synced and renamed; what is needed to go on in `.NAME.partial/state/`; the manifest, after which nothing can
//! be lost any more; then the state goes, an artifact to be replaced moves aside to `.NAME.old`, the folder is renamed into
//! place, and the old one goes. [`recover`] and [`ArtifactWriter::finish_left_over`] take up what was cut off after the manifest.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::artifact::Artifact;
use crate::error::{Error, Result};
use crate::files::{
    LOG_FILE, Lock, hash_file, is_plain_name, put_in_place, remove, sibling, sync_dir, sync_file, write_atomic,
};
use crate::manifest::{FORMAT_VERSION, FileEntry, Kind, MANIFEST_FILE, Manifest, Provenance};

const STATE: &str = "state";
const BEGUN: &str = "begun.json";

/// Writes an artifact: see the module's header. Made by [`crate::execute`].
#[derive(Debug)]
pub struct ArtifactWriter {
    dest: PathBuf,
    partial: PathBuf,
    kind: Kind,
    made_by: Provenance,
    content: Value,
    files: BTreeMap<String, FileEntry>,
    // Held for as long as the writer lives.
    _lock: Lock,
}

impl ArtifactWriter {
    /// Begins, or goes on with, the artifact `dest`. Work of an earlier process is kept if it was of the same fingerprint.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process is at it.
    pub fn begin(dest: &Path, kind: Kind, made_by: Provenance) -> Result<Self> {
        Self::begin_locked(dest, kind, made_by, Lock::take(dest)?)
    }

    pub(crate) fn begin_locked(dest: &Path, kind: Kind, made_by: Provenance, lock: Lock) -> Result<Self> {
        let partial = sibling(dest, "partial")?;
        let (begun, state) = (partial.join(BEGUN), partial.join(STATE));
        let fingerprint = made_by.fingerprint();
        // With a manifest it was whole but for its name, and has been looked at: it is damaged, or not wanted.
        let same = fs::read(&begun).is_ok_and(|b| b == fingerprint.as_bytes()) && !partial.join(MANIFEST_FILE).exists();
        if same {
            tracing::debug!(path = %dest.display(), "going on with what an earlier process began");
            fs::create_dir_all(&state).map_err(Error::io("create", &state))?;
        } else {
            remove(&partial)?;
            let made = fs::create_dir_all(&state).map_err(Error::io("create", &state));
            if let Err(e) = made.and_then(|()| write_atomic(&begun, fingerprint.as_bytes())) {
                let _ = remove(&partial);
                return Err(e);
            }
        }
        Ok(Self {
            dest: dest.into(),
            partial,
            kind,
            made_by,
            content: Value::Null,
            files: BTreeMap::new(),
            _lock: lock,
        })
    }

    /// Ends what an earlier process had all but finished: a partial folder of this fingerprint with its manifest written.
    /// The caller holds the lock of `dest`.
    pub(crate) fn finish_left_over(
        dest: &Path,
        kind: Kind,
        fingerprint: &str,
        replace: bool,
    ) -> Result<Option<Artifact>> {
        let partial = sibling(dest, "partial")?;
        let whole = Artifact::open_as(&partial, kind).and_then(|a| a.verify().map(|()| a));
        match whole {
            Ok(a) if a.manifest().fingerprint == fingerprint => settle(&partial, dest, replace).map(Some),
            // None, of another configuration, or damaged: made anew.
            _ => Ok(None),
        }
    }

    /// The folder being written. Files put there by other means than [`ArtifactWriter::write`] need [`ArtifactWriter::add`].
    pub fn dir(&self) -> &Path {
        &self.partial
    }

    /// Writes (or writes again) a listed file, atomically and synced.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.check_name(name)?;
        write_atomic(&self.partial.join(name), bytes)?;
        let entry = FileEntry { bytes: bytes.len() as u64, blake3: blake3::hash(bytes).to_hex().to_string() };
        self.files.insert(name.into(), entry);
        Ok(())
    }

    /// Writes a listed JSON file, indented, with a final newline.
    pub fn write_json(&mut self, name: &str, value: &impl Serialize) -> Result<()> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(Error::other(format!("writing {name}")))?;
        bytes.push(b'\n');
        self.write(name, &bytes)
    }

    /// Lists a file that is in [`ArtifactWriter::dir`] already, written now or before an interruption.
    ///
    /// # Errors
    /// [`Error::Format`] when it is no file (a folder, a link): the artifact would not be whole without what it points to.
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
    pub fn set_content(&mut self, content: &impl Serialize) -> Result<()> {
        self.content = serde_json::to_value(content).map_err(Error::other("writing the manifest's content"))?;
        Ok(())
    }

    /// Keeps `bytes` for a later process that has to go on from here, atomically; gone once the artifact is whole.
    ///
    /// # Errors
    /// [`Error::Format`] when `name` is no plain file name; [`Error::Io`].
    pub fn save_state(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_atomic(&self.state(name)?, bytes)
    }

    /// What [`ArtifactWriter::save_state`] kept, perhaps in an earlier process.
    pub fn load_state(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.state(name)?;
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", path)(e)),
        }
    }

    /// Removes what [`ArtifactWriter::save_state`] kept; nothing happens when it kept nothing.
    pub fn drop_state(&self, name: &str) -> Result<()> {
        remove(&self.state(name)?)
    }

    /// Appends a line to [`LOG_FILE`]: times, rates, losses as they come. Not part of the artifact's identity.
    pub fn log(&self, line: &impl Serialize) -> Result<()> {
        let path = self.partial.join(LOG_FILE);
        let mut text = serde_json::to_string(line).map_err(Error::other("writing a line of the log"))?;
        text.push('\n');
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io("open", &path))?;
        file.write_all(text.as_bytes()).map_err(Error::io("write", &path))
    }

    /// Makes the artifact whole: manifest last, then renamed to its place, where it replaces what `replace` allows to.
    pub(crate) fn commit(self, replace: bool) -> Result<Artifact> {
        let manifest = Manifest {
            format: FORMAT_VERSION,
            kind: self.kind,
            fingerprint: self.made_by.fingerprint(),
            made_by: self.made_by,
            content: self.content,
            files: self.files,
        };
        let mut bytes = serde_json::to_vec_pretty(&manifest).map_err(Error::other("writing manifest.json"))?;
        bytes.push(b'\n');
        write_atomic(&self.partial.join(MANIFEST_FILE), &bytes)?;
        settle(&self.partial, &self.dest, replace)
    }

    /// After an error: leaves the partial folder only if there is work in it to go on with.
    pub(crate) fn abandon(self, error: &Error) {
        let kept = fs::read_dir(self.partial.join(STATE)).is_ok_and(|mut entries| entries.next().is_some());
        if !kept
            && !matches!(error, Error::Interrupted)
            && let Err(e) = remove(&self.partial)
        {
            tracing::warn!(path = %self.partial.display(), error = %e, "a partial folder stays behind");
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

/// From a partial folder with its manifest to the artifact. Each step may be the last of a process, and can be repeated.
fn settle(partial: &Path, dest: &Path, replace: bool) -> Result<Artifact> {
    // Opening checks that every listed file is there, before anything of value goes.
    let listed = Artifact::open(partial)?;
    // Whatever is in the folder and not listed was of use while it was made, or left by an earlier process.
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

/// Whether an artifact that was to be replaced still lies aside.
pub(crate) fn is_aside(dest: &Path) -> bool {
    sibling(dest, "old").is_ok_and(|old| fs::symlink_metadata(old).is_ok())
}

/// Takes up a replacement that was cut off: puts the artifact back that had moved aside, or removes it when the new one
/// is in its place. The caller holds the lock of `dest`.
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
