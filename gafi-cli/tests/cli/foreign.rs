//! Generators, teachers and students from elsewhere: Python programs behind the command protocol, predictions in a file, existing
//! images.
//!
//! The programs are those of `examples/python`, which need no packages. `GAFI_TEST_PYTHON` names an interpreter, which must then work;
//! without it, `python3` is tried, and tests are skipped if it is missing.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use gafi_core::{Artifact, Dataset};

use super::{fails, files, gafi, ok, read, shapes, write};

pub(crate) const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/python");

/// A Python interpreter; `None`, after a message, if there is no Python.
pub(crate) fn python() -> Option<String> {
    let given = std::env::var_os("GAFI_TEST_PYTHON");
    let python = given.clone().unwrap_or_else(|| OsString::from("python3"));
    let runs = Command::new(&python).arg("--version").output().is_ok_and(|out| out.status.success());
    if given.is_none() && !runs {
        // Not `eprintln!`, which the test harness hides when a test passes.
        let _ = writeln!(std::io::stderr(), "skipped: no python3 to run the programs of examples/python");
        return None;
    }
    Some(python.into_string().expect("the path of a Python is UTF-8"))
}

/// Imports a program of the examples with its files, so that it runs from any folder.
pub(crate) fn import(dir: &Path, python: &str, verb: &str, script: &str, out: &str) {
    let helper = format!("{EXAMPLES}/gafi_generator.py");
    let program = format!("{EXAMPLES}/{script}");
    let inside = format!("{{artifact}}/{script}");
    let arguments = [verb, "--from", "command", "--out", out, "--include", &helper, "--include", &program, "--"];
    ok(dir, &[&arguments[..], &[python, &inside, "--size", "8", "--classes", "disc,square"]].concat());
}

const STUDENT: &str = "per_class = 20\nlearner = { architecture = { name = \"resnet\", depth = 20, width = 4 }, epochs = 2, batch = 16 }\n";

#[test]
fn programs_replace_networks_everywhere() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    shapes(dir.path());
    import(dir.path(), &python, "import-generator", "command_generator.py", "spots");
    import(dir.path(), &python, "import-teacher", "command_scorer.py", "judge");
    ok(dir.path(), &["verify", "spots", "judge"]);

    // Samples do not depend on the sizes of requests, or on restarts.
    let wide = |per_class: &str, out: &str| {
        ok(dir.path(), &["expand", "--generator", "spots", "--std", "1.3", "--set", per_class, "--out", out]);
        Dataset::open(&Artifact::open(at(out)).unwrap()).unwrap()
    };
    let many = wide("per_class=70", "many");
    let few = wide("per_class=3", "few");
    let images = |data: &Dataset, class: u32| -> Vec<Vec<u8>> {
        let shard = data.batches().next().unwrap().unwrap();
        let of_class = shard.labels.iter().zip(shard.images.chunks(64)).filter(|(label, _)| label.0 == class);
        of_class.map(|(_, image)| image.to_vec()).collect()
    };
    for class in [0, 1] {
        assert_eq!(images(&many, class)[..3], images(&few, class)[..]);
        assert_ne!(images(&many, class)[0], images(&many, class)[1]);
    }

    // The teacher recognises what the generator draws: discs are bright in the middle.
    ok(dir.path(), &["filter", "--samples", "many", "--teacher", "judge", "--threshold", "0.6", "--out", "kept"]);
    let kept = Artifact::open(at("kept")).unwrap();
    let counts = kept.manifest().content["counts"].clone();
    assert!(counts[0].as_u64().unwrap() > 35 && counts[1].as_u64().unwrap() > 35, "{counts}");
    ok(dir.path(), &["evaluate", "--classifier", "judge", "--dataset", "many", "--out", "score"]);
    let audit = ["audit", "--synthetic", "many", "--real", "data/train", "--teacher", "judge", "--out", "audit"];
    ok(dir.path(), &audit);

    // In memory, under a student, renewed every epoch; a second run gives the same bytes.
    let source = "source = { kind = \"gafi\", std = [1.0, 1.3], seed = 3, filter = { threshold = 0.5 } }\nrecycle = { period = 1, factor = 0.5 }\n";
    write(dir.path(), "student.toml", &format!("{source}{STUDENT}"));
    let student = |out: &str| {
        let inputs = ["recycle", "--generator", "spots", "--teacher", "judge", "--val", "data/val"];
        ok(dir.path(), &[&inputs[..], &["-c", "student.toml", "--out", out]].concat());
        files(&at(out))
    };
    assert_eq!(student("one"), student("two"));
    // Programs leave nothing behind in the artifacts that they run in.
    ok(dir.path(), &["verify", "spots", "judge"]);
    assert!(!at("spots/__pycache__").exists());
}

/// A generator that answers two requests correctly and then fails as its argument says.
pub(crate) const BAD: &str = r#"
import sys, time
sys.path.insert(0, sys.argv[2])
import gafi_generator
mode, asked = sys.argv[1], 0
def draw(request):
    global asked
    asked, n = asked + 1, request["count"]
    images = b"".join(bytes((seed >> i) % 256 for i in range(64)) for seed in request["seeds"])
    if asked <= 2:
        return {"images": ("U8", [n, 1, 8, 8], images)}
    print("step 3 of", mode)
    if mode == "crash":
        raise ValueError("no such layer")
    if mode == "hang":
        time.sleep(100)
    if mode == "shape":
        return {"images": ("U8", [n, 8, 8, 1], images)}
    if mode == "short":
        return {"images": ("U8", [n - 1, 1, 8, 8], images[64:])}
    if mode == "garbage":
        return {"images": ("F32", [n, 1, 8, 8], images * 4)}
gafi_generator.serve({"classes": ["disc", "square"], "image": [1, 8, 8]}, draw)
"#;

#[test]
fn a_failing_program_is_reported_with_its_output() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "bad.py", BAD);
    for (mode, words) in [
        ("crash", &["that the program had exited", "ValueError: no such layer"][..]),
        ("hang", &["within 2 seconds, found no output"]),
        ("shape", &["[20, 1, 8, 8], found U8 [20, 8, 8, 1]"]),
        ("short", &["[20, 1, 8, 8], found U8 [19, 1, 8, 8]"]),
        ("garbage", &["of U8 [20, 1, 8, 8], found F32"]),
    ] {
        let import =
            ["import-generator", "--from", "command", "--timeout", "2", "--out", mode, "--", &python, "bad.py"];
        ok(dir.path(), &[&import[..], &[mode, EXAMPLES]].concat());
        let text = fails(dir.path(), &["expand", "--generator", mode, "--per-class", "20", "--out", "x"], 1);
        for words in
            [words, &[&format!("bad.py {mode}"), &format!("step 3 of {mode}"), "20 samples of class 0"]].concat()
        {
            assert!(text.contains(words), "{mode}: {words:?} is not in\n{text}");
        }
        assert!(!dir.path().join("x").exists());
    }
    // An unsupported std is a usage error, which only the program can detect.
    let std = ["expand", "--generator", "short", "--set", "std=1.5", "--out", "x"];
    assert!(fails(dir.path(), &std, 2).contains("std = 1.5: expected 1"));
    // So is an unknown checkpoint.
    fails(dir.path(), &["expand", "--generator", "short", "--set", "checkpoint=7", "--out", "x"], 2);
    fails(dir.path(), &["import-generator", "--from", "command", "--out", "x"], 2);
    fails(dir.path(), &["import-generator", "--from", "nowhere", "--out", "x", "--", "a"], 2);
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_ends_a_hanging_program() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let script =
        BAD.replace("time.sleep(100)", "import os; open(\"pid\", \"w\").write(str(os.getpid())); time.sleep(100)");
    // The program ignores SIGINT, as if no terminal reached it.
    write(dir.path(), "bad.py", &format!("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{script}"));
    let import = ["import-generator", "--from", "command", "--out", "hung", "--", &python, "bad.py", "hang", EXAMPLES];
    ok(dir.path(), &import);
    let mut expand = gafi(dir.path(), &["expand", "--generator", "hung", "--per-class", "20", "--out", "x"]);
    let mut running = expand.spawn().unwrap();
    let hung = loop {
        match std::fs::read_to_string(dir.path().join("pid")) {
            Ok(pid) if !pid.is_empty() => break pid,
            _ => std::thread::sleep(std::time::Duration::from_millis(20)),
        }
    };
    let interrupt = ["-INT", &running.id().to_string()];
    assert!(Command::new("kill").args(interrupt).status().unwrap().success());
    assert_eq!(running.wait().unwrap().code(), Some(130));
    assert!(!Path::new(&format!("/proc/{hung}")).exists());
}

#[test]
fn predictions_from_elsewhere_give_the_same_record() {
    let dir = tempfile::tempdir().unwrap();
    shapes(dir.path());
    let val = Dataset::open(&Artifact::open(dir.path().join("data/val")).unwrap()).unwrap();
    // A student that takes the first disc for a square and is otherwise correct.
    let first = val.labels().iter().position(|label| label.0 == 0).unwrap();
    let predicted = |row: usize| if row == first { 1 } else { val.labels()[row].0 };
    let mut labels = "row,label\n".to_owned();
    let mut scores = "square,disc\n".to_owned();
    for row in 0..val.labels().len() {
        labels += &format!("{row},{}\n", predicted(row));
        scores += if predicted(row) == 1 { "0.9,0.1\n" } else { "-3,2.5\n" };
    }
    write(dir.path(), "labels.csv", &labels);
    write(dir.path(), "scores.csv", &scores);
    let measure = |file: &str, out: &str| {
        ok(dir.path(), &["evaluate", "--predictions", file, "--dataset", "data/val", "--out", out]);
        read(&dir.path().join(out).join("evaluation.json"))
    };
    let record = measure("labels.csv", "by-labels");
    assert_eq!(record, measure("scores.csv", "by-scores"));
    let n = val.labels().len() as f64;
    assert_eq!((&record["split"], &record["classes"][1]), (&"val".into(), &"square".into()));
    assert_eq!(record["evaluation"]["accuracy"], (n - 1.0) / n);
    assert_eq!(record["evaluation"]["confusion"][0][1], 1);
    assert_eq!(record["evaluation"]["per_class"][1], 1.0);
    ok(dir.path(), &["verify", "by-labels"]);

    write(dir.path(), "short.csv", labels.trim_end().rsplit_once('\n').unwrap().0);
    fn evaluate<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["evaluate", "--dataset", "data/val", "--out", "x"], more].concat()
    }
    let text = fails(dir.path(), &evaluate(&["--predictions", "short.csv"]), 1);
    assert!(text.contains("short.csv: length: expected 16 predictions"), "{text}");
    fails(dir.path(), &evaluate(&["--predictions", "short.csv", "--dry-run"]), 1);
    fails(dir.path(), &evaluate(&["--predictions", "gone.csv"]), 1);
    // Exactly one of the two is required.
    fails(dir.path(), &evaluate(&[]), 2);
    fails(dir.path(), &evaluate(&["--predictions", "labels.csv", "--classifier", "by-labels"]), 2);
    assert!(!dir.path().join("x").exists());
}

#[test]
fn students_learn_from_existing_images() {
    let dir = tempfile::tempdir().unwrap();
    shapes(dir.path());
    write(dir.path(), "rows.toml", &format!("source = {{ kind = \"rows\" }}\n{STUDENT}"));
    let recycle = |samples: &str, more: &[&str]| {
        let inputs = ["recycle", "--samples", samples, "--val", "data/val", "-c", "rows.toml", "--out", "student"];
        [&inputs, more].concat().into_iter().map(String::from).collect::<Vec<_>>()
    };
    fn words(owned: &[String]) -> Vec<&str> {
        owned.iter().map(String::as_str).collect()
    }
    // There are 72 images of each class; a set of 40 that is replaced after the first epoch needs 80.
    let dry = recycle("data/train", &["--per-class", "40", "--period", "1", "--factor", "1"]);
    let text = fails(dir.path(), &words(&dry), 3);
    assert!(text.contains("is exhausted: wanted 80 samples, accepted 72 of 72 drawn.\n"), "{text}");
    assert!(text.contains("The source has no more samples"), "{text}");
    // Validation images must not be trained on.
    let text = fails(dir.path(), &words(&recycle("data/val", &[])), 2);
    assert!(text.contains("samples: expected a dataset of split train or synthetic"), "{text}");
    let nothing = ["recycle", "--val", "data/val", "-c", "rows.toml", "--out", "student"];
    assert!(fails(dir.path(), &nothing, 2).contains("generator"), "neither a generator nor samples");
    ok(dir.path(), &words(&recycle("data/train", &["--period", "1", "--factor", "0.5", "--force"])));
    let trial = read(&dir.path().join("student/trial.json"));
    assert_eq!(trial["tally"][0]["drawn"], 30, "20, and half of them renewed");
    assert_eq!(trial["epochs"][1]["renewed"], 20);
}
