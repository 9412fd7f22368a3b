//! Artifacts: folders that are whole or not there.
//!
//! An artifact is written in a hidden sibling folder (`.NAME.partial`), each file synced, the manifest last; then the
//! folder is renamed into place. A process killed at any moment leaves either no artifact and a partial folder, which the
//! same call picks up again, or a whole artifact.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::manifest::{FORMAT_VERSION, FileEntry, Kind, MANIFEST, Manifest, Provenance};

/// The one file of an artifact that its manifest does not list: times, rates, hardware. Two runs of the same stage on the
/// same inputs differ in nothing else.
pub const LOG: &str = "log.jsonl";
const STATE: &str = "state";
const BEGUN: &str = "begun.json";

/// An artifact on disk, opened and with its manifest checked.
#[derive(Debug, Clone)]
pub struct Artifact {
    path: PathBuf,
    manifest: Manifest,
    id: String,
}

impl Artifact {
    /// Opens the artifact in folder `path`: reads its manifest, checks its version and the presence and length of each file.
    /// Contents are checked by [`Artifact::verify`].
    ///
    /// # Errors
    /// [`Error::NoArtifact`] when there is none, [`Error::Format`] when it is damaged or of another version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = path.join(MANIFEST);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let why = if path.is_dir() { "the folder has no manifest.json" } else { "the folder does not exist" };
                return Err(Error::NoArtifact { path: path.into(), why: why.into() });
            }
            Err(e) => return Err(Error::io("read", &file)(e)),
        };
        let manifest = parse_manifest(&file, &bytes)?;
        let artifact = Self { path: path.into(), manifest, id: blake3::hash(&bytes).to_hex().to_string() };
        for (name, entry) in &artifact.manifest.files {
            let file = artifact.path.join(name);
            let found = fs::metadata(&file).map_err(Error::io("read", &file))?.len();
            if found != entry.bytes {
                let (expected, found) =
                    (format!("{} bytes, as the manifest says", entry.bytes), format!("{found} bytes"));
                return Err(Error::format(file, "length", expected, found));
            }
        }
        Ok(artifact)
    }

    /// Opens an artifact that must be of `kind`.
    pub fn open_as(path: impl AsRef<Path>, kind: Kind) -> Result<Self> {
        let artifact = Self::open(path)?;
        if artifact.kind() != kind {
            let file = artifact.path.join(MANIFEST);
            return Err(Error::format(file, "kind", kind.to_string(), artifact.kind().to_string()));
        }
        Ok(artifact)
    }

    /// Reads every file and compares its BLAKE3 with the manifest's.
    ///
    /// # Errors
    /// [`Error::Format`] naming the first file that differs.
    pub fn verify(&self) -> Result<()> {
        for (name, entry) in &self.manifest.files {
            let file = self.path.join(name);
            let found = hash_file(&file)?;
            if found != *entry {
                let (expected, found) = (format!("BLAKE3 {}", entry.blake3), format!("BLAKE3 {}", found.blake3));
                return Err(Error::format(file, "content", expected, found));
            }
        }
        let made = self.manifest.made_by.fingerprint();
        if made != self.manifest.fingerprint {
            let file = self.path.join(MANIFEST);
            return Err(Error::format(file, "fingerprint", made, self.manifest.fingerprint.clone()));
        }
        Ok(())
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What it holds.
    pub fn kind(&self) -> Kind {
        self.manifest.kind
    }

    /// Its identity: BLAKE3 (hex) of the manifest's bytes, and so of everything but [`LOG`].
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The content section of the manifest, as the type of its kind.
    pub fn content<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.manifest.content.clone()).map_err(|e| {
            Error::format(
                self.path.join(MANIFEST),
                "content",
                format!("what a {} says of itself", self.kind()),
                e.to_string(),
            )
        })
    }

    /// Reads one listed file whole.
    ///
    /// # Errors
    /// [`Error::Format`] when the manifest does not list `name`, or the file's hash is not the listed one.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let file = self.path.join(name);
        let Some(entry) = self.manifest.files.get(name) else {
            return Err(Error::format(file, "manifest", format!("an entry {name:?}"), self.listing()));
        };
        let bytes = fs::read(&file).map_err(Error::io("read", &file))?;
        let found = blake3::hash(&bytes).to_hex().to_string();
        if found != entry.blake3 {
            return Err(Error::format(file, "content", format!("BLAKE3 {}", entry.blake3), format!("BLAKE3 {found}")));
        }
        Ok(bytes)
    }

    /// Reads one listed JSON file.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let bytes = self.read(name)?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Error::format(self.path.join(name), "content", std::any::type_name::<T>(), e.to_string()))
    }

    fn listing(&self) -> String {
        let names: Vec<_> = self.manifest.files.keys().map(String::as_str).collect();
        if names.is_empty() { "no files".into() } else { names.join(", ") }
    }
}

fn parse_manifest(file: &Path, bytes: &[u8]) -> Result<Manifest> {
    // The version first: a manifest of a later version may well have fields that this program does not know.
    let value: Value =
        serde_json::from_slice(bytes).map_err(|e| Error::format(file, "content", "a JSON object", e.to_string()))?;
    match value.get("format").and_then(Value::as_u64) {
        Some(v) if v == u64::from(FORMAT_VERSION) => {}
        Some(v) => {
            return Err(Error::format(file, "format", format!("version {FORMAT_VERSION}"), format!("version {v}")));
        }
        None => return Err(Error::format(file, "format", format!("version {FORMAT_VERSION}"), "no version")),
    }
    let manifest: Manifest =
        serde_json::from_value(value).map_err(|e| Error::format(file, "content", "a manifest", e.to_string()))?;
    for name in manifest.files.keys() {
        if !is_plain_name(name) {
            return Err(Error::format(file, "files", "plain file names without a path", name.clone()));
        }
    }
    Ok(manifest)
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']) && name != MANIFEST && name != LOG
}

/// Writes an artifact: see the module's header. Made by [`crate::execute`].
#[derive(Debug)]
pub struct ArtifactWriter {
    dest: PathBuf,
    partial: PathBuf,
    kind: Kind,
    made_by: Provenance,
    content: Value,
    files: BTreeMap<String, FileEntry>,
    // Held for as long as the writer lives; the system lets go of it when the process dies.
    _lock: File,
}

impl ArtifactWriter {
    /// Begins, or goes on with, the artifact `dest`. Work of an earlier process is kept if it was of the same fingerprint.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process is at it.
    pub fn begin(dest: &Path, kind: Kind, made_by: Provenance) -> Result<Self> {
        let (partial, lock_path) = (sibling(dest, "partial")?, sibling(dest, "lock")?);
        if let Some(parent) = dest.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(Error::io("create", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(Error::Locked { path: dest.into(), lock: lock_path }),
            Err(fs::TryLockError::Error(e)) => return Err(Error::io("lock", &lock_path)(e)),
        }
        let begun = partial.join(BEGUN);
        let fingerprint = made_by.fingerprint();
        if fs::read(&begun).is_ok_and(|b| b == fingerprint.as_bytes()) {
            tracing::debug!(path = %dest.display(), "going on with what an earlier process began");
        } else {
            remove_dir(&partial)?;
            fs::create_dir_all(partial.join(STATE)).map_err(Error::io("create", &partial))?;
            write_atomic(&begun, fingerprint.as_bytes())?;
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
    pub fn add(&mut self, name: &str) -> Result<()> {
        self.check_name(name)?;
        let path = self.partial.join(name);
        sync(&path)?;
        self.files.insert(name.into(), hash_file(&path)?);
        Ok(())
    }

    /// Sets the content section of the manifest.
    pub fn set_content(&mut self, content: &impl Serialize) -> Result<()> {
        self.content = serde_json::to_value(content).map_err(Error::other("writing the manifest's content"))?;
        Ok(())
    }

    /// Keeps `bytes` for a later process that has to go on from here, atomically; gone once the artifact is whole.
    pub fn save_state(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_atomic(&self.partial.join(STATE).join(name), bytes)
    }

    /// What [`ArtifactWriter::save_state`] kept, perhaps in an earlier process.
    pub fn load_state(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.partial.join(STATE).join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", path)(e)),
        }
    }

    /// Removes what [`ArtifactWriter::save_state`] kept; nothing happens when it kept nothing.
    pub fn drop_state(&self, name: &str) -> Result<()> {
        let path = self.partial.join(STATE).join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
            _ => Ok(()),
        }
    }

    /// Appends a line to [`LOG`]: times, rates, losses as they come. Not part of the artifact's identity.
    pub fn log(&self, line: &impl Serialize) -> Result<()> {
        let path = self.partial.join(LOG);
        let mut text = serde_json::to_string(line).map_err(Error::other("writing a line of the log"))?;
        text.push('\n');
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io("open", &path))?;
        file.write_all(text.as_bytes()).map_err(Error::io("write", &path))
    }

    /// Makes the artifact whole: manifest last, then renamed to its place, where it replaces what `replace` allows to.
    pub(crate) fn commit(self, replace: bool) -> Result<Artifact> {
        remove_dir(&self.partial.join(STATE))?;
        let begun = self.partial.join(BEGUN);
        let manifest = Manifest {
            format: FORMAT_VERSION,
            kind: self.kind,
            fingerprint: self.made_by.fingerprint(),
            made_by: self.made_by,
            content: self.content,
            files: self.files,
        };
        // Whatever is in the folder and not listed was left by an earlier process and has no business there.
        for entry in fs::read_dir(&self.partial).map_err(Error::io("read", &self.partial))? {
            let entry = entry.map_err(Error::io("read", &self.partial))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !manifest.files.contains_key(&name) && name != LOG && name != BEGUN {
                fs::remove_file(entry.path()).map_err(Error::io("remove", entry.path()))?;
            }
        }
        let mut bytes = serde_json::to_vec_pretty(&manifest).map_err(Error::other("writing manifest.json"))?;
        bytes.push(b'\n');
        write_atomic(&self.partial.join(MANIFEST), &bytes)?;
        fs::remove_file(&begun).map_err(Error::io("remove", &begun))?;
        sync(&self.partial)?;
        if replace {
            remove_dir(&self.dest)?;
        }
        fs::rename(&self.partial, &self.dest).map_err(Error::io("rename the finished artifact to", &self.dest))?;
        if let Some(parent) = self.dest.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync(parent)?;
        }
        if let Ok(lock) = sibling(&self.dest, "lock") {
            // A lock file that stays behind is harmless, so no error.
            let _ = fs::remove_file(lock);
        }
        Artifact::open(&self.dest)
    }

    fn check_name(&self, name: &str) -> Result<()> {
        if is_plain_name(name) && name != STATE && name != BEGUN {
            return Ok(());
        }
        Err(Error::format(&self.partial, "file name", "a plain name without a path, not a reserved one", name))
    }
}

/// `.NAME.suffix` beside `dest`.
fn sibling(dest: &Path, suffix: &str) -> Result<PathBuf> {
    let name = dest.file_name().ok_or_else(|| Error::format(dest, "path", "a folder with a name", "none"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden.push(suffix);
    Ok(dest.with_file_name(hidden))
}

pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Writes a file whole or not at all: to a temporary neighbour, synced, then renamed over `path`.
///
/// # Errors
/// [`Error::Io`]; the neighbour is removed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let temp = sibling(path, "tmp")?;
    let written = File::create(&temp).and_then(|mut f| {
        f.write_all(bytes)?;
        f.sync_all()
    });
    if let Err(e) = written {
        let _ = fs::remove_file(&temp);
        return Err(Error::io("write", path)(e));
    }
    fs::rename(&temp, path).map_err(Error::io("write", path))
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(Error::io("sync", path))
}

/// Length and BLAKE3 of a file, read in pieces.
///
/// # Errors
/// [`Error::Io`].
pub fn hash_file(path: &Path) -> Result<FileEntry> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let n = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
    }
    Ok(FileEntry { bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() })
}
