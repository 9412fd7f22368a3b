//! Decodes PNG and JPEG images to pixels.

use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

use gafi_core::{ImageSpec, open_regular};
use image::{DynamicImage, ImageDecoder as _, ImageReader, Limits};

use crate::source::{MAX_SIDE, Pixels, RawImage, interleaved_to_planar};

/// Decodes an image. Grey stays one channel; everything else becomes three. 16-bit values are scaled to 8 bits, an alpha
/// channel is dropped (as Pillow's `convert` does) and palettes are looked up. Orientation tags are ignored, as in
/// torchvision.
///
/// # Errors
/// What is wrong with the image; the caller adds where it is.
pub(crate) fn decode(image: RawImage) -> Result<Pixels, String> {
    match image {
        RawImage::Pixels(pixels) => Ok(pixels),
        RawImage::Encoded(bytes) => decode_from(Box::new(Cursor::new(bytes))),
        RawImage::File(path) => decode_from(open(&path)?),
    }
}

/// The shape that [`decode`] would return, read from the file header alone.
pub(crate) fn shape_of(image: &RawImage) -> Result<ImageSpec, String> {
    match image {
        RawImage::Pixels(pixels) => Ok(pixels.spec),
        RawImage::Encoded(bytes) => shape_from(Box::new(Cursor::new(bytes))),
        RawImage::File(path) => shape_from(open(path)?),
    }
}

/// Bytes of an image. One type for all, because the decoders are compiled for each type of reader.
type Input<'a> = Box<dyn BufReadSeek + 'a>;

trait BufReadSeek: BufRead + Seek {}

impl<T: BufRead + Seek> BufReadSeek for T {}

fn open(path: &Path) -> Result<Input<'static>, String> {
    let file = open_regular(path).map_err(|e| e.to_string())?;
    Ok(Box::new(BufReader::new(file)))
}

fn shape_from(input: Input<'_>) -> Result<ImageSpec, String> {
    let reader = ImageReader::new(input).with_guessed_format().map_err(|e| e.to_string())?;
    let decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions();
    let channels = if decoder.color_type().has_color() { 3 } else { 1 };
    Ok(ImageSpec::new(channels, height as usize, width as usize))
}

fn decode_from(input: Input<'_>) -> Result<Pixels, String> {
    // By content, because PNG files named .jpg are common.
    let mut reader = ImageReader::new(input).with_guessed_format().map_err(|e| e.to_string())?;
    if reader.format().is_none() {
        return Err("bytes that start like neither PNG nor JPEG".into());
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
    let height = image.height() as usize;
    let width = image.width() as usize;
    if height == 0 || width == 0 {
        return Err(format!("an image of {height}x{width} pixels (rows x columns)"));
    }
    let spec = ImageSpec::new(if grey { 1 } else { 3 }, height, width);
    let data = if grey { image.into_luma8().into_raw() } else { image.into_rgb8().into_raw() };
    Ok(Pixels { spec, data: interleaved_to_planar(&data, spec) })
}
