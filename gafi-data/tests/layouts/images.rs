//! Which files are images, and how they are decoded: damage, transparency, 16-bit values, orientation.

use gafi_core::Split;
use gafi_data::{Background, Channels, ImportConfig, ImportReport, NoteKind, OnUnreadable, Window};
use image::{DynamicImage, ExtendedColorType, ImageFormat};

use super::common::*;
use super::{SPEC, counts, encoded, noted, put_classes, raw_png, report};

#[test]
fn files_are_images_by_their_content() {
    let dir = tempfile::tempdir().unwrap();
    put_classes(dir.path(), &["cat", "dog"], 3, 0);
    let image = dynamic(50, SPEC);
    for (name, format) in [("a.jfif", ImageFormat::Jpeg), ("B.PNG", ImageFormat::Png), ("noext", ImageFormat::Png)] {
        write(dir.path().join("cat").join(name), &encoded(&image, format));
    }
    for (name, format) in [("a.jpg", ImageFormat::Gif), ("b.jpg", ImageFormat::Bmp), ("c.dat", ImageFormat::Tiff)] {
        write(dir.path().join("dog").join(name), &encoded(&image, format));
    }
    write(dir.path().join("dog/notes.txt"), b"BMI of dogs");
    for litter in
        ["cat/@eaDir/0.png/S.jpg", "__MACOSX/cat/._0.png", "dog/Thumbs.db", "dog/._1.png", "cat/.thumbnails/x.png"]
    {
        write(dir.path().join(litter), &png(9, SPEC));
    }
    let config = ImportConfig { val_fraction: Some(0.0), ..ImportConfig::at(dir.path()) };
    let found = report(&config).unwrap();
    assert_eq!(counts(&found), [(Split::Train, vec![6, 6])]);
    assert_eq!(noted(&found, NoteKind::Assumed, "extensions name another format"), 4);
    assert_eq!(noted(&found, NoteKind::Skipped, "hidden files, thumbnails"), 5);
    assert_eq!(noted(&found, NoteKind::Skipped, "not images"), 1);
    assert_eq!(noted(&found, NoteKind::Converted, "GIF images, of which the first frame"), 1);
    assert_eq!(found.modes["BMP, RGB"], 1);
    // Lossless formats give the pixels.
    let (_, rows) = import(&config, Split::Train).unwrap();
    let exact = rows.values().filter(|(_, pixels)| *pixels == picture(50, SPEC)).count();
    assert!(exact >= 4, "{exact}");

    // Files with image extensions that are not images are reported in one error, for all splits.
    let dir = tempfile::tempdir().unwrap();
    for split in ["train", "test"] {
        put_classes(dir.path().join(split), &["cat", "dog"], 3, if split == "train" { 0 } else { 20 });
    }
    write(dir.path().join("train/cat/empty.jpg"), b"");
    write(dir.path().join("test/dog/page.jpg"), b"<html>404</html>");
    write(dir.path().join("test/dog/photo.heic"), b"\0\0\0\x18ftypheic");
    let config = ImportConfig::at(dir.path());
    expect_error(
        &config,
        &[
            "empty.jpg",
            "an empty file; 2 more",
            "test/dog/page.jpg (an HTML page",
            "photo.heic (an image in HEIC",
            "skip",
        ],
    );
    let skip = ImportConfig { on_unreadable: OnUnreadable::Skip, ..config };
    let found = report(&skip).unwrap();
    assert_eq!(noted(&found, NoteKind::Skipped, "unreadable"), 3);
    assert_eq!(counts(&found)[2], (Split::Test, vec![3, 3]));
    assert_eq!(import(&skip, Split::TrainVal).unwrap().1.len(), 6);
}

#[test]
fn truncated_jpegs_are_errors() {
    let smooth = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 3, y as u8 * 3, 9]));
    let whole = encoded(&DynamicImage::ImageRgb8(smooth), ImageFormat::Jpeg);
    let cut = whole[..whole.len() / 2].to_vec();
    let dir = tempfile::tempdir().unwrap();
    for class in ["cat", "dog"] {
        for n in 0..4 {
            write(dir.path().join(class).join(format!("{n}.jpg")), if n == 3 { &cut } else { &whole });
        }
    }
    let config = ImportConfig { val_fraction: Some(0.0), ..ImportConfig::at(dir.path()) };
    expect_error(&config, &["cat/3.jpg", "cut off", "dog/3.jpg"]);
    let skip = ImportConfig { on_unreadable: OnUnreadable::Skip, ..config };
    assert_eq!(import(&skip, Split::Train).unwrap().0.counts, [3, 3]);
    // Also in parquet.
    let images: Vec<_> = (0..6).map(|n| Some(if n == 4 { cut.clone() } else { whole.clone() })).collect();
    let file = dir.path().join("set.parquet");
    let bytes =
        parquet(("image", "label"), &images, &[0, 1, 0, 1, 0, 1], &["a", "b"], ::parquet::basic::Compression::SNAPPY);
    write(&file, &bytes);
    expect_error(
        &ImportConfig { val_fraction: Some(0.0), ..ImportConfig::at(&file) },
        &["row 4, column image", "cut off"],
    );
}

fn import_one(files: &[(&str, Vec<u8>)], config: ImportConfig) -> (ImportReport, Vec<Vec<u8>>) {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        write(dir.path().join(name), bytes);
    }
    let config = ImportConfig { path: Some(dir.path().into()), val_fraction: Some(0.0), ..config };
    let found = report(&config).unwrap();
    (found, import(&config, Split::Train).unwrap().1.into_values().map(|(_, pixels)| pixels).collect())
}

#[test]
fn transparency_is_composited() {
    // RGBA and grey with alpha, each with one transparent and one opaque pixel.
    let rgba = raw_png(ExtendedColorType::Rgba8, 2, 1, &[0, 0, 0, 0, 10, 20, 30, 255]);
    let grey = raw_png(ExtendedColorType::La8, 2, 1, &[0, 0, 100, 255]);
    let files = [("a/0.png", rgba.clone()), ("b/0.png", grey.clone())];
    let rgb = ImportConfig { channels: Channels::Rgb, ..ImportConfig::default() };
    let (found, images) = import_one(&files, rgb.clone());
    assert_eq!(images, [vec![255, 10, 255, 20, 255, 30], vec![255, 100, 255, 100, 255, 100]]);
    assert_eq!(noted(&found, NoteKind::Converted, "composited on white"), 2);
    let blue = ImportConfig { background: Background::new([0, 0, 200]), ..rgb };
    let (found, images) = import_one(&files, blue);
    assert_eq!(images, [vec![0, 10, 0, 20, 200, 30], vec![0, 100, 0, 100, 200, 100]]);
    assert_eq!(noted(&found, NoteKind::Converted, "composited on #0000c8"), 2);
    // Grey stays one channel.
    let (found, images) = import_one(&[("a/0.png", grey.clone()), ("b/0.png", grey)], ImportConfig::default());
    assert_eq!((images[0].as_slice(), found.modes["PNG, grey with alpha"]), (&[255, 100][..], 2));
}

#[test]
fn values_of_16_bits_are_scaled_by_their_window() {
    let deep = |values: [u16; 2]| raw_png(ExtendedColorType::L16, 2, 1, &values.map(u16::to_ne_bytes).concat());
    let files = [("a/0.png", deep([0, 3000])), ("b/0.png", deep([4095, 1]))];
    let (found, images) = import_one(&files, ImportConfig::default());
    assert_eq!(images, [[0, 187], [255, 0]]);
    assert_eq!(noted(&found, NoteKind::Converted, "[0, 4095], because 12 bits hold the largest value, 4095"), 2);
    let window = ImportConfig { window: Window::Values([1000, 3000]), ..ImportConfig::default() };
    assert_eq!(import_one(&files, window).1, [[0, 255], [255, 0]]);
    // The largest value of all images decides.
    let wide = [("a/0.png", deep([0, 3000])), ("b/0.png", deep([65535, 1]))];
    assert_eq!(import_one(&wide, ImportConfig::default()).1, [[0, 12], [255, 0]]);
}

/// A JPEG file with this EXIF orientation, and a white upper quarter.
fn oriented(orientation: u8) -> Vec<u8> {
    let image = image::RgbImage::from_fn(32, 32, |_, y| image::Rgb([if y < 8 { 255 } else { 0 }; 3]));
    let jpeg = encoded(&DynamicImage::ImageRgb8(image), ImageFormat::Jpeg);
    let tiff = [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0", &[orientation, 0, 0, 0, 0, 0, 0, 0][..]].concat();
    let body = [b"Exif\0\0", &tiff[..]].concat();
    let segment = [&[0xff, 0xe1][..], &(body.len() as u16 + 2).to_be_bytes(), &body].concat();
    [&jpeg[..2], &segment, &jpeg[2..]].concat()
}

#[test]
fn exif_orientation_is_applied_or_not() {
    // Orientation 6 rotates by 90 degrees clockwise: the upper edge moves to the right.
    let files = [("a/0.jpg", oriented(6)), ("b/0.jpg", oriented(1))];
    let corner = |image: &[u8], y: usize, x: usize| image[y * 32 + x];
    let (found, images) = import_one(&files, ImportConfig::default());
    assert!(corner(&images[0], 31, 31) > 240 && corner(&images[0], 0, 0) < 15);
    assert!(corner(&images[1], 0, 0) > 240 && corner(&images[1], 31, 31) < 15);
    assert_eq!(noted(&found, NoteKind::Converted, "EXIF orientation"), 1);
    let (_, images) = import_one(&files, ImportConfig { exif: false, ..ImportConfig::default() });
    assert!(corner(&images[0], 0, 0) > 240 && corner(&images[0], 31, 31) < 15);
}
