//! The messages, one JSON object a line. `docs/command-protocol.md` specifies them; a change that an existing program
//! would notice raises [`PROTOCOL`].

use std::num::NonZeroUsize;
use std::path::Path;

use gafi_core::ImageSpec;
use serde::{Deserialize, Serialize};

use crate::failure::Mismatch;

/// Version of the protocol.
pub(crate) const PROTOCOL: u32 = 1;

/// Samples or images per request to a program that states no batch size.
const BATCH: usize = 256;

/// What GaFi uses a program as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It draws images of classes.
    Generator,
    /// It returns the class probabilities of images.
    Scorer,
}

impl Role {
    /// The hello message in words, for errors.
    pub(crate) fn hello(self) -> &'static str {
        match self {
            Self::Generator => "the hello message of a generator",
            Self::Scorer => "the hello message of a scorer",
        }
    }
}

/// The first line to a program.
#[derive(Debug, Serialize)]
pub(crate) struct Greeting<'a> {
    pub(crate) protocol: u32,
    pub(crate) role: Role,
    pub(crate) scratch: &'a Path,
}

/// Encoding of image values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Values {
    /// `U8`, 0 to 255.
    #[default]
    U8,
    /// `F32`, -1 (black) to 1 (white).
    F32,
}

/// The hello message of a generator.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GeneratorHello {
    /// [`PROTOCOL`], checked before the other keys.
    protocol: u32,
    /// Names of the classes, in the order of their indices.
    pub(crate) classes: Vec<String>,
    /// Channels, height, width.
    pub(crate) image: [usize; 3],
    /// Length of the latents in a request; 0 when the program draws its own from the seeds.
    #[serde(default)]
    pub(crate) latent_dim: usize,
    /// Whether latents that the program draws have the requested `std`; otherwise only 1 is requested.
    #[serde(default)]
    pub(crate) std: bool,
    /// Encoding of the images.
    #[serde(default)]
    pub(crate) values: Values,
    /// Maximum number of samples of a request; [`BATCH`] when absent.
    #[serde(default)]
    batch: Option<NonZeroUsize>,
}

impl GeneratorHello {
    pub(crate) fn batch(&self) -> usize {
        self.batch.map_or(BATCH, NonZeroUsize::get)
    }
}

/// The hello message of a scorer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScorerHello {
    /// [`PROTOCOL`], checked before the other keys.
    protocol: u32,
    /// Names of the classes, in the order of their indices.
    pub(crate) classes: Vec<String>,
    /// Channels, height, width.
    pub(crate) image: [usize; 3],
    /// Length of an image's features; 0 when the program has none.
    #[serde(default)]
    pub(crate) feature_dim: usize,
    /// Maximum number of images of a request; [`BATCH`] when absent.
    #[serde(default)]
    batch: Option<NonZeroUsize>,
}

impl ScorerHello {
    pub(crate) fn batch(&self) -> usize {
        self.batch.map_or(BATCH, NonZeroUsize::get)
    }
}

/// Maximum number of values of an image: 64 MiB as `U8`. A program's hello line alone can make the first requests allocate
/// several times that.
const IMAGE_MAX: usize = 1 << 26;
/// Maximum number of values of a latent or of features: 4 MiB as `F32`.
const DIM_MAX: usize = 1 << 20;

/// Checks what both hello messages have: classes, the image's shape, and `dim`, the length of latents or features.
pub(crate) fn check_hello(classes: &[String], image: [usize; 3], dim: usize) -> Result<ImageSpec, Mismatch> {
    let mut names: Vec<_> = classes.iter().collect();
    names.sort_unstable();
    names.dedup();
    if classes.is_empty() || names.len() < classes.len() {
        return Err(Mismatch::new("at least one class, each with its own name", format!("{classes:?}")));
    }
    let [channels, height, width] = image;
    let spec = ImageSpec::new(channels, height, width);
    if !matches!(channels, 1 | 3) || !(1..=IMAGE_MAX).contains(&spec.bytes()) {
        return Err(Mismatch::new(
            "an image of [1 or 3 channels, height, width] and at most 2^26 values",
            format!("{image:?}"),
        ));
    }
    if dim > DIM_MAX {
        return Err(Mismatch::new(format!("a length of latents or features of at most {DIM_MAX}"), dim.to_string()));
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

/// A request with its number and the file for the answer.
#[derive(Debug, Serialize)]
pub(crate) struct Numbered<'a, R> {
    pub(crate) id: u64,
    #[serde(flatten)]
    pub(crate) request: R,
    pub(crate) answer: &'a Path,
}

/// The answering line: the file is complete, or an error.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    pub(crate) id: u64,
    #[serde(default)]
    pub(crate) error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_ask_for_gigabytes() {
        let check = |image, dim| check_hello(&["a".into()], image, dim).is_ok();
        assert!(check([1, 8192, 8192], 1 << 20));
        assert!(!check([1, 8192, 8193], 0) && !check([3, 1 << 40, 1 << 40], 0) && !check([1, 0, 8], 0));
        assert!(!check([1, 8, 8], (1 << 20) + 1));
    }
}
