//! The stage that makes an artifact of a file: a generator, or a classifier that judges.

use std::path::Path;

use gafi_core::{ArtifactWriter, Context, Inputs, Kind, Result, Stage, StageInfo};
use serde_json::{Value, json};

use crate::config::{ClassifierConfig, GeneratorConfig};
use crate::generator::OnnxGenerator;
use crate::model::Model;
use crate::scorer::OnnxScorer;

/// Reads a file, tries it, and copies it with its weights into an artifact.
#[derive(Debug, Clone)]
pub struct ImportOnnx {
    model: Model,
    of: Of,
}

#[derive(Debug, Clone)]
enum Of {
    Generator(GeneratorConfig),
    Classifier(ClassifierConfig),
}

impl ImportOnnx {
    /// A generator in the file `path`.
    ///
    /// # Errors
    /// [`gafi_core::Error::Io`] when it or its weights can't be read, [`gafi_core::Error::Format`] when it is no ONNX
    /// file, or has operators that can't be run.
    pub fn generator(path: &Path, config: GeneratorConfig) -> Result<Self> {
        Ok(Self { model: Model::read(path)?, of: Of::Generator(config) })
    }

    /// A classifier in the file `path`.
    ///
    /// # Errors
    /// As [`ImportOnnx::generator`].
    pub fn classifier(path: &Path, config: ClassifierConfig) -> Result<Self> {
        Ok(Self { model: Model::read(path)?, of: Of::Classifier(config) })
    }
}

impl Stage for ImportOnnx {
    fn info(&self) -> StageInfo {
        StageInfo {
            name: match self.of {
                Of::Generator(_) => "import-generator",
                Of::Classifier(_) => "import-teacher",
            },
            revision: 1,
            ports: &[],
            output: match self.of {
                Of::Generator(_) => Kind::Generator,
                Of::Classifier(_) => Kind::Classifier,
            },
        }
    }

    /// What was asked for, with the content of the files in the place of where they lie.
    fn config(&self) -> Value {
        let file = |(name, bytes): (&String, &std::sync::Arc<[u8]>)| {
            let blake3 = blake3::hash(bytes).to_hex();
            (name.clone(), json!({ "bytes": bytes.len(), "blake3": blake3.as_str() }))
        };
        let files: serde_json::Map<_, _> = self.model.files.iter().map(file).collect();
        match &self.of {
            Of::Generator(config) => json!({ "from": "onnx", "files": files, "read": config }),
            Of::Classifier(config) => json!({ "from": "onnx", "files": files, "read": config }),
        }
    }

    fn check(&self, _: &Inputs) -> Result<()> {
        Ok(())
    }

    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        match &self.of {
            Of::Generator(config) => {
                let generator = OnnxGenerator::new(&self.model, config)?;
                generator.probe(&self.model)?;
                out.set_content(&generator.info(config.step)?)?;
            }
            Of::Classifier(config) => {
                let scorer = OnnxScorer::new(&self.model, config)?;
                scorer.probe(&self.model)?;
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
