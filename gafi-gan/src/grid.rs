//! Grids of images as PNG files.

use gafi_core::{Error, ImageSpec, Result};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

/// Width of the white lines between and around the images, in pixels.
pub const GAP: usize = 2;

/// Encodes `images` (N, C, H, W), 8 bits a value, as a PNG grid with `columns` images in a row.
///
/// # Errors
/// When `images` does not hold whole images of 1 or 3 channels, or `columns` is 0.
pub fn png_grid(images: &[u8], image: &ImageSpec, columns: usize) -> Result<Vec<u8>> {
    let bytes = image.bytes();
    if bytes == 0 || columns == 0 || !images.len().is_multiple_of(bytes) || !matches!(image.channels, 1 | 3) {
        let found = format!("{} bytes in {columns} columns", images.len());
        return Err(Error::config("grid", found, format!("whole images of 1 or 3 channels, found {image}")));
    }
    let rows = (images.len() / bytes).div_ceil(columns);
    let width = columns * (image.width + GAP) + GAP;
    let height = rows * (image.height + GAP) + GAP;
    let mut canvas = vec![255u8; width * height * image.channels];
    for (i, pixels) in images.chunks_exact(bytes).enumerate() {
        let top = GAP + i / columns * (image.height + GAP);
        let left = GAP + i % columns * (image.width + GAP);
        for (at, value) in pixels.iter().enumerate() {
            let (c, y, x) = (at / (image.height * image.width), at / image.width % image.height, at % image.width);
            canvas[((top + y) * width + left + x) * image.channels + c] = *value;
        }
    }
    let colour = if image.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let mut png = Vec::new();
    PngEncoder::new(&mut png)
        .write_image(&canvas, width as u32, height as u32, colour)
        .map_err(Error::other("encoding a PNG"))?;
    Ok(png)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_upright_and_in_order() {
        // 2x3 pixels: red ramps along x, green along y, blue is constant.
        let spec = ImageSpec::new(3, 2, 3);
        let picture: Vec<u8> = [[0, 100, 200, 0, 100, 200], [0, 0, 0, 50, 50, 50], [7; 6]].concat();
        let png = png_grid(&[picture.clone(), picture.clone(), picture].concat(), &spec, 2).unwrap();
        let back = image::load_from_memory(&png).unwrap().to_rgb8();
        assert_eq!(back.dimensions(), (12, 10));
        assert_eq!(back.get_pixel(0, 0).0, [255; 3]);
        assert_eq!(back.get_pixel(2, 2).0, [0, 0, 7]);
        assert_eq!(back.get_pixel(4, 2).0, [200, 0, 7]);
        assert_eq!(back.get_pixel(4, 3).0, [200, 50, 7]);
        assert_eq!(back.get_pixel(2 + 5 + 1, 3).0, [100, 50, 7]);
        assert_eq!(back.get_pixel(2, 2 + 4 + 1).0, [0, 50, 7]);
        assert_eq!(back.get_pixel(7, 7).0, [255; 3]);
    }

    #[test]
    fn incomplete_images_and_zero_columns_are_errors() {
        assert!(png_grid(&[0; 5], &ImageSpec::new(1, 2, 2), 2).is_err());
        assert!(png_grid(&[0; 4], &ImageSpec::new(1, 2, 2), 0).is_err());
    }
}
