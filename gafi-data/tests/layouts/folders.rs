//! Splits, classes and labels in the names of folders and in files beside the images.

use std::path::Path;

use gafi_core::Split;
use gafi_data::{ImportConfig, NoteKind};

use super::common::*;
use super::{SPEC, counts, noted, put_classes, report};

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
    // Validation images of the source, and images without labels.
    let dir = tempfile::tempdir().unwrap();
    put_classes(dir.path().join("seg_train"), &["cat", "dog"], 4, 0);
    put_classes(dir.path().join("seg_dev"), &["cat", "dog"], 2, 20);
    put_classes(dir.path().join("seg_pred"), &["seg_pred"], 3, 40);
    put_classes(dir.path(), &["seg_test"], 3, 50);
    let found = report(&ImportConfig { test_fraction: Some(0.25), ..ImportConfig::at(dir.path()) }).unwrap();
    assert_eq!(counts(&found), [(Split::Train, vec![3, 3]), (Split::Val, vec![2, 2]), (Split::Test, vec![1, 1])]);
    assert_eq!(noted(&found, NoteKind::Skipped, "without labels: in seg_pred"), 3);
    assert_eq!(noted(&found, NoteKind::Skipped, "without labels: in seg_test"), 3);
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
        // Its labels are placeholders.
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
    assert_eq!(noted(&found, NoteKind::Skipped, "without labels in train.csv"), 4);
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
