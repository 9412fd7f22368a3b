//! The help texts, committed: a change of the command line shows in review.

use super::{gafi, ok};

#[test]
fn help_texts() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for verb in [
        "",
        "import",
        "import-generator",
        "import-teacher",
        "train-classifier",
        "train-gan",
        "expand",
        "filter",
        "recycle",
        "evaluate",
        "audit",
        "probe",
        "collect",
        "pipeline",
        "synthesize",
        "report",
        "export",
        "inspect",
        "verify",
        "command",
        "init",
        "schema",
        "watch",
        "tensorboard",
        "doctor",
        "completions",
        "man",
    ] {
        let arguments = if verb.is_empty() { vec!["--help"] } else { vec![verb, "--help"] };
        let output = ok(dir.path(), &arguments);
        text += &format!("$ gafi-cli {}\n{}\n", arguments.join(" "), String::from_utf8_lossy(&output.stdout));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn no_verb_and_unknown_verbs_are_usage_errors() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [&[][..], &["trian-gan"], &["expand"], &["expand", "--generator", "x", "--out", "y", "--bogus"]] {
        let output = gafi(dir.path(), arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
