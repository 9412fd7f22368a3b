//! `Stage`, and `execute`, which runs one: check, fingerprint, reuse an equal artifact or run (or resume) in a hidden
//! folder, then rename the finished artifact into place in one step.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::artifact::{Artifact, MANIFEST_MAX};
use crate::error::{Error, Result};
use crate::files::{is_free, read_regular};
use crate::inputs::{Arity, Inputs, Port};
use crate::loaders::Context;
use crate::lock::Lock;
use crate::manifest::{Kind, MANIFEST_FILE, Provenance};
use crate::writer::{ArtifactWriter, is_aside, recover};

/// The static description of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageInfo {
    /// Name of the stage: the verb, and the manifest's `stage`.
    pub name: &'static str,
    /// Increased when a code change alters the output for equal inputs.
    pub revision: u32,
    /// The inputs it takes.
    pub ports: &'static [Port],
    /// The kind of artifact it creates.
    pub output: Kind,
}

/// A step from artifacts to an artifact, implemented by its configuration struct.
pub trait Stage: std::fmt::Debug {
    /// Name, revision, ports and output.
    fn info(&self) -> StageInfo;

    /// The complete configuration, seed included: it is recorded and fingerprinted.
    fn config(&self) -> Value;

    /// Checks configuration and inputs, from manifests alone, before anything runs.
    fn check(&self, inputs: &Inputs) -> Result<()>;

    /// Does the work. `out` may hold the state of an interrupted run, from which the stage resumes to the same bytes.
    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()>;
}

/// The result of [`execute`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outcome {
    /// The artifact.
    pub artifact: Artifact,
    /// Whether an existing artifact was reused.
    pub cached: bool,
    /// Time of this call.
    pub wall: Duration,
}

/// The provenance of the artifact that `stage` creates from `inputs`; its fingerprint identifies the result.
pub fn provenance(stage: &dyn Stage, inputs: &Inputs) -> Provenance {
    let info = stage.info();
    let ids = |artifacts: &[Artifact]| artifacts.iter().map(|artifact| artifact.id().into()).collect();
    Provenance {
        stage: info.name.into(),
        revision: info.revision,
        config: stage.config(),
        inputs: inputs.iter().map(|(port, artifacts)| (port.into(), ids(artifacts))).collect(),
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

/// Checks ports, configuration and inputs of `stage`, from manifests alone.
///
/// # Errors
/// [`Error::Input`], [`Error::Config`], and errors of [`Stage::check`].
pub fn check_inputs(stage: &dyn Stage, inputs: &Inputs) -> Result<()> {
    let StageInfo { name, ports, .. } = stage.info();
    let inputs = inputs.clone().for_stage(name);
    for port in ports {
        let given = inputs.all(port.name);
        let expected = format!("a {}", port.kind);
        if given.is_empty() && port.arity == Arity::Required {
            return Err(inputs.error(port.name, expected, "nothing"));
        }
        if given.len() > 1 && port.arity != Arity::Many {
            return Err(inputs.error(port.name, format!("one {}", port.kind), given.len().to_string()));
        }
        if let Some(other) = given.iter().find(|artifact| artifact.kind() != port.kind) {
            return Err(inputs.error(port.name, expected, format!("a {} in {}", other.kind(), other.path().display())));
        }
    }
    if let Some((port, _)) = inputs.iter().find(|(port, _)| ports.iter().all(|known| known.name != *port)) {
        let known: Vec<_> = ports.iter().map(|port| port.name).collect();
        return Err(inputs.error(port, format!("one of the ports {}", known.join(", ")), "no port of that name"));
    }
    stage.check(&inputs)
}

/// Creates the artifact of `stage` from `inputs` in folder `dest`, or reuses it.
///
/// An existing artifact of the same fingerprint is reused. Partial work of the same fingerprint resumes; other partial work is
/// discarded. Inputs are verified against their hashes first.
///
/// # Errors
/// [`Error::Occupied`] when `dest` holds something else and `cx.force` is off; [`Error::Config`] when it is on and `dest` is not
/// an artifact; [`Error::Locked`] when another process writes it and `cx.wait` is off; errors of [`check_inputs`] and the stage.
/// After an error `dest` is unchanged, and only partial work that can resume is left beside it.
pub fn execute(stage: &dyn Stage, inputs: &Inputs, dest: &Path, cx: &Context) -> Result<Outcome> {
    let begun = Instant::now();
    let outcome = |artifact, cached| Ok(Outcome { artifact, cached, wall: begun.elapsed() });
    check_inputs(stage, inputs)?;
    let StageInfo { name, output, .. } = stage.info();
    let made_by = provenance(stage, inputs);
    let fingerprint = made_by.fingerprint();
    // Without the lock, another process may be replacing the artifact right now, so only a success counts.
    if !cx.force
        && !is_aside(dest)
        && let Ok(Some(artifact)) = reuse(dest, &fingerprint, false)
    {
        Lock::sweep(dest);
        return outcome(artifact, true);
    }
    cx.checkpoint()?;
    let lock = Lock::acquire(dest, cx)?;
    recover(dest)?;
    if let Some(artifact) = reuse(dest, &fingerprint, cx.force)? {
        return outcome(artifact, true);
    }
    if let Some(artifact) = ArtifactWriter::finish_left_over(dest, output, &fingerprint, cx.force)? {
        return outcome(artifact, false);
    }
    inputs.iter().flat_map(|(_, artifacts)| artifacts).try_for_each(Artifact::verify)?;
    let mut out = ArtifactWriter::begin_locked(dest, output, made_by, lock)?;
    tracing::info!(stage = name, dest = %dest.display(), "begin");
    let ran = stage.run(&inputs.clone().for_stage(name), &mut out, cx).and_then(|()| {
        let wall_s = begun.elapsed().as_secs_f64();
        out.log(&serde_json::json!({"event": "finished", "stage": name, "wall_s": wall_s}))
    });
    if let Err(e) = ran {
        if matches!(e, Error::Io { .. })
            && let Some(artifact) = out.look_again(cx.force)
        {
            return outcome(artifact, false);
        }
        out.abandon(&e);
        return Err(e);
    }
    let artifact = out.commit(cx.force)?;
    tracing::info!(stage = name, dest = %dest.display(), wall_s = begun.elapsed().as_secs_f64(), "done");
    outcome(artifact, false)
}

/// The artifact at `dest` that can be reused; `None` when `dest` is free or may be replaced.
fn reuse(dest: &Path, fingerprint: &str, force: bool) -> Result<Option<Artifact>> {
    if is_free(dest) || (force && is_ours(dest)) {
        return Ok(None);
    }
    if force {
        let expected = "an artifact to replace, an empty folder or a new one";
        return Err(Error::config("destination", dest.display(), expected));
    }
    if !dest.join(MANIFEST_FILE).exists() {
        return Err(Error::Occupied { path: dest.into(), found: "other files".into() });
    }
    let artifact = Artifact::open(dest)?;
    if artifact.manifest().fingerprint == fingerprint {
        return Ok(Some(artifact));
    }
    let stage = &artifact.manifest().made_by.stage;
    Err(Error::Occupied {
        path: dest.into(),
        found: format!("of stage {stage}, with another configuration or other inputs"),
    })
}

/// Whether `dest` is an artifact, perhaps damaged or of another version. A file named `manifest.json` alone proves nothing.
fn is_ours(dest: &Path) -> bool {
    let manifest: Option<Value> =
        read_regular(dest.join(MANIFEST_FILE), MANIFEST_MAX).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    manifest.is_some_and(|m| ["format", "kind", "made_by", "fingerprint"].iter().all(|key| m.get(key).is_some()))
}
