//! The layouts of published sets: parts without folders of classes, lists of splits, tables in folders, masks, variants of one set.

use std::fmt::Write as _;
use std::path::Path;

use gafi_core::Split;
use gafi_data::{ImportConfig, NoteKind};

use super::common::*;
use super::{SPEC, counts, noted, put_classes, report};

/// The numbers of the pictures of each split, with the names of their classes.
fn pictures(config: &ImportConfig, split: Split) -> Vec<(String, usize)> {
    let (info, rows) = import(config, split).unwrap();
    let number = |pixels: &Vec<u8>| (0..100).find(|&n| picture(n, SPEC) == *pixels).unwrap();
    rows.values().map(|(label, pixels)| (info.classes[*label as usize].clone(), number(pixels))).collect()
}

fn put_flat(dir: &Path, folder: &str, numbers: std::ops::Range<usize>) {
    for n in numbers {
        write(dir.join(folder).join(format!("im{n}.png")), &png(n, SPEC));
    }
}

fn whole(dir: &Path) -> ImportConfig {
    ImportConfig { val_fraction: Some(0.0), ..ImportConfig::at(dir) }
}

fn pairs(names: &[(&str, usize)]) -> Vec<(String, usize)> {
    names.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect()
}

#[test]
fn a_part_without_class_folders_is_labelled_by_the_table_that_names_the_classes() {
    // GTSRB: numbered folders, and a table of the test images with other numbers beside the class.
    let dir = tempfile::tempdir().unwrap();
    put_classes(dir.path().join("GTSRB/Final_Training/Images"), &["00000", "00001"], 2, 0);
    put_flat(dir.path(), "GTSRB/Final_Test/Images", 10..13);
    let test = "Filename;Width;Roi.X1;ClassId\nim10.png;1;0;1\nim11.png;1;1;0\nim12.png;0;0;1\n";
    write(dir.path().join("GT-final_test.csv"), test.as_bytes());
    assert_eq!(pictures(&whole(dir.path()), Split::Test), pairs(&[("00000", 11), ("00001", 10), ("00001", 12)]));
    let found = report(&whole(dir.path())).unwrap();
    assert_eq!(
        noted(&found, NoteKind::Assumed, "GTSRB/Final_Test labelled by GT-final_test.csv: labels in column ClassId"),
        3
    );

    // Tiny ImageNet: a list without a header, and test images without labels.
    let dir = tempfile::tempdir().unwrap();
    put_classes(dir.path().join("set/train"), &["n01/images", "n02/images"], 2, 0);
    put_flat(dir.path(), "set/val/images", 10..12);
    put_flat(dir.path(), "set/test/images", 20..22);
    write(dir.path().join("set/val/val_annotations.txt"), b"im10.png\tn02\t0\t32\t44\nim11.png\tn01\t1\t2\t3\n");
    let config = ImportConfig { test_fraction: Some(0.5), ..ImportConfig::at(dir.path()) };
    assert_eq!(pictures(&config, Split::Val), pairs(&[("n01", 11), ("n02", 10)]));
    assert_eq!(noted(&report(&config).unwrap(), NoteKind::Skipped, "without labels: in set/test"), 2);
}

#[test]
fn lists_divide_the_images_of_class_folders() {
    // Food-101: names without extensions. The Kaggle version of EuroSAT: tables whose numbers repeat the folders.
    for (train, test) in [
        (("meta/train.txt", "cat/0\ncat/1\ndog/0\n"), ("meta/test.txt", "cat/2\ndog/1\n")),
        (
            ("images/train.csv", ",Filename,Label\n0,cat/0.png,0\n1,cat/1.png,0\n2,dog/0.png,1\n"),
            ("images/test.csv", ",Filename,Label\n3,dog/1.png,1\n4,cat/2.png,0\n"),
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let set = dir.path().join("set");
        put_classes(set.join("images"), &["cat", "dog"], 3, 0);
        write(set.join(train.0), train.1.as_bytes());
        write(set.join(test.0), test.1.as_bytes());
        write(set.join("meta/classes.txt"), b"cat\ndog\n");
        assert_eq!(pictures(&whole(dir.path()), Split::Train), pairs(&[("cat", 0), ("cat", 1), ("dog", 3)]));
        assert_eq!(pictures(&whole(dir.path()), Split::Test), pairs(&[("cat", 2), ("dog", 4)]));
        assert_eq!(noted(&report(&whole(dir.path())).unwrap(), NoteKind::Skipped, "in no list of a split"), 1);
        // Lists that contradict each other don't apply.
        write(set.join(test.0), test.1.replace("dog/1", "dog/0").as_bytes());
        let found = report(&whole(dir.path())).unwrap();
        assert_eq!(counts(&found), [(Split::Train, vec![3, 3])]);
        assert_eq!(noted(&found, NoteKind::Warning, "lists assign to several splits"), 1);
    }
}

#[test]
fn tables_in_folders_name_the_files_beside_them() {
    // `datasets` and Roboflow: a table in each split, whose files have the same names.
    for (name, header) in [("metadata.csv", "file_name,label"), ("_classes.csv", "filename, a, b")] {
        let dir = tempfile::tempdir().unwrap();
        for (split, first) in [("train", 0), ("valid", 10), ("test", 20)] {
            let mut text = format!("{header}\n");
            for n in 0..4 {
                write(dir.path().join(split).join(format!("{n}.png")), &png(first + n, SPEC));
                let label = match (name, n % 2) {
                    ("metadata.csv", 0) => "a",
                    ("metadata.csv", _) => "b",
                    (_, 0) => " 1, 0",
                    _ => " 0, 1",
                };
                writeln!(text, "{n}.png,{label}").unwrap();
            }
            write(dir.path().join(split).join(name), text.as_bytes());
        }
        let config = ImportConfig::at(dir.path());
        for (split, first) in [(Split::Train, 0), (Split::Val, 10), (Split::Test, 20)] {
            let expected = pairs(&[("a", first), ("a", first + 2), ("b", first + 1), ("b", first + 3)]);
            assert_eq!(pictures(&config, split), expected, "{name}, {split}");
        }
    }
}

#[test]
fn lists_of_files_and_labels_are_tables() {
    // MNIST-M, Caffe: the name of the list is the split.
    let dir = tempfile::tempdir().unwrap();
    put_flat(dir.path(), "images", 0..6);
    write(dir.path().join("train.txt"), b"images/im0.png 1\nimages/im1.png 0\nimages/im2.png 1\nimages/im3.png 0\n");
    write(dir.path().join("test.txt"), b"images/im4.png 0\nimages/im5.png 1\n");
    write(dir.path().join("README.txt"), b"images of nothing\n");
    assert_eq!(pictures(&whole(dir.path()), Split::Train), pairs(&[("0", 1), ("0", 3), ("1", 0), ("1", 2)]));
    assert_eq!(pictures(&whole(dir.path()), Split::Test), pairs(&[("0", 4), ("1", 5)]));
    // FGVC-Aircraft: several labels for each image. A `*` chooses lists.
    write(dir.path().join("family_train.txt"), b"im0 A B\nim1 C\n");
    write(dir.path().join("family_trainval.txt"), b"im0 A B\nim1 C\nim2 A B\nim3 C\n");
    write(dir.path().join("family_test.txt"), b"im4 C\nim5 A B\n");
    expect_error(&whole(dir.path()), &["one label for", "set labels to one of the files", "family_"]);
    let config = ImportConfig { labels: Some("family_*.txt".into()), ..whole(dir.path()) };
    assert_eq!(pictures(&config, Split::Train), pairs(&[("A B", 0), ("A B", 2), ("C", 1), ("C", 3)]));
    assert_eq!(pictures(&config, Split::Test), pairs(&[("A B", 5), ("C", 4)]));
    // Tables that repeat each other add no rows.
    write(dir.path().join("family.csv"), b"file,label\nim0,A B\nim1,C\nim5,A B\n");
    let all = ImportConfig { labels: Some("family*".into()), ..config };
    assert_eq!((pictures(&all, Split::Train).len(), pictures(&all, Split::Test).len()), (4, 2));
}

#[test]
fn columns_that_hold_splits_are_never_labels() {
    let dir = tempfile::tempdir().unwrap();
    put_flat(dir.path(), "img_align/img_align", 0..4);
    write(
        dir.path().join("list_eval_partition.csv"),
        b"image_id,partition\nim0.png,0\nim1.png,0\nim2.png,1\nim3.png,2\n",
    );
    expect_error(&whole(dir.path()), &["set label_column", "image_id, partition"]);
    // ISIC: a table two folders above the images.
    write(
        dir.path().join("list_eval_partition.csv"),
        b"image,MEL,NV\nim0,1.0,0.0\nim1,0.0,1.0\nim2,1.0,0.0\nim3,0.0,1.0\n",
    );
    assert_eq!(pictures(&whole(dir.path()), Split::Train), pairs(&[("MEL", 0), ("MEL", 2), ("NV", 1), ("NV", 3)]));
    // HAM10000: numbered parts of one set.
    let dir = tempfile::tempdir().unwrap();
    put_flat(dir.path(), "HAM_images_part_1", 0..2);
    put_flat(dir.path(), "HAM_images_part_2", 2..4);
    write(dir.path().join("meta.csv"), b"image_id,dx,age\nim0,nv,3\nim1,mel,4\nim2,nv,5\nim3,mel,6\n");
    assert_eq!(pictures(&whole(dir.path()), Split::Train), pairs(&[("mel", 1), ("mel", 3), ("nv", 0), ("nv", 2)]));
    // Images in one folder without any labels are no class.
    let dir = tempfile::tempdir().unwrap();
    put_flat(dir.path(), "images", 0..4);
    expect_error(&whole(dir.path()), &["a CSV with the columns file and label", "4 images without labels"]);
}

#[test]
fn masks_and_annotations_are_no_images_of_a_class() {
    // COVID-19 Radiography, BUSI.
    let dir = tempfile::tempdir().unwrap();
    for (class, first) in [("covid", 0), ("normal", 10)] {
        put_classes(dir.path().join(class), &["images", "masks"], 2, first);
    }
    let found = report(&whole(dir.path())).unwrap();
    assert_eq!(counts(&found), [(Split::Train, vec![2, 2])]);
    assert_eq!(noted(&found, NoteKind::Skipped, "annotations"), 4);
    let dir = tempfile::tempdir().unwrap();
    for (n, name) in ["a/x (1)", "a/x (1)_mask", "a/x (1)_mask_1", "b/y", "b/gas_mask", "b/z_mask"].iter().enumerate() {
        write(dir.path().join(format!("{name}.png")), &png(n, SPEC));
    }
    assert_eq!(pictures(&whole(dir.path()), Split::Train), pairs(&[("a", 0), ("b", 4), ("b", 3), ("b", 5)]));
    // A class of people with masks.
    let dir = tempfile::tempdir().unwrap();
    put_classes(dir.path(), &["mask", "no_mask"], 2, 0);
    assert_eq!(counts(&report(&whole(dir.path())).unwrap()), [(Split::Train, vec![2, 2])]);
}

#[test]
fn variants_and_copies_of_a_set_are_not_classes() {
    let dir = tempfile::tempdir().unwrap();
    for (variant, first) in [("color", 0), ("grayscale", 10)] {
        put_classes(dir.path().join(variant), &["apple", "corn"], 2, first);
    }
    expect_error(
        &whole(dir.path()),
        &["variants of one set", "apple, corn in each of color, grayscale", "train_folder"],
    );
    let color = ImportConfig { train_folder: Some("color".into()), ..whole(dir.path()) };
    assert_eq!(pictures(&color, Split::Train), pairs(&[("apple", 0), ("apple", 1), ("corn", 2), ("corn", 3)]));
    let pooled = ImportConfig { labels: Some("folders".into()), ..whole(dir.path()) };
    let found = report(&pooled).unwrap();
    assert_eq!(
        (found.classes, counts(&report(&pooled).unwrap())),
        (vec!["color".into(), "grayscale".into()], vec![(Split::Train, vec![4, 4])])
    );
    assert_eq!(noted(&report(&pooled).unwrap(), NoteKind::Assumed, "labels = \"subfolders\""), 8);
    let each = ImportConfig { labels: Some("subfolders".into()), ..whole(dir.path()) };
    assert_eq!(report(&each).unwrap().classes, ["color/apple", "color/corn", "grayscale/apple", "grayscale/corn"]);
    // A copy of the set inside of itself.
    let dir = tempfile::tempdir().unwrap();
    put_classes(dir.path().join("Set"), &["apple", "corn"], 2, 0);
    put_classes(dir.path().join("Set/Set"), &["apple", "corn"], 2, 0);
    expect_error(&whole(dir.path()), &["one copy of the set", "Set, which holds folders named like those beside it"]);
}

#[test]
fn class_folders_beside_mat_files_are_folders() {
    let dir = tempfile::tempdir().unwrap();
    put_classes(dir.path().join("Images"), &["n1-Chihuahua", "n2-Pug"], 2, 0);
    write(dir.path().join("train_list.mat"), b"MATLAB 5.0 MAT-file");
    write(dir.path().join("test_list.mat"), b"MATLAB 5.0 MAT-file");
    assert_eq!(counts(&report(&whole(dir.path())).unwrap()), [(Split::Train, vec![2, 2])]);
}

#[test]
fn pnm_images_are_read() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join("a/0.ppm"), b"P6\n2 1\n255\n\x00\x14\x1e\x01\x14\x1e");
    write(dir.path().join("b/0.pgm"), b"P5 2 1 255\n\x07\x08");
    // A bitmap: 1 is black.
    write(dir.path().join("b/1.pbm"), b"P1\n2 1\n1 0\n");
    let config = ImportConfig { channels: gafi_data::Channels::Rgb, ..whole(dir.path()) };
    let (_, rows) = import(&config, Split::Train).unwrap();
    let pixels: Vec<_> = rows.into_values().map(|(_, pixels)| pixels).collect();
    assert_eq!(pixels, [vec![0, 1, 20, 20, 30, 30], vec![7, 8, 7, 8, 7, 8], vec![0, 255, 0, 255, 0, 255]]);
    write(dir.path().join("b/2.pgm"), b"P2\n2 1\n15\n7 15\n");
    expect_error(&config, &["2.pgm", "values from 0 to 15: convert it to PNG"]);
}
