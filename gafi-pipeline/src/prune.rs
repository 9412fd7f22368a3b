//! Deletes the artifacts of a finished run that its results do not need.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use gafi_core::{Artifact, MANIFEST_FILE};

use crate::record::{RunRecord, Status};
use crate::run_folder::RunFolder;
use crate::runner::FINGERPRINT_DIGITS;
use crate::usage::Usage;

/// Stages whose artifacts a run's folder holds.
const STAGES: [&str; 6] = ["import", "train-classifier", "train-gan", "recycle", "probe", "evaluate"];

/// What [`prune`] frees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The folders, by name, with their bytes.
    pub folders: Vec<(String, u64)>,
}

impl Pruned {
    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.folders.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Deletes the artifacts in the folder of a finished run that no role and no row of its record needs: lost trials, probes,
/// artifacts of superseded configurations, and unfinished work. Anything that the pipeline did not write stays. With
/// `dry_run`, nothing is deleted.
///
/// # Errors
/// [`Usage`] when the run has not finished, or an artifact that it needs is missing; when another process writes into the
/// folder; when a folder cannot be deleted.
pub fn prune(dir: &Path, dry_run: bool) -> Result<Pruned> {
    let record = RunRecord::read(dir)?;
    if record.status != Status::Finished {
        let why = "an unfinished run needs all of its artifacts to resume";
        return Err(Usage(format!("{}: {why}; run the pipeline to its end first", dir.display())).into());
    }
    record.verify_links(dir)?;
    let _folder = RunFolder::lock(dir, &gafi_core::RunControl::default())?;
    // Compare real paths: a given generator may be in this folder.
    let real = |path: &Path| path.canonicalize().with_context(|| format!("finding {}", path.display()));
    let needed = record.links().map(|link| real(&dir.join(&link.path))).collect::<Result<BTreeSet<PathBuf>>>()?;
    let mut pruned = Pruned::default();
    let entries = fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))?;
    let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    names.sort();
    for name in names.iter().filter_map(|name| name.to_str()) {
        let path = dir.join(name);
        // Links are skipped, because they may lead anywhere.
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|entry| entry.is_dir());
        if !is_folder || !is_ours(&path, name) || needed.contains(&real(&path)?) {
            continue;
        }
        let bytes = bytes(&path)?;
        if !dry_run {
            fs::remove_dir_all(&path).with_context(|| format!("deleting {}", path.display()))?;
        }
        pruned.folders.push((name.into(), bytes));
    }
    Ok(pruned)
}

/// Whether the pipeline wrote the folder: an artifact under the name that its fingerprint gives it, or unfinished work under
/// such a name.
fn is_ours(path: &Path, name: &str) -> bool {
    let unfinished = name.strip_prefix('.').and_then(|rest| rest.strip_suffix(".partial"));
    if let Some(name) = unfinished {
        return artifact_name(name).is_some()
            && (path.join("begun.json").is_file() || path.join(MANIFEST_FILE).is_file());
    }
    let Some((stage, digits)) = artifact_name(name) else { return false };
    Artifact::open(path).is_ok_and(|artifact| {
        let manifest = artifact.manifest();
        manifest.made_by.stage == stage && manifest.fingerprint.starts_with(digits)
    })
}

/// The stage and the first digits of the fingerprint in a folder's name.
fn artifact_name(name: &str) -> Option<(&str, &str)> {
    let (stage, digits) = name.rsplit_once('-')?;
    let is_hash = digits.len() == FINGERPRINT_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    (STAGES.contains(&stage) && is_hash).then_some((stage, digits))
}

fn bytes(path: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path).with_context(|| format!("listing {}", path.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { self::bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_pipeline_gives_are_artifacts() {
        assert_eq!(artifact_name("train-gan-0123456789ab"), Some(("train-gan", "0123456789ab")));
        for name in ["train-gan", "train-gan-0123456789", "mine-0123456789ab", "recycle-0123456789xy", "superseded"] {
            assert_eq!(artifact_name(name), None, "{name}");
        }
    }
}
