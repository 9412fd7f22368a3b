//! Published sets as their sites and torchvision leave them: CIFAR's pickles, MNIST's folders, EMNIST, SVHN.

use gafi_core::{ImageSpec, Split};
use gafi_data::{Format, ImportConfig};

use super::common::*;
use super::{LABELS, grey};

/// A `str` of Python 2 in a pickle.
fn string(text: &str) -> Vec<u8> {
    [&[b'U', text.len() as u8], text.as_bytes()].concat()
}

/// A pickled dictionary with lists of small integers or strings, and an array of (rows, 3072) bytes under `data`.
fn python2(lists: &[(&str, Vec<Vec<u8>>)], images: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = b"\x80\x02}(".to_vec();
    for (key, items) in lists {
        bytes.extend([string(key), b"](".to_vec(), items.concat(), b"e".to_vec()].concat());
    }
    if let Some(images) = images {
        let int = |n: usize| [&[b'J'][..], &(n as u32).to_le_bytes()].concat();
        bytes.extend(string("data"));
        bytes.extend(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R(K\x01");
        bytes.extend([int(images.len() / 3072), int(3072), b"\x86".to_vec()].concat());
        bytes.extend(b"cnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89T");
        bytes.extend((images.len() as u32).to_le_bytes());
        bytes.extend(images);
        bytes.extend(b"tb");
    }
    bytes.extend(b"u.");
    bytes
}

fn ints(labels: &[u8]) -> Vec<Vec<u8>> {
    labels.iter().map(|&label| vec![b'K', label]).collect()
}

#[test]
fn cifar_is_read_as_torchvision_leaves_it() {
    let dir = tempfile::tempdir().unwrap();
    let spec = ImageSpec::new(3, 32, 32);
    let images = |rows: usize| (0..rows).flat_map(|row| picture(row, spec)).collect::<Vec<u8>>();
    let ten: Vec<u8> = (0..20).map(|i| i % 10).collect();
    let folder = dir.path().join("data/cifar-10-batches-py");
    let batch = python2(&[("labels", ints(&ten))], Some(&images(20)));
    write(folder.join("data_batch_1"), &batch);
    write(folder.join("data_batch_2"), &batch);
    write(folder.join("test_batch"), &batch);
    let root = at(dir.path().join("data"));
    let (info, rows) = import_rows(&root).unwrap();
    assert_eq!((rows.len(), &rows[&23]), (40, &(3, picture(3, spec))));
    assert_eq!(info.classes[..2], ["airplane", "automobile"]);
    expect_pictures(&import(&root, Split::Test).unwrap(), &ten, spec);
    let names: Vec<Vec<u8>> = (0..10).map(|i| string(&format!("n{i}"))).collect();
    write(folder.join("batches.meta"), &python2(&[("label_names", names)], None));
    assert_eq!(import_rows(&at(&folder)).unwrap().0.classes[9], "n9");
    // A single batch.
    expect_pictures(&import_rows(&at(folder.join("data_batch_1"))).unwrap(), &ten, spec);

    let hundred: Vec<u8> = (0..200).map(|i| i % 100).collect();
    let coarse = ints(&hundred.iter().map(|l| l / 5).collect::<Vec<u8>>());
    let folder = dir.path().join("100/cifar-100-python");
    let train = python2(&[("coarse_labels", coarse), ("fine_labels", ints(&hundred))], Some(&images(200)));
    write(folder.join("train"), &train);
    write(folder.join("test"), &train);
    let found = import_rows(&at(dir.path().join("100"))).unwrap();
    expect_pictures(&found, &hundred, spec);
    assert_eq!(found.0.classes[99], "worm");

    let file = dir.path().join("100/cifar-100-python/train");
    write(&file, &train[..train.len() - 9]);
    expect_error(&at(&folder), &["train: byte", "found the end of the pickle"]);
    write(&file, &python2(&[("fine_labels", ints(&hundred[..9]))], Some(&images(10))));
    expect_error(&at(&folder), &["fine_labels: expected 10 labels, one for each image, found 9"]);
    write(&file, &python2(&[("filenames", names_of(3))], Some(&images(3))));
    expect_error(&at(&folder), &["keys: expected data, and labels or fine_labels, found filenames, data"]);
    write(&file, b"\x80\x02}X\x06\0\0\0labels]sX\x04\0\0\0datacposix\nsystem\nX\x02\0\0\0ls\x85Rs.");
    expect_error(&at(&folder), &["train: data: expected an array of images, found posix.system"]);
}

fn names_of(rows: usize) -> Vec<Vec<u8>> {
    (0..rows).map(|row| string(&format!("{row}.png"))).collect()
}

#[test]
fn sets_in_the_folders_of_torchvision_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("MNIST/raw");
    for part in ["train", "t10k"] {
        write(raw.join(format!("{part}-images-idx3-ubyte")), &idx_images(6, GREY));
        write(raw.join(format!("{part}-images-idx3-ubyte.gz")), &gzip(&idx_images(6, GREY)));
        write(raw.join(format!("{part}-labels-idx1-ubyte")), &idx_labels(&LABELS));
    }
    expect_pictures(&import_rows(&at(dir.path())).unwrap(), &LABELS, GREY);
    expect_pictures(&import(&at(dir.path()), Split::Test).unwrap(), &LABELS, GREY);
    let explicit = ImportConfig { format: Format::Idx, ..at(dir.path()) };
    expect_pictures(&import_rows(&explicit).unwrap(), &LABELS, GREY);
    // With two sets, the error lists both.
    let file = npz(&[("images", grey(6)), ("labels", npy("|u1", "(6,)", &LABELS))], false);
    write(dir.path().join("other/set.npz"), &file);
    expect_error(&at(dir.path()), &["sets: expected one set; set path", "found MNIST/raw (idx), other (npz)"]);
}

#[test]
fn emnist_is_read_upright_with_its_letters() {
    let dir = tempfile::tempdir().unwrap();
    let transposed = ImageSpec::new(1, 7, 5);
    let images = |rows| {
        let mut bytes = idx_images(rows, transposed)[..16].to_vec();
        for row in 0..rows {
            // EMNIST stores images column by column.
            bytes.extend((0..7).flat_map(|x| (0..5).map(move |y| pixel(row, 0, y, x))));
        }
        gzip(&bytes)
    };
    let from_one: Vec<u8> = LABELS.iter().map(|l| l + 1).collect();
    let folder = dir.path().join("EMNIST/raw");
    for set in ["letters", "digits"] {
        write(folder.join(format!("emnist-{set}-train-images-idx3-ubyte.gz")), &images(6));
        write(folder.join(format!("emnist-{set}-train-labels-idx1-ubyte.gz")), &gzip(&idx_labels(&from_one)));
        write(folder.join(format!("emnist-{set}-test-images-idx3-ubyte.gz")), &images(2));
        write(folder.join(format!("emnist-{set}-test-labels-idx1-ubyte.gz")), &gzip(&idx_labels(&[2, 1])));
    }
    write(folder.join("emnist-letters-mapping.txt"), b"1 65 97\n2 66 98\n");
    expect_error(&at(dir.path()), &["sets: expected files of one set", "found emnist-digits, emnist-letters"]);
    let letters = at(folder.join("emnist-letters-train-images-idx3-ubyte.gz"));
    let found = import_rows(&letters).unwrap();
    expect_pictures(&found, &LABELS, GREY);
    assert_eq!(found.0.classes, ["A", "B"]);
    expect_pictures(&import(&letters, Split::Test).unwrap(), &[1, 0], GREY);
    write(folder.join("emnist-letters-mapping.txt"), b"1 65 97\n3 66 98\n");
    expect_error(&letters, &["emnist-letters-mapping.txt: line 2: expected the next label"]);
}

/// A variable of a `.mat` file: numbers of `class`, stored as `kind`.
fn variable(name: &str, class: u8, sides: &[u32], kind: u32, values: &[u8]) -> Vec<u8> {
    let element = |kind: u32, data: &[u8]| {
        let mut bytes = if data.len() <= 4 {
            [&(kind | (data.len() as u32) << 16).to_le_bytes()[..], data].concat()
        } else {
            [&kind.to_le_bytes()[..], &(data.len() as u32).to_le_bytes(), data].concat()
        };
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    };
    let sides: Vec<u8> = sides.iter().flat_map(|side| side.to_le_bytes()).collect();
    let body = [
        element(6, &[class, 0, 0, 0, 0, 0, 0, 0]),
        element(5, &sides),
        element(1, name.as_bytes()),
        element(kind, values),
    ];
    let body = body.concat();
    [&14u32.to_le_bytes()[..], &(body.len() as u32).to_le_bytes(), &body].concat()
}

fn mat(variables: &[Vec<u8>], compressed: bool) -> Vec<u8> {
    use std::io::Write;
    let mut bytes = format!("{:<124}", "MATLAB 5.0 MAT-file, Platform: GLNXA64").into_bytes();
    bytes.extend(b"\x00\x01IM");
    for variable in variables {
        if compressed {
            let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            packed.write_all(variable).unwrap();
            let packed = packed.finish().unwrap();
            bytes.extend([&15u32.to_le_bytes()[..], &(packed.len() as u32).to_le_bytes(), &packed].concat());
        } else {
            bytes.extend(variable);
        }
    }
    bytes
}

#[test]
fn svhn_is_read_and_its_label_10_is_the_digit_0() {
    let dir = tempfile::tempdir().unwrap();
    let spec = ImageSpec::new(3, 5, 7);
    let labels: Vec<u8> = (0..20).map(|i| i % 10 + 1).collect();
    // Rows change fastest, then columns, colours, images.
    let image =
        |row: usize| (0..3).flat_map(move |c| (0..7).flat_map(move |x| (0..5).map(move |y| pixel(row, c, y, x))));
    let images: Vec<u8> = (0..20).flat_map(image).collect();
    let x = variable("X", 9, &[5, 7, 3, 20], 2, &images);
    let y = variable("y", 6, &[20, 1], 2, &labels);
    for compressed in [false, true] {
        let file = mat(&[x.clone(), y.clone()], compressed);
        for name in ["train_32x32.mat", "test_32x32.mat", "extra_32x32.mat"] {
            write(dir.path().join(name), &file);
        }
        let digits: Vec<u8> = labels.iter().map(|l| l % 10).collect();
        let found = import_rows(&at(dir.path())).unwrap();
        expect_pictures(&found, &digits, spec);
        assert_eq!(found.0.classes[..2], ["0", "1"]);
        expect_pictures(&import(&at(dir.path()), Split::Test).unwrap(), &digits, spec);
        expect_pictures(&import_rows(&at(dir.path().join("extra_32x32.mat"))).unwrap(), &digits, spec);
    }
    let train = dir.path().join("train_32x32.mat");
    write(&train, &mat(&[x.clone(), variable("y", 6, &[19, 1], 2, &labels[1..])], false));
    expect_error(&at(dir.path()), &["train_32x32.mat: y: expected 20 labels, one for each image, found 19"]);
    write(&train, &mat(std::slice::from_ref(&x), true));
    expect_error(&at(dir.path()), &["variables: expected X, the images, and y, their labels, as in SVHN, found X"]);
    write(&train, &mat(&[variable("X", 9, &[5, 7, 3, 200], 2, &images), y.clone()], true));
    expect_error(
        &at(dir.path()),
        &["X: expected uint8 of shape (rows, columns, 3, images)", "[5, 7, 3, 200] in 2100 bytes"],
    );
    write(&train, &mat(&[x, y], false)[..1000]);
    expect_error(&at(dir.path()), &["variables: expected", "the end of the file after 1000"]);
    write(&train, format!("{:<128}", "MATLAB 7.3 MAT-file").as_bytes());
    expect_error(&at(dir.path()), &["level 5 (save it with -v7), found level 7.3, which is HDF5"]);
}
