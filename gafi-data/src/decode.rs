//! From a picture as a format holds it to bare pixels: PNG and JPEG decoding.

use std::io::{BufRead, Cursor, Seek};

use gafi_core::ImageSpec;
use image::{DynamicImage, ImageDecoder as _, ImageReader, Limits};

use crate::source::{MAX_SIDE, Picture, Pixels, interleaved_to_planar};

/// Decodes a picture: grey stays 1 channel, everything else becomes 3. 16-bit values are scaled to 8 bits, an alpha channel
/// is dropped (what Pillow's `convert` does), a palette is looked up. Orientation tags are not followed, nor does
/// torchvision follow them. The error says what is wrong, the caller knows where.
pub(crate) fn decode(picture: Picture) -> Result<Pixels, String> {
    match picture {
        Picture::Pixels(pixels) => Ok(pixels),
        Picture::Encoded(bytes) => decode_from(ImageReader::new(Cursor::new(bytes))),
        Picture::File(path) => decode_from(ImageReader::open(path).map_err(|e| e.to_string())?),
    }
}

/// The shape that [`decode`] would give it, from the head of the file alone.
pub(crate) fn shape_of(picture: &Picture) -> Result<ImageSpec, String> {
    match picture {
        Picture::Pixels(pixels) => Ok(pixels.spec),
        Picture::Encoded(bytes) => shape_from(ImageReader::new(Cursor::new(bytes))),
        Picture::File(path) => shape_from(ImageReader::open(path).map_err(|e| e.to_string())?),
    }
}

fn shape_from<R: BufRead + Seek>(reader: ImageReader<R>) -> Result<ImageSpec, String> {
    let reader = reader.with_guessed_format().map_err(|e| e.to_string())?;
    let decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions();
    let channels = if decoder.color_type().has_color() { 3 } else { 1 };
    Ok(ImageSpec::new(channels, height as usize, width as usize))
}

fn decode_from<R: BufRead + Seek>(reader: ImageReader<R>) -> Result<Pixels, String> {
    // By content, not by name: files called .jpg that are PNG are common.
    let mut reader = reader.with_guessed_format().map_err(|e| e.to_string())?;
    if reader.format().is_none() {
        return Err("bytes that begin like neither PNG nor JPEG".into());
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE as u32);
    limits.max_image_height = Some(MAX_SIDE as u32);
    reader.limits(limits);
    let image = reader.decode().map_err(|e| e.to_string())?;
    let grey = matches!(
        image,
        DynamicImage::ImageLuma8(_)
            | DynamicImage::ImageLumaA8(_)
            | DynamicImage::ImageLuma16(_)
            | DynamicImage::ImageLumaA16(_)
    );
    let (height, width) = (image.height() as usize, image.width() as usize);
    if height == 0 || width == 0 {
        return Err(format!("an image of {width}x{height} pixels"));
    }
    let spec = ImageSpec::new(if grey { 1 } else { 3 }, height, width);
    let data = if grey { image.into_luma8().into_raw() } else { image.into_rgb8().into_raw() };
    Ok(Pixels { spec, data: interleaved_to_planar(&data, spec) })
}
