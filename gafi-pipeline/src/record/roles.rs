//! The artifacts of a run and their roles.

use std::path::Path;

use anyhow::Result;
use gafi_core::{Artifact, TestScore, ValScore};
use serde::{Deserialize, Serialize};

use crate::config::Labels;
use crate::usage::Usage;

/// An artifact of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactRef {
    /// Name of its folder within the run's, or an absolute path.
    pub path: String,
    /// Its id.
    pub id: String,
}

/// Which artifact plays which role. A role is empty until its artifact exists.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Roles {
    /// Real training images.
    pub train: Option<ArtifactRef>,
    /// Training and validation images together, if the GAN trains on them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_val: Option<ArtifactRef>,
    /// Real validation images. They choose the epoch of teacher and references and, except under protocol `paper`, among students.
    pub val: Option<ArtifactRef>,
    /// Real test images, imported to choose among students.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_as_val: Option<ArtifactRef>,
    /// Real validation images used only to screen settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub screen: Option<ArtifactRef>,
    /// Real test images, imported after the last choice.
    pub test: Option<ArtifactRef>,
    /// The classifier that filters.
    pub teacher: Option<ArtifactRef>,
    /// Classifiers trained on real images: `teacher` and `real` first.
    pub references: Vec<Reference>,
    /// The generators.
    pub generators: Vec<GeneratorRole>,
}

/// A classifier trained on real images, a row of the results table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Its row: `teacher`, `real`, `real-2x` and so on, `real-soft`, `real-subset`.
    pub name: String,
    /// The synthetic set that it is a reference for, as a multiple of the usual one.
    pub times: u32,
    /// The labels that it learned from.
    pub labels: Labels,
    /// Real images of each class that it saw in an epoch; `None` for all of them.
    pub per_class: Option<u64>,
    /// Its epochs.
    pub epochs: u32,
    /// The classifier.
    pub artifact: ArtifactRef,
    /// Validation score of the epoch that was kept.
    pub val: ValScore,
    /// Its test score, once measured.
    pub test: Option<TestResult>,
    /// The same classifier trained with other student seeds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repeats: Vec<Repeat>,
}

/// The classifier of a row trained again with another student seed and everything else equal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    /// Which repeat, from 1.
    pub number: u32,
    /// The classifier.
    pub artifact: ArtifactRef,
    /// Validation score of the epoch that was kept.
    pub val: ValScore,
    /// Its test score, once measured.
    pub test: Option<TestResult>,
}

/// A generator of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorRole {
    /// The generator.
    pub artifact: ArtifactRef,
    /// Whether the run trained it, rather than being given it.
    pub trained: bool,
}

/// A classifier's result on the test split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestResult {
    /// Its accuracy.
    pub score: TestScore,
    /// Test images.
    pub n: u64,
    /// The evaluation, with accuracy by class and confusions.
    pub evaluation: ArtifactRef,
}

impl Roles {
    /// The imported real images by split.
    pub fn images(&self) -> impl Iterator<Item = (&'static str, &ArtifactRef)> {
        let splits = [
            ("train", &self.train),
            ("train-val", &self.train_val),
            ("val", &self.val),
            ("test-as-val", &self.test_as_val),
            ("screen", &self.screen),
            ("test", &self.test),
        ];
        splits.into_iter().filter_map(|(split, link)| Some((split, link.as_ref()?)))
    }
}

impl ArtifactRef {
    /// Refers to `artifact` from the run's folder `dir`.
    pub(crate) fn new(artifact: &Artifact, dir: &Path) -> Self {
        let path = artifact.path();
        let path = match path.strip_prefix(dir) {
            Ok(inside) => inside.display().to_string(),
            Err(_) => std::path::absolute(path).unwrap_or_else(|_| path.into()).display().to_string(),
        };
        Self { path, id: artifact.id().into() }
    }

    /// Opens it, from the run's folder `dir`.
    ///
    /// # Errors
    /// When it is gone or damaged; [`Usage`] when its id is not the recorded one.
    pub fn open(&self, dir: &Path) -> Result<Artifact> {
        let artifact = Artifact::open(dir.join(&self.path))?;
        if artifact.id() != self.id {
            let path = artifact.path().display();
            let why = "it was replaced after the run; run the pipeline again";
            return Err(Usage(format!("{path}: expected id {}, found {}: {why}", self.id, artifact.id())).into());
        }
        Ok(artifact)
    }
}
