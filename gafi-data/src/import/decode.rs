//! Decodes images to 8-bit pixels. The content of a file decides its format, not its name.

use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use gafi_core::{ImageSpec, open_regular};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::colour::Background;
use crate::sniff::{describe, is_readable, name};
use crate::source::{MAX_SIDE, Pixels, RawImage, interleaved_to_planar};

/// Maximum number of bytes of an image, both encoded and decoded.
const IMAGE_MAX: u64 = 512 << 20;

/// Files longer than this are read and decoded one at a time.
const LARGE_FILE: usize = 16 << 20;
static LARGE: Mutex<()> = Mutex::new(());

/// All images that are being decoded, in all threads, take at most this many bytes. A larger image is decoded alone.
static DECODING: Budget = Budget { free: Mutex::new(BUDGET), freed: Condvar::new() };
const BUDGET: u64 = 512 << 20;

/// A memory budget that threads share.
struct Budget {
    free: Mutex<u64>,
    freed: Condvar,
}

impl Budget {
    /// Waits until `bytes` of the budget are free (all of it, if `bytes` are more), and reserves them while `work` runs.
    fn with<T>(&self, bytes: u64, work: impl FnOnce() -> T) -> T {
        /// Releases the bytes, also after a panic.
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

/// How images are decoded to 8-bit pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoding {
    /// The colour that transparent pixels are composited on.
    pub(crate) background: Background,
    /// Whether the EXIF orientation is applied.
    pub(crate) exif: bool,
    /// The values of 16-bit images that become 0 and 255.
    pub(crate) window: [u16; 2],
}

/// The window of all 16-bit values.
pub(crate) const FULL_WINDOW: [u16; 2] = [0, u16::MAX];

/// Properties of a decoded image, for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The format, such as `PNG`.
    pub(crate) format: &'static str,
    /// How it stores a pixel, such as `palette`.
    pub(crate) mode: &'static str,
    /// Whether transparent pixels were composited.
    pub(crate) composited: bool,
    /// Whether it was rotated or mirrored by its EXIF orientation.
    pub(crate) oriented: bool,
    /// The largest value of a 16-bit image.
    pub(crate) max16: Option<u16>,
}

impl Facts {
    fn plain(format: &'static str, mode: &'static str) -> Self {
        Self { format, mode, composited: false, oriented: false, max16: None }
    }
}

/// Decodes an image and passes it to `shape`, whose result is usually smaller. Grey images have one channel, all others three.
/// Palettes are looked up, transparent pixels composited, 16-bit values scaled. Of an animation, the first frame is decoded.
///
/// # Errors
/// What is wrong with the image. The caller adds where it is.
pub(crate) fn decode<T>(
    image: RawImage,
    decoding: &Decoding,
    shape: impl FnOnce(Pixels) -> T,
) -> Result<(T, Facts), String> {
    if let RawImage::Pixels(pixels) = image {
        let facts = Facts::plain("pixels", if pixels.spec.channels == 1 { "grey" } else { "RGB" });
        return Ok((shape(pixels), facts));
    }
    with_bytes(&image, |bytes| {
        let is_jpeg = image::guess_format(bytes).is_ok_and(|format| format == ImageFormat::Jpeg);
        let components = if is_jpeg { check_jpeg(bytes)? } else { 0 };
        let (mut decoder, format) = decoder(bytes)?;
        let (width, height) = decoder.dimensions();
        if height == 0 || width == 0 {
            return Err(format!("an image of {height}x{width} pixels (rows x columns)"));
        }
        // The stored pixels, and three channels of 8 bits.
        let stored = decoder.total_bytes();
        let needed = stored.saturating_add(3 * u64::from(height) * u64::from(width));
        if stored > IMAGE_MAX {
            let found = format!("an image of {height}x{width} pixels (rows x columns), {stored} bytes when decoded");
            return Err(format!("{found}, more than the limit of {IMAGE_MAX}"));
        }
        let mut facts = Facts::plain(name(format), mode(format, bytes, decoder.color_type(), components));
        let orientation = orientation(&mut decoder, decoding)?;
        facts.oriented = orientation != Orientation::NoTransforms;
        DECODING.with(needed, || {
            let mut image = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
            image.apply_orientation(orientation);
            Ok((shape(pixels(image, decoding, &mut facts)?), facts))
        })
    })
}

/// The shape of the image that [`decode`] would return, from the file header alone.
pub(crate) fn shape_of(image: &RawImage, decoding: &Decoding) -> Result<ImageSpec, String> {
    if let RawImage::Pixels(pixels) = image {
        return Ok(pixels.spec);
    }
    with_bytes(image, |bytes| {
        let (mut decoder, _) = decoder(bytes)?;
        let (mut width, mut height) = decoder.dimensions();
        if swaps_sides(orientation(&mut decoder, decoding)?) {
            (width, height) = (height, width);
        }
        let colour = decoder.color_type();
        let coloured = colour.has_color() || (colour.has_alpha() && decoding.background.grey().is_none());
        Ok(ImageSpec::new(if coloured { 3 } else { 1 }, height as usize, width as usize))
    })
}

/// How a file stores a pixel. The decoder hides palettes and single bits, so those of PNG are read from its header.
fn mode(format: ImageFormat, bytes: &[u8], colour: ColorType, components: u8) -> &'static str {
    match (format, bytes.get(24), bytes.get(25)) {
        (ImageFormat::Png, _, Some(3)) => return "palette",
        (ImageFormat::Png, Some(1), _) => return "1 bit",
        _ if components == 4 => return "CMYK",
        _ => {}
    }
    match colour {
        ColorType::L8 => "grey",
        ColorType::La8 => "grey with alpha",
        ColorType::Rgb8 => "RGB",
        ColorType::Rgba8 => "RGBA",
        ColorType::L16 => "grey of 16 bits",
        ColorType::La16 => "grey with alpha, 16 bits",
        ColorType::Rgb16 => "RGB of 16 bits",
        ColorType::Rgba16 => "RGBA of 16 bits",
        _ => "floating point",
    }
}

/// Passes the bytes of an encoded image to `work`.
fn with_bytes<T>(image: &RawImage, work: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<T, String> {
    match image {
        RawImage::Pixels(Pixels { data: bytes, .. }) | RawImage::Encoded(bytes) => work(bytes),
        RawImage::File(path) => {
            let (bytes, _alone) = read(path)?;
            work(&bytes)
        }
    }
}

/// The bytes of a file, and the lock that a large file holds.
type Content = (Vec<u8>, Option<MutexGuard<'static, ()>>);

fn read(path: &Path) -> Result<Content, String> {
    let file = open_regular(path).map_err(|e| e.to_string())?;
    let length = file.metadata().map_err(|e| e.to_string())?.len();
    if length > IMAGE_MAX {
        return Err(format!("a file of {length} bytes, more than the limit of {IMAGE_MAX}"));
    }
    let length = length as usize;
    let alone = (length > LARGE_FILE).then(|| LARGE.lock().unwrap_or_else(PoisonError::into_inner));
    let mut bytes = Vec::with_capacity(length);
    file.take(IMAGE_MAX).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    Ok((bytes, alone))
}

/// A decoder that has read the header, and the format of the image.
fn decoder(bytes: &[u8]) -> Result<(Box<dyn ImageDecoder + '_>, ImageFormat), String> {
    if bytes.is_empty() {
        return Err("an empty file".into());
    }
    let Ok(format) = image::guess_format(bytes) else { return Err(describe(bytes)) };
    if !is_readable(format) {
        return Err(format!("an image in {}, which is not supported: convert it to PNG", name(format)));
    }
    if format == ImageFormat::Pnm {
        check_pnm(bytes)?;
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE as u32);
    limits.max_image_height = Some(MAX_SIDE as u32);
    limits.max_alloc = Some(IMAGE_MAX);
    reader.limits(limits);
    Ok((Box::new(reader.into_decoder().map_err(|e| e.to_string())?), format))
}

fn orientation(decoder: &mut dyn ImageDecoder, decoding: &Decoding) -> Result<Orientation, String> {
    if decoding.exif { decoder.orientation().map_err(|e| e.to_string()) } else { Ok(Orientation::NoTransforms) }
}

fn swaps_sides(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// Checks that a JPEG file is complete, because the decoder fills missing parts with grey. Returns its number of components.
///
/// Segments are skipped by their length, and coded data up to the next marker, so that the end of an embedded thumbnail is not
/// taken for the end of the file.
fn check_jpeg(bytes: &[u8]) -> Result<u8, String> {
    let cut = || format!("a JPEG file that is cut off after {} bytes: its end-of-image marker is missing", bytes.len());
    let mut components = 0;
    let mut at = 2;
    loop {
        let rest = bytes.get(at..).ok_or_else(cut)?;
        at += rest.iter().position(|&b| b == 0xff).ok_or_else(cut)? + 1;
        let marker = *bytes.get(at).ok_or_else(cut)?;
        match marker {
            0xd9 => return Ok(components),
            // A fill byte: the marker follows.
            0xff => {}
            // An escaped byte or a restart in coded data, or another marker without a segment.
            0x00 | 0x01 | 0xd0..=0xd8 => at += 1,
            _ => {
                let segment = bytes.get(at + 1..at + 3).ok_or_else(cut)?;
                let length = usize::from(u16::from_be_bytes([segment[0], segment[1]]));
                if matches!(marker, 0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf) {
                    components = *bytes.get(at + 8).ok_or_else(cut)?;
                }
                at += 1 + length;
            }
        }
    }
}

/// Refuses PNM files whose largest value is below 255, because the decoder does not scale them, and the type P7.
fn check_pnm(bytes: &[u8]) -> Result<(), String> {
    if bytes.starts_with(b"P1") || bytes.starts_with(b"P4") {
        return Ok(());
    }
    // The type, width, height and largest value come first, each followed by white space. `#` starts a comment.
    let mut words = Vec::new();
    let mut rest = bytes;
    while words.len() < 4 && !rest.is_empty() {
        let end = match rest[0] {
            b'#' => rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()),
            byte if byte.is_ascii_whitespace() => 1,
            _ => rest.iter().position(|b| b.is_ascii_whitespace()).unwrap_or(rest.len()),
        };
        let (word, after) = rest.split_at(end);
        if word[0] != b'#' && !word[0].is_ascii_whitespace() {
            words.push(word);
        }
        rest = after;
    }
    let largest = words.get(3).and_then(|word| std::str::from_utf8(word).ok()?.parse::<u32>().ok());
    match largest {
        _ if bytes.starts_with(b"P7") => Err("an image in PAM, which is not supported: convert it to PNG".into()),
        Some(255..) => Ok(()),
        Some(largest) => Err(format!("a PNM file with values from 0 to {largest}: convert it to PNG")),
        None => Err("a PNM file without a complete header".into()),
    }
}

fn pixels(image: DynamicImage, decoding: &Decoding, facts: &mut Facts) -> Result<Pixels, String> {
    let height = image.height() as usize;
    let width = image.width() as usize;
    // Even numbers of channels include alpha.
    let (channels, data) = match image {
        DynamicImage::ImageLuma8(i) => (1, i.into_raw()),
        DynamicImage::ImageLumaA8(i) => (2, i.into_raw()),
        DynamicImage::ImageRgb8(i) => (3, i.into_raw()),
        DynamicImage::ImageRgba8(i) => (4, i.into_raw()),
        DynamicImage::ImageLuma16(i) => (1, to_8_bits(&i.into_raw(), 1, false, decoding, facts)),
        DynamicImage::ImageLumaA16(i) => (2, to_8_bits(&i.into_raw(), 2, true, decoding, facts)),
        DynamicImage::ImageRgb16(i) => (3, to_8_bits(&i.into_raw(), 3, false, decoding, facts)),
        DynamicImage::ImageRgba16(i) => (4, to_8_bits(&i.into_raw(), 4, true, decoding, facts)),
        _ => return Err("floating-point values of unknown range: convert them to 8 bits".into()),
    };
    let (channels, data) = match channels {
        2 => composite::<2>(&data, decoding.background, &mut facts.composited),
        4 => composite::<4>(&data, decoding.background, &mut facts.composited),
        _ => (channels, data),
    };
    let spec = ImageSpec::new(channels, height, width);
    Ok(Pixels { spec, data: interleaved_to_planar(data, spec) })
}

/// Scales values from the window to 0..=255, and alpha from its full range.
fn to_8_bits(values: &[u16], channels: usize, alpha: bool, decoding: &Decoding, facts: &mut Facts) -> Vec<u8> {
    let [low, high] = decoding.window;
    let range = u32::from(high - low);
    let mut largest = facts.max16.unwrap_or(0);
    let mut scaled = Vec::with_capacity(values.len());
    for (i, &value) in values.iter().enumerate() {
        if alpha && i % channels == channels - 1 {
            scaled.push(((u32::from(value) + 128) / 257) as u8);
            continue;
        }
        largest = largest.max(value);
        let value = u32::from(value.clamp(low, high) - low);
        scaled.push(((value * 255 + range / 2) / range) as u8);
    }
    facts.max16 = Some(largest);
    scaled
}

/// Removes alpha, the last of `N` channels, by compositing on `background` with Pillow's arithmetic. Grey on grey stays grey.
fn composite<const N: usize>(data: &[u8], background: Background, composited: &mut bool) -> (usize, Vec<u8>) {
    let colour = background.colour();
    let grey = N == 2 && background.grey().is_some();
    let transparent = data.iter().skip(N - 1).step_by(N).any(|&alpha| alpha != 255);
    *composited = transparent;
    let channels = if N == 2 && (grey || !transparent) { 1 } else { 3 };
    let mut out = Vec::with_capacity(data.len() / N * channels);
    for pixel in data.chunks_exact(N) {
        let alpha = u32::from(pixel[N - 1]);
        for (c, &behind) in colour.iter().enumerate().take(channels) {
            let value = u32::from(pixel[if N == 2 { 0 } else { c }]);
            // Exact division by 255, rounded.
            let sum = value * alpha + u32::from(behind) * (255 - alpha) + 128;
            out.push(((sum + (sum >> 8)) >> 8) as u8);
        }
    }
    (channels, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compositing_is_exact_at_both_ends_and_rounded_between() {
        let mut composited = false;
        let on = |r, g, b| Background::new([r, g, b]);
        let data = [10, 20, 30, 255, 10, 20, 30, 0, 0, 100, 200, 128];
        let (channels, out) = composite::<4>(&data, on(255, 255, 255), &mut composited);
        // The last pixel is Pillow's Image.paste of (0, 100, 200) with mask 128 on white.
        assert_eq!((channels, &out[..], composited), (3, &[10, 20, 30, 255, 255, 255, 127, 177, 227][..], true));
        assert_eq!(composite::<2>(&[7, 255, 7, 0], on(9, 9, 9), &mut composited), (1, vec![7, 9]));
        assert_eq!(composite::<2>(&[7, 255, 7, 0], on(1, 2, 3), &mut composited), (3, vec![7, 7, 7, 1, 2, 3]));
        assert_eq!(composite::<2>(&[7, 255], on(1, 2, 3), &mut composited), (1, vec![7]));
        assert!(!composited, "an opaque image has nothing to composite");
    }

    #[test]
    fn windows_scale_and_clamp() {
        let mut facts = Facts::plain("PNG", "grey of 16 bits");
        let decoding = |window| Decoding { background: Background::default(), exif: true, window };
        let full = to_8_bits(&[0, 128, 129, 65535], 1, false, &decoding(FULL_WINDOW), &mut facts);
        assert_eq!((full, facts.max16), (vec![0, 0, 1, 255], Some(65535)));
        let twelve = to_8_bits(&[0, 3000, 4095, 9999], 1, false, &decoding([0, 4095]), &mut facts);
        assert_eq!(twelve, [0, 187, 255, 255]);
        let with_alpha = to_8_bits(&[100, 65535, 300, 0], 2, true, &decoding([100, 300]), &mut facts);
        assert_eq!(with_alpha, [0, 255, 255, 0]);
    }

    #[test]
    fn pnm_files_need_values_to_255_or_more() {
        for whole in [&b"P5 2 2 255\n...."[..], b"P6\n# made by\n2\n2\n65535\n", b"P4 8 1\n.", b"P2\t1\n1 #x\n255 7"] {
            assert_eq!(check_pnm(whole), Ok(()), "{whole:?}");
        }
        assert!(check_pnm(b"P5 2 2 15\n....").unwrap_err().contains("0 to 15"));
        assert!(check_pnm(b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\n").unwrap_err().contains("PAM"));
        assert!(check_pnm(b"P5 2").unwrap_err().contains("header"));
    }

    #[test]
    fn the_end_of_a_jpeg_is_found_behind_thumbnails_and_fill_bytes() {
        let thumbnail = [0xff, 0xe1, 0, 6, 0xff, 0xd9, 0xff, 0xd9];
        let frame = [0xff, 0xc2, 0, 11, 8, 0, 1, 0, 1, 3, 1, 2, 3];
        let scan = [0xff, 0xda, 0, 4, 9, 9, 1, 0xff, 0, 2, 0xff, 0xd0, 3];
        let whole = [&[0xff, 0xd8][..], &thumbnail, &frame, &scan, &[0xff, 0xff, 0xd9]].concat();
        assert_eq!(check_jpeg(&whole), Ok(3));
        assert_eq!(check_jpeg(&[&whole[..], b"trailing"].concat()), Ok(3));
        for length in 2..whole.len() {
            assert!(check_jpeg(&whole[..length]).unwrap_err().contains("cut off"), "{length}");
        }
        // Preallocated, and never filled.
        let mut zeros = whole[..whole.len() - 5].to_vec();
        zeros.extend([0; 100]);
        assert!(check_jpeg(&zeros).is_err());
    }
}
