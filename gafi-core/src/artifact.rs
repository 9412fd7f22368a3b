//! `Artifact`: a folder that is complete or absent. This module opens artifacts and trusts nothing in them;
//! [`crate::ArtifactWriter`] writes them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files::{hash_file, is_plain_name, read_regular};
use crate::info::{ClassifierInfo, GeneratorInfo};
use crate::manifest::{FORMAT_VERSION, Kind, MANIFEST_FILE, Manifest};

// Room for the shards of about a billion images. A longer file is refused unread.
pub(crate) const MANIFEST_MAX: u64 = 64 << 20;

/// An artifact on disk, with its manifest checked.
#[derive(Debug, Clone)]
pub struct Artifact {
    path: PathBuf,
    manifest: Manifest,
    id: String,
}

impl Artifact {
    /// Opens the artifact in folder `path`. Checks the manifest, its format version, and that each file exists with the
    /// right length; [`Artifact::verify`] checks contents.
    ///
    /// # Errors
    /// [`Error::NoArtifact`] without a manifest, [`Error::Format`] when it is damaged or has another format version,
    /// [`Error::Io`] when it is not a regular file of at most 64 MiB or a file is missing.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = path.join(MANIFEST_FILE);
        let bytes = match read_regular(&file, MANIFEST_MAX) {
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
            let found = fs::metadata(&file).map_err(Error::io("read", &file))?;
            if !found.is_file() {
                return Err(Error::format(file, "type", "a file", "a folder or a device"));
            }
            if found.len() != entry.bytes {
                let expected = format!("{} bytes, according to the manifest", entry.bytes);
                return Err(Error::format(file, "length", expected, format!("{} bytes", found.len())));
            }
        }
        Ok(artifact)
    }

    /// Opens an artifact and checks that it is of `kind`.
    ///
    /// # Errors
    /// As [`Artifact::open`]; [`Error::Format`] for another kind.
    pub fn open_as(path: impl AsRef<Path>, kind: Kind) -> Result<Self> {
        let artifact = Self::open(path)?;
        artifact.check_kind(kind)?;
        Ok(artifact)
    }

    fn check_kind(&self, kind: Kind) -> Result<()> {
        if self.kind() == kind {
            return Ok(());
        }
        Err(Error::format(self.path.join(MANIFEST_FILE), "kind", kind.to_string(), self.kind().to_string()))
    }

    /// Reads every file and compares its BLAKE3 with the manifest's. Checks the manifest against its own checksum, its fingerprint
    /// and the rules of its kind.
    ///
    /// # Errors
    /// [`Error::Format`] naming the first file that differs.
    pub fn verify(&self) -> Result<()> {
        for (name, entry) in &self.manifest.files {
            let file = self.path.join(name);
            let found = hash_file(&file)?;
            if found != *entry {
                let expected = format!("BLAKE3 {}", entry.blake3);
                return Err(Error::format(file, "content", expected, format!("BLAKE3 {}", found.blake3)));
            }
        }
        let file = self.path.join(MANIFEST_FILE);
        let made = self.manifest.made_by.fingerprint();
        if made != self.manifest.fingerprint {
            return Err(Error::format(file, "fingerprint", made, self.manifest.fingerprint.clone()));
        }
        if let Some(recorded) = &self.manifest.checksum {
            let found = self.manifest.sum()?;
            if found != *recorded {
                return Err(Error::format(
                    file,
                    "content",
                    format!("checksum {recorded}"),
                    format!("checksum {found}"),
                ));
            }
        }
        self.manifest.check_content(&file)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.manifest.kind
    }

    /// The id: BLAKE3 (hex) of the manifest's bytes, and so of everything except [`crate::LOG_FILE`].
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The content section of the manifest, as the type of its kind.
    ///
    /// # Errors
    /// [`Error::Format`] when it does not fit the type.
    pub fn content<T: DeserializeOwned>(&self) -> Result<T> {
        self.manifest.content_as(&self.path.join(MANIFEST_FILE))
    }

    /// The content of an artifact of `kind`, checked by `check`, whose second argument is the manifest's path for errors.
    pub(crate) fn content_of<T: DeserializeOwned>(
        &self,
        kind: Kind,
        check: impl FnOnce(&T, &Path) -> Result<()>,
    ) -> Result<T> {
        self.check_kind(kind)?;
        let content: T = self.content()?;
        check(&content, &self.path.join(MANIFEST_FILE))?;
        Ok(content)
    }

    /// Reads a listed file.
    ///
    /// # Errors
    /// [`Error::Format`] when the manifest does not list `name`, or the hash differs.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let file = self.path.join(name);
        let Some(entry) = self.manifest.files.get(name) else {
            return Err(Error::format(file, "manifest", format!("an entry {name:?}"), self.listing()));
        };
        let bytes = read_regular(&file, entry.bytes).map_err(Error::io("read", &file))?;
        let found = blake3::hash(&bytes).to_hex().to_string();
        if found != entry.blake3 {
            return Err(Error::format(file, "content", format!("BLAKE3 {}", entry.blake3), format!("BLAKE3 {found}")));
        }
        Ok(bytes)
    }

    /// Reads a listed JSON file.
    ///
    /// # Errors
    /// As [`Artifact::read`]; [`Error::Format`] when it does not fit the type.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let bytes = self.read(name)?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Error::format(self.path.join(name), "content", "the record of this stage", e.to_string()))
    }

    fn listing(&self) -> String {
        let names: Vec<_> = self.manifest.files.keys().map(String::as_str).collect();
        if names.is_empty() { "no files".into() } else { names.join(", ") }
    }
}

fn parse_manifest(file: &Path, bytes: &[u8]) -> Result<Manifest> {
    // The version comes first: manifests of other versions may have other fields.
    let value: Value =
        serde_json::from_slice(bytes).map_err(|e| Error::format(file, "content", "a JSON object", e.to_string()))?;
    let version = value.get("format").and_then(Value::as_u64);
    if version != Some(u64::from(FORMAT_VERSION)) {
        let found = version.map_or("no version".into(), |version| format!("version {version}"));
        let found = format!("{found}; create the artifact again with this version of GaFi");
        return Err(Error::format(file, "format", format!("version {FORMAT_VERSION}"), found));
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

impl ClassifierInfo {
    /// Reads the description of the classifier `artifact`, and checks it.
    ///
    /// # Errors
    /// [`Error::Format`] for another kind of artifact, and for an inconsistent description.
    pub fn of(artifact: &Artifact) -> Result<Self> {
        artifact.content_of(Kind::Classifier, Self::check)
    }
}

impl GeneratorInfo {
    /// Reads the description of the generator `artifact`, and checks it.
    ///
    /// # Errors
    /// [`Error::Format`] for another kind of artifact, and for an inconsistent description.
    pub fn of(artifact: &Artifact) -> Result<Self> {
        artifact.content_of(Kind::Generator, Self::check)
    }
}
