//! The artifacts of programs: their manifest content, and the loaders that start the program again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gafi_core::{
    ArchitectureSpec, Artifact, CheckpointInfo, ClassifierInfo, Error, Generator, GeneratorInfo, ModelLoaders, Result,
    Scorer,
};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::failure::Mismatch;
use crate::generator::CommandGenerator;
use crate::program::Program;
use crate::scorer::CommandScorer;

/// Name of the architecture.
const ARCHITECTURE: &str = "command";

/// The only checkpoint of a program.
const STEP: u64 = 0;

/// The `architecture` of an artifact: how to start the program again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Architecture {
    name: String,
    #[serde(flatten)]
    pub(crate) program: Program,
    /// Length of a scorer's features; 0 for a generator and for a scorer without features.
    #[serde(default)]
    feature_dim: usize,
}

impl Architecture {
    fn new(program: &Program, feature_dim: usize) -> Self {
        Self { name: ARCHITECTURE.into(), program: program.clone(), feature_dim }
    }
}

/// The manifest content of a generator artifact.
pub(crate) fn generator_info(program: &Program, generator: &CommandGenerator) -> Result<GeneratorInfo> {
    Ok(GeneratorInfo {
        architecture: ArchitectureSpec::of(&Architecture::new(program, 0))?,
        image: *generator.image(),
        classes: generator.classes().to_vec(),
        latent_dim: generator.latent_dim(),
        std: Some(generator.hello.std),
        checkpoints: vec![CheckpointInfo { step: STEP, file: None, samples: None }],
        extra: Map::new(),
    })
}

/// The manifest content of a classifier artifact.
pub(crate) fn classifier_info(program: &Program, scorer: &CommandScorer) -> Result<ClassifierInfo> {
    let architecture = ArchitectureSpec::of(&Architecture::new(program, scorer.feature_dim().unwrap_or_default()))?;
    Ok(ClassifierInfo { architecture, image: *scorer.image(), classes: scorer.hello.classes.clone() })
}

/// Whether the program is still the imported one.
fn check_unchanged<T: PartialEq + Serialize>(imported: &T, current: &T) -> Result<(), Mismatch> {
    if imported == current {
        return Ok(());
    }
    let text = |value: &T| serde_json::to_string(value).unwrap_or_default();
    Err(Mismatch::new(format!("the program as it was imported: {}", text(imported)), text(current)))
}

/// The artifact's folder. It is absolute, because a program may change its current folder.
fn folder(artifact: &Artifact) -> Result<PathBuf> {
    std::path::absolute(artifact.path()).map_err(Error::io("find", artifact.path()))
}

impl CommandGenerator {
    /// Starts the program of a generator artifact. Its only checkpoint has step 0.
    ///
    /// # Errors
    /// [`Error::Format`] for another kind of artifact; [`Error::Config`] for a checkpoint that does not exist; a
    /// [`crate::Failure`] when the program breaks the protocol, or its hello message has changed since the import.
    pub fn open(artifact: &Artifact, step: Option<u64>, stop: &Arc<AtomicBool>) -> Result<Self> {
        let imported = GeneratorInfo::of(artifact)?;
        imported.checkpoint(step)?;
        let program = &imported.architecture.parse::<Architecture>()?.program;
        let mut generator = Self::start(program, Some(&folder(artifact)?), stop)?;
        let current = generator_info(program, &generator)?;
        check_unchanged(&imported, &current).map_err(|wrong| generator.refuse(wrong))?;
        Ok(generator)
    }
}

impl CommandScorer {
    /// Starts the program of a classifier artifact.
    ///
    /// # Errors
    /// As [`CommandGenerator::open`].
    pub fn open(artifact: &Artifact, stop: &Arc<AtomicBool>) -> Result<Self> {
        let imported = ClassifierInfo::of(artifact)?;
        let architecture: Architecture = imported.architecture.parse()?;
        let mut scorer = Self::start(&architecture.program, Some(&folder(artifact)?), stop)?;
        let current = classifier_info(&architecture.program, &scorer)?;
        check_unchanged(&imported, &current).map_err(|wrong| scorer.refuse(wrong))?;
        Ok(scorer)
    }
}

/// Registers the loaders of programs. `stop` is the flag of the [`gafi_core::Context`] that the models serve: once it
/// is set, a program that has to answer is killed.
///
/// Opening an artifact of this kind runs a program that its creator chose, so `allow` decides before each start. It may rely on
/// the artifact's id, which covers the command line and the included files: the files are verified first.
pub fn register(
    loaders: ModelLoaders,
    stop: &Arc<AtomicBool>,
    allow: impl Fn(&Artifact) -> bool + Send + Sync + 'static,
) -> ModelLoaders {
    let generator_stop = stop.clone();
    let scorer_stop = stop.clone();
    let check = Arc::new(move |artifact: &Artifact| {
        artifact.verify()?;
        if allow(artifact) {
            return Ok(());
        }
        let program = artifact.manifest().content.pointer("/architecture/program");
        let words = program.and_then(|program| Vec::<String>::deserialize(program).ok()).unwrap_or_default();
        Err(Error::NotAllowed { path: artifact.path().into(), program: words.join(" ") })
    });
    let scorer_check = check.clone();
    loaders
        .with_generator(
            ARCHITECTURE,
            Box::new(move |artifact, step| {
                check(artifact)?;
                Ok(Box::new(CommandGenerator::open(artifact, step, &generator_stop)?))
            }),
        )
        .with_scorer(
            ARCHITECTURE,
            Box::new(move |artifact| {
                scorer_check(artifact)?;
                Ok(Box::new(CommandScorer::open(artifact, &scorer_stop)?))
            }),
        )
}
