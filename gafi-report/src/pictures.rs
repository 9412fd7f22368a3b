//! Pictures as a page holds them: each a PNG of its own, so that it has words of its own, is printed, and needs no style.

use anyhow::{Context as _, Result};
use base64::Engine;
use gafi_core::ImageSpec;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

/// Larger images are shown reduced to this many pixels a side.
const SIDE: u32 = 40;

/// One picture and what the teacher says of it.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    /// A `data:` address.
    pub(crate) png: String,
    /// The likeliest class.
    pub(crate) guess: usize,
    /// Its probability.
    pub(crate) confidence: f32,
}

/// One image (c, h, w) as the address of a PNG.
///
/// # Errors
/// When the pixels are not those of `image`, or it has other than 1 or 3 channels.
pub(crate) fn png(pixels: &[u8], image: &ImageSpec) -> Result<String> {
    let (c, area) = (image.channels, image.height * image.width);
    let beside: Vec<u8> = (0..area).flat_map(|at| (0..c).map(move |c| pixels[c * area + at])).collect();
    let (mut width, mut height) = (image.width as u32, image.height as u32);
    let reduce = width.max(height) > SIDE;
    let filter = image::imageops::FilterType::Triangle;
    let (to_w, to_h) = (width.min(SIDE), height.min(SIDE));
    let shape = || format!("an image of {image} is not what its shape says");
    let (bytes, colour) = if c == 1 {
        let grey = image::GrayImage::from_raw(width, height, beside).with_context(shape)?;
        let grey = if reduce { image::imageops::resize(&grey, to_w, to_h, filter) } else { grey };
        (width, height) = grey.dimensions();
        (grey.into_raw(), ExtendedColorType::L8)
    } else {
        let rgb = image::RgbImage::from_raw(width, height, beside).with_context(shape)?;
        let rgb = if reduce { image::imageops::resize(&rgb, to_w, to_h, filter) } else { rgb };
        (width, height) = rgb.dimensions();
        (rgb.into_raw(), ExtendedColorType::Rgb8)
    };
    let mut file = Vec::new();
    PngEncoder::new_with_quality(&mut file, CompressionType::Best, FilterType::Adaptive)
        .write_image(&bytes, width, height, colour)
        .context("encoding a PNG")?;
    Ok(format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_images_are_reduced_and_small_ones_are_not() {
        for (spec, size) in [(ImageSpec::new(3, 128, 64), (40, 40)), (ImageSpec::new(1, 2, 3), (3, 2))] {
            let address = png(&vec![9; spec.bytes()], &spec).unwrap();
            let text = address.strip_prefix("data:image/png;base64,").unwrap();
            let file = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
            let back = image::load_from_memory(&file).unwrap();
            assert_eq!((back.width(), back.height()), size);
        }
    }
}
