//! `Stage`, and `execute`, which runs one: check, fingerprint, reuse what is there, or run (or resume) beside it, and
//! put the finished artifact in its place in one step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::artifact::Artifact;
use crate::error::{Error, Result};
use crate::files::Lock;
use crate::manifest::{Kind, MANIFEST_FILE, Provenance};
use crate::model::ModelLoaders;
use crate::progress::{Progress, Silent};
use crate::writer::{ArtifactWriter, is_aside, recover};

/// One input of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: &'static str,
    /// What is plugged in.
    pub kind: Kind,
    /// Whether the stage does without.
    pub optional: bool,
}

impl Port {
    /// An input that must be there.
    pub const fn required(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, optional: false }
    }

    /// An input that may be there.
    pub const fn optional(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, optional: true }
    }
}

/// Artifacts plugged into a stage's ports.
#[derive(Debug, Clone, Default)]
pub struct Inputs(BTreeMap<String, Artifact>);

impl Inputs {
    /// Nothing plugged in.
    pub fn new() -> Self {
        Self::default()
    }

    /// Plugs `artifact` into `port`.
    pub fn with(mut self, port: &str, artifact: &Artifact) -> Self {
        self.0.insert(port.into(), artifact.clone());
        self
    }

    /// What is plugged into `port`.
    pub fn get(&self, port: &str) -> Option<&Artifact> {
        self.0.get(port)
    }

    /// What is plugged into a required `port`.
    ///
    /// # Errors
    /// [`Error::Input`] when nothing is.
    pub fn require(&self, stage: &str, port: &str) -> Result<&Artifact> {
        self.get(port).ok_or_else(|| Error::Input {
            stage: stage.into(),
            port: port.into(),
            expected: "an artifact".into(),
            found: "nothing".into(),
        })
    }

    /// All of them, by port.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Artifact)> {
        self.0.iter().map(|(port, artifact)| (port.as_str(), artifact))
    }
}

/// A step from artifacts to an artifact. The configuration struct is the stage.
pub trait Stage: std::fmt::Debug {
    /// The verb, and the manifest's `stage`.
    fn name(&self) -> &'static str;

    /// Rises when equal inputs may give other bytes.
    fn revision(&self) -> u32;

    /// Its inputs.
    fn ports(&self) -> &'static [Port];

    /// What it makes.
    fn output(&self) -> Kind;

    /// Canonical, complete, seed included: recorded and fingerprinted.
    fn config(&self) -> Value;

    /// Whether configuration and inputs fit, from manifests alone; powers `--dry-run`.
    fn check(&self, inputs: &Inputs) -> Result<()>;

    /// Does the work. May find what an earlier, interrupted process left in `out`, and goes on from there to the same bytes.
    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()>;
}

/// What surrounds a stage while it runs. Nothing here changes a result.
#[derive(Clone)]
pub struct Context {
    /// Where progress is told.
    pub progress: Arc<dyn Progress>,
    /// Loaders of networks, by architecture.
    pub models: Arc<ModelLoaders>,
    /// Set to ask for a stop at the next safe point.
    pub stop: Arc<AtomicBool>,
    /// Run even if the artifact is there already, or something else is in its place.
    pub force: bool,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("models", &self.models).field("force", &self.force).finish_non_exhaustive()
    }
}

impl Context {
    /// A silent context with these models.
    pub fn new(models: ModelLoaders) -> Self {
        Self { progress: Arc::new(Silent), models: Arc::new(models), stop: Arc::default(), force: false }
    }

    /// A safe point.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when a stop has been asked for.
    pub fn checkpoint(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new(ModelLoaders::default())
    }
}

/// What [`execute`] came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The artifact.
    pub artifact: Artifact,
    /// Whether it was there already.
    pub cached: bool,
    /// How long this call took.
    pub wall: Duration,
}

/// What would make the artifact of `stage` on `inputs`; its fingerprint names the result.
pub fn provenance(stage: &dyn Stage, inputs: &Inputs) -> Provenance {
    Provenance {
        stage: stage.name().into(),
        revision: stage.revision(),
        config: stage.config(),
        inputs: inputs.iter().map(|(port, artifact)| (port.into(), artifact.id().into())).collect(),
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

/// Checks ports, configuration and inputs of `stage`, from manifests alone.
///
/// # Errors
/// [`Error::Input`], [`Error::Config`], and what [`Stage::check`] says.
pub fn check_inputs(stage: &dyn Stage, inputs: &Inputs) -> Result<()> {
    let wrong = |port: &str, expected: String, found: String| {
        Err(Error::Input { stage: stage.name().into(), port: port.into(), expected, found })
    };
    for port in stage.ports() {
        match inputs.get(port.name) {
            None if port.optional => {}
            None => return wrong(port.name, format!("a {}", port.kind), "nothing".into()),
            Some(a) if a.kind() == port.kind => {}
            Some(a) => {
                return wrong(
                    port.name,
                    format!("a {}", port.kind),
                    format!("a {} in {}", a.kind(), a.path().display()),
                );
            }
        }
    }
    if let Some((port, _)) = inputs.iter().find(|(name, _)| stage.ports().iter().all(|p| p.name != *name)) {
        let known: Vec<_> = stage.ports().iter().map(|p| p.name).collect();
        return wrong(port, format!("one of the ports {}", known.join(", ")), "no port of that name".into());
    }
    stage.check(inputs)
}

/// Makes the artifact of `stage` on `inputs` in folder `dest`, or finds it there.
///
/// An artifact of the same fingerprint is reused. Partial work of the same fingerprint is gone on with; other partial work
/// is dropped. Inputs are verified against their hashes before they are used.
///
/// # Errors
/// [`Error::Occupied`] when `dest` holds something else and `cx.force` is off; [`Error::Config`] when it is on and `dest` is
/// no artifact (what GaFi did not make it does not remove); [`Error::Locked`] when another process is at it; what [`check_inputs`]
/// and the stage say. After an error `dest` is as it was before, and beside it lies only what a later call can go on with.
pub fn execute(stage: &dyn Stage, inputs: &Inputs, dest: &Path, cx: &Context) -> Result<Outcome> {
    let begun = Instant::now();
    let outcome = |artifact, cached| Ok(Outcome { artifact, cached, wall: begun.elapsed() });
    check_inputs(stage, inputs)?;
    let made_by = provenance(stage, inputs);
    let fingerprint = made_by.fingerprint();
    // Without the lock another process may be replacing it at this moment, so only good news counts.
    if !cx.force
        && !is_aside(dest)
        && let Ok(Some(artifact)) = reuse(dest, &fingerprint, false)
    {
        Lock::sweep(dest);
        return outcome(artifact, true);
    }
    cx.checkpoint()?;
    let lock = Lock::take(dest)?;
    recover(dest)?;
    if let Some(artifact) = reuse(dest, &fingerprint, cx.force)? {
        return outcome(artifact, true);
    }
    if let Some(artifact) = ArtifactWriter::finish_left_over(dest, stage.output(), &fingerprint, cx.force)? {
        return outcome(artifact, false);
    }
    for (_, artifact) in inputs.iter() {
        artifact.verify()?;
    }
    let mut out = ArtifactWriter::begin_locked(dest, stage.output(), made_by, lock)?;
    tracing::info!(stage = stage.name(), dest = %dest.display(), "begin");
    let ran = stage.run(inputs, &mut out, cx).and_then(|()| {
        let wall_s = begun.elapsed().as_secs_f64();
        out.log(&serde_json::json!({"event": "finished", "stage": stage.name(), "wall_s": wall_s}))
    });
    if let Err(e) = ran {
        out.abandon(&e);
        return Err(e);
    }
    let artifact = out.commit(cx.force)?;
    tracing::info!(stage = stage.name(), dest = %dest.display(), wall_s = begun.elapsed().as_secs_f64(), "done");
    outcome(artifact, false)
}

/// What stands at `dest`: the artifact to reuse, or nothing in the way.
fn reuse(dest: &Path, fingerprint: &str, force: bool) -> Result<Option<Artifact>> {
    if force {
        return if is_free(dest) || is_ours(dest) {
            Ok(None)
        } else {
            Err(Error::config("destination", dest.display(), "an artifact to replace, an empty folder or a new one"))
        };
    }
    if !dest.join(MANIFEST_FILE).exists() {
        return if is_free(dest) {
            Ok(None)
        } else {
            Err(Error::Occupied { path: dest.into(), found: "something else".into() })
        };
    }
    let artifact = Artifact::open(dest)?;
    if artifact.manifest().fingerprint == fingerprint {
        return Ok(Some(artifact));
    }
    let made = &artifact.manifest().made_by;
    Err(Error::Occupied { path: dest.into(), found: format!("stage {}, other configuration or inputs", made.stage) })
}

/// Nothing, or an empty folder: it can be renamed over. (Over a link to one it cannot.)
pub(crate) fn is_free(dest: &Path) -> bool {
    match std::fs::symlink_metadata(dest) {
        Ok(m) if m.is_dir() => std::fs::read_dir(dest).is_ok_and(|mut entries| entries.next().is_none()),
        Ok(_) => false,
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

/// An artifact, if perhaps of another version or damaged; many programs call some file of theirs `manifest.json`.
fn is_ours(dest: &Path) -> bool {
    let manifest: Option<Value> =
        std::fs::read(dest.join(MANIFEST_FILE)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    manifest.is_some_and(|m| ["format", "kind", "made_by", "fingerprint"].iter().all(|key| m.get(key).is_some()))
}
