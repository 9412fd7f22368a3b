//! Which artifacts of kind `command` may start their program without `--allow-commands`: those that this user imported.
//!
//! Importing a program leaves a note in the user's state folder, never in the artifact or the run. The name of the note is the hash of
//! the artifact's id and of the folder of the import. The id covers the command line and the included files, so somebody else's
//! artifact has a note only if it starts the same program that this user imported. The folder matters because a command line may
//! contain relative paths, which mean another program elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use gafi_core::{Artifact, hash_json, printable, write_atomic};
use serde_json::{Value, json};

/// What this process allows. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Commands {
    all: Arc<AtomicBool>,
}

impl Commands {
    /// Allows every program (`--allow-commands`).
    pub(crate) fn allow_all(&self) {
        self.all.store(true, Ordering::Relaxed);
    }

    /// Whether the program of `artifact` may be started. If not, a warning says how to allow it.
    pub(crate) fn allow(&self, artifact: &Artifact) -> bool {
        let known = || note(artifact).is_some_and(|(path, _)| path.is_file());
        let allowed = self.all.load(Ordering::Relaxed) || known();
        if !allowed {
            let path = printable(artifact.path().display());
            tracing::warn!(
                "{path}: its program is not started, because you did not import it from this folder; --allow-commands starts it"
            );
        }
        allowed
    }
}

/// Writes the note that this user imported the program of `artifact`.
///
/// # Errors
/// When the note cannot be written, or there is no home folder.
pub(crate) fn remember(artifact: &Artifact) -> Result<()> {
    let (path, text) = note(artifact).context("neither XDG_STATE_HOME nor HOME names a folder")?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(write_atomic(&path, format!("{text:#}\n").as_bytes())?)
}

/// The path and the content of the note about `artifact` and the current folder.
fn note(artifact: &Artifact) -> Option<(PathBuf, Value)> {
    let folder = std::env::current_dir().ok()?.canonicalize().ok()?;
    let note = json!({ "artifact": artifact.id(), "folder": folder.to_str()? });
    let name = hash_json(&note);
    Some((state_folder()?.join("commands").join(name), note))
}

/// `$XDG_STATE_HOME/gafi`, or `~/.local/state/gafi`. `None` without a home folder.
fn state_folder() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    state.map(|state| state.join("gafi"))
}
