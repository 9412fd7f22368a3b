//! Exit codes: signals, processes that wait for each other, exhausted classes.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{gafi, ok, trained};

/// A pipeline whose first GAN would train for minutes.
const SLOW: [&str; 9] = [
    "pipeline",
    "--preset",
    "smoke",
    "--out",
    "run",
    "--set",
    "gan.length.steps=100000",
    "--set",
    "gan.checkpoints=[]",
];

const IMPORT: [&str; 8] =
    ["import", "shapes", "--out", "data", "--size", "8", "--set", "shapes={ classes = 2, train = 160, test = 40 }"];

/// Without the variables of the batch job that this test may itself run in.
fn outside_of_jobs(mut command: Command) -> Command {
    for name in ["SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"] {
        command.env_remove(name);
    }
    command
}

/// Waits until the GAN of [`SLOW`] trains.
fn wait_for_training(dir: &Path, child: &mut Child) {
    let trains = || {
        let entries = std::fs::read_dir(dir.join("run")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name()).any(|name| {
            let name = name.to_string_lossy();
            name.starts_with(".train-gan") && name.ends_with(".partial")
        })
    };
    while !trains() {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap().success());
}

/// Whether HUP is ignored by this process, and so by those it starts.
#[cfg(unix)]
fn hangups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(unix)]
#[test]
fn signals_stop_at_a_safe_point_with_their_code() {
    for (signal, code) in [("INT", 130), ("TERM", 75), ("USR1", 75), ("USR2", 75), ("HUP", 75)] {
        if signal == "HUP" && hangups_are_ignored() {
            // The tests run under nohup.
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut child = gafi(dir.path(), &SLOW).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_training(dir.path(), &mut child);
        send(signal, &child);
        // A batch system signals both a job and its processes; the second signal must not end the process before its safe point.
        if code == 75 {
            send(signal, &child);
        }
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{signal}: {text}");
        assert!(text.contains("run the same command again"), "{signal}: {text}");
    }
}

/// `nohup` starts a program with HUP ignored.
#[cfg(target_os = "linux")]
#[test]
fn a_hangup_stays_ignored_under_nohup() {
    let dir = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"trap "" HUP; exec "$0" "$@""#, env!("CARGO_BIN_EXE_gafi-cli")]).args(SLOW);
    let mut child = shell.current_dir(dir.path()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_training(dir.path(), &mut child);
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
    let catches = |signal: u32| caught >> (signal - 1) & 1 == 1;
    // HUP is 1, INT 2, TERM 15.
    assert_eq!((catches(1), catches(2), catches(15)), (false, true, true), "{status}");
    send("TERM", &child);
    assert_eq!(child.wait().unwrap().code(), Some(75));
}

/// The lock of a run and that of an artifact, held by this process.
#[test]
fn a_second_process_exits_with_75_or_waits() {
    let dir = tempfile::tempdir().unwrap();
    let held = |folder: &str, name: &str| {
        std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        let lock = File::create(dir.path().join(folder).join(name)).unwrap();
        lock.lock().unwrap();
        lock
    };
    let run = held("run", ".run.json.lock");
    let artifact = held("data", ".train.lock");
    for (arguments, job) in
        [(&SLOW[..], false), (&IMPORT[..], false), (&[&IMPORT[..], &["--wait=false"]].concat()[..], true)]
    {
        let mut command = outside_of_jobs(gafi(dir.path(), arguments));
        if job {
            command.env("SLURM_JOB_ID", "7");
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(75), "{arguments:?}\n{text}");
        assert!(text.contains("another process is writing it") && text.contains("--wait waits"), "{text}");
    }
    drop(run);

    // Both wait for the same artifact. One then builds it, and the other reuses it.
    let mut by_flag = outside_of_jobs(gafi(dir.path(), &[&IMPORT[..], &["--wait"]].concat()));
    let mut in_job = gafi(dir.path(), &IMPORT);
    let waiting = [&mut by_flag, in_job.env("PBS_JOBID", "7")].map(|command| {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.contains("waiting until it ends")).expect("it does not say that it waits");
        assert!(line.contains("data/train"), "{line}");
        (child, lines)
    });
    drop(artifact);
    for (mut child, lines) in waiting {
        let rest: Vec<_> = lines.collect();
        assert!(child.wait().unwrap().success(), "{rest:?}");
    }
    ok(dir.path(), &["verify", "data/train"]);
}

/// A process that waits is stopped like one that works.
#[cfg(unix)]
#[test]
fn a_process_that_waits_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let lock = File::create(dir.path().join("data/.train.lock")).unwrap();
    lock.lock().unwrap();
    let mut child = gafi(dir.path(), &[&IMPORT[..], &["--wait"]].concat()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.contains("waiting until it ends")).unwrap();
    send("TERM", &child);
    assert_eq!(child.wait().unwrap().code(), Some(75));
}

/// With `flock`, and with leases; a folder that takes no files is an error.
#[test]
fn doctor_tries_a_folder_from_two_processes() {
    let dir = tempfile::tempdir().unwrap();
    for (locks, lease) in [("flock", false), ("lease", true)] {
        let mut doctor = gafi(dir.path(), &["doctor", "--folder", ".", "--json"]);
        let output = doctor.env("GAFI_LOCKS", locks).env("XDG_DATA_HOME", dir.path()).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let folder = &report["folder"];
        for check in ["flock", "exclusive", "rename", "lock"] {
            assert!(folder[check].is_null(), "{check}: {folder}");
        }
        assert_eq!(folder["lease"], lease, "{folder}");
        assert!(folder.get("free_bytes").is_some() && folder.get("free_inodes").is_some(), "{folder}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something is left");
    let output = gafi(dir.path(), &["doctor", "--folder", "none"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot write into none"), "{text}");
}

#[test]
fn an_exhausted_class_exits_with_3() {
    let dir = tempfile::tempdir().unwrap();
    trained(dir.path());
    let rule = ["--threshold", "0.999999", "--set", "on_exhausted=error", "--set", "max_attempts=50"];
    let filter = ["filter", "--samples", "data/train", "--teacher", "teacher", "--per-class", "60", "--out", "x"];
    let output = gafi(dir.path(), &[&filter[..], &rule].concat()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    let classes = text.matches(" is exhausted: wanted 60 samples").count();
    assert!(
        classes == 2 && text.contains("; the teacher classifies the rest as "),
        "both classes in one message: {text}"
    );
    // This weak teacher classifies most images of either class as squares.
    assert!(text.contains("\nWhichever class is requested, "), "{text}");
}
