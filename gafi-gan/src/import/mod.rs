//! The stage `import-generator`: converts a generator trained by another program to a generator artifact with one
//! checkpoint.
//!
//! - [`state_dict`]: reads named tensors from safetensors and PyTorch files
//! - [`studiogan`]: converts state dicts of PyTorch-StudioGAN

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use gafi_core::{
    ArchitectureSpec, ArtifactWriter, Context, Error, FileEntry, GeneratorInfo, ImageSpec, Inputs, Kind, Result, Stage,
    StageInfo, Stream, hash_file,
};
use gafi_nn::checkpoint;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::architecture::Architecture;
use crate::grid::png_grid;
use crate::info::{checkpoint_at, samples_file, weights_file};
use crate::sampler::Sampler;
use crate::train::samples;

mod layout;
mod name;
mod pth;
pub mod state_dict;
pub mod studiogan;

/// Images of each class in the sample grid.
const COLUMNS: usize = 10;

/// Maximum number of classes in the sample grid: a generator for ImageNet has a thousand.
const CLASSES_SHOWN: usize = 10;

/// The program that trained a generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Origin {
    /// PyTorch-StudioGAN.
    Studiogan,
}

/// The files to import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportGeneratorConfig {
    /// The program that wrote the files.
    pub from: Origin,
    /// safetensors or PyTorch files that together hold the generator's state dict; at least one.
    pub files: Vec<PathBuf>,
    /// Names of the classes by label; "0", "1" and so on when empty.
    #[serde(default)]
    pub classes: Vec<String>,
    /// Generator updates of the training; becomes the step of the checkpoint.
    #[serde(default)]
    pub step: u64,
    /// Which network to read from a file that holds several generators, such as "g_ema"; by default a moving average, if there
    /// is one.
    #[serde(default)]
    pub key: Option<String>,
}

/// An imported generator in this crate's form.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Imported {
    /// The network.
    pub architecture: Architecture,
    /// Shape of the images.
    pub image: ImageSpec,
    /// Number of classes.
    pub classes: usize,
    /// Weights in [inference form](crate::networks::Form::Inference), by name.
    pub weights: BTreeMap<String, Tensor>,
}

/// The stage `import-generator`.
#[derive(Debug, Clone)]
pub struct ImportGenerator {
    config: ImportGeneratorConfig,
    hashes: Vec<FileEntry>,
    device: Device,
}

impl ImportGenerator {
    /// The stage's name.
    pub const NAME: &str = "import-generator";

    /// Creates the stage and hashes the files. The sample grid is made on `device`, which does not affect the artifact's
    /// identity.
    ///
    /// # Errors
    /// [`Error::Config`] without files, [`Error::Io`] when one cannot be read.
    pub fn new(config: ImportGeneratorConfig, device: &Device) -> Result<Self> {
        if config.files.is_empty() {
            return Err(Error::config("files", "none", "at least one file"));
        }
        let hashes = config.files.iter().map(|file| hash_file(file)).collect::<Result<Vec<_>>>()?;
        Ok(Self { config, hashes, device: device.clone() })
    }

    /// Reads and converts the files.
    ///
    /// # Errors
    /// [`Error::Format`] when they do not hold a supported generator.
    pub fn read(&self) -> Result<Imported> {
        let ImportGeneratorConfig { files, key, .. } = &self.config;
        match self.config.from {
            Origin::Studiogan => {
                let state = state_dict::read(files, key.as_deref(), &studiogan::SOME)?;
                studiogan::generator(&files[0], &state)
            }
        }
    }

    fn class_names(&self, count: usize) -> Result<Vec<String>> {
        let names = &self.config.classes;
        if names.is_empty() {
            return Ok((0..count).map(|class| class.to_string()).collect());
        }
        if names.len() != count {
            let expected = format!("{count} names, one for each class of the generator");
            return Err(Error::config("classes", names.join(", "), expected));
        }
        Ok(names.clone())
    }
}

impl Stage for ImportGenerator {
    fn info(&self) -> StageInfo {
        StageInfo { name: Self::NAME, revision: 2, ports: &[], output: Kind::Generator }
    }

    /// The configuration, with names and hashes of the files in place of their paths.
    fn config(&self) -> Value {
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let file = |(path, entry): (&PathBuf, &FileEntry)| json!({"name": name(path), "bytes": entry.bytes, "blake3": entry.blake3});
        let files: Vec<_> = self.config.files.iter().zip(&self.hashes).map(file).collect();
        let mut all =
            json!({"from": self.config.from, "files": files, "classes": self.config.classes, "step": self.config.step});
        if let Some(key) = &self.config.key {
            all["key"] = json!(key);
        }
        all
    }

    fn check(&self, _: &Inputs) -> Result<()> {
        Ok(())
    }

    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let Imported { architecture, image, classes, weights } = self.read()?;
        let names = self.class_names(classes)?;
        cx.checkpoint()?;
        let mut sampler = Sampler::new(&architecture, &image, &names, &self.device)?;
        sampler.load(&weights)?;
        let step = self.config.step;
        out.write(&weights_file(step), &checkpoint::tensors_to_bytes(&weights)?)?;
        let stream = Stream::new(0).child(Self::NAME).child("samples");
        let grid = samples(&mut sampler, classes.min(CLASSES_SHOWN), COLUMNS, &stream)?;
        out.write(&samples_file(step), &png_grid(&grid, &image, COLUMNS)?)?;
        out.set_content(&GeneratorInfo {
            latent_dim: architecture.latent(),
            std: None,
            architecture: ArchitectureSpec::of(&architecture)?,
            image,
            classes: names,
            checkpoints: vec![checkpoint_at(step)],
            extra: Default::default(),
        })
    }
}
