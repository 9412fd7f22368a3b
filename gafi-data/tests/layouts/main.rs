//! Data as people have it: folders named in every way, labels in files, stray files, damage, transparency, orientation, 16-bit values,
//! images in two splits. Each import gives the right values, or an error with the key that decides.

#[path = "../common/mod.rs"]
mod common;

mod folders;
mod images;
mod leaks;
mod public;

use std::io::Cursor;
use std::path::Path;

use common::*;
use gafi_core::{Context, ImageSpec, Split};
use gafi_data::{Fit, Import, ImportConfig, ImportReport, NoteKind, SmallClasses};
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

/// A PNG of any colour type.
fn raw_png(colour: ExtendedColorType, width: u32, height: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    image::codecs::png::PngEncoder::new(&mut bytes).write_image(data, width, height, colour).unwrap();
    bytes
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
    // Sign Language MNIST has no images of class 9.
    let gap = dir.path().join("gap.npz");
    let images = npy("|u1", "(6, 5, 7)", &(0..6).flat_map(|n| picture(n, ImageSpec::new(1, 5, 7))).collect::<Vec<_>>());
    write(&gap, &npz(&[("x", images), ("y", npy("|u1", "(6,)", &[0, 2, 0, 2, 0, 2]))], false));
    let whole = ImportConfig { val_fraction: Some(0.0), ..ImportConfig::at(&gap) };
    expect_error(&whole, &["rows of class 1 (1), found no rows (min_per_class = 1 with small_classes = \"drop\""]);
    let without = ImportConfig { min_per_class: Some(1), small_classes: SmallClasses::Drop, ..whole };
    let (info, rows) = import(&without, Split::Train).unwrap();
    assert_eq!((&info.classes[..], rows[&3].0), (&["0", "2"].map(String::from)[..], 1));
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
