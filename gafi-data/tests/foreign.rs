//! Files as other programs leave them: labels of every kind, pickles, archives, sets in the folders of torchvision.

mod common;

use common::*;
use gafi_core::{ImageSpec, Split};
use gafi_data::{Format, ImportConfig};
use parquet::basic::Compression;

const GREY: ImageSpec = ImageSpec::new(1, 5, 7);
const LABELS: [u8; 6] = [1, 0, 1, 0, 0, 1];

fn at(path: impl Into<std::path::PathBuf>) -> ImportConfig {
    ImportConfig { val_per_class: Some(1), ..ImportConfig::at(path) }
}

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
    // The test rows follow the training rows, they don't guess on their own.
    write(dir.path().join("t10k-labels-idx1-ubyte"), &idx_labels(&[1, 0]));
    expect_split_error(&at(dir.path()), Split::Test, &["image 1", "a label of 1 or more", "found label 0"]);
    // Labels 1 and 3 may be 0-based with missing classes as well.
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

/// A text of Python 2 in a pickle.
fn string(text: &str) -> Vec<u8> {
    [&[b'U', text.len() as u8], text.as_bytes()].concat()
}

/// A pickle of a dictionary of lists of small integers or texts, and of an array of (rows, 3072) bytes under `data`.
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
    // Two sets: the error lists them.
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
            // Columns first.
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
    expect_error(&letters, &["emnist-letters-mapping.txt: line 2: expected a label, in order"]);
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

fn two_classes(images: Vec<u8>, labels: Vec<u8>) -> Vec<u8> {
    npz(&[("X_train", images), ("Y_train", labels)], true)
}

#[test]
fn arrays_of_other_types_and_orders_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("set.npz");
    let labels = npy("|u1", "(6,)", &LABELS);
    let pixels: Vec<u8> = (0..6).flat_map(|row| picture(row, GREY)).collect();
    let check = |images: Vec<u8>, labels: Vec<u8>| {
        write(&file, &two_classes(images, labels));
        import_rows(&at(&file)).inspect(|found| expect_pictures(found, &LABELS, GREY)).map(|(info, _)| info.classes)
    };
    assert_eq!(check(grey(6), labels.clone()).unwrap(), ["0", "1"]);
    let unit: Vec<u8> = pixels.iter().flat_map(|&v| (f32::from(v) / 255.0).to_le_bytes()).collect();
    check(npy("<f4", "(6, 5, 7)", &unit), labels.clone()).unwrap();
    let wide: Vec<u8> = pixels.iter().flat_map(|&v| f64::from(v).to_be_bytes()).collect();
    check(npy(">f8", "(6, 5, 7)", &wide), labels.clone()).unwrap();
    let integers: Vec<u8> = pixels.iter().flat_map(|&v| i64::from(v).to_le_bytes()).collect();
    check(npy("<i8", "(6, 5, 7)", &integers), labels.clone()).unwrap();
    // The first index changes fastest.
    let columns_first: Vec<u8> =
        (0..7).flat_map(|x| (0..5).flat_map(move |y| (0..6).map(move |row| pixel(row, 0, y, x)))).collect();
    let array = replace(&npy("|u1", "(6, 5, 7)", &columns_first), b"False", b"True ");
    check(array, labels.clone()).unwrap();

    let floats: Vec<u8> = LABELS.iter().flat_map(|&l| f32::from(l).to_le_bytes()).collect();
    check(grey(6), npy("<f4", "(6, 1)", &floats)).unwrap();
    let names: Vec<u8> = LABELS
        .iter()
        .flat_map(|&l| ["cat", "dog"][usize::from(l)].chars().flat_map(|c| u32::from(c).to_le_bytes()))
        .collect();
    assert_eq!(check(grey(6), npy("<U3", "(6,)", &names)).unwrap(), ["cat", "dog"]);
    let one_hot: Vec<u8> = LABELS.iter().flat_map(|&l| [1 - l, l]).collect();
    check(grey(6), npy("|u1", "(6, 2)", &one_hot)).unwrap();

    let fails = |images: Vec<u8>, labels: Vec<u8>, parts: &[&str]| {
        write(&file, &two_classes(images, labels));
        expect_error(&at(&file), parts);
    };
    let sixteen: Vec<u8> = pixels.iter().flat_map(|&v| f64::from(v % 17).to_le_bytes()).collect();
    fails(
        npy("<f8", "(6, 5, 7)", &sixteen),
        labels.clone(),
        &["X_train: expected values from 0 to 255, or floats from 0 to 1", "f8 from 0 to 16"],
    );
    let signed: Vec<u8> = pixels.iter().flat_map(|&v| (f32::from(v) / 127.5 - 1.0).to_le_bytes()).collect();
    fails(
        npy("<f4", "(6, 5, 7)", &signed),
        labels.clone(),
        &["X_train: expected values from 0 to 255", "f4 from -1 to"],
    );
    fails(
        npy("|u1", "(6, 12)", &pixels[..72]),
        labels.clone(),
        &["x.reshape(-1, 3, 2, 2) if they are stored as three planes", "(6, 12)"],
    );
    fails(npy("|u1", "(6, 5, 7, 5)", &pixels.repeat(5)), labels.clone(), &["not volumes (3-D sets cannot be imported"]);
    let multi = [1, 1, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1];
    fails(
        grey(6),
        npy("|u1", "(6, 2)", &multi),
        &["Y_train[0]: expected one label", "a multi-label set cannot be imported", "several ones"],
    );
    fails(
        grey(6),
        npy("|u1", "(6, 2)", &multi[2..].repeat(2)[..12]),
        &["a multi-label set cannot be imported", "a row of zeros"],
    );
    fails(
        grey(6),
        npy("<f4", "(6,)", &floats.iter().map(|b| b ^ 1).collect::<Vec<_>>()),
        &["Y_train[0]: expected a label, 0 or more"],
    );
}

#[test]
fn flat_images_of_a_square_are_grey() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("set.npz");
    let spec = ImageSpec::new(1, 6, 6);
    let pixels: Vec<u8> = (0..6).flat_map(|row| picture(row, spec)).collect();
    write(&file, &npz(&[("data", npy("|u1", "(6, 36)", &pixels)), ("target", npy("|u1", "(6,)", &LABELS))], false));
    expect_pictures(&import_rows(&at(&file)).unwrap(), &LABELS, spec);
}

#[test]
fn files_that_are_not_read_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for (name, way) in [
        ("npy/x_train.npy", "pack arrays into one file: np.savez"),
        ("csv/train.csv", "pack pixels in columns into arrays"),
        ("stl10/train_X.bin", "pack STL-10 into arrays"),
        ("h5/train.h5", "convert HDF5 with h5py"),
        ("tfds/mnist-train.tfrecord-00000-of-00001", "convert records with tensorflow_datasets"),
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

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

/// The archive that our own export writes names its classes.
#[test]
fn an_archive_keeps_the_names_of_its_classes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("set.npz");
    let names: Vec<u8> = ["T-shirt/top", "Bag"]
        .iter()
        .flat_map(|name| name.chars().chain(std::iter::repeat('\0')).take(11).flat_map(|c| u32::from(c).to_le_bytes()))
        .collect();
    let arrays = [
        ("images", grey(6)),
        ("labels", npy("<i8", "(6,)", &LABELS.map(i64::from).map(i64::to_le_bytes).concat())),
        ("classes", npy("<U11", "(2,)", &names)),
    ];
    write(&file, &npz(&arrays, false));
    let found = import_rows(&at(&file)).unwrap();
    expect_pictures(&found, &LABELS, GREY);
    assert_eq!(found.0.classes, ["T-shirt/top", "Bag"]);
}

#[test]
fn archives_may_hold_one_split_or_one_array_each() {
    let dir = tempfile::tempdir().unwrap();
    let labels = npy("|u1", "(6,)", &LABELS);
    for part in ["train", "test"] {
        write(dir.path().join(format!("k/kmnist-{part}-imgs.npz")), &npz(&[("arr_0", grey(6))], true));
        write(dir.path().join(format!("k/kmnist-{part}-labels.npz")), &npz(&[("arr_0", labels.clone())], true));
        write(dir.path().join(format!("s/{part}.npz")), &npz(&[("data", grey(6)), ("target", labels.clone())], true));
    }
    for folder in ["k", "s"] {
        let set = at(dir.path().join(folder));
        expect_pictures(&import_rows(&set).unwrap(), &LABELS, GREY);
        expect_pictures(&import(&set, Split::Test).unwrap(), &LABELS, GREY);
    }
    for array in ["imgs", "labels"] {
        let from = dir.path().join(format!("k/kmnist-train-{array}.npz"));
        std::fs::copy(from, dir.path().join(format!("k/k49-train-{array}.npz"))).unwrap();
    }
    expect_error(&at(dir.path().join("k")), &["sets: expected archives of one set", "found k49, kmnist"]);
    // Test images without labels are left out, so test rows can be held out.
    let file = dir.path().join("set.npz");
    write(&file, &npz(&[("x_train", grey(6)), ("y_train", labels), ("x_test", grey(3))], false));
    let carved = ImportConfig { test_fraction: Some(0.34), ..at(&file) };
    assert_eq!(import(&carved, Split::Test).unwrap().1.len(), 2);
}

/// A column of labels for [`table`].
enum Column<'a> {
    Texts(&'a [&'a str]),
    Floats(&'a [f64]),
    Booleans(&'a [bool]),
    Integers(&'a [i64]),
}

/// A parquet file of PNGs in the column `image` (of lists of one, if `list`) and of labels.
fn table(label: &str, labels: &Column<'_>, list: bool, compression: Compression) -> Vec<u8> {
    use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
    let (kind, rows) = match labels {
        Column::Texts(l) => (format!("optional binary {label} (UTF8)"), l.len()),
        Column::Floats(l) => (format!("optional double {label}"), l.len()),
        Column::Booleans(l) => (format!("optional boolean {label}"), l.len()),
        Column::Integers(l) => (format!("optional int64 {label}"), l.len()),
    };
    let image = if list {
        "optional group images (LIST) { repeated group list { optional group element { optional binary bytes; } } }"
    } else {
        "optional group image { optional binary bytes; }"
    };
    let schema = parquet::schema::parser::parse_message_type(&format!("message schema {{ {image} {kind}; }}")).unwrap();
    let properties = parquet::file::properties::WriterProperties::builder().set_compression(compression).build();
    let mut writer =
        parquet::file::writer::SerializedFileWriter::new(Vec::new(), schema.into(), properties.into()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let pngs: Vec<ByteArray> = (0..rows).map(|row| ByteArray::from(png(row, GREY))).collect();
    let mut column = group.next_column().unwrap().unwrap();
    let levels = if list { (vec![4; rows], Some(vec![0; rows])) } else { (vec![2; rows], None) };
    column.typed::<ByteArrayType>().write_batch(&pngs, Some(&levels.0), levels.1.as_deref()).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let present = vec![1; rows];
    match labels {
        Column::Texts(l) => {
            let texts: Vec<ByteArray> = l.iter().map(|&t| ByteArray::from(t)).collect();
            column.typed::<ByteArrayType>().write_batch(&texts, Some(&present), None).unwrap()
        }
        Column::Floats(l) => column.typed::<DoubleType>().write_batch(l, Some(&present), None).unwrap(),
        Column::Booleans(l) => column.typed::<BoolType>().write_batch(l, Some(&present), None).unwrap(),
        Column::Integers(l) => column.typed::<Int64Type>().write_batch(l, Some(&present), None).unwrap(),
    };
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn labels_of_every_type_are_read_from_parquet() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("set.parquet");
    let integers = LABELS.map(i64::from);
    let none = Compression::UNCOMPRESSED;
    let import_table = |bytes: &[u8]| {
        write(&file, bytes);
        let found = import_rows(&at(&file)).unwrap();
        expect_pictures(&found, &LABELS, GREY);
        found.0.classes
    };
    let texts = LABELS.map(|l| ["cat", "dog"][usize::from(l)]);
    assert_eq!(import_table(&table("label", &Column::Texts(&texts), false, none)), ["cat", "dog"]);
    // Numbers in texts are sorted as numbers.
    let texts = LABELS.map(|l| ["9", "10"][usize::from(l)]);
    assert_eq!(import_table(&table("label", &Column::Texts(&texts), false, none)), ["9", "10"]);
    let booleans = LABELS.map(|l| l == 1);
    assert_eq!(import_table(&table("label", &Column::Booleans(&booleans), false, none)), ["false", "true"]);
    assert_eq!(import_table(&table("label", &Column::Floats(&LABELS.map(f64::from)), false, none)), ["0", "1"]);
    assert_eq!(import_table(&table("labels", &Column::Integers(&integers), false, none)), ["0", "1"]);
    assert_eq!(import_table(&table("label", &Column::Integers(&integers), true, none)), ["0", "1"]);
    for packed in [Compression::BROTLI(Default::default()), Compression::LZ4, Compression::LZ4_RAW] {
        import_table(&table("label", &Column::Integers(&integers), false, packed));
    }
    let halves = [1.0, 0.0, 0.5, 0.0, 0.0, 1.0];
    write(&file, &table("label", &Column::Floats(&halves), false, none));
    expect_error(&at(&file), &["row 2, column label: expected a label, a whole number of 0 or more, found 0.5"]);
}

#[test]
fn names_are_the_same_classes_in_every_file() {
    let dir = tempfile::tempdir().unwrap();
    let none = Compression::UNCOMPRESSED;
    let put = |name: &str, labels: &[&str]| {
        write(dir.path().join(name), &table("label", &Column::Texts(labels), false, none));
    };
    // The second shard lacks a class, and both start with another one.
    put("train-00000-of-00002.parquet", &["eel", "cat", "dog", "eel"]);
    put("train-00001-of-00002.parquet", &["dog", "cat", "dog", "cat"]);
    put("test-00000-of-00001.parquet", &["dog", "eel", "cat"]);
    let (info, rows) = import_rows(&at(dir.path())).unwrap();
    assert_eq!(info.classes, ["cat", "dog", "eel"]);
    assert_eq!(rows.values().map(|row| row.0).collect::<Vec<_>>(), [2, 0, 1, 2, 1, 0, 1, 0]);
    expect_pictures(&import(&at(dir.path()), Split::Test).unwrap(), &[1, 2, 0], GREY);
    put("test-00000-of-00001.parquet", &["dog", "fox", "cat"]);
    expect_split_error(
        &at(dir.path()),
        Split::Test,
        &["the classes of the training rows: cat, dog, eel", "found cat, dog, eel, fox"],
    );
}

/// "é" as one character, and as a letter with an accent (as macOS stores names of files).
#[test]
fn names_in_another_normalization_are_the_same_class() {
    let dir = tempfile::tempdir().unwrap();
    let labels = ["caf\u{e9}", "bar", "cafe\u{301}", "bar"];
    write(
        dir.path().join("train-0.parquet"),
        &table("label", &Column::Texts(&labels), false, Compression::UNCOMPRESSED),
    );
    write(
        dir.path().join("test-0.parquet"),
        &table("label", &Column::Texts(&labels[2..]), false, Compression::UNCOMPRESSED),
    );
    let (info, rows) = import_rows(&at(dir.path())).unwrap();
    assert_eq!(info.classes, ["bar", "caf\u{e9}"]);
    assert_eq!(rows.values().map(|row| row.0).collect::<Vec<_>>(), [1, 0, 1, 0]);
    expect_pictures(&import(&at(dir.path()), Split::Test).unwrap(), &[1, 0], GREY);
}

#[test]
fn test_rows_without_labels_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let train = table("label", &Column::Integers(&LABELS.map(i64::from)), false, Compression::UNCOMPRESSED);
    write(dir.path().join("train-0.parquet"), &train);
    let carved = ImportConfig { test_fraction: Some(0.34), ..at(dir.path()) };
    for (name, unknown) in [("label", -1), ("id", 7)] {
        let test = table(name, &Column::Integers(&[unknown; 3]), false, Compression::UNCOMPRESSED);
        write(dir.path().join("test-0.parquet"), &test);
        assert_eq!(import(&carved, Split::Test).unwrap().1.len(), 2);
    }
    // The column that is set decides.
    write(dir.path().join("test-0.parquet"), &train);
    write(
        dir.path().join("train-0.parquet"),
        &table("kind", &Column::Texts(&["b", "a", "b", "a", "a", "b"]), false, Compression::UNCOMPRESSED),
    );
    let by_kind = ImportConfig { label_column: Some("kind".into()), ..carved.clone() };
    assert_eq!(import(&by_kind, Split::Test).unwrap().1.len(), 2);
    write(dir.path().join("idx/train-images-idx3-ubyte"), &idx_images(6, GREY));
    write(dir.path().join("idx/train-labels-idx1-ubyte"), &idx_labels(&LABELS));
    write(dir.path().join("idx/t10k-images-idx3-ubyte"), &idx_images(3, GREY));
    let carved = ImportConfig { path: Some(dir.path().join("idx")), ..carved };
    assert_eq!(import(&carved, Split::Test).unwrap().1.len(), 2);
}

#[test]
fn paths_without_bytes_and_arrow_files_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("set.parquet");
    let schema = "message schema { optional group image { optional binary bytes; optional binary path (UTF8); } optional int64 label; }";
    let schema = parquet::schema::parser::parse_message_type(schema).unwrap();
    let mut writer =
        parquet::file::writer::SerializedFileWriter::new(Vec::new(), schema.into(), Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<parquet::data_type::ByteArrayType>().write_batch(&[], Some(&[1; 4]), None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let paths = ["/x/0.png", "/x/1.png", "/x/2.png", "/x/3.png"].map(parquet::data_type::ByteArray::from);
    column.typed::<parquet::data_type::ByteArrayType>().write_batch(&paths, Some(&[2; 4]), None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<parquet::data_type::Int64Type>().write_batch(&[0, 1, 0, 1], Some(&[1; 4]), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    write(&file, &writer.into_inner().unwrap());
    expect_error(&at(&file), &["embed_table_storage", "null bytes and the path \"/x/", "of another file"]);

    write(dir.path().join("saved/dataset_dict.json"), b"{\"splits\":[\"train\"]}");
    write(dir.path().join("saved/train/data-00000-of-00001.arrow"), b"\xff\xff\xff\xff\x70\0\0\0");
    for path in ["saved", "saved/train/data-00000-of-00001.arrow"] {
        expect_error(
            &at(dir.path().join(path)),
            &["found Arrow files of datasets.save_to_disk", "load_from_disk", "to_parquet"],
        );
    }
}

/// A tar archive of files, and a link out of it.
fn tar(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    for (name, bytes) in files {
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    archive.append_link(&mut header, "link", "/etc/passwd").unwrap();
    archive.into_inner().unwrap()
}

fn zip_of(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    use std::io::Write;
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        archive.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

#[test]
fn archives_of_a_set_are_read_like_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let images: Vec<(&str, Vec<u8>)> = ["cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png"]
        .into_iter()
        .enumerate()
        .map(|(row, name)| (name, png(row, GREY)))
        .collect();
    for (name, bytes) in &images {
        write(dir.path().join("folder").join(name), bytes);
    }
    let expected = import_rows(&at(dir.path().join("folder"))).unwrap();
    assert_eq!(expected.0.classes, ["cat", "dog"]);
    write(dir.path().join("set.zip"), &zip_of(&images));
    write(dir.path().join("set.tar"), &tar(&images));
    write(dir.path().join("set.tgz"), &gzip(&tar(&images)));
    for name in ["set.zip", "set.tar", "set.tgz"] {
        let found = import_rows(&at(dir.path().join(name))).unwrap();
        assert_eq!((&found.0.classes, &found.1), (&expected.0.classes, &expected.1), "{name}");
    }
    let idx = [
        ("MNIST/raw/train-images-idx3-ubyte", idx_images(6, GREY)),
        ("MNIST/raw/train-labels-idx1-ubyte", idx_labels(&LABELS)),
    ];
    write(dir.path().join("idx.tar.gz"), &gzip(&tar(&idx)));
    expect_pictures(&import_rows(&at(dir.path().join("idx.tar.gz"))).unwrap(), &LABELS, GREY);
    // A NumPy archive stays one, whatever its name.
    let arrays = npz(&[("images", grey(6)), ("labels", npy("|u1", "(6,)", &LABELS))], true);
    write(dir.path().join("arrays.zip"), &arrays);
    expect_pictures(&import_rows(&at(dir.path().join("arrays.zip"))).unwrap(), &LABELS, GREY);
}

#[test]
fn hostile_archives_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |name: &str, bytes: &[u8], parts: &[&str]| {
        write(dir.path().join(name), bytes);
        expect_error(&at(dir.path().join(name)), parts);
    };
    fails("out.zip", &zip_of(&[("../out.png", vec![1])]), &["archive: expected names of files", "found ../out.png"]);
    assert!(!dir.path().join("out.png").exists());
    fails("bomb.zip", &zip_of(&[("a/0.png", vec![0; 64 << 20])]), &["at most 200 times the length of the archive"]);
    fails("bomb.tgz", &gzip(&tar(&[("a/0.png", vec![0; 64 << 20])])), &["at most 200 times the length of the archive"]);
    fails("set.tar.xz", b"\xfd7zXZ\0\0", &["a zip, tar or tar.gz archive (unpack others first), found xz"]);
    let whole = gzip(&tar(&[("a/0.png", png(0, GREY)), ("a/1.png", png(1, GREY))]));
    fails("cut.tgz", &whole[..whole.len() - 60], &["cut.tgz: "]);
}
