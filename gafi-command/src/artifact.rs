//! What an artifact of a program says of itself, and the loaders that start the program again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gafi_core::{
    ArchitectureSpec, Artifact, CheckpointInfo, ClassifierInfo, Error, Generator, GeneratorInfo, Kind, ModelLoaders,
    Result, Scorer,
};
use serde::{Deserialize, Serialize};

use crate::failure::Mismatch;
use crate::generator::CommandGenerator;
use crate::program::Program;
use crate::scorer::CommandScorer;

/// The name of the architecture.
pub const ARCHITECTURE: &str = "command";

/// The one step in the series of checkpoints.
const STEP: u64 = 0;

/// How to start the program again: the `architecture` of its artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Architecture {
    /// [`ARCHITECTURE`].
    pub name: String,
    /// The program.
    #[serde(flatten)]
    pub program: Program,
    /// Of a scorer: length of its features, 0 without.
    #[serde(default)]
    pub feature_dim: usize,
}

impl Architecture {
    pub(crate) fn new(program: &Program, feature_dim: usize) -> Self {
        Self { name: ARCHITECTURE.into(), program: program.clone(), feature_dim }
    }
}

/// What the artifact of `generator`, started as `program`, says of it.
pub(crate) fn generator_info(program: &Program, generator: &CommandGenerator) -> Result<GeneratorInfo> {
    Ok(GeneratorInfo {
        architecture: ArchitectureSpec::of(&Architecture::new(program, 0))?,
        image: *generator.image(),
        classes: generator.classes().to_vec(),
        latent_dim: generator.latent_dim(),
        checkpoints: vec![CheckpointInfo { step: STEP, file: None, samples: None }],
        // Whether latents that the program draws itself have the requested standard deviation.
        extra: [("std".into(), generator.hello().std.into())].into_iter().collect(),
    })
}

pub(crate) fn classifier_info(program: &Program, scorer: &CommandScorer) -> Result<ClassifierInfo> {
    let architecture = ArchitectureSpec::of(&Architecture::new(program, scorer.hello().feature_dim))?;
    Ok(ClassifierInfo { architecture, image: *scorer.image(), classes: scorer.hello().classes.clone() })
}

/// That what was imported is what the program says today.
fn same<T: PartialEq + Serialize>(then: &T, now: &T) -> Result<(), Mismatch> {
    if then == now {
        return Ok(());
    }
    let text = |value: &T| serde_json::to_string(value).unwrap_or_default();
    Err(Mismatch::new(format!("what it said when it was imported: {}", text(then)), text(now)))
}

/// Programs run in the current folder, so a path in the arguments may not be the artifact's own: an absolute one is.
fn folder(artifact: &Artifact) -> Result<std::path::PathBuf> {
    std::path::absolute(artifact.path()).map_err(Error::io("find", artifact.path()))
}

impl CommandGenerator {
    /// Starts the program of a generator artifact again. Its only checkpoint is of step 0.
    ///
    /// # Errors
    /// [`Error::Format`] when the artifact is none of a program, [`Error::Config`] for another checkpoint, [`crate::Failure`]
    /// also when the program is no longer what it was.
    pub fn open(artifact: &Artifact, step: Option<u64>, stop: &Arc<AtomicBool>) -> Result<Self> {
        of_kind(artifact, Kind::Generator)?;
        let then: GeneratorInfo = artifact.content()?;
        then.checkpoint(step)?;
        let program = &then.architecture.parse::<Architecture>()?.program;
        let mut generator = Self::start(program, Some(&folder(artifact)?), stop)?;
        let now = generator_info(program, &generator)?;
        same(&then, &now).map_err(|wrong| generator.refuse(wrong))?;
        Ok(generator)
    }
}

impl CommandScorer {
    /// Starts the program of a classifier artifact again.
    ///
    /// # Errors
    /// As [`CommandGenerator::open`].
    pub fn open(artifact: &Artifact, stop: &Arc<AtomicBool>) -> Result<Self> {
        of_kind(artifact, Kind::Classifier)?;
        let then: ClassifierInfo = artifact.content()?;
        let architecture: Architecture = then
            .architecture
            .parse()
            .map_err(|e| Error::format(artifact.path(), "architecture", "a program", e.to_string()))?;
        let mut scorer = Self::start(&architecture.program, Some(&folder(artifact)?), stop)?;
        let now = classifier_info(&architecture.program, &scorer)?;
        same(&then, &now).map_err(|wrong| scorer.refuse(wrong))?;
        Ok(scorer)
    }
}

fn of_kind(artifact: &Artifact, kind: Kind) -> Result<()> {
    if artifact.kind() == kind {
        return Ok(());
    }
    Err(Error::format(Path::new(artifact.path()), "kind", kind.to_string(), artifact.kind().to_string()))
}

/// Registers the loaders of this crate. `stop` is the flag of the [`gafi_core::Context`] that they will serve: once it is set, a
/// program that is being waited for is ended.
pub fn register(loaders: ModelLoaders, stop: &Arc<AtomicBool>) -> ModelLoaders {
    let (one, other) = (stop.clone(), stop.clone());
    loaders
        .with_generator(
            ARCHITECTURE,
            Box::new(move |artifact, step| Ok(Box::new(CommandGenerator::open(artifact, step, &one)?))),
        )
        .with_scorer(ARCHITECTURE, Box::new(move |artifact| Ok(Box::new(CommandScorer::open(artifact, &other)?))))
}
