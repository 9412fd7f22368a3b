//! The report: what is on the page, that nothing on it comes from elsewhere or escapes its place, that a run in progress has
//! one too. What a browser makes of it is checked by `cargo xtask test --browser`.

use std::path::Path;

use serde_json::Value;

use super::{fails, ok, trained};

/// The page of `runs`, checked for what holds of every one.
fn report(dir: &Path, arguments: &[&str]) -> String {
    let page = dir.join("page.html");
    ok(dir, &[&["report", "--output", "page.html", "--force"], arguments].concat());
    let text = std::fs::read_to_string(page).unwrap();
    assert!(text.starts_with("<!DOCTYPE html>") && text.ends_with("</html>"));
    for outside in ["http:", "https:", "src=\"/", "url(", "@import", "<link", "<iframe"] {
        assert!(!text.contains(outside), "{outside}");
    }
    for source in text.split(" src=\"").skip(1) {
        assert!(source.starts_with("data:image/png;base64,"), "{}", &source[..40]);
    }
    // Every picture and drawing has words, and the one input is named.
    assert_eq!(text.matches("<img ").count(), text.matches(" alt=\"").count());
    assert_eq!(text.matches("<svg ").count(), text.matches("<svg role=\"img\" aria-label=\"").count());
    for id in ["good", "tried", "data", "inputs"] {
        assert!(text.contains(&format!("id=\"{id}\"")), "{id}");
    }
    text
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|e| (e.path(), e.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

#[test]
fn a_run_several_and_one_in_progress() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    ok(dir, &["pipeline", "--preset", "smoke", "--out", "seeds/seed-0"]);

    // A run that has ended: its figures, those of its records, and pictures.
    let text = report(dir, &["seeds/seed-0"]);
    let results: Value =
        serde_json::from_slice(&std::fs::read(dir.join("seeds/seed-0/results.json")).unwrap()).unwrap();
    for row in results["rows"].as_array().unwrap() {
        assert!(text.contains(&format!("<th scope=\"row\">{}</th>", row["name"].as_str().unwrap())));
        assert!(text.contains(&format!("{:.2}", 100.0 * row["test_accuracy"].as_f64().unwrap())));
    }
    assert!(text.contains("Confusions: gafi") && text.contains("Confusions: real images"));
    assert!(text.contains("threshold search") && text.contains("Other searches"));
    assert!(text.contains("id=\"threshold\" type=\"range\"") && text.contains("<noscript>"));
    // Two classes: ten samples each at five deviations and in neighbours, and the grids.
    assert!(text.matches("<img ").count() > 40 && text.contains("alt=\"real training image of"));
    assert!(!text.contains("In progress"));
    assert_eq!(text, report(dir, &["seeds/seed-0"]), "equal runs have equal reports");

    // What may be left out is.
    let text = report(dir, &["seeds/seed-0", "--no-real"]);
    assert!(!text.contains("real training image of") && text.contains("alt=\"accepted sample of"));
    let text = report(dir, &["seeds/seed-0", "--no-samples"]);
    assert!(!text.contains("<img ") && text.contains("gap of gafi"));

    // Two seeds: a mean, a spread, the number of runs. The file is another seed's but for one figure.
    let second = dir.join("seeds/seed-1");
    copy(&dir.join("seeds/seed-0"), &second);
    let mut other = results.clone();
    let real = results["real"]["test_accuracy"].as_f64().unwrap();
    other["real"]["test_accuracy"] = (real - 0.02).into();
    std::fs::write(second.join("results.json"), serde_json::to_vec(&other).unwrap()).unwrap();
    let text = report(dir, &["seeds", "--no-samples"]);
    assert!(
        text.contains(&format!("{:.2} <span class=\"pm\">± 1.41", 100.0 * real - 1.0)),
        "sample deviation of two figures 2 apart"
    );
    assert!(text.contains("(n = 2)") && text.contains("2 runs (seed-0, seed-1), 2 of them ended"));

    // In progress: without results and choices, a generator cut short, students with fewer records than usual.
    let run = dir.join("seeds/seed-1");
    for file in ["results.json", "search.json"] {
        std::fs::remove_file(run.join(file)).unwrap();
    }
    let text = report(dir, &["seeds/seed-1"]);
    assert!(text.contains("In progress") && text.contains("Students so far") && text.contains("so far: by std"));
    assert!(text.contains("id=\"threshold\" type=\"range\""), "teacher and generator are there");
    let folders: Vec<String> =
        std::fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    for folder in &folders {
        if folder.starts_with("train-gan") {
            let partial = run.join(format!(".{folder}.partial"));
            std::fs::rename(run.join(folder), &partial).unwrap();
            std::fs::remove_file(partial.join("manifest.json")).unwrap();
            // The last line is being written.
            std::fs::write(partial.join("log.jsonl"), "{\"event\":\"step\",\"step\":40}\n{\"event\":\"ste").unwrap();
        } else if folder.starts_with("recycle") {
            // Not as the manifest says: a note, and no error.
            std::fs::write(run.join(folder).join("trial.json"), b"{}").unwrap();
        }
    }
    let text = report(dir, &["seeds/seed-1"]);
    assert!(text.contains("there is no generator yet") && text.contains("Begun and not whole (2)"));
    assert!(text.contains("step 40") && text.contains("Could not be read"));
    let (ended, begun) =
        (text.contains("2 runs"), report(dir, &["seeds"]).contains("2 runs (seed-0, seed-1), 1 of them ended"));
    assert_eq!((ended, begun), (false, true));

    // Nothing but reports is replaced, and what is no run has none.
    std::fs::write(dir.join("mine.html"), b"mine").unwrap();
    let text = fails(dir, &["report", "seeds/seed-0", "--no-samples", "--output", "mine.html"], 2);
    assert!(text.contains("mine.html") && text.contains("--force"), "{text}");
    assert_eq!(std::fs::read(dir.join("mine.html")).unwrap(), b"mine");
    ok(dir, &["report", "seeds/seed-0", "--no-samples"]);
    ok(dir, &["report", "seeds/seed-0", "--no-samples"]);
    assert!(dir.join("seeds/seed-0/report.html").is_file());
    std::fs::create_dir(dir.join("empty")).unwrap();
    for none in ["empty", "nowhere", "mine.html"] {
        let text = fails(dir, &["report", none], 2);
        assert!(text.contains(none) && text.contains("run of the pipeline"), "{text}");
    }
    let import = folders.iter().find(|f| f.starts_with("import")).unwrap();
    let text = fails(dir, &["report", &format!("seeds/seed-1/{import}")], 2);
    assert!(text.contains("inspect"), "{text}");
}

/// Names of folders become names of classes, and those are anybody's.
#[cfg(unix)]
#[test]
fn hostile_names_stay_text() {
    const NAMES: [&str; 2] = ["<img src=x onerror=alert(1)>", "\"'&<script>alert(2)<script>"];
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    for (part, images) in [("train", 40u8), ("test", 8)] {
        for (class, name) in NAMES.into_iter().enumerate() {
            let folder = dir.join("data").join(part).join(name);
            std::fs::create_dir_all(&folder).unwrap();
            for i in 0..images {
                let grey = |x: u32, y: u32| image::Luma([class as u8 * 120 + i + (x * 7 + y * 5) as u8]);
                image::GrayImage::from_fn(8, 8, grey).save(folder.join(format!("{i}.png"))).unwrap();
            }
        }
    }
    let run = "<b>run & more";
    let out = |name: &str| format!("{run}/{name}");
    ok(dir, &["import", "data", "--out", run, "--set", "val_per_class=8"]);
    super::write(
        dir,
        "teacher.toml",
        "classifier = { architecture = { depth = 20, width = 4 }, epochs = 1, batch = 32 }\n",
    );
    let train = out("train");
    let val = out("val");
    ok(dir, &["train-classifier", "--train", &train, "--val", &val, "-c", "teacher.toml", "--out", &out("<i>teacher")]);
    let gan = "architecture = { name = \"small\", z = 8, shared = 4, g = [8], d = [8] }\nlength = { steps = 4 }\ncheckpoints = [4]\nbatch = 16\n";
    super::write(dir, "gan.toml", gan);
    ok(dir, &["train-gan", "--train", &train, "-c", "gan.toml", "--out", &out("gan")]);
    std::fs::create_dir(dir.join(run).join(".<u>begun.partial")).unwrap();
    std::fs::write(dir.join(run).join("results.json"), "{\"schema\": \"<script>alert(3)</script>\"}").unwrap();

    let text = report(dir, &[run]);
    assert!(text.contains("&lt;img src=x onerror=alert(1)&gt;"), "the name is shown");
    for raw in ["<img src=x", "<script>alert", "<b>run", "<u>begun", "<i>teacher"] {
        assert!(!text.contains(raw), "{raw}");
    }
    // Nor do they leave the quotes of an attribute.
    assert!(text.contains("&quot;'&amp;&lt;script&gt;alert(2)&lt;script&gt;") && !text.contains("\"\"'&"));
    assert_eq!(text.matches("<script>").count(), 1);
}

#[test]
fn artifacts_made_by_hand_are_a_run_in_progress() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    std::fs::create_dir(dir.join("run")).unwrap();
    trained(&dir.join("run"));
    std::fs::remove_dir_all(dir.join("run/data/test")).unwrap();
    // The images are in a folder of their own, so there are no training images beside the samples.
    let text = report(dir, &["run"]);
    assert!(text.contains("In progress") && text.contains("of the last checkpoint, nothing being chosen yet"));
    assert!(text.contains("alt=\"") && !text.contains("alt=\"real training image of"));
}
