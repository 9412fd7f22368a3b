//! Files as other programs leave them: labels of every kind, pickles, archives, sets in the folders of torchvision.

#[path = "../common/mod.rs"]
mod common;

mod archives;
mod arrays;
mod sets;
mod tables;

use common::*;
use gafi_core::Split;
use gafi_data::{Format, ImportConfig};

const LABELS: [u8; 6] = [1, 0, 1, 0, 0, 1];

/// The images of [`common::picture`] as a NumPy array of grey images.
fn grey(rows: usize) -> Vec<u8> {
    npy("|u1", &format!("({rows}, 5, 7)"), &(0..rows).flat_map(|row| picture(row, GREY)).collect::<Vec<u8>>())
}

#[test]
fn labels_may_start_at_one() {
    let dir = tempfile::tempdir().unwrap();
    let from_one: Vec<u8> = LABELS.iter().map(|l| l + 1).collect();
    write(dir.path().join("train-images-idx3-ubyte"), &idx_images(6, GREY));
    write(dir.path().join("train-labels-idx1-ubyte"), &idx_labels(&from_one));
    write(dir.path().join("t10k-images-idx3-ubyte"), &idx_images(2, GREY));
    write(dir.path().join("t10k-labels-idx1-ubyte"), &idx_labels(&[2, 1]));
    let found = import_rows(&at(dir.path())).unwrap();
    expect_pictures(&found, &LABELS, GREY);
    assert_eq!(found.0.classes, ["1", "2"]);
    expect_pictures(&import(&at(dir.path()), Split::Test).unwrap(), &[1, 0], GREY);
    let named = ImportConfig { classes: Some(vec!["cat".into(), "dog".into()]), ..at(dir.path()) };
    assert_eq!(import_rows(&named).unwrap().0.classes, ["cat", "dog"]);

    let none = ImportConfig { first_label: Some(0), ..at(dir.path()) };
    expect_error(&none, &["rows of class 0 (0), found no rows"]);
    let two = ImportConfig { first_label: Some(2), ..at(dir.path()) };
    expect_error(&two, &["expected a label of 2 or more", "found label 1"]);
    // Test labels start where training labels start.
    write(dir.path().join("t10k-labels-idx1-ubyte"), &idx_labels(&[1, 0]));
    expect_split_error(&at(dir.path()), Split::Test, &["image 1", "a label of 1 or more", "found label 0"]);
    // Labels 1 and 3 may also start at 0, with classes missing.
    write(dir.path().join("train-labels-idx1-ubyte"), &idx_labels(&[1, 3, 1, 3, 3, 1]));
    expect_error(&at(dir.path()), &["rows of class 0 (0), found no rows"]);
}

#[test]
fn class_names_come_from_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("set.npz");
    write(&file, &npz(&[("images", grey(6)), ("labels", npy("|u1", "(6,)", &LABELS))], false));
    let with = |names: &[&str]| {
        let classes = Some(names.iter().map(ToString::to_string).collect());
        ImportConfig { classes, ..at(&file) }
    };
    let found = import_rows(&with(&["dog", "cat"])).unwrap();
    expect_pictures(&found, &LABELS, GREY);
    assert_eq!(found.0.classes, ["dog", "cat"]);
    expect_error(&with(&["dog"]), &["expected a label below 1, the number of classes, found label 1"]);
    expect_error(&with(&["dog", "cat", "eel"]), &["rows of class 2 (eel), found no rows"]);
    expect_error(&with(&["dog", "dog"]), &["classes", "names that differ", "\"dog\" twice"]);
    // Names that the source stores are kept.
    write(dir.path().join("set/b/0.png"), &png(0, GREY));
    let folder = ImportConfig { path: Some(dir.path().join("set")), ..with(&["a"]) };
    expect_error(&folder, &["classes", "no names, because the source has its own: b"]);
}

#[test]
fn errors_say_how_to_convert_unsupported_files() {
    let dir = tempfile::tempdir().unwrap();
    for (name, way) in [
        ("npy/x_train.npy", "pack the arrays into one file: np.savez"),
        ("csv/train.csv", "pack the columns of pixels into arrays"),
        ("stl10/train_X.bin", "pack STL-10 into arrays"),
        ("h5/train.h5", "convert HDF5 with h5py"),
        ("tfds/mnist-train.tfrecord-00000-of-00001", "convert the records with tensorflow_datasets"),
        ("zip/train.zip", "unpack the archives inside"),
    ] {
        let path = dir.path().join(name);
        write(&path, b"label,pixel0\n1,2\n");
        expect_error(&at(path.parent().unwrap()), &[way]);
        if !name.ends_with(".zip") {
            expect_error(&ImportConfig { format: Format::Auto, ..at(&path) }, &["first bytes", way]);
        }
    }
}
