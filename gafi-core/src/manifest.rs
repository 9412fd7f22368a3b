//! The manifest of an artifact. `docs/format.md` describes the bytes.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dataset_info::DatasetInfo;
use crate::error::{Error, Result};
use crate::info::{ClassifierInfo, GeneratorInfo};

/// Version of the artifact format that this program reads and writes.
pub const FORMAT_VERSION: u32 = 2;

/// Name of the manifest within an artifact's folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The kind of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Labelled images.
    Dataset,
    /// A trained classifier.
    Classifier,
    /// The checkpoints of a generative model.
    Generator,
    /// Records, such as evaluations and audits.
    Trials,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The name in JSON.
        self.serialize(f)
    }
}

/// How an artifact was created: enough to recreate and to recognise it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Name of the stage.
    pub stage: String,
    /// Revision of the stage's code; rises when equal inputs may give other bytes.
    pub revision: u32,
    /// The complete configuration of the stage, seed included.
    pub config: Value,
    /// The ids of the inputs, by port.
    pub inputs: BTreeMap<String, Vec<String>>,
    /// Version of GaFi.
    pub version: String,
}

impl Provenance {
    /// BLAKE3 (hex) over stage, revision, configuration and inputs, in canonical JSON: see [`hash_json`]. The
    /// version of GaFi is left out: a stage whose output changes raises its revision.
    pub fn fingerprint(&self) -> String {
        let key = serde_json::json!({
            "format": FORMAT_VERSION, "stage": self.stage, "revision": self.revision,
            "config": self.config, "inputs": self.inputs,
        });
        hash_json(&key)
    }
}

/// BLAKE3 (hex) of a value in canonical JSON: keys sorted, no white space, integers in decimal digits, and other numbers in
/// scientific form with the fewest digits that read back as the same double (`1e0`, `2.5e-1`).
pub fn hash_json(value: &Value) -> String {
    blake3::hash(canonical(value).as_bytes()).to_hex().to_string()
}

/// JSON with sorted keys, no white space, and a fixed form of numbers. serde_json guarantees neither: any crate of a program
/// can switch its maps to insertion order, and its output of fractions has changed before.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            let fields = sorted.into_iter().map(|(k, v)| format!("{}:{}", Value::from(k.as_str()), canonical(v)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        // The fewest digits that read back as the same double, one of them before the point: 1.0 is 1e0, 0.25 is 2.5e-1.
        Value::Number(n) if n.is_f64() => n.as_f64().map_or_else(|| n.to_string(), |x| format!("{x:e}")),
        other => other.to_string(),
    }
}

/// Length and hash of one file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the content, hex.
    pub blake3: String,
}

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format: u32,
    /// Kind of the artifact.
    pub kind: Kind,
    /// How it was created.
    pub made_by: Provenance,
    /// [`Provenance::fingerprint`] of `made_by`.
    pub fingerprint: String,
    /// The content; its type depends on the kind, such as [`crate::DatasetInfo`].
    pub content: Value,
    /// Every file except the manifest and `log.jsonl`.
    pub files: BTreeMap<String, FileEntry>,
    /// [`Manifest::sum`] of all other fields. Manifests written by other programs may lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}

impl Manifest {
    /// BLAKE3 (hex) of all fields but `checksum`, in canonical JSON. Nothing else covers class names and other content that no
    /// file holds.
    pub fn sum(&self) -> Result<String> {
        let mut fields = serde_json::to_value(self).map_err(Error::other("writing a manifest as JSON"))?;
        if let Value::Object(fields) = &mut fields {
            fields.remove("checksum");
        }
        Ok(hash_json(&fields))
    }

    /// Checks that the content is valid for the kind and names only listed files. Errors name `file`, the manifest's path.
    pub(crate) fn check_content(&self, file: &Path) -> Result<()> {
        match self.kind {
            Kind::Dataset => {
                let info: DatasetInfo = self.content_as(file)?;
                info.check(file)?;
                self.check_listed(file, "shards", info.shards.iter().map(|shard| &shard.file))
            }
            Kind::Classifier => self.content_as::<ClassifierInfo>(file)?.check(file),
            Kind::Generator => {
                let info: GeneratorInfo = self.content_as(file)?;
                info.check(file)?;
                let files = info.checkpoints.iter().flat_map(|checkpoint| [&checkpoint.file, &checkpoint.samples]);
                self.check_listed(file, "checkpoints", files.flatten())
            }
            Kind::Trials => Ok(()),
        }
    }

    /// The content, as the type of its kind. Errors name `file`, the manifest's path.
    pub(crate) fn content_as<T: DeserializeOwned>(&self, file: &Path) -> Result<T> {
        T::deserialize(&self.content).map_err(|e| {
            let expected = format!("the description of a {}", self.kind);
            Error::format(file, "content", expected, e.to_string())
        })
    }

    fn check_listed<'a>(&self, file: &Path, key: &str, mut names: impl Iterator<Item = &'a String>) -> Result<()> {
        match names.find(|name| !self.files.contains_key(*name)) {
            Some(name) => Err(Error::format(file, format!("content.{key}"), "files that `files` lists", name.clone())),
            None => Ok(()),
        }
    }
}
