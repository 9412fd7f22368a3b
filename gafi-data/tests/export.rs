//! Each export, read back by the readers of this crate: equal pixels, equal labels; equal bytes for equal sets; and
//! nothing under the name but whole exports.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::*;
use gafi_core::*;
use gafi_data::{ExportFormat, ExportOptions, ImportConfig, export};
use serde_json::{Value, json};

const GREY: ImageSpec = ImageSpec::new(1, 5, 7);
const COLOUR: ImageSpec = ImageSpec::new(3, 5, 7);
const CIFAR: ImageSpec = ImageSpec::new(3, 32, 32);

/// A set of [`picture`]s, `rows` in pushes of `push`.
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
    fn name(&self) -> &'static str {
        "made"
    }
    fn revision(&self) -> u32 {
        1
    }
    fn ports(&self) -> &'static [Port] {
        &[]
    }
    fn output(&self) -> Kind {
        Kind::Dataset
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

fn write_out(artifact: &Artifact, format: ExportFormat, dest: &Path) {
    let done = export(artifact, format, &ExportOptions::default(), dest, &Context::default()).unwrap();
    let info = DatasetInfo::of(artifact).unwrap();
    assert_eq!((done.rows, done.classes), (info.rows(), info.classes.len()));
}

fn at(path: PathBuf) -> ImportConfig {
    ImportConfig { val_per_class: Some(1), ..ImportConfig::at(path) }
}

/// Every file below a folder.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![dir.to_path_buf()]);
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
fn formats_with_rows_in_order_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let ten = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    for (i, (spec, classes, rows)) in
        [(GREY, &["ring", "disc"][..], 9), (COLOUR, &["ring", "disc"], 12), (CIFAR, &ten, 23)].into_iter().enumerate()
    {
        for judged in [false, true] {
            let made = Made { judged, ..Made::new(spec, classes, rows) };
            let artifact = made.at(&dir.path().join(format!("{i}-{judged}")));
            let labels: Vec<u8> = (0..rows).map(|row| made.label(row) as u8).collect();
            for format in [ExportFormat::Parquet, ExportFormat::Npz, ExportFormat::CifarBin] {
                if format == ExportFormat::CifarBin && spec != CIFAR {
                    continue;
                }
                let dest = dir.path().join(format!("{i}-{judged}-{}", format.name()));
                write_out(&artifact, format, &dest);
                let found = import_rows(&at(dest)).unwrap();
                expect_pictures(&found, &labels, spec);
                if format != ExportFormat::Npz {
                    assert_eq!(found.0.classes, classes, "{}", format.name());
                }
            }
        }
    }
}

#[test]
fn classes_of_an_image_folder_are_told_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::new(COLOUR, &["T-shirt/top", "dress", "Dress", "ankle boot"], 13);
    let dest = dir.path().join("out");
    write_out(&made.at(&dir.path().join("set")), ExportFormat::ImageFolder, &dest);
    let (info, rows) = import_rows(&at(dest.clone())).unwrap();
    assert_eq!(info.classes, ["%44ress", "T-shirt%2Ftop", "ankle boot", "dress"]);
    let told: Value = serde_json::from_slice(&fs::read(dest.join("classes.json")).unwrap()).unwrap();
    assert_eq!(told["folders"], json!(["T-shirt%2Ftop", "dress", "%44ress", "ankle boot"]));
    // The reader goes class by class.
    let folder = |row: usize| told["folders"][made.label(row) as usize].as_str().unwrap().to_owned();
    let mut order: Vec<usize> = (0..13).collect();
    order.sort_by_key(|&row| folder(row));
    for (at, &row) in order.iter().enumerate() {
        let (label, pixels) = &rows[&(at as u64)];
        assert_eq!((info.classes[*label as usize].clone(), pixels), (folder(row), &picture(row, COLOUR)), "row {row}");
    }
    let card = fs::read_to_string(dest.join("README.md")).unwrap();
    assert!(card.contains("| 0 | T-shirt/top | T-shirt%2Ftop | 4 |"), "{card}");
}

#[test]
fn tar_shards_hold_image_label_and_teachers_opinion() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made { judged: true, ..Made::new(GREY, &["ring", "disc", "bar"], 10) };
    let artifact = made.at(&dir.path().join("set"));
    let dest = dir.path().join("out");
    // Each sample begins with 512 bytes of header and ends in its third file: two of them are above 4,000 bytes.
    let options = ExportOptions { file_bytes: 4000, ..ExportOptions::default() };
    export(&artifact, ExportFormat::WebDataset, &options, &dest, &Context::default()).unwrap();
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
fn rows_go_on_across_shards_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let spec = ImageSpec::new(1, 2, 2);
    let made = Made { push: 5000, judged: true, ..Made::new(spec, &["a", "b", "c"], 10_000) };
    let artifact = made.at(&dir.path().join("set"));
    assert_eq!(DatasetInfo::of(&artifact).unwrap().shards.len(), 2);
    let labels: Vec<u8> = (0..10_000).map(|row| made.label(row) as u8).collect();
    for format in [ExportFormat::Parquet, ExportFormat::Npz] {
        let dest = dir.path().join(format.name());
        let options = ExportOptions { file_bytes: 200_000, ..ExportOptions::default() };
        export(&artifact, format, &options, &dest, &Context::default()).unwrap();
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
            write_out(&artifact, format, &dir.path().join(to).join(format.name()));
        }
        files(&dir.path().join(to))
    };
    let one = all("one");
    // Dates have a resolution of two seconds in zip, of one in tar.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert!(one == all("two"));
    assert_eq!(one.keys().filter(|name| name.ends_with("README.md")).count(), ExportFormat::ALL.len());
}

#[test]
fn what_is_there_stays_unless_it_is_an_export_and_force_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = Made::new(GREY, &["ring", "disc"], 4).at(&dir.path().join("set"));
    let dest = dir.path().join("out");
    let (plain, force) = (Context::default(), Context { force: true, ..Context::default() });
    let run = |dest: &Path, cx: &Context| export(&artifact, ExportFormat::Npz, &ExportOptions::default(), dest, cx);
    fs::create_dir(&dest).unwrap();
    fs::write(dest.join("README.md"), "---\nlicense: mit\n---\nMine.").unwrap();
    assert!(matches!(run(&dest, &plain), Err(Error::Occupied { .. })));
    assert!(matches!(run(&dest, &force), Err(Error::Config { .. })), "somebody's own folder");
    assert_eq!(files(&dest).len(), 1);
    fs::remove_dir_all(&dest).unwrap();

    run(&dest, &plain).unwrap();
    assert!(matches!(run(&dest, &plain), Err(Error::Occupied { .. })));
    fs::write(dest.join("more"), "").unwrap();
    run(&dest, &force).unwrap();
    assert!(!dest.join("more").exists());
    // Not into the dataset, and not in its place.
    let set = dir.path().join("set");
    for place in [set.clone(), set.join("out"), dir.path().join("out/../set/deep/out")] {
        assert!(matches!(run(&place, &force), Err(Error::Config { .. })), "{}", place.display());
    }
    artifact.verify().unwrap();
    // Nor in the place of what it lies in, be that an export.
    fs::copy(dest.join("README.md"), dir.path().join("README.md")).unwrap();
    assert!(matches!(run(dir.path(), &force), Err(Error::Config { .. })));
}

/// Asks for a stop once so many shards are written.
struct StopAt(Arc<std::sync::atomic::AtomicBool>);

impl Progress for StopAt {
    fn log(&self, _: &str) {}
    fn begin(&self, _: &str, _: Option<u64>) -> Box<dyn Task> {
        Box::new(StopAt(self.0.clone()))
    }
}

impl Task for StopAt {
    fn advance(&mut self, _: u64) {
        self.0.store(true, Ordering::Relaxed);
    }
    fn note(&mut self, _: &str) {}
}

#[test]
fn an_interrupted_export_leaves_nothing_under_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made { push: 5000, ..Made::new(ImageSpec::new(1, 1, 1), &["a"], 10_000) };
    let artifact = made.at(&dir.path().join("set"));
    for format in [ExportFormat::Parquet, ExportFormat::WebDataset, ExportFormat::Npz] {
        let mut cx = Context::default();
        cx.progress = Arc::new(StopAt(cx.stop.clone()));
        let dest = dir.path().join("out");
        let ended = export(&artifact, format, &ExportOptions::default(), &dest, &cx);
        assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "set" || name.to_string_lossy().ends_with(".lock")), "{left:?}");
    }
}

#[test]
fn damage_is_found_before_anything_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = Made::new(GREY, &["a"], 4).at(&dir.path().join("set"));
    let shard = dir.path().join("set/shard-00000.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let dest = dir.path().join("out");
    let ended = export(&artifact, ExportFormat::Npz, &ExportOptions::default(), &dest, &Context::default());
    assert!(ended.unwrap_err().to_string().contains("BLAKE3"));
    assert!(!dest.exists());
}

#[test]
fn sets_that_a_format_cannot_hold_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |made: Made, format: ExportFormat, parts: &[&str]| {
        let set = tempfile::tempdir_in(dir.path()).unwrap();
        let dest = dir.path().join("out");
        let ended =
            export(&made.at(&set.path().join("set")), format, &ExportOptions::default(), &dest, &Context::default());
        let error = ended.unwrap_err();
        assert!(error.is_usage(), "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{part:?} is not in {error}");
        }
        assert!(!dest.exists());
    };
    refused(
        Made::new(GREY, &["a"], 2),
        ExportFormat::CifarBin,
        &["export cifar-bin", "3x32x32", "found 1x5x7", "import"],
    );
    let many: Vec<String> = (0..257).map(|i| format!("c{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    refused(Made::new(CIFAR, &many, 257), ExportFormat::CifarBin, &["256 classes", "257"]);
    refused(Made::new(CIFAR, &["a\nb"], 1), ExportFormat::CifarBin, &["one line", "a\\nb"]);
    refused(Made::new(GREY, &["a", "b", "a"], 3), ExportFormat::Parquet, &["classes 0 and 2", "\"a\""]);
    refused(Made::new(ImageSpec::new(2, 3, 3), &["a"], 1), ExportFormat::Npz, &["1 or 3 channels", "2x3x3"]);
}

#[test]
fn cards_say_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let card = |made: &Made, options: &ExportOptions, format| {
        let set = tempfile::tempdir_in(dir.path()).unwrap();
        let dest = set.path().join("out");
        export(&made.at(&set.path().join("set")), format, options, &dest, &Context::default()).unwrap();
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
        "may reproduce images",
        "Labels are requests",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let options = ExportOptions {
        name: Some("Rings: \"10\"".into()),
        license: Some("cc0-1.0".into()),
        ..ExportOptions::default()
    };
    let text = card(&Made { split: Split::Test, ..made }, &options, ExportFormat::WebDataset);
    for part in
        ["license: \"cc0-1.0\"\n", "pretty_name: \"Rings: \\\"10\\\"\"", "# Rings: \"10\"", "split: test\n", "are real"]
    {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains("synthetic"), "{text}");
}
