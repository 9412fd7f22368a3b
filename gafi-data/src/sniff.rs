//! Recognises images by their first bytes, whatever the names of the files.

use image::ImageFormat;

/// The format of the image that starts with `head`; `None` if it is not an image, or its format is not supported.
pub(crate) fn sniff(head: &[u8]) -> Option<&'static str> {
    let format = image::guess_format(head).ok()?;
    // A text file may also start with "P6", so the size must follow.
    let is_pnm = head.get(2).is_some_and(u8::is_ascii_whitespace)
        && head.get(3).is_some_and(|byte| byte.is_ascii_digit() || *byte == b'#');
    // The magic number of BMP is only two letters, so its header is checked too: four zeros at byte 6, and a length at byte 14.
    let zeros = head.get(6..10).is_some_and(|bytes| bytes == [0; 4]);
    let is_bitmap = zeros && head.get(14..18).is_some_and(|bytes| bytes[0] >= 12 && bytes[1..] == [0; 3]);
    let sure = match format {
        ImageFormat::Bmp => is_bitmap,
        ImageFormat::Pnm => is_pnm,
        _ => true,
    };
    (is_readable(format) && sure).then(|| name(format))
}

/// How many bytes [`sniff`] needs.
pub(crate) const SNIFFED: usize = 32;

pub(crate) fn is_readable(format: ImageFormat) -> bool {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Pnm, Tiff, WebP};
    matches!(format, Bmp | Gif | Jpeg | Png | Pnm | Tiff | WebP)
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

/// Describes a file that starts like no image, and what to do about it.
pub(crate) fn describe(bytes: &[u8]) -> String {
    if bytes.get(4..12).is_some_and(|b| b.starts_with(b"ftyphei") || b == b"ftypmif1" || b == b"ftypmsf1") {
        return "an image in HEIC, which is not supported: convert it to PNG".into();
    }
    let head = &bytes[..bytes.len().min(64)];
    let text = String::from_utf8_lossy(head).trim_start().to_lowercase();
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        return "an HTML page, probably from a failed download".into();
    }
    if text.starts_with("version https://git-lfs") {
        return "a Git LFS pointer: `git lfs pull` downloads the file".into();
    }
    "the start of no known image format".into()
}
