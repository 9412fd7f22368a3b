//! `--help`, and `docs/reference.md`: the help of every verb and the configuration of the pipeline. The page is committed, so that
//! reviews show changes; `GAFI_UPDATE=1` writes it.

use std::path::Path;

use super::{gafi, ok};

const INTRODUCTION: &str = "\
# Commands and configuration

The help of each verb, then every key of the pipeline's configuration. Every verb also takes the options of `gafi-cli` itself.
The keys of another stage: `gafi-cli schema VERB`.

Generated: `GAFI_UPDATE=1 cargo test -p gafi-cli --test cli reference`.
";

#[test]
fn the_reference_is_current() {
    let dir = tempfile::tempdir().unwrap();
    let mut page = INTRODUCTION.to_string();
    for verb in [
        "",
        "quickstart",
        "import",
        "import-generator",
        "import-teacher",
        "export",
        "train-classifier",
        "train-gan",
        "expand",
        "filter",
        "recycle",
        "collect",
        "evaluate",
        "audit",
        "probe",
        "command",
        "init",
        "pipeline",
        "synthesize",
        "watch",
        "report",
        "inspect",
        "verify",
        "prune",
        "tensorboard",
        "doctor",
        "schema",
        "completions",
        "man",
    ] {
        let arguments = if verb.is_empty() { vec!["--help"] } else { vec![verb, "--help"] };
        let output = ok(dir.path(), &arguments);
        let help = String::from_utf8_lossy(&output.stdout);
        let mut lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        // Every verb repeats the global options. What follows them, such as an example, is kept.
        if let Some(start) = lines.iter().position(|line| *line == "Global options:") {
            let other = |line: &&str| !line.is_empty() && !line.starts_with(' ');
            let end = lines[start + 1..].iter().position(other).map_or(lines.len(), |at| start + 1 + at);
            lines.drain(start..end);
        }
        let title = if verb.is_empty() { "gafi-cli".into() } else { format!("gafi-cli {verb}") };
        page += &format!("\n## {title}\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    }
    ok(dir.path(), &["init", "--output", "gafi.toml"]);
    let starter = std::fs::read_to_string(dir.path().join("gafi.toml")).unwrap();
    page += &format!(
        "\n## The configuration of `pipeline`\n\nAs `gafi-cli init` writes it.\n\n```toml\n{}\n```\n",
        starter.trim_end()
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference.md");
    if std::env::var_os("GAFI_UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
    let first = page.lines().zip(there.lines().chain(std::iter::repeat(""))).find(|(now, there)| now != there);
    assert!(page == there, "docs/reference.md is out of date: GAFI_UPDATE=1 writes it; first difference {first:?}");
}

#[test]
fn no_verb_and_unknown_verbs_are_usage_errors() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [&[][..], &["trian-gan"], &["expand"], &["expand", "--generator", "x", "--out", "y", "--bogus"]] {
        let output = gafi(dir.path(), arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn help_groups_every_verb_under_a_heading() {
    let dir = tempfile::tempdir().unwrap();
    let help = String::from_utf8(ok(dir.path(), &["--help"]).stdout).unwrap();
    let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("no {text:?} in\n{help}"));
    for verbs in [
        ["Data:", "  import ", "  export "],
        ["Stages:", "  expand ", "  train-gan "],
        ["Whole pipeline:", "  quickstart ", "  pipeline "],
        ["Results:", "  watch ", "  report "],
        ["Tools:", "  doctor ", "  man "],
    ] {
        assert!(verbs.map(at).is_sorted(), "{verbs:?}\n{help}");
    }
}
