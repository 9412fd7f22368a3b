//! What people have: folders named in every way, labels in files, litter, damage, transparency, orientation, deep values, leaks. Each is
//! imported with the right values, or refused with the key that decides.

mod common;

use std::io::Cursor;
use std::path::Path;

use common::*;
use gafi_core::{Context, ImageSpec, Split};
use gafi_data::{
    Background, Channels, Fit, Import, ImportConfig, ImportReport, NoteKind, OnLeak, OnUnreadable, SmallClasses, Window,
};
use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat};

const SPEC: ImageSpec = ImageSpec::new(3, 5, 7);

fn report(config: &ImportConfig) -> gafi_core::Result<ImportReport> {
    let cx = Context::default();
    Import::new(config, Split::Train, &cx)?.report(&cx)
}

/// The count of the note that contains `what`.
#[track_caller]
fn noted(report: &ImportReport, kind: NoteKind, what: &str) -> u64 {
    let found: Vec<_> = report.notes.iter().filter(|note| note.kind == kind && note.what.contains(what)).collect();
    let [note] = found[..] else { panic!("{what:?} in {:?}", report.notes) };
    note.count
}

/// Different images in `root/CLASS/N.png`. `first` is the number of the first.
fn put_classes(root: impl AsRef<Path>, classes: &[&str], each: usize, first: usize) {
    let mut row = first;
    for class in classes {
        for number in 0..each {
            write(root.as_ref().join(class).join(format!("{number}.png")), &png(row, SPEC));
            row += 1;
        }
    }
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Rows of each class in each split.
fn counts(report: &ImportReport) -> Vec<(Split, Vec<u64>)> {
    report.splits.iter().map(|split| (split.split, split.counts.clone())).collect()
}

#[test]
fn folders_named_like_splits_are_splits() {
    for (train, test) in [
        ("training_set", "test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("Train", "Test"),
        ("train_augmented", "testing"),
        ("flowers_train", "flowers_test"),
        ("deep/er/train", "deep/er/test"),
        ("images/train2017", "images/test2017"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        put_classes(dir.path().join(train), &["cat", "dog"], 4, 0);
        put_classes(dir.path().join(test), &["cat", "dog"], 2, 20);
        let found = report(&ImportConfig::at(dir.path())).unwrap();
        assert_eq!(found.classes, ["cat", "dog"], "{train}");
        let expected = [(Split::Train, vec![3, 3]), (Split::Val, vec![1, 1]), (Split::Test, vec![2, 2])];
        assert_eq!(counts(&found), expected, "{train}");
    }
    // Validation images of the source, and images without a label.
    let dir = tempfile::tempdir().unwrap();
    put_classes(dir.path().join("seg_train"), &["cat", "dog"], 4, 0);
    put_classes(dir.path().join("seg_dev"), &["cat", "dog"], 2, 20);
    put_classes(dir.path().join("seg_pred"), &["seg_pred"], 3, 40);
    put_classes(dir.path(), &["seg_test"], 3, 50);
    let found = report(&ImportConfig { test_fraction: Some(0.25), ..ImportConfig::at(dir.path()) }).unwrap();
    assert_eq!(counts(&found), [(Split::Train, vec![3, 3]), (Split::Val, vec![2, 2]), (Split::Test, vec![1, 1])]);
    assert_eq!(noted(&found, NoteKind::Skipped, "without a label: in seg_pred"), 3);
    assert_eq!(noted(&found, NoteKind::Skipped, "without a label: in seg_test"), 3);
    let error = report(&ImportConfig::at(dir.path())).unwrap_err().to_string();
    assert!(error.contains("test_fraction = unset") && error.contains("in seg_test, which has no folders"), "{error}");

    // Splits in the folders of the classes.
    let dir = tempfile::tempdir().unwrap();
    for class in ["cat", "dog"] {
        put_classes(dir.path().join(class), &["train", "test"], 4, if class == "cat" { 0 } else { 10 });
    }
    let found = report(&ImportConfig::at(dir.path())).unwrap();
    assert_eq!(counts(&found), [(Split::Train, vec![3, 3]), (Split::Val, vec![1, 1]), (Split::Test, vec![4, 4])]);
}

#[test]
fn unclear_folders_are_refused_with_the_keys_that_decide() {
    let refused = |folders: &[(&str, &[&str])], parts: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        for (number, (root, classes)) in folders.iter().enumerate() {
            put_classes(dir.path().join(root), classes, 3, 20 * number);
        }
        expect_error(&ImportConfig::at(dir.path()), parts);
        dir
    };
    let keys = ["train_folder", "labels = \"folders\""];
    let cats: &[&str] = &["cat", "dog"];
    let both = refused(
        &[("train", cats), ("train_augmented", cats), ("test", cats)],
        &["one folder for train", "train_augmented"],
    );
    refused(&[("", &["train_cats", "train_dogs", "test_cats", "test_dogs"])], &keys);
    refused(&[("", &["train", "test"])], &["a folder for each class in each split", "test, train"]);
    refused(&[("train", cats), ("", &["bus", "car"])], &["all splits or all classes", "bus, car, train"]);
    refused(&[("cat", &["train", "test"]), ("", &["dog"])], &["splits in every folder or in none"]);
    refused(&[("", &["images_part_1", "images_part_2"])], &["folders named like classes", keys[0]]);
    refused(&[("train", cats), ("test", cats), ("extra", cats)], &["folders named like splits", "extra"]);
    // The keys decide.
    let decided = ImportConfig {
        train_folder: Some("train_augmented".into()),
        test_folder: Some("test".into()),
        ..ImportConfig::at(both.path())
    };
    assert_eq!(
        counts(&report(&decided).unwrap()),
        [(Split::Train, vec![2, 2]), (Split::Val, vec![1, 1]), (Split::Test, vec![3, 3])]
    );
    let nowhere = ImportConfig { train_folder: Some("trian".into()), ..ImportConfig::at(both.path()) };
    expect_error(&nowhere, &["train_folder = trian: expected a folder with images"]);
    expect_error(&ImportConfig { train_folder: None, ..decided }, &["test_folder = test: expected train_folder"]);
    let dir = tempfile::tempdir().unwrap();
    put_classes(dir.path(), &["train", "test", "validation"], 3, 0);
    let folders =
        ImportConfig { labels: Some("folders".into()), test_fraction: Some(0.2), ..ImportConfig::at(dir.path()) };
    let found = report(&folders).unwrap();
    assert_eq!(found.classes, ["test", "train", "validation"]);
    assert_eq!(noted(&found, NoteKind::Warning, "named like a split, train"), 1);
}

fn labelled(dir: &Path, folder: &str, names: &[&str]) {
    for (row, name) in names.iter().enumerate() {
        write(dir.join(folder).join(name), &png(row, SPEC));
    }
}

#[test]
fn labels_are_read_from_files() {
    let names: Vec<String> = (0..8).map(|n| format!("im{n}.png")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let lines = |name: &dyn Fn(usize) -> String| {
        (0..8).map(|n| format!("{},{}\n", name(n), ["b", "a"][n % 2])).collect::<String>()
    };
    for (file, text) in [
        ("train.csv", format!("id,label\n{}", lines(&|n| format!("im{n}")))),
        ("labels.csv", format!("image,species\n{}", lines(&|n| format!("train_images/im{n}.png")))),
        ("train_images/labels.csv", format!("file,class\n{}", lines(&|n| format!("im{n}.png")))),
        ("train.csv", lines(&|n| format!("im{n}.png"))),
    ] {
        let dir = tempfile::tempdir().unwrap();
        labelled(dir.path(), "train_images", &names);
        write(dir.path().join(file), text.as_bytes());
        // Its labels are none.
        write(dir.path().join("sample_submission.csv"), b"id,label\nim0,a\n");
        let config = ImportConfig { test_fraction: Some(0.25), ..ImportConfig::at(dir.path()) };
        let (info, rows) = import(&config, Split::TrainVal).unwrap();
        assert_eq!(info.classes, ["a", "b"], "{file}");
        let (_, test) = import(&config, Split::Test).unwrap();
        let mut all = rows;
        all.extend(test);
        // Rows are in the order of classes, then of names.
        for (row, number) in [1, 3, 5, 7, 0, 2, 4, 6].into_iter().enumerate() {
            assert_eq!(all[&(row as u64)], (u32::from(row >= 4), picture(number, SPEC)), "{file}");
        }
    }
    // Test images without labels, training images without labels, and rows without an image.
    let dir = tempfile::tempdir().unwrap();
    labelled(dir.path(), "train", &names);
    labelled(dir.path(), "test", &["t1.png", "t2.png"]);
    write(dir.path().join("train.csv"), b"id,label\nim0,1.0\nim1,2.0\nim2,1.0\nim3,10\nim4,2\nim5,10\nim6,\ngone,1\n");
    let found = report(&ImportConfig { val_fraction: Some(0.0), ..ImportConfig::at(dir.path()) }).unwrap();
    assert_eq!(
        (&found.classes[..], counts(&found)),
        (&["1", "2", "10"].map(String::from)[..], vec![(Split::Train, vec![2, 2, 2])])
    );
    assert_eq!(noted(&found, NoteKind::Skipped, "without a label in train.csv"), 4);
    assert_eq!(noted(&found, NoteKind::Warning, "rows of train.csv without an image"), 1);
    assert_eq!(noted(&found, NoteKind::Assumed, "files in column id, labels in column label"), 6);
    // A column that says the split.
    write(
        dir.path().join("train.csv"),
        b"id,label,split\nim0,a,train\nim1,b,train\nim2,a,train\nim3,b,train\nt1,a,test\nt2,b,test\n",
    );
    let found = report(&ImportConfig { val_per_class: Some(1), ..ImportConfig::at(dir.path()) }).unwrap();
    assert_eq!(counts(&found), [(Split::Train, vec![1, 1]), (Split::Val, vec![1, 1]), (Split::Test, vec![1, 1])]);

    // StyleGAN's folders are not classes.
    let dir = tempfile::tempdir().unwrap();
    let mut rows = Vec::new();
    for n in 0..8 {
        let name = format!("0000{}/img{n}.png", n / 4);
        write(dir.path().join(&name), &png(n, SPEC));
        rows.push(serde_json::json!([name, n % 2]));
    }
    write(dir.path().join("dataset.json"), serde_json::json!({ "labels": rows }).to_string().as_bytes());
    let found = report(&ImportConfig { val_fraction: Some(0.0), ..ImportConfig::at(dir.path()) }).unwrap();
    assert_eq!((found.classes.len(), counts(&found)), (2, vec![(Split::Train, vec![4, 4])]));
    // No labels at all.
    let dir = tempfile::tempdir().unwrap();
    labelled(dir.path(), "", &names);
    expect_error(
        &ImportConfig::at(dir.path()),
        &["labels: expected images in one folder for each class, or a file of labels"],
    );
    // A file that contradicts the folders.
    put_classes(dir.path(), &["cat", "dog"], 2, 30);
    write(dir.path().join("labels.csv"), b"id,label\ncat/0.png,x\ncat/1.png,y\ndog/0.png,x\ndog/1.png,y\n");
    expect_error(&ImportConfig::at(dir.path()), &["labels in a file or in names of folders, not both"]);
}

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
    assert_eq!(noted(&found, NoteKind::Assumed, "not what their names say"), 4);
    assert_eq!(noted(&found, NoteKind::Skipped, "hidden files, thumbnails"), 5);
    assert_eq!(noted(&found, NoteKind::Skipped, "no images"), 1);
    assert_eq!(noted(&found, NoteKind::Converted, "GIF images, of which the first frame"), 1);
    assert_eq!(found.modes["BMP, RGB"], 1);
    // Lossless formats give the pixels.
    let (_, rows) = import(&config, Split::Train).unwrap();
    let exact = rows.values().filter(|(_, pixels)| *pixels == picture(50, SPEC)).count();
    assert!(exact >= 4, "{exact}");

    // Files named like images that are not images are listed at once, for all splits.
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
    // In parquet as well.
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

/// A PNG of any colour type, and its chunk of transparency.
fn raw_png(colour: ExtendedColorType, width: u32, height: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    image::codecs::png::PngEncoder::new(&mut bytes).write_image(data, width, height, colour).unwrap();
    bytes
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
    // Black, transparent but for one pixel; and grey with alpha.
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
    // Turned by 90 degrees clockwise, the upper edge is on the right.
    let files = [("a/0.jpg", oriented(6)), ("b/0.jpg", oriented(1))];
    let corner = |image: &[u8], y: usize, x: usize| image[y * 32 + x];
    let (found, images) = import_one(&files, ImportConfig::default());
    assert!(corner(&images[0], 31, 31) > 240 && corner(&images[0], 0, 0) < 15);
    assert!(corner(&images[1], 0, 0) > 240 && corner(&images[1], 31, 31) < 15);
    assert_eq!(noted(&found, NoteKind::Converted, "EXIF orientation"), 1);
    let (_, images) = import_one(&files, ImportConfig { exif: false, ..ImportConfig::default() });
    assert!(corner(&images[0], 0, 0) > 240 && corner(&images[0], 31, 31) < 15);
}

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
    // Row 0 of the cats, rows 7 (as test) and 8 (as validation) of the dogs; the validation copy of row 0; no test image.
    assert_eq!(counts(&found), [(Split::Train, vec![5, 4]), (Split::Val, vec![2, 3]), (Split::Test, vec![3, 3])]);
    assert!(found.notes.iter().all(|note| !note.what.contains("in every pixel")), "{:?}", found.notes);
    let pixels = |split| import(&drop, split).unwrap().1.into_values().map(|(_, pixels)| pixels).collect::<Vec<_>>();
    let (train, val, test) = (pixels(Split::Train), pixels(Split::Val), pixels(Split::Test));
    assert_eq!((train.len(), val.len(), test.len()), (9, 5, 6));
    assert!(train.iter().all(|image| !val.contains(image) && !test.contains(image)));
    assert!(val.iter().all(|image| !test.contains(image)));
    // Copies within the training images are held out together with them, and noticed.
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
    // A copy of lower quality, and images of their own.
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

#[test]
fn class_folders_of_numbers_are_in_numeric_order() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..12).map(|n| n.to_string()).collect();
    put_classes(dir.path(), &names.iter().map(String::as_str).collect::<Vec<_>>(), 3, 0);
    let (info, rows) = import_rows(&ImportConfig { val_per_class: Some(1), ..ImportConfig::at(dir.path()) }).unwrap();
    assert_eq!(info.classes, names);
    assert_eq!(rows[&31], (10, picture(31, SPEC)));
}

#[test]
fn small_classes_are_refused_dropped_or_merged() {
    let dir = tempfile::tempdir().unwrap();
    put_classes(dir.path(), &["cat", "dog"], 6, 0);
    put_classes(dir.path(), &["ant"], 1, 40);
    put_classes(dir.path(), &["bee"], 2, 50);
    let config = ImportConfig { test_fraction: Some(0.2), ..ImportConfig::at(dir.path()) };
    expect_error(&config, &["class 0 (ant) has 1", "min_per_class = 2 with small_classes"]);
    let config = ImportConfig { min_per_class: Some(3), ..config };
    expect_error(&config, &["min_per_class = 3", "found 2 with fewer: ant (1), bee (2)"]);
    let drop = ImportConfig { small_classes: SmallClasses::Drop, ..config.clone() };
    let (info, rows) = import(&drop, Split::TrainVal).unwrap();
    assert_eq!((&info.classes[..], &info.counts[..]), (&["cat", "dog"].map(String::from)[..], &[5, 5][..]));
    assert!(
        rows.values().all(|(label, pixels)| (0..12).any(|n| picture(n, SPEC) == *pixels && n as u32 / 6 == *label))
    );
    let merge = ImportConfig { small_classes: SmallClasses::Merge, ..config };
    let found = report(&merge).unwrap();
    assert_eq!(found.classes, ["cat", "dog", "other"]);
    assert_eq!(found.splits.iter().map(|split| split.counts[2]).sum::<u64>(), 3);
    assert_eq!(noted(&found, NoteKind::Converted, "merged into \"other\": ant (1), bee (2)"), 3);
    expect_error(&ImportConfig { min_per_class: None, ..merge }, &["small_classes", "min_per_class to be set"]);
}

#[test]
fn a_whole_set_is_imported_without_a_split_and_limits_bound_validation() {
    let dir = tempfile::tempdir().unwrap();
    put_classes(dir.path(), &["cat", "dog"], 30, 0);
    let whole = ImportConfig { val_fraction: Some(0.0), ..ImportConfig::at(dir.path()) };
    let cx = Context::default();
    let out = tempfile::tempdir().unwrap();
    let set = gafi_data::import_all(&whole, out.path(), &cx).unwrap();
    assert_eq!((set.val, set.test), (None, None));
    assert_eq!(counts(&report(&whole).unwrap()), [(Split::Train, vec![30, 30])]);
    expect_split_error(&whole, Split::Val, &["val_fraction = 0: expected above 0"]);
    let limited = ImportConfig { val_fraction: Some(0.5), limit: Some(6), test_fraction: Some(0.2), ..whole };
    assert_eq!(counts(&report(&limited).unwrap())[..2], [(Split::Train, vec![3, 3]), (Split::Val, vec![3, 3])]);
}

#[test]
fn the_report_is_in_the_manifest_and_warns_of_one_sided_sets() {
    let dir = tempfile::tempdir().unwrap();
    put_classes(dir.path(), &["cat"], 40, 0);
    put_classes(dir.path(), &["dog"], 2, 50);
    let config = ImportConfig { val_per_class: Some(1), test_fraction: None, ..ImportConfig::at(dir.path()) };
    let (info, _) = import(&config, Split::Train).unwrap();
    let found: ImportReport = serde_json::from_value(info.import.unwrap()).unwrap();
    assert_eq!(counts(&found), [(Split::Train, vec![39, 1]), (Split::Val, vec![1, 1])]);
    assert_eq!((found.sizes, found.different_sizes), (vec![("5x7".into(), 42)], 1));
    let warned = found.notes.iter().filter(|note| note.kind == NoteKind::Warning).map(|note| note.what.as_str());
    assert!(warned.into_iter().any(|what| what.contains("one class of 2, cat: 98 %")), "{:?}", found.notes);
    // Images of other sizes are counted as converted.
    let resized = ImportConfig { size: Some(4), fit: Some(Fit::Crop), ..config };
    assert_eq!(
        noted(
            &report(&ImportConfig { val_fraction: Some(0.0), val_per_class: None, ..resized }).unwrap(),
            NoteKind::Converted,
            "scaled and cropped to 4x4"
        ),
        42
    );
}

#[test]
fn the_card_of_an_export_says_what_the_import_did() {
    let dir = tempfile::tempdir().unwrap();
    let rgba = |n: u8| raw_png(ExtendedColorType::Rgba8, 2, 1, &[n, 0, 0, 0, 10, 20, n, 255]);
    for (class, n) in [("a", 1), ("a", 2), ("b", 3), ("b", 4)] {
        write(dir.path().join("in").join(class).join(format!("{n}.png")), &rgba(n));
    }
    let config = ImportConfig { val_fraction: Some(0.0), ..ImportConfig::at(dir.path().join("in")) };
    let cx = Context::default();
    let set = gafi_data::import_all(&config, &dir.path().join("set"), &cx).unwrap();
    let artifact = gafi_core::Artifact::open(&set.train).unwrap();
    let options = gafi_data::ExportOptions::default();
    let out = dir.path().join("out");
    gafi_data::export_dataset(&artifact, gafi_data::ExportFormat::ImageFolder, &options, &out, &cx).unwrap();
    let card = std::fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.contains("- converted: 4 transparent images composited on white: "), "{card}");
}
