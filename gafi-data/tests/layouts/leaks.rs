//! Images that are in two splits: equal ones are counted, refused or dropped; similar ones are counted.

use std::io::Cursor;

use gafi_core::Split;
use gafi_data::{ImportConfig, NoteKind, OnLeak};

use super::common::*;
use super::{SPEC, counts, noted, put_classes, report};

#[test]
fn images_in_two_splits_are_counted_refused_or_dropped() {
    let dir = tempfile::tempdir().unwrap();
    put_classes(dir.path().join("train"), &["cat", "dog"], 6, 0);
    put_classes(dir.path().join("val"), &["cat", "dog"], 3, 30);
    put_classes(dir.path().join("test"), &["cat", "dog"], 3, 60);
    // Two test images are also training images, one of them also a validation image; a training image is a validation image.
    write(dir.path().join("test/cat/0.png"), &png(0, SPEC));
    write(dir.path().join("test/dog/0.png"), &png(7, SPEC));
    write(dir.path().join("val/cat/0.png"), &png(0, SPEC));
    write(dir.path().join("val/dog/0.png"), &png(8, SPEC));
    let warn = ImportConfig::at(dir.path());
    let found = report(&warn).unwrap();
    assert_eq!(noted(&found, NoteKind::Warning, "test images equal to a training or validation image"), 2);
    assert_eq!(noted(&found, NoteKind::Warning, "validation images equal to a training image"), 2);
    assert_eq!(counts(&found), [(Split::Train, vec![6, 6]), (Split::Val, vec![3, 3]), (Split::Test, vec![3, 3])]);
    let error = report(&ImportConfig { on_leak: OnLeak::Error, ..warn.clone() }).unwrap_err().to_string();
    assert!(error.contains("2 test images equal") && error.contains("test/cat/0.png"), "{error}");
    let drop = ImportConfig { on_leak: OnLeak::Drop, ..warn };
    let found = report(&drop).unwrap();
    // Dropped: training rows 0 and 7 (also test images) and 8 (also a validation image), and the validation copy of row 0.
    assert_eq!(counts(&found), [(Split::Train, vec![5, 4]), (Split::Val, vec![2, 3]), (Split::Test, vec![3, 3])]);
    assert!(found.notes.iter().all(|note| !note.what.contains("in every pixel")), "{:?}", found.notes);
    let pixels = |split| import(&drop, split).unwrap().1.into_values().map(|(_, pixels)| pixels).collect::<Vec<_>>();
    let (train, val, test) = (pixels(Split::Train), pixels(Split::Val), pixels(Split::Test));
    assert_eq!((train.len(), val.len(), test.len()), (9, 5, 6));
    assert!(train.iter().all(|image| !val.contains(image) && !test.contains(image)));
    assert!(val.iter().all(|image| !test.contains(image)));
    // Copies within the training images may be held out without their original, and are counted.
    let dir = tempfile::tempdir().unwrap();
    put_classes(dir.path(), &["cat", "dog"], 4, 0);
    for n in 0..4 {
        write(dir.path().join(format!("cat/copy{n}.png")), &png(n, SPEC));
    }
    let own = ImportConfig { test_fraction: Some(0.5), val_fraction: Some(0.0), ..ImportConfig::at(dir.path()) };
    assert!(noted(&report(&own).unwrap(), NoteKind::Warning, "test images equal") > 0);
    let error = report(&ImportConfig { on_leak: OnLeak::Drop, val_fraction: None, ..own });
    assert!(error.is_ok() || error.unwrap_err().to_string().contains("on_leak"));
}

#[test]
fn similar_images_are_counted_and_never_dropped() {
    let wave = |phase: f32, quality| {
        let image = image::RgbImage::from_fn(48, 48, |x, y| {
            let value = 128.0 + 90.0 * (x as f32 / 9.0 + phase).sin() * (y as f32 / (7.0 + phase)).cos();
            image::Rgb([value as u8, 255 - value as u8 / 2, value as u8 / 3])
        });
        let mut bytes = Cursor::new(Vec::new());
        image.write_with_encoder(image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality)).unwrap();
        bytes.into_inner()
    };
    let dir = tempfile::tempdir().unwrap();
    for n in 0..6 {
        write(dir.path().join(format!("train/{}/{n}.jpg", ["a", "b"][n % 2])), &wave(n as f32, 95));
    }
    // A copy of lower quality, and another image.
    write(dir.path().join("test/a/copy.jpg"), &wave(2.0, 60));
    write(dir.path().join("test/b/own.jpg"), &wave(17.5, 95));
    let config = ImportConfig { val_fraction: Some(0.0), on_leak: OnLeak::Drop, ..ImportConfig::at(dir.path()) };
    let found = report(&config).unwrap();
    assert_eq!(
        noted(
            &found,
            NoteKind::Warning,
            "test images similar to a training or validation image (7 or fewer of 128 bits"
        ),
        1
    );
    assert_eq!(counts(&found), [(Split::Train, vec![3, 3]), (Split::Test, vec![1, 1])]);
}
