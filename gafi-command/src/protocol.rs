//! The messages, one JSON object a line. `docs/command-protocol.md` is this file in prose; a change of either that an
//! existing program would notice raises [`PROTOCOL`].

use std::num::NonZeroUsize;
use std::path::Path;

use gafi_core::ImageSpec;
use serde::{Deserialize, Serialize};

use crate::failure::Mismatch;

/// Version of the protocol.
pub const PROTOCOL: u32 = 1;

/// What a program is to GaFi.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It makes images.
    Generator,
    /// It judges images.
    Scorer,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Generator => "generator",
            Self::Scorer => "scorer",
        })
    }
}

/// The first line to a program.
#[derive(Debug, Serialize)]
pub(crate) struct Greeting<'a> {
    pub(crate) protocol: u32,
    pub(crate) role: Role,
    pub(crate) scratch: &'a Path,
}

/// How image values are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Values {
    /// `U8`, 0 to 255.
    #[default]
    U8,
    /// `F32`, -1 (black) to 1 (white).
    F32,
}

/// What a generator says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorHello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Names of its classes, in the order of their numbers.
    pub classes: Vec<String>,
    /// Channels, rows, columns.
    pub image: [usize; 3],
    /// Length of the latents that it wants to be given; 0 when it draws its own from the seeds.
    #[serde(default)]
    pub latent_dim: usize,
    /// Whether latents that it draws itself have the standard deviation asked for; without, only 1 is asked for.
    #[serde(default)]
    pub std: bool,
    /// How it writes images.
    #[serde(default)]
    pub values: Values,
    /// Samples that may be asked for at once; as many as it is convenient when absent.
    #[serde(default)]
    pub batch: Option<NonZeroUsize>,
}

/// What a scorer says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScorerHello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Names of its classes, in the order of their numbers.
    pub classes: Vec<String>,
    /// Channels, rows, columns.
    pub image: [usize; 3],
    /// Length of an image's features; 0 when it gives none.
    #[serde(default)]
    pub feature_dim: usize,
    /// Images that it may be given at once; as many as it is convenient when absent.
    #[serde(default)]
    pub batch: Option<NonZeroUsize>,
}

/// Most values of an image, of a latent or of features: what fits into memory many times.
const VALUES_MAX: usize = 1 << 28;

/// What is common to both: classes and the shape of an image.
pub(crate) fn check_hello(classes: &[String], image: [usize; 3], dim: usize) -> Result<ImageSpec, Mismatch> {
    let mut names: Vec<_> = classes.iter().collect();
    names.sort_unstable();
    names.dedup();
    if classes.is_empty() || names.len() < classes.len() {
        return Err(Mismatch::new("classes of different names, at least one", format!("{classes:?}")));
    }
    let [channels, height, width] = image;
    let spec = ImageSpec::new(channels, height, width);
    if !matches!(channels, 1 | 3) || !(1..=VALUES_MAX).contains(&spec.bytes()) {
        return Err(Mismatch::new("an image of [1 or 3 channels, rows, columns]", format!("{image:?}")));
    }
    if dim > VALUES_MAX {
        return Err(Mismatch::new(format!("a length of at most {VALUES_MAX}"), dim.to_string()));
    }
    Ok(spec)
}

/// A request to a generator.
#[derive(Debug, Serialize)]
pub(crate) struct DrawRequest<'a> {
    pub(crate) class: u32,
    pub(crate) first: u64,
    pub(crate) count: usize,
    pub(crate) seeds: &'a [u64],
    pub(crate) std: &'a [f32],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latents: Option<&'a Path>,
}

/// A request to a scorer.
#[derive(Debug, Serialize)]
pub(crate) struct ScoreRequest<'a> {
    pub(crate) count: usize,
    pub(crate) images: &'a Path,
    pub(crate) features: bool,
}

/// A request with its number and the file that the answer goes to.
#[derive(Debug, Serialize)]
pub(crate) struct Numbered<'a, R> {
    pub(crate) id: u64,
    #[serde(flatten)]
    pub(crate) request: R,
    pub(crate) answer: &'a Path,
}

/// The line that says that the file is there, or why not.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    pub(crate) id: u64,
    #[serde(default)]
    pub(crate) error: Option<String>,
}
