//! Every export format is read back with equal pixels and labels; equal datasets give equal bytes; a failed export leaves
//! nothing behind.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use common::*;
use gafi_core::*;
use gafi_data::{ExportFormat, ExportOptions, ImportConfig, export_dataset, import_all};
use parquet::basic::Compression;
use serde_json::{Value, json};

const CIFAR: ImageSpec = ImageSpec::new(3, 32, 32);

/// A stage that writes [`picture`]s, `push` rows at a time, optionally with a teacher's probabilities.
#[derive(Debug, Clone)]
struct Made {
    image: ImageSpec,
    classes: Vec<String>,
    split: Split,
    rows: usize,
    push: usize,
    judged: bool,
}

impl Made {
    fn new(image: ImageSpec, classes: &[&str], rows: usize) -> Self {
        let classes = classes.iter().map(|s| s.to_string()).collect();
        Self { image, classes, split: Split::Synthetic, rows, push: rows, judged: false }
    }

    fn label(&self, row: usize) -> u32 {
        (row * 7 % self.classes.len()) as u32
    }

    fn at(&self, dest: &Path) -> Artifact {
        execute(self, &Inputs::new(), dest, &Context::default()).unwrap().artifact
    }
}

fn confidence(row: usize) -> f32 {
    (row % 97) as f32 / 97.0
}

impl Stage for Made {
    fn info(&self) -> StageInfo {
        StageInfo { name: "made", revision: 1, ports: &[], output: Kind::Dataset }
    }
    fn config(&self) -> Value {
        json!({"note": "back```tick", "set": format!("{self:?}")})
    }
    fn check(&self, _: &Inputs) -> Result<()> {
        Ok(())
    }
    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, _: &Context) -> Result<()> {
        let info = DatasetInfo::new(self.image, self.classes.clone(), self.split);
        let (mut writer, _) = DatasetWriter::begin(out, info)?;
        let all: Vec<usize> = (0..self.rows).collect();
        for rows in all.chunks(self.push) {
            let share = |row: usize| {
                let rest = (1.0 - confidence(row)) / (self.classes.len() - 1).max(1) as f32;
                (0..self.classes.len()).map(move |c| if c as u32 == self.label(row) { confidence(row) } else { rest })
            };
            let batch = Batch {
                labels: rows.iter().map(|&row| ClassId(self.label(row))).collect(),
                images: rows.iter().flat_map(|&row| picture(row, self.image)).collect(),
                ids: rows.iter().map(|&row| row as u64).collect(),
                confidence: self.judged.then(|| rows.iter().map(|&row| confidence(row)).collect()),
                probabilities: self.judged.then(|| rows.iter().flat_map(|&row| share(row)).collect()),
            };
            writer.push(&batch, Value::Null)?;
        }
        writer.finish()?;
        Ok(())
    }
}

fn write_export(artifact: &Artifact, format: ExportFormat, dest: &Path) {
    let done = export_dataset(artifact, format, &ExportOptions::default(), dest, &Context::default()).unwrap();
    let info = DatasetInfo::of(artifact).unwrap();
    assert_eq!((done.rows, done.classes), (info.rows(), info.classes.len()));
}

/// Every file in a folder and its sub-folders, by relative path.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().replace('\\', "/");
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn exports_are_read_back_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let ten = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    for (i, (spec, classes, rows)) in
        [(GREY, &["ring", "disc"][..], 9), (COLOUR, &["ring", "disc"], 12), (CIFAR, &ten, 23)].into_iter().enumerate()
    {
        for judged in [false, true] {
            let made = Made { judged, ..Made::new(spec, classes, rows) };
            let artifact = made.at(&dir.path().join(format!("{i}-{judged}")));
            let labels: Vec<u8> = (0..rows).map(|row| made.label(row) as u8).collect();
            for format in [ExportFormat::Parquet, ExportFormat::Npz, ExportFormat::CifarBin, ExportFormat::WebDataset] {
                if format == ExportFormat::CifarBin && spec != CIFAR {
                    continue;
                }
                let dest = dir.path().join(format!("{i}-{judged}-{}", format.name()));
                write_export(&artifact, format, &dest);
                let found = import_rows(&at(dest)).unwrap();
                expect_pictures(&found, &labels, spec);
                assert_eq!(found.0.classes, classes, "{}", format.name());
            }
        }
    }
    // Test images alone are a whole set, and the report says so.
    let made = Made { split: Split::Test, ..Made::new(CIFAR, &ten, 23) };
    let artifact = made.at(&dir.path().join("test-set"));
    let labels: Vec<u8> = (0..23).map(|row| made.label(row) as u8).collect();
    for format in [ExportFormat::Parquet, ExportFormat::Npz, ExportFormat::CifarBin, ExportFormat::WebDataset] {
        let dest = dir.path().join(format!("test-{}", format.name()));
        write_export(&artifact, format, &dest);
        let (info, rows) = import_rows(&at(dest)).unwrap();
        let noted = info.import.as_ref().unwrap()["notes"].to_string().contains("only split is test");
        assert_eq!(noted, format != ExportFormat::Npz, "{}", format.name());
        expect_pictures(&(info, rows), &labels, CIFAR);
    }
}

#[test]
fn an_import_that_is_exported_and_imported_again_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let labels = [3, 1, 1, 2, 3, 0, 1, 2, 3];
    // MNIST's files, gzipped, and a parquet file with names.
    write(dir.path().join("idx/train-images-idx3-ubyte.gz"), &gzip(&idx_images(9, GREY)));
    write(dir.path().join("idx/train-labels-idx1-ubyte.gz"), &gzip(&idx_labels(&labels)));
    let names = ["zebra", "cat", "T-shirt/top", "a"];
    let table = parquet(("img", "label"), &pngs(9, COLOUR), &labels.map(i64::from), &names, Compression::SNAPPY);
    write(dir.path().join("parquet/train-00000-of-00001.parquet"), &table);
    let whole = |path: &str| ImportConfig { val_fraction: Some(0.0), ..ImportConfig::at(dir.path().join(path)) };
    for (source, spec) in [("idx", GREY), ("parquet", COLOUR)] {
        let set = import_all(&whole(source), &dir.path().join(format!("{source}-set")), &Context::default()).unwrap();
        let first = import(&whole(source), Split::Train).unwrap();
        expect_pictures(&first, &labels, spec);
        for format in [ExportFormat::Npz, ExportFormat::Parquet, ExportFormat::WebDataset] {
            let name = format!("{source}-{}", format.name());
            write_export(&Artifact::open(&set.train).unwrap(), format, &dir.path().join(&name));
            let again = import(&whole(&name), Split::Train).unwrap();
            assert_eq!((&again.0.classes, &again.1), (&first.0.classes, &first.1), "{name}");
        }
    }
}

#[test]
fn image_folders_map_labels_to_folders() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::new(COLOUR, &["T-shirt/top", "dress", "Dress", "ankle boot"], 13);
    let dest = dir.path().join("out");
    write_export(&made.at(&dir.path().join("set")), ExportFormat::ImageFolder, &dest);
    // `classes.json` restores the names and their order.
    let (info, rows) = import_rows(&at(dest.clone())).unwrap();
    assert_eq!(info.classes, made.classes);
    let mapping: Value = serde_json::from_slice(&fs::read(dest.join("classes.json")).unwrap()).unwrap();
    assert_eq!(mapping["folders"], json!(["T-shirt%2Ftop", "dress", "%44ress", "ankle boot"]));
    // The importer reads class by class.
    let mut order: Vec<usize> = (0..13).collect();
    order.sort_by_key(|&row| made.label(row));
    for (at, &row) in order.iter().enumerate() {
        let (label, pixels) = &rows[&(at as u64)];
        assert_eq!((*label as usize, pixels), (made.label(row) as usize, &picture(row, COLOUR)), "row {row}");
    }
    // Without it, the classes are the folders.
    fs::remove_file(dest.join("classes.json")).unwrap();
    let (info, _) = import_rows(&at(dest.clone())).unwrap();
    assert_eq!(info.classes, ["%44ress", "T-shirt%2Ftop", "ankle boot", "dress"]);
    let card = fs::read_to_string(dest.join("README.md")).unwrap();
    assert!(card.contains("| 0 | T-shirt/top | T-shirt%2Ftop | 4 |"), "{card}");
}

#[test]
fn tar_shards_have_images_labels_and_probabilities() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made { judged: true, ..Made::new(GREY, &["ring", "disc", "bar"], 10) };
    let artifact = made.at(&dir.path().join("set"));
    let dest = dir.path().join("out");
    // A sample is three files with a header of 512 bytes each, so two samples exceed 4,000 bytes.
    let mut options = ExportOptions::default();
    options.file_bytes = 4000;
    export_dataset(&artifact, ExportFormat::WebDataset, &options, &dest, &Context::default()).unwrap();
    let found = files(&dest);
    let tars: Vec<_> = found.iter().filter(|(name, _)| name.ends_with(".tar")).collect();
    assert_eq!(tars[0].0, "train-000000.tar");
    assert_eq!(tars.len(), 5);
    let mut row = 0;
    for (name, bytes) in tars {
        let mut archive = tar::Archive::new(Cursor::new(bytes));
        let mut entries = archive.entries().unwrap();
        while let Some(entry) = entries.next() {
            for (part, entry) in ["png", "cls", "json"].into_iter().zip(std::iter::once(entry).chain(entries.by_ref()))
            {
                let mut entry = entry.unwrap();
                assert_eq!(entry.path().unwrap().to_str().unwrap(), format!("{row:06}.{part}"), "{name}");
                assert_eq!(entry.header().mtime().unwrap(), 0);
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                match part {
                    "png" => assert_eq!(
                        image::load_from_memory(&content).unwrap().into_luma8().into_raw(),
                        picture(row, GREY)
                    ),
                    "cls" => assert_eq!(content, made.label(row).to_string().as_bytes()),
                    _ => {
                        let fields: Value = serde_json::from_slice(&content).unwrap();
                        assert_eq!(fields["confidence"].as_f64().unwrap() as f32, confidence(row));
                        assert_eq!(fields["probabilities"].as_array().unwrap().len(), 3);
                    }
                }
            }
            row += 1;
        }
    }
    assert_eq!(row, 10);
}

#[test]
fn row_numbers_continue_across_shards_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let spec = ImageSpec::new(1, 2, 2);
    let made = Made { push: 5000, judged: true, ..Made::new(spec, &["a", "b", "c"], 10_000) };
    let artifact = made.at(&dir.path().join("set"));
    assert_eq!(DatasetInfo::of(&artifact).unwrap().shards.len(), 2);
    let labels: Vec<u8> = (0..10_000).map(|row| made.label(row) as u8).collect();
    for format in [ExportFormat::Parquet, ExportFormat::Npz] {
        let dest = dir.path().join(format.name());
        let mut options = ExportOptions::default();
        options.file_bytes = 200_000;
        export_dataset(&artifact, format, &options, &dest, &Context::default()).unwrap();
        expect_pictures(&import_rows(&at(dest.clone())).unwrap(), &labels, spec);
        assert!(format != ExportFormat::Parquet || files(&dest).len() > 3, "{:?}", files(&dest).keys());
    }
}

#[test]
fn equal_sets_give_equal_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made { judged: true, ..Made::new(CIFAR, &["ring", "disc"], 12) };
    let artifact = made.at(&dir.path().join("set"));
    let all = |to: &str| {
        for format in ExportFormat::ALL {
            write_export(&artifact, format, &dir.path().join(to).join(format.name()));
        }
        files(&dir.path().join(to))
    };
    let one = all("one");
    // Longer than the resolution of dates, two seconds in zip and one in tar.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert!(one == all("two"));
    assert_eq!(one.keys().filter(|name| name.ends_with("README.md")).count(), ExportFormat::ALL.len());
}

#[test]
fn only_exports_are_replaced_and_only_with_force() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = Made::new(GREY, &["ring", "disc"], 4).at(&dir.path().join("set"));
    let dest = dir.path().join("out");
    let plain = Context::default();
    let force = Context { force: true, ..Context::default() };
    let run =
        |dest: &Path, cx: &Context| export_dataset(&artifact, ExportFormat::Npz, &ExportOptions::default(), dest, cx);
    fs::create_dir(&dest).unwrap();
    fs::write(dest.join("README.md"), "---\nlicense: mit\n---\nMine.").unwrap();
    assert!(matches!(run(&dest, &plain), Err(Error::Occupied { .. })));
    assert!(matches!(run(&dest, &force), Err(Error::Config { .. })), "the folder is not an export");
    assert_eq!(files(&dest).len(), 1);
    fs::remove_dir_all(&dest).unwrap();

    run(&dest, &plain).unwrap();
    assert!(matches!(run(&dest, &plain), Err(Error::Occupied { .. })));
    fs::write(dest.join("more"), "").unwrap();
    assert!(run(&dest, &force).unwrap_err().to_string().contains("more, which is not listed"));
    assert!(dest.join("more").exists());
    fs::remove_file(dest.join("more")).unwrap();
    run(&dest, &force).unwrap();
    // Never into the dataset or in its place.
    let set = dir.path().join("set");
    for place in [set.clone(), set.join("out"), dir.path().join("out/../set/deep/out")] {
        assert!(matches!(run(&place, &force), Err(Error::Config { .. })), "{}", place.display());
    }
    artifact.verify().unwrap();
    // Nor in place of a folder around it, even if that is an export.
    fs::copy(dest.join("README.md"), dir.path().join("README.md")).unwrap();
    assert!(matches!(run(dir.path(), &force), Err(Error::Config { .. })));
}

#[test]
fn an_interrupted_export_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made { push: 5000, ..Made::new(ImageSpec::new(1, 1, 1), &["a"], 10_000) };
    let artifact = made.at(&dir.path().join("set"));
    for format in [ExportFormat::Parquet, ExportFormat::WebDataset, ExportFormat::Npz] {
        let mut cx = Context::default();
        // After the first shard.
        cx.progress = Arc::new(StopAt { limit: 1, done: Arc::default(), stop: cx.stop.clone() });
        let dest = dir.path().join("out");
        let ended = export_dataset(&artifact, format, &ExportOptions::default(), &dest, &cx);
        assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "set" || name.to_string_lossy().ends_with(".lock")), "{left:?}");
    }
}

#[test]
fn damaged_datasets_are_not_exported() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = Made::new(GREY, &["a"], 4).at(&dir.path().join("set"));
    let shard = dir.path().join("set/shard-00000.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let dest = dir.path().join("out");
    let ended = export_dataset(&artifact, ExportFormat::Npz, &ExportOptions::default(), &dest, &Context::default());
    assert!(ended.unwrap_err().to_string().contains("BLAKE3"));
    assert!(!dest.exists());
}

#[test]
fn datasets_that_a_format_cannot_hold_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let rejected = |made: Made, format: ExportFormat, parts: &[&str]| {
        let set = tempfile::tempdir_in(dir.path()).unwrap();
        let dest = dir.path().join("out");
        let ended = export_dataset(
            &made.at(&set.path().join("set")),
            format,
            &ExportOptions::default(),
            &dest,
            &Context::default(),
        );
        let error = ended.unwrap_err();
        assert!(error.is_usage(), "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{part:?} is not in {error}");
        }
        assert!(!dest.exists());
    };
    rejected(
        Made::new(GREY, &["a"], 2),
        ExportFormat::CifarBin,
        &["export cifar-bin", "3x32x32", "found 1x5x7", "import"],
    );
    let many: Vec<String> = (0..257).map(|i| format!("c{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    rejected(Made::new(CIFAR, &many, 257), ExportFormat::CifarBin, &["256 classes", "257"]);
    rejected(Made::new(CIFAR, &["a\nb"], 1), ExportFormat::CifarBin, &["one line", "a\\nb"]);
    rejected(Made::new(ImageSpec::new(2, 3, 3), &["a"], 1), ExportFormat::Npz, &["1 or 3 channels", "2x3x3"]);
}

#[test]
fn cards_describe_the_dataset() {
    let dir = tempfile::tempdir().unwrap();
    let card = |made: &Made, options: &ExportOptions, format| {
        let set = tempfile::tempdir_in(dir.path()).unwrap();
        let dest = set.path().join("out");
        export_dataset(&made.at(&set.path().join("set")), format, options, &dest, &Context::default()).unwrap();
        fs::read_to_string(dest.join("README.md")).unwrap()
    };
    let made = Made { judged: true, ..Made::new(GREY, &["no: \"yes\"", "a|b"], 4) };
    let text = card(&made, &ExportOptions::default(), ExportFormat::Parquet);
    for part in [
        "license: other\nlicense_name: unspecified\n",
        "- synthetic\n",
        "- n<1K\n",
        "path: \"data/train-*.parquet\"\n",
        "          '0': \"no: \\\"yes\\\"\"\n",
        "| 1 | a\\|b | 2 |",
        "stage `made` (revision 1)",
        "    \"note\": \"back```tick\"",
        "may reproduce training images",
        "A label is the class that was requested",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let mut options = ExportOptions::default();
    options.name = Some("Rings: \"10\"".into());
    options.license = Some("cc0-1.0".into());
    let text = card(&Made { split: Split::Test, ..made }, &options, ExportFormat::WebDataset);
    for part in
        ["license: \"cc0-1.0\"\n", "pretty_name: \"Rings: \\\"10\\\"\"", "# Rings: \"10\"", "split: test\n", "are real"]
    {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains("synthetic"), "{text}");
}
