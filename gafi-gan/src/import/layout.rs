//! Infers the configuration of a StudioGAN generator from the shapes of its tensors.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use gafi_core::{Error, ImageSpec, Result};

use crate::architecture::{Architecture, BigGanConfig};
use crate::biggan::PlainBigGanConfig;

/// More blocks than this are not a generator: 12 doublings of 4 make images of 16384x16384.
const MOST_STAGES: usize = 12;

/// Number of tensors that an error names.
const SHOWN: usize = 6;

/// The configuration of a generator, and the names of its blocks in StudioGAN and here.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) architecture: Architecture,
    pub(super) image: ImageSpec,
    pub(super) classes: usize,
    /// Values in a class embedding.
    pub(super) shared: usize,
    /// Name prefixes of the blocks: StudioGAN's, ours.
    pub(super) blocks: Vec<(String, String)>,
    /// Name prefixes of the attentions: StudioGAN's, ours.
    pub(super) attentions: Vec<(String, String)>,
}

impl Layout {
    /// Reads the shapes of the embedding, the first linear layer, the skips and the last convolution. All other shapes
    /// are left to be checked by the caller.
    pub(super) fn of(path: &Path, state: &BTreeMap<String, Tensor>) -> Result<Self> {
        let wrong = |place: &str, expected: &str, found: String| Error::format(path, place, expected, found);
        let weight = |layer: &str, why: &str| -> Result<&[usize]> {
            let found = [".weight", ".weight_orig"].iter().find_map(|end| state.get(&format!("{layer}{end}")));
            let dims = found.map(Tensor::dims).ok_or_else(|| {
                let some: Vec<_> = state.keys().take(SHOWN).map(String::as_str).collect();
                wrong(&format!("{layer}.weight"), why, format!("no such tensor beside {}", some.join(", ")))
            })?;
            // A tensor without elements could claim any width, and the network is built from the widths.
            if dims.contains(&0) {
                return Err(wrong(&format!("{layer}.weight"), "a tensor with elements", format!("shape {dims:?}")));
            }
            Ok(dims)
        };
        let why = "the shared embedding of the classes (without one the generator is unconditional, g_cond_mtd = W/O, or has another \
            backbone, resnet or deep_conv: export it as an ONNX file)";
        let embedding = weight("shared", why)?;
        let why = "a layer of PyTorch-StudioGAN's big_resnet and big_resnet_deep_studiogan (export another network as an ONNX file)";
        let linear = weight("linear0", why)?;
        let out = weight("conv2d5", why)?;
        let (&[classes, shared], &[_, input], &[channels, _, _, _]) = (embedding, linear, out) else {
            let found = format!("shapes {embedding:?}, {linear:?} and {out:?}");
            return Err(wrong("shared, linear0 and conv2d5", "two matrices and a convolution", found));
        };
        // BigGAN-Deep's blocks begin with a 1x1 convolution, BigGAN's with a 3x3 one.
        let deep = weight("blocks.0.0.conv2d1", why)?.last() == Some(&1);

        let mut blocks = Vec::new();
        let mut attentions = Vec::new();
        // (from, to) channels of each block, and the number of blocks before each attention.
        let mut widths = Vec::new();
        let mut places = Vec::new();
        for k in 0.. {
            let name = format!("blocks.{k}.0");
            let holds = |part: &str| {
                let start = format!("{name}.{part}");
                state.range(start.clone()..).next().is_some_and(|(name, _)| name.starts_with(&start))
            };
            if holds("conv1x1_") {
                attentions.push(name);
                places.push(blocks.len());
            } else if holds("") {
                let why = "a convolution in the skip (big_resnet_deep_legacy has none and is not supported)";
                let skip = weight(&format!("{name}.conv2d0"), why)?;
                let &[output, input, _, _] = skip else {
                    return Err(wrong(&name, "a convolution conv2d0", format!("shape {skip:?}")));
                };
                blocks.push(name);
                widths.push((input, output));
            } else {
                break;
            }
        }

        let found = || format!("blocks of {widths:?} (from, to) channels, attention after {places:?} blocks");
        let (architecture, size) = if deep {
            let config = deep_config(&widths, &places, input.saturating_sub(shared), shared);
            let expected =
                "those of big_resnet_deep_studiogan for images of 32, 64 or 128, attention before the last stage";
            let (config, size) = config.ok_or_else(|| wrong("blocks", expected, found()))?;
            (Architecture::BigGanDeep(config), size)
        } else {
            let chained = widths.windows(2).all(|pair| pair[0].1 == pair[1].0);
            if widths.len() > MOST_STAGES || !chained {
                let expected = "those of big_resnet, each starting with the channels of the one before";
                return Err(wrong("blocks", expected, found()));
            }
            let size = 4 << widths.len();
            let first = widths.first().map(|(input, _)| *input);
            let widths: Vec<_> = first.into_iter().chain(widths.iter().map(|(_, output)| *output)).collect();
            let z = input.saturating_mul(widths.len());
            let attention = places.clone();
            (Architecture::PlainBigGan(PlainBigGanConfig { z, shared, widths, attention }), size)
        };

        let depth = if let Architecture::BigGanDeep(config) = &architecture { config.depth } else { 1 };
        let of_block = |(k, theirs): (usize, String)| {
            let ours = if deep { format!("stage{}.block{}", k / depth, k % depth) } else { format!("stage{k}.block") };
            (theirs, ours)
        };
        let of_attention = |(theirs, after): (String, usize)| {
            // An attention before the first block fails the architecture's check later.
            let ours = if deep { "attention".into() } else { format!("stage{}.attention", after.saturating_sub(1)) };
            (theirs, ours)
        };
        Ok(Self {
            architecture,
            image: ImageSpec::new(channels, size, size),
            classes,
            shared,
            blocks: blocks.into_iter().enumerate().map(of_block).collect(),
            attentions: attentions.into_iter().zip(places).map(of_attention).collect(),
        })
    }
}

/// The BigGAN-Deep configuration and image size that have blocks of these (from, to) channels and attention after
/// `places` blocks.
fn deep_config(widths: &[(usize, usize)], places: &[usize], z: usize, shared: usize) -> Option<(BigGanConfig, usize)> {
    let (_, last) = *widths.last()?;
    [32, 64, 128].into_iter().find_map(|size| {
        let unit = BigGanConfig { ch: 1, ..BigGanConfig::default() }.generator_widths(size);
        let stages = unit.len() - 1;
        let ch = last / unit[stages];
        let depth = widths.len() / stages;
        let config = BigGanConfig { ch, depth, z, shared };
        let block = |pair: &[usize], d: usize| (pair[0], if d + 1 == depth { pair[1] } else { pair[0] });
        let expected: Vec<_> = config
            .generator_widths(size)
            .windows(2)
            .flat_map(|pair| (0..depth).map(|d| block(pair, d)).collect::<Vec<_>>())
            .collect();
        (expected == widths && places == [(stages - 1) * depth]).then_some((config, size))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (from, to) channels of BigGAN-Deep's blocks.
    fn blocks(multiples: &[usize], ch: usize, depth: usize) -> Vec<(usize, usize)> {
        let stage = |pair: &[usize]| {
            let mut stage = vec![(pair[0] * ch, pair[0] * ch); depth];
            stage[depth - 1].1 = pair[1] * ch;
            stage
        };
        multiples.windows(2).flat_map(stage).collect()
    }

    #[test]
    fn size_and_depth_are_inferred_from_the_widths() {
        for (size, multiples, ch, depth) in [
            (32, &[4, 4, 4, 4][..], 128, 2),
            (32, &[4, 4, 4, 4], 8, 1),
            (32, &[4, 4, 4, 4], 8, 5),
            (64, &[16, 8, 4, 2, 1], 4, 2),
            (128, &[16, 16, 8, 4, 2, 1], 128, 2),
        ] {
            let stages = multiples.len() - 1;
            let found = deep_config(&blocks(multiples, ch, depth), &[(stages - 1) * depth], 7, 5);
            assert_eq!(found, Some((BigGanConfig { ch, depth, z: 7, shared: 5 }, size)));
        }
        let widths = blocks(&[4, 4, 4, 4], 8, 2);
        assert_eq!(deep_config(&widths, &[2], 7, 5), None);
        assert_eq!(deep_config(&widths, &[], 7, 5), None);
        assert_eq!(deep_config(&widths[..5], &[4], 7, 5), None);
        assert_eq!(deep_config(&[], &[], 7, 5), None);
    }
}
