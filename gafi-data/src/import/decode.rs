//! Decodes PNG and JPEG images to pixels.

use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};

use gafi_core::{ImageSpec, open_regular};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use crate::source::{MAX_SIDE, Pixels, RawImage, interleaved_to_planar};

/// Most bytes of a decoded image, and of an encoded one.
const IMAGE_MAX: u64 = 512 << 20;

/// Images that are decoded at the same time, in all threads, take at most this many bytes; a larger one is decoded alone.
static DECODING: Budget = Budget { free: Mutex::new(BUDGET), freed: Condvar::new() };
const BUDGET: u64 = 512 << 20;

/// Memory that threads share.
struct Budget {
    free: Mutex<u64>,
    freed: Condvar,
}

impl Budget {
    /// Runs `work` once `bytes` (or, for more than there are, all) are free, and takes them meanwhile.
    fn with<T>(&self, bytes: u64, work: impl FnOnce() -> T) -> T {
        /// Gives the bytes back, also after a panic.
        struct Taken<'a>(&'a Budget, u64);
        impl Drop for Taken<'_> {
            fn drop(&mut self) {
                *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += self.1;
                self.0.freed.notify_all();
            }
        }
        let bytes = bytes.min(BUDGET);
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.freed.wait_while(free, |free| *free < bytes).unwrap_or_else(PoisonError::into_inner);
        *free -= bytes;
        drop(free);
        let _taken = Taken(self, bytes);
        work()
    }
}

/// Decodes an image and passes it to `shape`, whose result is usually smaller. Grey stays one channel; everything else becomes
/// three. 16-bit values are scaled to 8 bits, an alpha channel is dropped (as Pillow's `convert` does) and palettes are looked
/// up. Orientation tags are ignored, as in torchvision.
///
/// # Errors
/// What is wrong with the image; the caller adds where it is.
pub(crate) fn decode<T>(image: RawImage, shape: impl FnOnce(Pixels) -> T) -> Result<T, String> {
    let input: Input<'_> = match image {
        RawImage::Pixels(pixels) => return Ok(shape(pixels)),
        RawImage::Encoded(bytes) => Box::new(Cursor::new(bytes)),
        RawImage::File(path) => open(&path)?,
    };
    let decoder = decoder(input)?;
    let (width, height) = decoder.dimensions();
    if height == 0 || width == 0 {
        return Err(format!("an image of {height}x{width} pixels (rows x columns)"));
    }
    // The pixels as they are stored, and as three channels of 8 bits.
    let stored = decoder.total_bytes();
    let bytes = stored.saturating_add(3 * u64::from(height) * u64::from(width));
    if stored > IMAGE_MAX {
        let found = format!("an image of {height}x{width} pixels (rows x columns), {stored} bytes when decoded");
        return Err(format!("{found}, of at most {IMAGE_MAX}"));
    }
    DECODING.with(bytes, || Ok(shape(pixels(decoder)?)))
}

/// The shape that [`decode`] would pass on, read from the file header alone.
pub(crate) fn shape_of(image: &RawImage) -> Result<ImageSpec, String> {
    let input: Input<'_> = match image {
        RawImage::Pixels(pixels) => return Ok(pixels.spec),
        RawImage::Encoded(bytes) => Box::new(Cursor::new(bytes)),
        RawImage::File(path) => open(path)?,
    };
    let decoder = decoder(input)?;
    let (width, height) = decoder.dimensions();
    let channels = if decoder.color_type().has_color() { 3 } else { 1 };
    Ok(ImageSpec::new(channels, height as usize, width as usize))
}

/// Bytes of an image. One type for all, because the decoders are compiled for each type of reader.
type Input<'a> = Box<dyn BufReadSeek + 'a>;

trait BufReadSeek: BufRead + Seek {}

impl<T: BufRead + Seek> BufReadSeek for T {}

fn open(path: &Path) -> Result<Input<'static>, String> {
    let file = open_regular(path).map_err(|e| e.to_string())?;
    // The decoder of JPEG reads the whole file.
    let length = file.metadata().map_err(|e| e.to_string())?.len();
    if length > IMAGE_MAX {
        return Err(format!("a file of {length} bytes, of at most {IMAGE_MAX}"));
    }
    Ok(Box::new(BufReader::new(file)))
}

/// A decoder that has read the header.
fn decoder<'a>(input: Input<'a>) -> Result<impl ImageDecoder + 'a, String> {
    // By content, because PNG files named .jpg are common.
    let mut reader = ImageReader::new(input).with_guessed_format().map_err(|e| e.to_string())?;
    if reader.format().is_none() {
        return Err("bytes that start like neither PNG nor JPEG".into());
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE as u32);
    limits.max_image_height = Some(MAX_SIDE as u32);
    limits.max_alloc = Some(IMAGE_MAX);
    reader.limits(limits);
    reader.into_decoder().map_err(|e| e.to_string())
}

fn pixels(decoder: impl ImageDecoder) -> Result<Pixels, String> {
    let image = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    let grey = matches!(
        image,
        DynamicImage::ImageLuma8(_)
            | DynamicImage::ImageLumaA8(_)
            | DynamicImage::ImageLuma16(_)
            | DynamicImage::ImageLumaA16(_)
    );
    let spec = ImageSpec::new(if grey { 1 } else { 3 }, image.height() as usize, image.width() as usize);
    let data = if grey { image.into_luma8().into_raw() } else { image.into_rgb8().into_raw() };
    Ok(Pixels { spec, data: interleaved_to_planar(data, spec) })
}
