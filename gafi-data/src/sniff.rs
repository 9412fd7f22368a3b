//! Recognises images by their first bytes, whatever the names of the files.

use image::ImageFormat;

/// The format of an image that starts with `head`; `None` if it is not an image, or of a kind that is not decoded.
pub(crate) fn sniff(head: &[u8]) -> Option<&'static str> {
    let format = image::guess_format(head).ok()?;
    // Two letters are no proof: the length of the second header follows at byte 14, and before it four zeros.
    let zeros = head.get(6..10).is_some_and(|bytes| bytes == [0; 4]);
    let is_bitmap = zeros && head.get(14..18).is_some_and(|bytes| bytes[0] >= 12 && bytes[1..] == [0; 3]);
    (is_readable(format) && (format != ImageFormat::Bmp || is_bitmap)).then(|| name(format))
}

/// Most bytes that [`sniff`] needs.
pub(crate) const SNIFFED: usize = 32;

pub(crate) fn is_readable(format: ImageFormat) -> bool {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
    matches!(format, Bmp | Gif | Jpeg | Png | Tiff | WebP)
}

pub(crate) fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Gif => "GIF",
        ImageFormat::WebP => "WebP",
        ImageFormat::Tiff => "TIFF",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Avif => "AVIF",
        ImageFormat::Ico => "ICO",
        ImageFormat::Pnm => "PNM",
        _ => "another format",
    }
}

/// Describes bytes that start like no image.
pub(crate) fn describe(bytes: &[u8]) -> String {
    if bytes.get(4..12).is_some_and(|b| b.starts_with(b"ftyphei") || b == b"ftypmif1" || b == b"ftypmsf1") {
        return "an image in HEIC, which is not read: convert it to PNG".into();
    }
    let head = &bytes[..bytes.len().min(64)];
    let text = String::from_utf8_lossy(head).trim_start().to_lowercase();
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        return "an HTML page, as a failed download leaves it".into();
    }
    if text.starts_with("version https://git-lfs") {
        return "a pointer of Git LFS: `git lfs pull` gets the file".into();
    }
    "bytes that start like no image format".into()
}
