//! The verb `import`: its table, its dry run, and its errors for unexpected data; `inspect --html`.

use std::path::Path;

use super::{fails, json, ok, trained};

/// Different 8x8 images in `root/CLASS/N.png`.
fn put(root: impl AsRef<Path>, classes: &[&str], each: u32, first: u32) {
    for (class, name) in (0u32..).zip(classes) {
        let folder = root.as_ref().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for n in 0..each {
            let row = first + class * each + n;
            let image =
                image::GrayImage::from_fn(8, 8, |x, y| image::Luma([(row * 41 + x * 13 + y * (row + 3) * 7) as u8]));
            image.save(folder.join(format!("{n}.png"))).unwrap();
        }
    }
}

#[test]
fn an_import_ends_with_a_table_and_a_dry_run_shows_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("mine");
    put(root.join("training_set"), &["cat", "dog"], 5, 0);
    put(root.join("test_set"), &["cat", "dog"], 3, 50);
    std::fs::copy(root.join("training_set/cat/0.png"), root.join("test_set/cat/0.png")).unwrap();
    std::fs::write(root.join("training_set/cat/Thumbs.db"), "x").unwrap();
    std::fs::write(root.join("training_set/cat/page.jpg"), "<html>").unwrap();
    let import = ["import", "mine", "--out", "data", "--set", "on_unreadable=skip"];
    let table = |output: std::process::Output| {
        let text = String::from_utf8(output.stderr).unwrap();
        text.lines().skip_while(|line| !line.starts_with("folder images")).map(str::to_owned).collect::<Vec<_>>()
    };
    let dry = table(ok(dir.path(), &[&import[..], &["--dry-run"]].concat()));
    assert!(!dir.path().join("data").exists());
    let found = table(ok(dir.path(), &import));
    assert_eq!(found, dry);
    assert_eq!(
        &found[..7],
        [
            "folder images, 2 classes",
            "  class  train       val  test",
            "  cat        4         1     3",
            "  dog        4         1     3",
            "  all        8         2     6",
            "           own  held out   own",
            "  sizes: 8x8 (16)",
        ]
    );
    for line in [
        "  modes: PNG, grey (16)",
        "  assumed: 17 images split by folder names: train from training_set, test from test_set",
        "  skipped: 1 hidden files, thumbnails and files of other programs: training_set/cat/Thumbs.db",
        "  skipped: 1 unreadable images: training_set/cat/page.jpg (an HTML page, probably from a failed download)",
        "  warning: 1 test images equal to a training or validation image in every pixel: test_set/cat/0.png",
    ] {
        assert!(found.iter().any(|found| found == line), "{line:?} is not in {found:#?}");
    }
    // The same is in the manifest, and so in the JSON record.
    let record = json(dir.path(), &[&import[..], &["--json"]].concat());
    let splits = &record["artifacts"][0]["content"]["import"]["splits"];
    assert_eq!(splits[2], serde_json::json!({"split": "test", "counts": [3, 3], "own": true}));
    // So is it in the record of a dry run, with the configuration.
    let dry = json(dir.path(), &[&import[..], &["--dry-run", "--json"]].concat());
    assert_eq!(dry["import"], record["artifacts"][0]["content"]["import"]);
    assert_eq!((&dry["config"]["path"], &dry["config"]["on_unreadable"]), (&"mine".into(), &"skip".into()));
    // Nothing is downloaded.
    let missing = ["import", "hf://nobody/nothing", "--out", "other", "--dry-run", "--json"];
    let missing = json(dir.path(), &missing);
    assert_eq!(
        (&missing["config"]["path"], &missing["import"]),
        (&"hf://nobody/nothing".into(), &serde_json::Value::Null)
    );
}

#[test]
fn nothing_is_written_if_any_split_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path().join("mine"), &["cat", "dog"], 5, 0);
    let text = fails(dir.path(), &["import", "mine", "--out", "data"], 2);
    assert!(text.contains("test_fraction = unset"), "{text}");
    assert!(!dir.path().join("data").exists());
    put(dir.path().join("parts"), &["train_cats", "train_dogs", "test_cats", "test_dogs"], 3, 0);
    let text = fails(dir.path(), &["import", "parts", "--out", "data"], 1);
    assert!(text.contains("train_folder") && text.contains("labels = \"folders\""), "{text}");
    // The whole set, without a split.
    ok(dir.path(), &["import", "mine", "--out", "data", "--val-fraction", "0"]);
    let made: Vec<_> =
        std::fs::read_dir(dir.path().join("data")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(made, ["train"]);
}

#[test]
fn a_contact_sheet_shows_odd_images_and_label_errors() {
    let dir = tempfile::tempdir().unwrap();
    trained(dir.path());
    ok(dir.path(), &["inspect", "data/train", "--html", "sheet.html"]);
    let page = std::fs::read_to_string(dir.path().join("sheet.html")).unwrap();
    for part in ["<h3>Darkest</h3>", "<h3>Lightest</h3>", "<h3>Blurriest</h3>", "0: disc", "data:image/png;base64,"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("label errors") && !page.contains("<script"));
    let text = fails(dir.path(), &["inspect", "data/train", "--html", "sheet.html"], 2);
    assert!(text.contains("--force"), "{text}");
    ok(dir.path(), &["inspect", "data/val", "--html", "sheet.html", "--teacher", "teacher", "--force"]);
    let page = std::fs::read_to_string(dir.path().join("sheet.html")).unwrap();
    assert!(page.contains("Likeliest label errors") && page.contains("arXiv 1911.00068"), "{page}");
    let text = fails(dir.path(), &["inspect", "data/val", "data/test", "--html", "other.html"], 2);
    assert!(text.contains("expected one dataset"), "{text}");
}
