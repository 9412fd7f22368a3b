//! The stages `import-generator` and `import-teacher` for ONNX files.

use std::path::Path;

use gafi_core::{ArtifactWriter, Context, Inputs, Kind, Result, Stage, StageInfo};
use serde_json::{Value, json};

use crate::config::{ClassifierConfig, GeneratorConfig};
use crate::generator::OnnxGenerator;
use crate::model::Model;
use crate::scorer::OnnxScorer;

/// Imports an ONNX file as a generator or classifier artifact: tests the model, copies the file and its weights.
#[derive(Debug, Clone)]
pub struct ImportOnnx {
    model: Model,
    role: Role,
}

#[derive(Debug, Clone)]
enum Role {
    Generator(GeneratorConfig),
    Classifier(ClassifierConfig),
}

impl ImportOnnx {
    /// A generator in the file `path`.
    ///
    /// # Errors
    /// [`gafi_core::Error::Io`] when the file or its weights can't be read, [`gafi_core::Error::Format`] when it is not
    /// an ONNX file or has unsupported operators.
    pub fn generator(path: &Path, config: GeneratorConfig) -> Result<Self> {
        Ok(Self { model: Model::read(path)?, role: Role::Generator(config) })
    }

    /// A classifier in the file `path`.
    ///
    /// # Errors
    /// As [`ImportOnnx::generator`].
    pub fn classifier(path: &Path, config: ClassifierConfig) -> Result<Self> {
        Ok(Self { model: Model::read(path)?, role: Role::Classifier(config) })
    }
}

impl Stage for ImportOnnx {
    fn info(&self) -> StageInfo {
        let (name, output) = match self.role {
            Role::Generator(_) => ("import-generator", Kind::Generator),
            Role::Classifier(_) => ("import-teacher", Kind::Classifier),
        };
        StageInfo { name, revision: 2, ports: &[], output }
    }

    /// The configuration, with the hashes of the files instead of their paths.
    fn config(&self) -> Value {
        let file = |(name, bytes): (&String, &std::sync::Arc<[u8]>)| {
            let blake3 = blake3::hash(bytes).to_hex();
            (name.clone(), json!({ "bytes": bytes.len(), "blake3": blake3.as_str() }))
        };
        let files: serde_json::Map<_, _> = self.model.files.iter().map(file).collect();
        match &self.role {
            Role::Generator(config) => json!({ "from": "onnx", "files": files, "read": config }),
            Role::Classifier(config) => json!({ "from": "onnx", "files": files, "read": config }),
        }
    }

    fn check(&self, _: &Inputs) -> Result<()> {
        Ok(())
    }

    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        match &self.role {
            Role::Generator(config) => {
                let generator = OnnxGenerator::new(&self.model, config)?;
                generator.check_samples(&self.model)?;
                generator.guesses(config).iter().for_each(|guess| tracing::warn!("{guess}"));
                out.set_content(&generator.info(config.step)?)?;
            }
            Role::Classifier(config) => {
                let scorer = OnnxScorer::new(&self.model, config)?;
                scorer.check_scores(&self.model)?;
                scorer.arrangement.guess.iter().for_each(|guess| tracing::warn!("{guess}"));
                out.set_content(&scorer.info()?)?;
            }
        }
        for (name, bytes) in &self.model.files {
            cx.checkpoint()?;
            out.write(name, bytes)?;
        }
        Ok(())
    }
}
