//! Pictures for the page: each image becomes a PNG in a `data:` URL, with its own alternative text.

use anyhow::{Context as _, Result};
use base64::Engine;
use gafi_core::ImageSpec;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{DynamicImage, GrayImage, ImageEncoder, RgbImage};

/// Images with more pixels a side are scaled down to this many.
const MAX_SIDE: u32 = 40;

/// A picture and the teacher's prediction for it.
#[derive(Debug, Clone)]
pub(crate) struct Thumbnail {
    /// A `data:` URL.
    pub(crate) png: String,
    /// The most likely class.
    pub(crate) class: usize,
    /// Its probability, in [0, 1].
    pub(crate) probability: f32,
}

/// Encodes one image (c, h, w) as the `data:` URL of a PNG.
///
/// # Errors
/// When `pixels` doesn't have the shape of `spec`, or that has other than 1 or 3 channels.
pub(crate) fn data_url(pixels: &[u8], spec: &ImageSpec) -> Result<String> {
    let mut picture = from_planes(pixels, spec)?;
    if picture.width().max(picture.height()) > MAX_SIDE {
        let width = picture.width().min(MAX_SIDE);
        let height = picture.height().min(MAX_SIDE);
        picture = picture.resize_exact(width, height, image::imageops::FilterType::Triangle);
    }
    let mut file = Vec::new();
    PngEncoder::new_with_quality(&mut file, CompressionType::Best, FilterType::Adaptive)
        .write_image(picture.as_bytes(), picture.width(), picture.height(), picture.color().into())
        .context("encoding a PNG failed")?;
    Ok(format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(file)))
}

/// From planes (c, h, w) to interleaved channels.
///
/// # Errors
/// As [`data_url`].
pub(crate) fn from_planes(pixels: &[u8], spec: &ImageSpec) -> Result<DynamicImage> {
    let area = spec.height * spec.width;
    let wrong = || format!("expected an image of {spec} with 1 or 3 channels, found {} bytes", pixels.len());
    anyhow::ensure!(pixels.len() == spec.bytes(), wrong());
    let interleaved: Vec<u8> =
        (0..area).flat_map(|at| (0..spec.channels).map(move |c| pixels[c * area + at])).collect();
    let width = spec.width as u32;
    let height = spec.height as u32;
    match spec.channels {
        1 => GrayImage::from_raw(width, height, interleaved).map(DynamicImage::from),
        3 => RgbImage::from_raw(width, height, interleaved).map(DynamicImage::from),
        _ => None,
    }
    .with_context(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_images_are_scaled_down() {
        for (spec, size) in [(ImageSpec::new(3, 128, 64), (40, 40)), (ImageSpec::new(1, 2, 3), (3, 2))] {
            let url = data_url(&vec![9; spec.bytes()], &spec).unwrap();
            let text = url.strip_prefix("data:image/png;base64,").unwrap();
            let file = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
            let back = image::load_from_memory(&file).unwrap();
            assert_eq!((back.width(), back.height()), size);
        }
    }

    #[test]
    fn pixels_of_another_shape_are_an_error() {
        let spec = ImageSpec::new(1, 2, 3);
        assert!(data_url(&[0; 5], &spec).unwrap_err().to_string().contains("5 bytes"));
    }
}
