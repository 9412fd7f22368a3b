//! Foreign programs that misbehave, and programs in somebody else's artifacts: none outlives GaFi, makes it hang, starts without
//! permission, or sends control characters to a terminal.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::foreign::{BAD, import, python};
use super::{fails, gafi, ok, shapes, write};

/// Waits until `done` holds. The bound only ends a test whose condition never comes; nothing here measures time.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Running processes with `mark` in their command line, apart from GaFi itself.
fn survivors(mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        // A zombie has no command line.
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let program = words.split(' ').next().unwrap_or_default();
        if words.contains(mark) && !program.ends_with("gafi-cli") {
            found.push(words);
        }
    }
    found
}

fn signal(process: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &process.id().to_string()]).status().unwrap().success());
}

/// A program with a child in the background. Both ignore all signals that can be ignored, and `$1` marks them.
const TREE: &str = r#"
trap '' HUP INT TERM
LOOP='trap "" HUP INT TERM; i=0; while [ $i -lt 600 ]; do sleep 1; i=$((i+1)); done'
sh -c "$LOOP" "$1-child" &
echo > started
test "$2" = leave && exit 1
eval "$LOOP"
"#;

#[cfg(target_os = "linux")]
#[test]
fn nothing_outlives_a_stage_however_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "tree.sh", TREE);
    for end in ["-KILL", "-TERM", "-INT", "leave"] {
        let mark = format!("gafi-mark-{}-{}", std::process::id(), end.trim_start_matches('-'));
        let program = format!("program = [\"sh\", \"tree.sh\", \"{mark}\", \"{end}\", \"{{out}}\"]\n");
        write(dir.path(), "tree.toml", &program);
        let mut running = gafi(dir.path(), &["command", "-c", "tree.toml", "--out", "x"]).spawn().unwrap();
        let started = dir.path().join("started");
        wait_until("the program starts", || started.exists());
        if end.starts_with('-') {
            wait_until("the program and its child run", || survivors(&mark).len() == 2);
            signal(&running, end);
        }
        assert!(!running.wait().unwrap().success());
        wait_until(end, || survivors(&mark).is_empty());
        std::fs::remove_file(started).unwrap();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_killed_process_leaves_no_program_and_its_folder_is_swept() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let temp = dir.path().join("temp");
    std::fs::create_dir(&temp).unwrap();
    let mark = format!("gafi-mark-{}-generator", std::process::id());
    write(dir.path(), "bad.py", &BAD.replace("time.sleep(100)", "open(\"hangs\", \"w\"); time.sleep(600)"));
    let examples = super::foreign::EXAMPLES;
    let program = ["--", &python, "bad.py", "hang", examples, &mark];
    let hung = [&["import-generator", "--from", "command", "--out", "hung"], &program[..]].concat();
    let run = |arguments: &[&str]| {
        let mut command = gafi(dir.path(), arguments);
        command.env("TMPDIR", &temp);
        command
    };
    let left = || std::fs::read_dir(&temp).unwrap().count();
    assert!(run(&hung).status().unwrap().success());
    assert_eq!(left(), 0);
    let mut expand = run(&["expand", "--generator", "hung", "--per-class", "20", "--out", "x"]).spawn().unwrap();
    wait_until("the program hangs", || dir.path().join("hangs").exists());
    assert!(!survivors(&mark).is_empty());
    signal(&expand, "-KILL");
    expand.wait().unwrap();
    wait_until("no program survives", || survivors(&mark).is_empty());
    assert_eq!(left(), 1, "the killed process could not remove it");
    // The next process that starts a program removes it.
    assert!(run(&[&hung[..1], &["--force"], &hung[1..]].concat()).status().unwrap().success());
    assert_eq!(left(), 0);
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let pipe = |name: &str| assert!(Command::new("mkfifo").arg(at(name)).status().unwrap().success());
    shapes(dir.path());
    pipe("pipe.csv");
    std::os::unix::fs::symlink("/dev/zero", at("zero.csv")).unwrap();
    for (file, words) in [("pipe.csv", "a named pipe, not"), ("zero.csv", "a device, not")] {
        let evaluate = ["evaluate", "--predictions", file, "--dataset", "data/val", "--out", "x"];
        assert!(fails(dir.path(), &evaluate, 1).contains(words));
        assert!(fails(dir.path(), &["pipeline", "--config", file, "--out", "x"], 2).contains(words));
    }
    // An image.
    for class in ["a", "b"] {
        std::fs::create_dir_all(at("images").join(class)).unwrap();
    }
    pipe("images/a/1.png");
    std::os::unix::fs::symlink("/dev/zero", at("images/b/1.png")).unwrap();
    let text = fails(dir.path(), &["import", "images", "--out", "set"], 1);
    assert!(text.contains("a named pipe, not") || text.contains("a device, not"), "{text}");
    // A lock.
    std::fs::create_dir(at("locked")).unwrap();
    pipe("locked/.train.lock");
    let text = fails(dir.path(), &["import", "shapes", "--size", "8", "--out", "locked"], 1);
    assert!(text.contains("a named pipe, not"), "{text}");
    // A shard, a manifest.
    std::fs::remove_file(at("data/val/manifest.json")).unwrap();
    pipe("data/val/manifest.json");
    fails(dir.path(), &["verify", "data/val"], 1);
    // A file that the program of a stage writes.
    write(dir.path(), "pipe.toml", "program = [\"sh\", \"-c\", \"mkfifo $0/content.json\", \"{out}\"]\n");
    let text = fails(dir.path(), &["command", "-c", "pipe.toml", "--out", "piped"], 1);
    assert!(text.contains("a named pipe, not"), "{text}");
}

#[test]
fn only_imported_programs_start_without_permission() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let expand = ["expand", "--generator", "../spots", "--per-class", "2", "--out", "samples", "--force"];
    for folder in ["mine", "elsewhere"] {
        std::fs::create_dir(dir.path().join(folder)).unwrap();
    }
    let mine = dir.path().join("mine");
    import(&mine, &python, "import-generator", "command_generator.py", "../spots");
    ok(&mine, &expand);
    // In another folder, a relative path in the command line may name another program.
    let refused = |folder: &str, state: Option<&Path>| {
        let mut command = gafi(&dir.path().join(folder), &expand);
        if let Some(state) = state {
            command.env("XDG_STATE_HOME", state);
        }
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("which is not allowed") && text.contains("--allow-commands starts it"), "{text}");
    };
    refused("elsewhere", None);
    // Another user received the folder.
    let other = dir.path().join("other");
    refused("mine", Some(&other));
    ok(&dir.path().join("elsewhere"), &[&expand[..], &["--allow-commands"]].concat());
    refused("elsewhere", None);
    // Importing it again gives permission, also for a copy of the artifact.
    import(&mine, &python, "import-generator", "command_generator.py", "../spots");
    std::fs::rename(dir.path().join("spots"), dir.path().join("moved")).unwrap();
    std::fs::rename(dir.path().join("moved"), dir.path().join("spots")).unwrap();
    ok(&mine, &expand);
    // A forged manifest of this import names another program.
    let manifest = dir.path().join("spots/manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let forged = text.rsplit_once("\"--size\"").map(|(before, after)| format!("{before}\"--seed\"{after}")).unwrap();
    std::fs::write(&manifest, forged).unwrap();
    assert!(fails(&mine, &expand, 1).contains("checksum"));
    std::fs::write(&manifest, &text).unwrap();
    ok(&mine, &expand);
    // An included file was replaced.
    let script = dir.path().join("spots/command_generator.py");
    let changed = std::fs::read_to_string(&script).unwrap().replacen('a', "b", 1);
    std::fs::write(&script, changed).unwrap();
    assert!(fails(&mine, &expand, 1).contains("command_generator.py: content: expected BLAKE3"));
}

#[test]
fn a_report_starts_no_program_of_a_run_from_elsewhere() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    import(dir.path(), &python, "import-generator", "command_generator.py", "spots");
    let run = ["pipeline", "--preset", "smoke", "--set", "trained_generators=[\"spots\"]", "--out", "run"];
    ok(dir.path(), &run);
    // Its only checkpoint is 0, which does not make its rows controls of an untrained generator.
    ok(dir.path(), &["synthesize", "run", "--per-class", "2", "--out", "synthesized"]);
    let table = gafi(dir.path(), &["report", "run", "--format", "markdown"]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("gafi") && !table.contains("untrained"), "{table}");
    let report = |more: &[&str]| {
        let arguments = [&["report", "run", "--output", "page.html", "--force"], more].concat();
        let output = gafi(dir.path(), &arguments).env("XDG_STATE_HOME", dir.path().join("other")).output().unwrap();
        assert!(output.status.success());
        let page = std::fs::read_to_string(dir.path().join("page.html")).unwrap();
        (String::from_utf8(output.stderr).unwrap(), page.contains("alt=\"accepted sample of"))
    };
    let (text, samples) = report(&[]);
    assert!(text.contains("--allow-commands starts it") && !samples, "{text}");
    let (text, samples) = report(&["--allow-commands"]);
    assert!(!text.contains("--allow-commands") && samples, "{text}");
}

#[cfg(unix)]
#[test]
fn control_characters_of_files_and_programs_are_escaped() {
    const CLEAR: &str = "\u{1b}[2J";
    let dir = tempfile::tempdir().unwrap();
    shapes(dir.path());
    let escaped = |text: &str| {
        assert!(!text.contains('\u{1b}') && !text.contains('\u{9b}'), "{text:?}");
        assert!(text.contains("\\u001b[2J") || text.contains("\\u{1b}[2J"), "{text:?}");
    };
    // The name of a file, and its content.
    let name = format!("a{CLEAR}.csv");
    write(dir.path(), &name, &format!("label\n{}\n", CLEAR.repeat(100_000)));
    let text = fails(dir.path(), &["evaluate", "--predictions", &name, "--dataset", "data/val", "--out", "x"], 1);
    escaped(&text);
    assert!(text.len() < 20_000, "{} bytes", text.len());
    // A program's command line and its standard error.
    let script = "printf 'a\\033[2Jb\\233c\\n' >&2; exit 1";
    let import = ["import-generator", "--from", "command", "--out", "g", "--", "sh", "-c", script, CLEAR];
    escaped(&fails(dir.path(), &import, 1));
    escaped(&fails(dir.path(), &[&["-vv", "--log-format", "json"], &import[..]].concat(), 1));
    // The name of a class, on standard output too.
    for class in [CLEAR, "b"] {
        let folder = dir.path().join("images").join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for i in 0..10 {
            image::GrayImage::from_pixel(8, 8, image::Luma([i])).save(folder.join(format!("{i}.png"))).unwrap();
        }
    }
    ok(dir.path(), &["import", "images", "--out", "set", "--size", "8", "--set", "test_fraction=0.2"]);
    let output = ok(dir.path(), &["inspect", "set/train"]);
    assert!(!String::from_utf8_lossy(&output.stdout).contains('\u{1b}'));
    assert!(!String::from_utf8_lossy(&output.stderr).contains('\u{1b}'));
}
