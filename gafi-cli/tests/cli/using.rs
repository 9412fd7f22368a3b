//! Starter files, schemas, completions, manual pages, `doctor`, JSON logs, `watch`, `tensorboard` and `quickstart`.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::foreign::python;
use super::{fails, gafi, json, ok, read, trained};

fn stdout(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_starter_file_resolves_to_its_preset() {
    let dir = tempfile::tempdir().unwrap();
    let resolved = |arguments: &[&str]| -> Value {
        json(dir.path(), &[&["pipeline", "--dry-run", "--json"], arguments].concat())["config"].take()
    };
    ok(dir.path(), &["init", "--preset", "smoke"]);
    assert_eq!(resolved(&["--config", "gafi.toml"]), resolved(&["--preset", "smoke"]));
    assert!(fails(dir.path(), &["init"], 2).contains("--force"));
    ok(dir.path(), &["init", "--force", "--schema"]);
    let text = std::fs::read_to_string(dir.path().join("gafi.toml")).unwrap();
    assert!(text.starts_with("#:schema ./gafi.schema.json\n"), "{text}");
    let data = ["--data", "shapes"];
    assert_eq!(resolved(&[&["--config", "gafi.toml"], &data[..]].concat()), resolved(&data));
    assert_eq!(read(&dir.path().join("gafi.schema.json")), json(dir.path(), &["schema"]));
    assert!(fails(dir.path(), &["init", "--preset", "nothing", "--output", "other.toml"], 2).contains("quickstart"));
    assert!(!dir.path().join("other.toml").exists());
}

#[test]
fn every_verb_with_a_configuration_has_a_schema() {
    let dir = tempfile::tempdir().unwrap();
    for (verb, key) in [("pipeline", "recycle"), ("import", "set"), ("train-gan", "d_steps"), ("command", "program")] {
        let schema = json(dir.path(), &["schema", verb]);
        let text = schema["properties"][key]["description"].as_str();
        assert!(text.is_some_and(|text| text.len() > 10), "{verb}: {schema:#}");
        assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    }
    assert!(fails(dir.path(), &["schema", "evalaute"], 2).contains("evaluate"));
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [["schema"], ["man"]] {
        let mut command = gafi(dir.path(), &arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Long before the program prints anything.
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn completions_and_manual_pages_cover_every_verb() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = stdout(&ok(dir.path(), &["completions", shell]));
        for word in ["train-gan", "recycle", "preset", "completions"] {
            assert!(text.contains(word), "{shell}: no {word}");
        }
    }
    assert!(stdout(&ok(dir.path(), &["man"])).contains(".TH gafi-cli 1"));
    ok(dir.path(), &["man", "--output", "man"]);
    for page in ["gafi-cli.1", "gafi-cli-pipeline.1", "gafi-cli-train-gan.1", "gafi-cli-watch.1"] {
        let text = std::fs::read_to_string(dir.path().join("man").join(page)).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
}

#[test]
fn doctor_reports_the_machine_and_broken_data() {
    let dir = tempfile::tempdir().unwrap();
    let doctor = |arguments: &[&str]| {
        let mut command = gafi(dir.path(), &[&["doctor"], arguments].concat());
        command.env("XDG_DATA_HOME", dir.path()).output().unwrap()
    };
    let output = doctor(&["--json", "--threads", "3"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["threads"]["used"], 3);
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert!(report["memory"]["total_bytes"].as_u64().unwrap() > 1 << 20, "{report:#}");
    assert!(["avx512", "avx2", "portable"].map(Value::from).contains(&report["kernels"]["f32"]), "{report:#}");
    let sets: Vec<_> = report["data"].as_array().unwrap().iter().map(|data| data["set"].as_str().unwrap()).collect();
    assert_eq!(sets, ["shapes", "fashion-mnist", "mnist", "cifar10", "cifar100"]);
    let missing = report["data"][3]["missing"].as_str();
    assert!(missing.is_none_or(|help| help.contains("cifar-10-binary.tar.gz")), "{report:#}");

    std::fs::create_dir_all(dir.path().join("gafi/cifar10")).unwrap();
    let output = doctor(&[]);
    let text = stdout(&output);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}{error}");
    assert!(text.contains("BROKEN") && error.contains("gafi/cifar10"), "{text}{error}");
}

#[test]
fn a_json_log_has_one_record_per_line() {
    let dir = tempfile::tempdir().unwrap();
    let records = |arguments: &[&str]| -> Vec<Value> {
        let output = gafi(dir.path(), arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    };
    let shapes = "shapes={ classes = 2, train = 60, test = 10 }";
    let import = ["import", "shapes", "--out", "data", "--set", shapes, "--log-format", "json", "-v"];
    let log = records(&import);
    let made = |record: &&Value| record["message"].as_str().is_some_and(|message| message.contains("data/train"));
    let made = log.iter().find(made).unwrap_or_else(|| panic!("{log:?}"));
    assert_eq!(made["level"], "INFO");
    let log = records(&["inspect", "nowhere", "--log-format", "json"]);
    let last = log.last().unwrap();
    assert_eq!((&last["level"], &last["code"]), (&"ERROR".into(), &1.into()), "{log:?}");
    assert!(last["message"].as_str().unwrap().contains("nowhere"), "{log:?}");
}

#[test]
fn watching_and_converting_leave_a_run_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("run")).unwrap();
    let run = dir.path().join("run");
    trained(&run);
    let before = super::files(&run);
    let frame = stdout(&ok(dir.path(), &["watch", "run", "--once"]));
    for part in ["run: 2 stages done", "teacher", "gan", "step 20", "epoch 1"] {
        assert!(frame.contains(part), "no {part:?} in\n{frame}");
    }
    // Without a terminal it also prints one frame.
    assert_eq!(stdout(&ok(dir.path(), &["watch", "run"])), frame);

    ok(dir.path(), &["tensorboard", "run", "--output", "logs"]);
    let events = dir.path().join("logs/teacher/events.out.tfevents.0.gafi");
    let bytes = std::fs::read(&events).unwrap();
    let holds = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
    assert!(holds(b"brain.Event:2") && holds(b"epoch/val_accuracy") && holds(b"epoch/loss"));
    // A second call replaces the file instead of duplicating its points.
    let record = json(dir.path(), &["tensorboard", "run/teacher", "--output", "logs", "--json"]);
    assert_eq!(record["stages"], 1);
    assert_eq!(std::fs::read(&events).unwrap(), bytes);
    assert_eq!(super::files(&run), before);
    for verb in [&["watch", "nowhere", "--once"][..], &["tensorboard", "nowhere", "--output", "x"]] {
        assert!(fails(dir.path(), verb, 2).contains("nowhere"));
    }
}

/// Opens a terminal, starts `watch` in it, and closes it like a window. (Rust's standard library has no terminals.)
#[cfg(unix)]
const CLOSE: &str = r#"
import fcntl, os, pty, signal, struct, sys, termios, time
signal.alarm(300)  # whatever happens
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
    os.environ["TERM"] = "xterm"
    os.execv(sys.argv[1], [sys.argv[1], "watch", "."])
seen = b""
while b"teacher" not in seen:
    seen += os.read(terminal, 4096)
os.close(terminal)
for _ in range(1200):
    ended, status = os.waitpid(pid, os.WNOHANG)
    if ended:
        sys.exit(f"ended with {status}" if status else 0)
    time.sleep(0.1)
os.kill(pid, signal.SIGKILL)
sys.exit("still running without a terminal")
"#;

/// crossterm never returns from reading a closed terminal.
#[cfg(unix)]
#[test]
fn watching_ends_with_the_terminal() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    trained(dir.path());
    let mut close = Command::new(python);
    close.current_dir(dir.path()).args(["-c", CLOSE, env!("CARGO_BIN_EXE_gafi-cli")]);
    let output = close.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn quickstart_keeps_the_set_of_an_earlier_run() {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), &["pipeline", "--preset", "smoke", "--out", "quickstart"]);
    let printed = json(dir.path(), &["quickstart", "--dry-run", "--json"]);
    let data = &printed["config"]["data"];
    assert_eq!((&data["set"], &data["shapes"]["train"]), (&"shapes".into(), &15_000.into()));
    let printed = json(dir.path(), &["quickstart", "--data", "fashion-mnist", "--seed", "7", "--dry-run", "--json"]);
    assert_eq!((&printed["config"]["data"]["set"], &printed["config"]["seed"]), (&"fashion-mnist".into(), &7.into()));
}
