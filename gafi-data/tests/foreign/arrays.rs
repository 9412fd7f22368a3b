//! NumPy archives: arrays of other types, orders and shapes, in one archive or several.

use gafi_core::{ImageSpec, Split};
use gafi_data::ImportConfig;

use super::common::*;
use super::{LABELS, grey};

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

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

/// An archive that GaFi exports names its classes.
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
