//! `report`: the contents of the page, which loads nothing and escapes names; runs in progress; errors for runs whose records and
//! artifacts do not match. `cargo xtask test --browser` checks the page in a browser.

use std::path::Path;

use gafi_pipeline::PipelineConfig;
use serde_json::Value;

use super::{fails, ok, read, trained};

/// Writes the page of `runs` and checks what holds for every page.
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
    // Every picture and drawing has an alternative text.
    assert_eq!(text.matches("<img ").count(), text.matches(" alt=\"").count());
    assert_eq!(text.matches("<svg ").count(), text.matches("<svg role=\"img\" aria-label=\"").count());
    for id in ["results", "search", "samples", "inputs"] {
        assert!(text.contains(&format!("id=\"{id}\"")), "{id}");
    }
    text
}

/// Writes a record as another program would, without a checksum.
fn write(file: &Path, value: &Value) {
    let mut value = value.clone();
    value.as_object_mut().unwrap().remove("checksum");
    std::fs::write(file, serde_json::to_vec(&value).unwrap()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, to).unwrap();
        }
    }
}

#[test]
fn one_run_several_and_one_in_progress() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    ok(dir, &["pipeline", "--preset", "smoke", "--out", "seeds/seed-0"]);

    // A finished run: the figures of its record, and pictures.
    let text = report(dir, &["seeds/seed-0"]);
    let record = read(&dir.join("seeds/seed-0/run.json"));
    for row in record["rows"].as_array().unwrap() {
        assert!(text.contains(&format!("<th scope=\"row\">{}</th>", row["name"].as_str().unwrap())));
        assert!(text.contains(&format!("{:.2}", 100.0 * row["test"]["score"].as_f64().unwrap())));
    }
    assert!(text.contains("Confusions: gafi") && text.contains("Confusions: real"));
    assert!(text.contains("threshold search, grid") && text.contains("Other searches"));
    assert!(text.contains("id=\"threshold\" type=\"range\"") && text.contains("<noscript>"));
    // Two classes: ten samples each at five std and beside neighbours, and the grids.
    assert!(text.matches("<img ").count() > 40 && text.contains("alt=\"real training image of"));
    assert!(!text.contains("in progress"));
    assert_eq!(text, report(dir, &["seeds/seed-0"]), "equal runs have equal reports");

    // A damaged record, and one of a run that has only just begun.
    let good = std::fs::read(dir.join("seeds/seed-0/run.json")).unwrap();
    let mut empty = record.clone();
    for key in ["searches", "rows"] {
        empty[key] = Value::Array(Vec::new());
    }
    write(&dir.join("seeds/seed-0/run.json"), &empty);
    assert!(fails(dir, &["report", "seeds/seed-0", "--no-samples"], 2).contains("has no rows"));
    (empty["roles"], empty["status"]) =
        (serde_json::json!({"references": [], "generators": []}), serde_json::json!({"state": "running"}));
    write(&dir.join("seeds/seed-0/run.json"), &empty);
    assert!(report(dir, &["seeds/seed-0", "--no-samples"]).contains("not started"));
    std::fs::write(dir.join("seeds/seed-0/run.json"), &good[..good.len() / 2]).unwrap();
    assert!(fails(dir, &["report", "seeds/seed-0"], 2).contains("run.json"));
    std::fs::write(dir.join("seeds/seed-0/run.json"), good).unwrap();
    let weights =
        dir.join("seeds/seed-0").join(record["roles"]["teacher"]["path"].as_str().unwrap()).join("weights.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    let mut bent = whole.clone();
    *bent.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bent).unwrap();
    for verb in ["report", "verify"] {
        assert!(fails(dir, &[verb, "seeds/seed-0"], 1).contains("weights.safetensors"), "{verb}");
    }
    std::fs::write(&weights, whole).unwrap();
    assert!(String::from_utf8_lossy(&ok(dir, &["verify", "seeds/seed-0"]).stdout).contains("run is intact"));

    // Parts left out by request.
    let text = report(dir, &["seeds/seed-0", "--no-real"]);
    assert!(!text.contains("real training image of") && text.contains("alt=\"accepted sample of"));
    let text = report(dir, &["seeds/seed-0", "--no-samples"]);
    assert!(!text.contains("<img ") && text.contains("gap of gafi"));

    // A copy of a run counts no result twice.
    let second = dir.join("seeds/seed-1");
    copy(&dir.join("seeds/seed-0"), &second);
    let text = fails(dir, &["report", "seeds"], 2);
    for needle in ["seeds/seed-0", "seeds/seed-1", "same configuration and seed"] {
        assert!(text.contains(needle), "{text}");
    }

    // Two seeds: mean, interval, number of runs. The second is a copy with another seed and one other figure.
    let mut other = record.clone();
    let seeded = PipelineConfig { seed: 1, ..serde_json::from_value(other["config"].take()).unwrap() };
    other["config_hash"] = seeded.hash().unwrap().into();
    other["config"] = serde_json::to_value(seeded).unwrap();
    let real = record["roles"]["references"][1]["test"]["score"].as_f64().unwrap();
    other["roles"]["references"][1]["test"]["score"] = (real - 0.02).into();
    write(&second.join("run.json"), &other);
    std::fs::remove_file(second.join("timings.json")).unwrap();
    let text = report(dir, &["seeds", "--no-samples"]);
    assert!(
        text.contains(&format!("{:.2} <span class=\"pm\">± 12.71", 100.0 * real - 1.0)),
        "half the 95 % interval of two figures 2 apart: 12.71 standard errors of 1"
    );
    assert!(text.contains("(n = 2)") && text.contains("2 runs (seed-0, seed-1), 2 finished"));

    // The same figures as tables.
    let printed = |format: &str| ok(dir, &["report", "seeds", "--format", format, "--meta", "hardware=a b"]).stdout;
    let json: Value = serde_json::from_slice(&printed("json")).unwrap();
    let real_row = &json["tables"][0]["rows"][1];
    assert_eq!((&json["meta"]["hardware"], &real_row["accuracy_percent"]["n"]), (&"a b".into(), &2.into()));
    assert!((real_row["accuracy_percent"]["mean"].as_f64().unwrap() - (100.0 * real - 1.0)).abs() < 1e-9);
    let markdown = String::from_utf8(printed("markdown")).unwrap();
    assert!(markdown.contains(&format!("| real | {:.2} ± 12.71 |", 100.0 * real - 1.0)), "{markdown}");
    assert!(markdown.contains("\n- hardware: a b\n") && markdown.contains("\n| grid | "), "{markdown}");
    fails(dir, &["report", "seeds", "--format", "markdown", "--meta", "hardware"], 2);
    ok(dir, &["report", "seeds/seed-0", "--format", "png"]);
    let picture = image::open(dir.join("seeds/seed-0/picture.png")).unwrap();
    assert!(picture.width() > 18 * 48 && picture.height() > 2 * 48);

    // In progress: nothing tested, one search, and no finished generator but one that is being trained.
    other["status"] = serde_json::json!({"state": "running"});
    other["rows"] = serde_json::json!([]);
    other["searches"].as_array_mut().unwrap().truncate(1);
    other["roles"]["test"] = Value::Null;
    for reference in other["roles"]["references"].as_array_mut().unwrap() {
        reference["test"] = Value::Null;
    }
    write(&second.join("run.json"), &other);
    let text = report(dir, &["seeds/seed-1"]);
    assert!(text.contains("in progress") && text.contains("Best trials so far") && text.contains("std search, grid"));
    assert!(text.contains("id=\"threshold\" type=\"range\""), "teacher and generator exist");
    for generator in other["roles"]["generators"].as_array_mut().unwrap().drain(..) {
        let folder = generator["artifact"]["path"].as_str().unwrap();
        let partial = second.join(format!(".{folder}.partial"));
        std::fs::rename(second.join(folder), &partial).unwrap();
        std::fs::remove_file(partial.join("manifest.json")).unwrap();
        // The last line is being written.
        std::fs::write(partial.join("log.jsonl"), "{\"event\":\"step\",\"step\":40}\n{\"event\":\"ste").unwrap();
    }
    write(&second.join("run.json"), &other);
    let text = report(dir, &["seeds/seed-1"]);
    assert!(text.contains("there is no generator yet") && text.contains("Unfinished artifacts (2)"));
    assert!(text.contains("step 40"));
    assert!(report(dir, &["seeds"]).contains("2 runs (seed-0, seed-1), 1 finished"));

    // Only reports are replaced.
    std::fs::write(dir.join("mine.html"), b"mine").unwrap();
    let text = fails(dir, &["report", "seeds/seed-0", "--no-samples", "--output", "mine.html"], 2);
    assert!(text.contains("mine.html") && text.contains("not a report"), "{text}");
    assert_eq!(std::fs::read(dir.join("mine.html")).unwrap(), b"mine");
    ok(dir, &["report", "seeds/seed-0", "--no-samples"]);
    ok(dir, &["report", "seeds/seed-0", "--no-samples"]);
    assert!(dir.join("seeds/seed-0/report.html").is_file());
}

#[test]
fn mixed_records_and_other_folders_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    ok(dir, &["pipeline", "--preset", "smoke", "--out", "run"]);
    let file = dir.join("run/run.json");
    let record = read(&file);
    let refused = |needle: &str| {
        let text = fails(dir, &["report", "run", "--no-samples"], 2);
        assert!(text.contains("run") && text.contains(needle), "{text}");
    };

    let mut changed = record.clone();
    changed["config"]["seed"] = 1234.into();
    write(&file, &changed);
    refused("hash");
    write(&file, &record);
    let mut timings = read(&dir.join("run/timings.json"));
    timings["config_hash"] = "0".into();
    write(&dir.join("run/timings.json"), &timings);
    refused("timings.json");
    std::fs::remove_file(dir.join("run/timings.json")).unwrap();
    ok(dir, &["report", "run", "--no-samples"]);

    // A student that a row needs was replaced by another one, then removed.
    let student = |name: &str| {
        let rows = record["rows"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).unwrap()["artifact"]["path"].as_str().unwrap().to_owned()
    };
    let baseline = dir.join("run").join(student("baseline"));
    let gafi = dir.join("run").join(student("gafi"));
    std::fs::rename(&gafi, dir.join("gafi")).unwrap();
    copy(&baseline, &gafi);
    refused("expected id");
    std::fs::remove_dir_all(&gafi).unwrap();
    refused(&student("gafi"));
    std::fs::rename(dir.join("gafi"), &gafi).unwrap();

    // A run of a version without `run.json`.
    std::fs::rename(&file, dir.join("run/results.json")).unwrap();
    refused(concat!("gafi-cli (", env!("CARGO_PKG_VERSION"), ")"));

    // No runs at all.
    std::fs::create_dir(dir.join("empty")).unwrap();
    std::fs::create_dir(dir.join("by-hand")).unwrap();
    trained(&dir.join("by-hand"));
    for other in ["empty", "nowhere", "by-hand", "by-hand/teacher"] {
        let text = fails(dir, &["report", other], 2);
        assert!(text.contains(other) && text.contains("expected the folder of a pipeline run"), "{text}");
    }
}

/// Names of folders become names of classes, so they can be anything.
#[cfg(unix)]
#[test]
fn hostile_names_are_escaped() {
    const NAMES: [&str; 2] = ["<img src=x onerror=alert(1)>", "\"'&<script>alert(2)<script>"];
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    for (part, images) in [("train", 60u8), ("test", 8)] {
        for (class, name) in NAMES.into_iter().enumerate() {
            let folder = dir.join("data").join(part).join(name);
            std::fs::create_dir_all(&folder).unwrap();
            for i in 0..images {
                let grey = |x: u32, y: u32| image::Luma([class as u8 * 100 + i + (x * 7 + y * 5) as u8]);
                image::GrayImage::from_fn(8, 8, grey).save(folder.join(format!("{i}.png"))).unwrap();
            }
        }
    }
    let run = "<b>run & more";
    let small =
        ["--set", "data.val_per_class=8", "--set", "variants=[]", "--set", "rows=[]", "--set", "comparisons=[]"];
    ok(dir, &[&["pipeline", "--preset", "smoke", "--data", "data", "--out", run], &small[..]].concat());
    std::fs::create_dir(dir.join(run).join(".<u>begun.partial")).unwrap();

    let text = report(dir, &[run]);
    assert!(text.contains("&lt;img src=x onerror=alert(1)&gt;"), "the name is shown");
    for raw in ["<img src=x", "<script>alert", "<b>run", "<u>begun"] {
        assert!(!text.contains(raw), "{raw}");
    }
    // Nor do they end an attribute.
    assert!(text.contains("&quot;'&amp;&lt;script&gt;alert(2)&lt;script&gt;") && !text.contains("\"\"'&"));
    assert_eq!(text.matches("<script>").count(), 1);
}
