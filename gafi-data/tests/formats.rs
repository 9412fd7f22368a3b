//! Every format: images that reveal any flip, rotation or swap of channels, and errors for damaged files.

mod common;

use common::*;
use gafi_core::{ImageSpec, Split};
use gafi_data::{Channels, Fit, Format, ImportConfig, NamedSet};
use parquet::basic::Compression;

const LABELS: [u8; 6] = [1, 0, 1, 0, 0, 1];

#[test]
fn idx_is_read_plain_and_gzipped() {
    let dir = tempfile::tempdir().unwrap();
    let images = idx_images(6, GREY);
    let labels = idx_labels(&LABELS);
    write(dir.path().join("plain/train-images-idx3-ubyte"), &images);
    write(dir.path().join("plain/train-labels-idx1-ubyte"), &labels);
    write(dir.path().join("gz/train-images-idx3-ubyte.gz"), &gzip(&images));
    write(dir.path().join("gz/train-labels-idx1-ubyte.gz"), &gzip(&labels));
    write(dir.path().join("gz/t10k-images-idx3-ubyte.gz"), &gzip(&idx_images(3, GREY)));
    write(dir.path().join("gz/t10k-labels-idx1-ubyte.gz"), &gzip(&idx_labels(&[0, 1, 1])));
    for folder in ["plain", "gz"] {
        let found = import_rows(&at(dir.path().join(folder))).unwrap();
        expect_pictures(&found, &LABELS, GREY);
        assert_eq!(found.0.classes, ["0", "1"]);
    }
    expect_pictures(&import(&at(dir.path().join("gz")), Split::Test).unwrap(), &[0, 1, 1], GREY);
    // The path of the images is enough to find the labels.
    let one = at(dir.path().join("gz/t10k-images-idx3-ubyte.gz"));
    let one = ImportConfig { val_per_class: None, test_fraction: Some(0.5), ..one };
    expect_split_error(&one, Split::Test, &["test_fraction", "at least 2 rows of every class", "class 0 (0) has 1"]);
    // A named set has ten classes, so two are too few.
    let named = ImportConfig { set: Some(NamedSet::Mnist), ..at(dir.path().join("plain")) };
    expect_error(&named, &["rows of class 2 (2)", "found no rows"]);
}

#[test]
fn damaged_idx_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("train-images-idx3-ubyte");
    let labels = dir.path().join("train-labels-idx1-ubyte");
    let whole = idx_images(6, GREY);
    write(&labels, &idx_labels(&LABELS));

    write(&images, &whole[..whole.len() - 1]);
    expect_error(
        &at(dir.path()),
        &["train-images-idx3-ubyte: length: expected 226 bytes for 6 images of 5x7, found 225"],
    );
    write(&images, &gzip(&whole[..whole.len() - 1]));
    expect_error(&at(dir.path()), &["image 5 (byte 191): expected 35 bytes", "after 34 bytes"]);
    let packed = gzip(&whole);
    write(&images, &packed[..packed.len() / 2]);
    expect_error(&at(dir.path()), &["train-images-idx3-ubyte: ", "readable data"]);
    write(&images, &[&whole[..], &[0]].concat());
    expect_error(&at(dir.path()), &["found 227 bytes"]);
    let mut wrong = whole.clone();
    wrong[3] = 1;
    write(&images, &wrong);
    expect_error(&at(dir.path()), &["header: expected the magic number of IDX images (0x00000803), found 0x00000801"]);
    write(&images, &whole);
    write(&labels, &idx_labels(&LABELS[..5]));
    expect_error(&at(dir.path()), &["train-labels-idx1-ubyte", "6 labels, one for each image", "found 5"]);
    write(&labels, &idx_labels(&[1, 0, 200, 0, 0, 1]));
    expect_error(&at(dir.path()), &["image 2 (byte 86): expected a label below 6", "label 200"]);
    write(&labels, &idx_labels(&[2, 0, 2, 0, 0, 2]));
    expect_error(&at(dir.path()), &["rows of class 1 (1), found no rows"]);
    write(&images, &idx_images(0, GREY));
    write(&labels, &idx_labels(&[]));
    expect_error(&at(dir.path()), &["train: expected at least one row, found no rows"]);
    std::fs::remove_file(&labels).unwrap();
    expect_error(&ImportConfig { format: Format::Idx, ..at(dir.path()) }, &["train-images-idx3-ubyte and", "found"]);
    expect_error(&at(dir.path().join("nowhere")), &["cannot open", "nowhere"]);
}

fn cifar(labels: &[u8], fine: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (row, &label) in labels.iter().enumerate() {
        if fine {
            bytes.push(19 - label % 20);
        }
        bytes.push(label);
        bytes.extend(picture(row, ImageSpec::new(3, 32, 32)));
    }
    bytes
}

#[test]
fn cifar_batches_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let spec = ImageSpec::new(3, 32, 32);
    let ten: Vec<u8> = (0..20).map(|i| i % 10).collect();
    let folder = dir.path().join("10/cifar-10-batches-bin");
    write(folder.join("data_batch_1.bin"), &cifar(&ten, false));
    write(folder.join("test_batch.bin"), &cifar(&ten, false));
    let found = import_rows(&at(dir.path().join("10"))).unwrap();
    expect_pictures(&found, &ten, spec);
    assert_eq!(found.0.classes[..2], ["airplane", "automobile"]);
    // Row numbers continue in the second batch; names come from the text file.
    write(folder.join("data_batch_2.bin"), &cifar(&ten, false));
    write(folder.join("batches.meta.txt"), b"a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n");
    let (info, rows) = import_rows(&at(&folder)).unwrap();
    assert_eq!((rows.len(), &rows[&23], info.classes[9].as_str()), (40, &(3, picture(3, spec)), "j"));

    let hundred: Vec<u8> = (0..200).map(|i| i % 100).collect();
    write(dir.path().join("100/train.bin"), &cifar(&hundred, true));
    let found = import_rows(&at(dir.path().join("100"))).unwrap();
    expect_pictures(&found, &hundred, spec);
    assert_eq!(found.0.classes[99], "worm");

    let mut bytes = cifar(&ten, false);
    bytes[3073] = 11;
    write(folder.join("data_batch_1.bin"), &bytes);
    expect_error(&at(&folder), &["data_batch_1.bin: record 1 (byte 3073): expected a label below 10", "label 11"]);
    write(folder.join("data_batch_1.bin"), &bytes[..5000]);
    expect_error(
        &at(&folder),
        &["length: expected whole records of 3073 bytes", "5000 bytes: 1 records and 1927 bytes"],
    );
    expect_error(&at(folder.join("data_batch_1.bin")), &["first bytes: expected an IDX, CIFAR"]);
}

#[test]
fn parquet_is_read_as_on_the_hub() {
    let dir = tempfile::tempdir().unwrap();
    let labels: Vec<i64> = LABELS.iter().map(|&l| i64::from(l)).collect();
    for (i, (columns, compression, spec)) in [
        (("img", "label"), Compression::SNAPPY, COLOUR),
        (("image", "fine_label"), Compression::ZSTD(Default::default()), GREY),
        (("picture", "label"), Compression::GZIP(Default::default()), COLOUR),
        (("image", "label"), Compression::UNCOMPRESSED, COLOUR),
    ]
    .into_iter()
    .enumerate()
    {
        let folder = dir.path().join(i.to_string());
        let bytes = parquet(columns, &pngs(6, spec), &labels, &["cat", "dog"], compression);
        write(folder.join("plain_text/train-00000-of-00001.parquet"), &bytes);
        write(folder.join("plain_text/test-00000-of-00001.parquet"), &bytes);
        let found = import_rows(&at(&folder)).unwrap();
        expect_pictures(&found, &LABELS, spec);
        assert_eq!(found.0.classes, ["cat", "dog"]);
        expect_pictures(&import(&at(&folder), Split::Test).unwrap(), &LABELS, spec);
    }
    // Row numbers continue across shards.
    let bytes = parquet(("img", "label"), &pngs(6, COLOUR), &labels, &["cat", "dog"], Compression::SNAPPY);
    let folder = dir.path().join("shards");
    write(folder.join("train-00000-of-00002.parquet"), &bytes);
    write(folder.join("train-00001-of-00002.parquet"), &bytes);
    let (_, rows) = import_rows(&at(&folder)).unwrap();
    assert_eq!((rows.len(), &rows[&8]), (12, &(1, picture(2, COLOUR))));
}

#[test]
fn damaged_parquet_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("set.parquet");
    let labels: Vec<i64> = LABELS.iter().map(|&l| i64::from(l)).collect();
    let make = |images: &[Option<Vec<u8>>], labels: &[i64], columns| {
        write(&file, &parquet(columns, images, labels, &["cat", "dog"], Compression::SNAPPY));
    };
    let with = |at: usize, image: Option<Vec<u8>>| {
        let mut images = pngs(6, COLOUR);
        images[at] = image;
        images
    };
    make(&pngs(6, COLOUR), &[1, 0, 1, 0, -1, 1], ("img", "label"));
    expect_error(&at(&file), &["row 4, column label: expected a label, 0 or more, found -1"]);
    make(&pngs(6, COLOUR), &[1, 0, 1, 0, 2, 1], ("img", "label"));
    expect_error(&at(&file), &["row 4, column img: expected a label below 2", "label 2"]);
    let all = ImportConfig { val_per_class: Some(2), ..at(&file) };
    make(&with(4, None), &labels, ("img", "label"));
    let fails = |parts: &[&str]| expect_image_error(&all, parts);
    fails(&["row 4, column img: expected an image, found null"]);
    make(&with(4, Some(b"GIF89a".to_vec())), &labels, ("img", "label"));
    fails(&["row 4, column img: expected a readable image"]);
    let mut cut = png(4, COLOUR);
    cut.truncate(cut.len() - 20);
    make(&with(4, Some(cut)), &labels, ("img", "label"));
    fails(&["row 4, column img: expected a readable image"]);
    make(&with(4, Some(png(4, ImageSpec::new(3, 6, 7)))), &labels, ("img", "label"));
    fails(&["row 4, column img: expected 3x5x7", "set size and fit to convert all, found 3x6x7"]);
    make(&pngs(6, COLOUR), &labels, ("img", "class"));
    expect_error(
        &ImportConfig { label_column: Some("kind".into()), ..at(&file) },
        &["columns: expected a column \"kind\"", "class (INT64)"],
    );
    import(&ImportConfig { label_column: Some("class".into()), ..at(&file) }, Split::Train).unwrap();
    let whole = std::fs::read(&file).unwrap();
    write(&file, &whole[..whole.len() - 30]);
    expect_error(&at(&file), &["set.parquet: footer: expected readable parquet data"]);
}

#[test]
fn folders_of_png_and_jpeg_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("set");
    // A smooth image, which JPEG at full quality reproduces within a few levels.
    let smooth = |c: usize, y: usize, x: usize| (20 + c * 60 + y * 4 + x * 2) as u8;
    let rgb = image::RgbImage::from_fn(24, 16, |x, y| image::Rgb([0, 1, 2].map(|c| smooth(c, y as usize, x as usize))));
    let mut jpeg = std::io::Cursor::new(Vec::new());
    rgb.write_with_encoder(image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 100)).unwrap();
    let big = ImageSpec::new(3, 16, 24);
    for split in ["train", "test"] {
        write(root.join(split).join("b_second/0.JPG"), jpeg.get_ref());
        write(root.join(split).join("b_second/1.png"), &png(1, big));
        write(root.join(split).join("a_first/deeper/x.png"), &png(2, big));
        write(root.join(split).join("a_first/grey.png"), &png(3, ImageSpec::new(1, 16, 24)));
        write(root.join(split).join("a_first/README.txt"), b"not an image");
        write(root.join(split).join(".hidden/0.png"), b"skipped");
    }
    let rgb = ImportConfig { channels: Channels::Rgb, ..at(&root) };
    let (info, rows) = import_rows(&rgb).unwrap();
    assert_eq!((info.image, &info.classes[..]), (big, &["a_first".to_owned(), "b_second".into()][..]));
    assert_eq!(rows[&0], (0, picture(2, big)));
    assert_eq!(rows[&1], (0, picture(3, ImageSpec::new(1, 16, 24)).repeat(3)));
    assert_eq!(rows[&3], (1, picture(1, big)));
    let (label, decoded) = &rows[&2];
    assert_eq!(*label, 1);
    for (i, &found) in decoded.iter().enumerate() {
        let expected = smooth(i / 384, i / 24 % 16, i % 24);
        assert!(found.abs_diff(expected) <= 6, "byte {i}: {found}, expected {expected}");
    }
    let (_, test) = import(&rgb, Split::Test).unwrap();
    assert_eq!(test, rows);
    // Converted to grey, padded and resized.
    let grey = ImportConfig { channels: Channels::Grey, size: Some(32), fit: Some(Fit::Pad), ..at(&root) };
    let (info, rows) = import_rows(&grey).unwrap();
    assert_eq!(info.image, ImageSpec::new(1, 32, 32));
    assert_eq!(rows[&1].1[8 * 32 + 4..][..24], picture(3, ImageSpec::new(1, 16, 24))[..24]);
    assert!(rows[&1].1[..8 * 32].iter().all(|&v| v == 0));
    let resized = ImportConfig { size: Some(8), fit: Some(Fit::Resize), ..rgb.clone() };
    assert_eq!(import_rows(&resized).unwrap().0.image, ImageSpec::new(3, 8, 8));

    expect_image_error(&at(root.join("train")), &["set channels = 1 or 3 to convert all"]);
    expect_error(&ImportConfig { size: Some(32), ..rgb.clone() }, &["32x32 pixels (set fit", "found 16x24"]);
    let small = ImportConfig { size: Some(20), fit: Some(Fit::Pad), ..rgb.clone() };
    expect_error(&small, &["at most 20x20 pixels for fit = \"pad\"", "found 16x24"]);
    write(root.join("train/b_second/2.png"), b"\x89PNG\r\n\x1a\nnonsense");
    let all = ImportConfig { val_per_class: None, val_fraction: Some(0.01), ..rgb.clone() };
    expect_image_error(&all, &["2.png: image: expected a readable image"]);
    write(root.join("train/b_second/2.png"), b"");
    expect_image_error(&all, &["2.png: image: expected a readable image"]);
    // Every damaged image is reported, the first with its reason.
    let first = std::fs::read(root.join("train/a_first/deeper/x.png")).unwrap();
    write(root.join("train/a_first/deeper/x.png"), b"nothing");
    expect_image_error(&all, &["x.png: image: expected", "; 1 more cannot be read: ", "b_second/2.png"]);
    write(root.join("train/a_first/deeper/x.png"), &first);
    std::fs::remove_file(root.join("train/b_second/2.png")).unwrap();
    write(root.join("train/b_second/2.webp"), b"RIFF");
    expect_error(&rgb, &["2.webp: image: expected a readable image", "the start of no known image format"]);
    std::fs::remove_file(root.join("train/b_second/2.webp")).unwrap();
    std::fs::create_dir(root.join("train/c_empty")).unwrap();
    expect_error(&rgb, &["rows of class 2 (c_empty), found no rows"]);
    std::fs::remove_dir(root.join("train/c_empty")).unwrap();
    std::fs::rename(root.join("test/b_second"), root.join("test/c_third")).unwrap();
    expect_split_error(&rgb, Split::Test, &["classes: expected the classes of the training rows", "c_third"]);
}

#[test]
fn a_class_may_be_named_train() {
    let dir = tempfile::tempdir().unwrap();
    for (class, row) in [("car", 0), ("plane", 1), ("train", 2)] {
        for copy in ["0.png", "1.png"] {
            write(dir.path().join(class).join(copy), &png(row, COLOUR));
        }
    }
    let (info, rows) = import_rows(&at(dir.path())).unwrap();
    assert_eq!((info.classes.len(), rows.len(), &rows[&4]), (3, 6, &(2, picture(2, COLOUR))));
}

#[test]
fn npz_is_read_in_all_layouts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("set.npz");
    let last = (0..6).flat_map(|row| interleaved(row, COLOUR)).collect::<Vec<u8>>();
    let first = (0..6).flat_map(|row| picture(row, COLOUR)).collect::<Vec<u8>>();
    let grey = (0..6).flat_map(|row| picture(row, GREY)).collect::<Vec<u8>>();
    let wide = LABELS.iter().flat_map(|&l| i64::from(l).to_le_bytes()).collect::<Vec<u8>>();
    let big_endian = LABELS.iter().flat_map(|&l| i32::from(l).to_be_bytes()).collect::<Vec<u8>>();
    for deflated in [false, true] {
        let plain = [("images", npy("|u1", "(6, 5, 7)", &grey)), ("labels", npy("<i8", "(6,)", &wide))];
        write(&file, &npz(&plain, deflated));
        expect_pictures(&import_rows(&at(&file)).unwrap(), &LABELS, GREY);
        let keras = [
            ("x_train", npy("|u1", "(6, 5, 7, 3)", &last)),
            ("y_train", npy(">i4", "(6, 1)", &big_endian)),
            ("x_test", npy("|u1", "(2, 5, 7, 3)", &last[..210])),
            ("y_test", npy("|u1", "(2,)", &LABELS[..2])),
        ];
        write(&file, &npz(&keras, deflated));
        expect_pictures(&import_rows(&at(&file)).unwrap(), &LABELS, COLOUR);
        expect_pictures(&import(&at(&file), Split::Test).unwrap(), &LABELS[..2], COLOUR);
        let medmnist = [
            ("train_images", npy("|u1", "(6, 3, 5, 7)", &first)),
            ("train_labels", npy("|u1", "(6, 1)", &LABELS)),
            ("val_images", npy("|u1", "(2, 3, 5, 7)", &first[..210])),
            ("val_labels", npy("|u1", "(2, 1)", &LABELS[..2])),
        ];
        write(&file, &npz(&medmnist, deflated));
        // The archive's own validation rows are used unless val_per_class is set.
        let own = ImportConfig::at(&file);
        expect_pictures(&import(&own, Split::Train).unwrap(), &LABELS, COLOUR);
        let (info, val) = import(&own, Split::Val).unwrap();
        let val = val.into_iter().map(|(row, image)| (row - 6, image)).collect();
        expect_pictures(&(info, val), &LABELS[..2], COLOUR);
        expect_pictures(&import_rows(&at(&file)).unwrap(), &LABELS, COLOUR);
    }
}

#[test]
fn damaged_npz_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("set.npz");
    let grey = (0..6).flat_map(|row| picture(row, GREY)).collect::<Vec<u8>>();
    let labels = npy("|u1", "(6,)", &LABELS);
    let make =
        |images: Vec<u8>, labels: &[u8]| write(&file, &npz(&[("images", images), ("labels", labels.to_vec())], true));
    make(npy("<f4", "(6, 5, 7)", &grey.repeat(4)), &labels);
    expect_error(&at(&file), &["images: expected values from 0 to 255, or floats from 0 to 1", "found f4 from"]);
    make(npy("|u1", "(6, 5, 7, 4)", &grey.repeat(4)), &labels);
    expect_error(&at(&file), &["shape (n, h, w)", "found (6, 5, 7, 4)"]);
    make(npy("|u1", "(6, 5, 7)", &grey[..200]), &labels);
    expect_error(&at(&file), &["images[5]: expected 35 bytes"]);
    make(npy("|u1", "(5, 5, 7)", &grey), &npy("|u1", "(5,)", &LABELS[..5]));
    expect_error(&at(&file), &["images, after its last image: expected the end of the file"]);
    make(npy("|u1", "(6, 5, 7)", &grey), &npy("|u1", "(5,)", &LABELS[..5]));
    expect_error(&at(&file), &["labels, header: expected shape (6) or (6, 1), a label for each row, found (5,)"]);
    make(npy("|u1", "(6, 5, 7)", &grey), &npy("|i1", "(6,)", &[1, 0, 255, 0, 0, 1]));
    expect_error(&at(&file), &["labels[2]: expected a label, 0 or more, found -1"]);
    make(npy("|u1", "(6, 5, 7)", &grey), &npy("<f2", "(6,)", &[0; 12]));
    expect_error(&at(&file), &["labels, header: expected integers, whole floats, booleans or strings, found dtype f2"]);
    make(npy("|u1", "(6, 999999999999, 999999999999)", &grey), &labels);
    expect_error(&at(&file), &["1 to 16384 rows and columns"]);
    make(b"\x93NUMPX".to_vec(), &labels);
    expect_error(&at(&file), &["images, header: expected 8 bytes"]);
    write(&file, &npz(&[("pictures", labels.clone())], false));
    expect_error(&at(&file), &["arrays: expected images and labels", "found pictures"]);
    write(&file, b"PK\x03\x04 and then nothing of the kind");
    expect_error(&at(&file), &["archive: expected a zip archive"]);
}

#[test]
fn test_fraction_is_required_without_test_rows() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join("train-images-idx3-ubyte"), &idx_images(6, GREY));
    write(dir.path().join("train-labels-idx1-ubyte"), &idx_labels(&LABELS));
    let no_test = at(dir.path());
    expect_split_error(&no_test, Split::Test, &["test_fraction = unset", "the source has no test rows"]);
    // Three disjoint parts of the same rows.
    let carved = ImportConfig { test_fraction: Some(0.34), ..no_test };
    let (_, mut rows) = import_rows(&carved).unwrap();
    let (_, test) = import(&carved, Split::Test).unwrap();
    assert_eq!((rows.len(), test.len()), (4, 2));
    rows.extend(test);
    assert_eq!(rows.len(), 6);
    expect_error(&ImportConfig::at(dir.path().join("train-labels-idx1-ubyte")), &["a file of labels beside it"]);
}
