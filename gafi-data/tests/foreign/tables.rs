//! Parquet files: labels of every type, class names across files, rows without labels or image bytes.

use gafi_core::Split;
use gafi_data::ImportConfig;
use parquet::basic::Compression;

use super::LABELS;
use super::common::*;

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
    // Names that are numbers are sorted as numbers.
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

/// "é" as one character, and as a letter with a combining accent (as macOS stores file names).
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
    // The configured column decides.
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
fn errors_say_how_to_convert_paths_and_arrow_files() {
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
    expect_error(&at(&file), &["embed_table_storage", "no bytes, only the path \"/x/", "of another file"]);

    write(dir.path().join("saved/dataset_dict.json"), b"{\"splits\":[\"train\"]}");
    write(dir.path().join("saved/train/data-00000-of-00001.arrow"), b"\xff\xff\xff\xff\x70\0\0\0");
    for path in ["saved", "saved/train/data-00000-of-00001.arrow"] {
        expect_error(
            &at(dir.path().join(path)),
            &["found Arrow files of datasets.save_to_disk", "load_from_disk", "to_parquet"],
        );
    }
}
