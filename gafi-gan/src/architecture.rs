//! The pairs of networks: their hyper-parameters, and the images for which they can be built.

use gafi_core::{Error, ImageSpec, Result, check_count};
use serde::{Deserialize, Serialize};

use crate::biggan::PlainBigGanConfig;

/// Largest values of a configuration, far above any published one. Larger ones are typos, and would overflow or abort on
/// allocation.
const MAX_CH: usize = 512;
const MAX_DEPTH: usize = 16;
const MAX_WIDTH: usize = 4096;

/// The pair of networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "name")]
#[non_exhaustive]
pub enum Architecture {
    /// BigGAN-Deep in StudioGAN's block order.
    #[serde(rename = "biggan-deep")]
    BigGanDeep(BigGanConfig),
    /// BigGAN, for imported generators only; it cannot be trained here.
    #[serde(rename = "biggan")]
    PlainBigGan(PlainBigGanConfig),
    /// The small projection GAN.
    #[serde(rename = "small")]
    Small(SmallConfig),
}

impl Default for Architecture {
    fn default() -> Self {
        Self::BigGanDeep(BigGanConfig::default())
    }
}

impl Architecture {
    /// Names of the architectures in configurations and manifests.
    pub const NAMES: [&str; 3] = ["biggan-deep", "biggan", "small"];

    /// Values in a latent.
    pub fn latent(&self) -> usize {
        match self {
            Self::BigGanDeep(config) => config.z,
            Self::PlainBigGan(config) => config.z,
            Self::Small(config) => config.z,
        }
    }

    /// Channels where images have their full size.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::BigGanDeep(config) => config.ch,
            Self::PlainBigGan(config) => config.widths.last().copied().unwrap_or(0),
            Self::Small(config) => config.g.last().copied().unwrap_or(0).max(config.d.first().copied().unwrap_or(0)),
        }
    }

    /// Checks the hyper-parameters, and that networks for images of this shape can be built.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key, its value and the allowed values.
    pub fn check(&self, image: &ImageSpec) -> Result<()> {
        if image.height != image.width || !matches!(image.channels, 1 | 3) {
            return Err(Error::config("image", image, "square images of 1 or 3 channels (import can pad)"));
        }
        match self {
            Self::BigGanDeep(config) => config.check(image.height),
            Self::PlainBigGan(config) => config.check(image.height),
            Self::Small(config) => config.check(image.height),
        }
    }
}

/// BigGAN-Deep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct BigGanConfig {
    /// Base number of channels of both networks, a multiple of 4. Published: 128.
    #[cfg_attr(feature = "schema", schemars(range(min = 4), extend("multipleOf" = 4)))]
    pub ch: usize,
    /// Blocks per stage. Published: 2.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub depth: usize,
    /// Values in a latent. Published: 128.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub z: usize,
    /// Values in the class embedding, which all conditional batch norms share. Published: 128.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub shared: usize,
}

impl Default for BigGanConfig {
    fn default() -> Self {
        Self { ch: 128, depth: 2, z: 128, shared: 128 }
    }
}

impl BigGanConfig {
    /// Channels before the generator's first stage and after each stage, for images of `size` x `size` (StudioGAN's
    /// tables).
    pub fn generator_widths(&self, size: usize) -> Vec<usize> {
        let multiples: &[usize] = match size {
            64 => &[16, 8, 4, 2, 1],
            128 => &[16, 16, 8, 4, 2, 1],
            _ => &[4, 4, 4, 4],
        };
        multiples.iter().map(|m| m * self.ch).collect()
    }

    /// Channels after each stage of the discriminator, and whether the stage halves the image (StudioGAN's tables).
    pub fn discriminator_widths(&self, size: usize) -> Vec<(usize, bool)> {
        let stages: &[(usize, bool)] = match size {
            64 => &[(2, true), (4, true), (8, true), (16, true)],
            128 => &[(2, true), (4, true), (8, true), (16, true), (16, true)],
            _ => &[(4, true), (4, true), (4, false)],
        };
        stages.iter().map(|(m, down)| (m * self.ch, *down)).collect()
    }

    fn check(&self, size: usize) -> Result<()> {
        if !matches!(size, 32 | 64 | 128) {
            let expected = format!("images of 32x32, 64x64 or 128x128, found {size}x{size}");
            return Err(Error::config("architecture.name", "biggan-deep", expected));
        }
        // The narrowest attention has 2 * ch channels (4 * ch for 32x32), its keys an eighth of that.
        if !(4..=MAX_CH).contains(&self.ch) || !self.ch.is_multiple_of(4) {
            return Err(Error::config("architecture.ch", self.ch, format!("a multiple of 4, from 4 to {MAX_CH}")));
        }
        check_count("architecture.depth", self.depth, MAX_DEPTH)?;
        check_count("architecture.z", self.z, MAX_WIDTH)?;
        check_count("architecture.shared", self.shared, MAX_WIDTH)
    }
}

/// The small projection GAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SmallConfig {
    /// Values in a latent.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub z: usize,
    /// Values in the class embedding at the generator's input.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub shared: usize,
    /// Channels of the generator's stages. Each doubles the size, from 4x4: three stages for 32x32 images, two for
    /// 16x16, one for 8x8.
    #[cfg_attr(feature = "schema", schemars(inner(range(min = 1))))]
    pub g: Vec<usize>,
    /// Channels of the discriminator's stages, as many as the generator has. Each halves the size. With half of the
    /// default widths, the discriminator is too weak to notice mode collapse within a class.
    #[cfg_attr(feature = "schema", schemars(inner(range(min = 1))))]
    pub d: Vec<usize>,
    /// Whether spectral normalisation also covers the discriminator's linear output and class embedding. Its
    /// convolutions always have it.
    pub spectral_head: bool,
}

impl Default for SmallConfig {
    fn default() -> Self {
        Self { z: 64, shared: 32, g: vec![64, 32, 16], d: vec![32, 64, 128], spectral_head: false }
    }
}

impl SmallConfig {
    fn check(&self, size: usize) -> Result<()> {
        check_count("architecture.z", self.z, MAX_WIDTH)?;
        check_count("architecture.shared", self.shared, MAX_WIDTH)?;
        for (key, widths) in [("architecture.g", &self.g), ("architecture.d", &self.d)] {
            let fits = !widths.is_empty() && widths.len() < 16 && 4usize << widths.len() == size;
            if !fits || !widths.iter().all(|width| (1..=MAX_WIDTH).contains(width)) {
                let expected = format!(
                    "widths from 1 to {MAX_WIDTH}, one for each doubling from 4x4 to the images' {size}x{size}"
                );
                return Err(Error::config(key, format!("{widths:?}"), expected));
            }
        }
        Ok(())
    }
}
