//! House rules beyond rustfmt and clippy. Each rule is a function from a file to its findings.
//!
//! Clippy checks calls (`clippy.toml`). The rules here are about a whole file, or about where a call is allowed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    shell,
    source::{Source, has_token},
};

/// Crates that other programs embed: what they do depends only on their arguments.
const PURE: [&str; 10] = [
    "gafi-core",
    "gafi-pickle",
    "gafi-kernels",
    "gafi-nn",
    "gafi-gan",
    "gafi-expand",
    "gafi-filter",
    "gafi-recycle",
    "gafi-audit",
    "gafi-command",
];
/// Programs, which may print. Everything else is a library.
const PROGRAMS: [&str; 4] = ["gafi-cli", "fuzz", "xtask", "examples"];
/// Programs of developers, which read and write only their own files.
const TOOLS: [&str; 3] = ["fuzz", "xtask", "examples"];
/// Where `unsafe` is allowed: kernels and GPU libraries, behind safe functions that check shapes.
const KERNELS: [&str; 2] = ["gafi-kernels/src/", "gafi-audit/src/product.rs"];
/// Locks and their owners may read the environment: they depend on the machine and its queue, but no result depends on them.
const LOCKS: [&str; 2] = ["gafi-core/src/lock.rs", "gafi-core/src/owner.rs"];
/// The only place that creates files, by writing a temporary file and renaming it.
const WRITES: &str = "gafi-core/src/files.rs";
/// The table of contents of the book in `docs`.
const SUMMARY: &str = "docs/SUMMARY.md";

/// Something to fix.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// Counted from 1.
    line: usize,
    what: String,
}

/// Checks every source file and page, and prints all findings.
pub(crate) fn check() -> Result<()> {
    let root = shell::root();
    // Neither build outputs, artifacts nor hidden folders.
    let has_sources = |folder: &Path| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let output = name.starts_with("target") || name.ends_with(".partial") || folder.join("manifest.json").is_file();
        !output && !name.starts_with('.')
    };
    let relative = |path: PathBuf| Some(path.strip_prefix(&root).ok()?.to_string_lossy().replace('\\', "/"));
    let mut files: Vec<String> = shell::files(&root, has_sources)?.into_iter().filter_map(relative).collect();
    files.sort();
    let mut findings = Vec::new();
    let mut checked = 0;
    for path in &files {
        let extension = Path::new(path).extension().and_then(|e| e.to_str());
        if !matches!(extension, Some("rs" | "md" | "toml" | "py")) {
            continue;
        }
        let text = fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"))?;
        findings.extend(phrases(path, &text));
        match extension {
            Some("rs") => findings.extend(rust(path, &text)),
            Some("md") => findings.extend(links(path, &text, |to| root.join(to).exists())),
            _ => {}
        }
        checked += 1;
    }
    findings.extend(goldens(&files));
    let summary = fs::read_to_string(root.join(SUMMARY)).with_context(|| format!("cannot read {SUMMARY}"))?;
    findings.extend(book(&summary, &files));
    let line = |Finding { path, line, what }: &Finding| format!("{path}:{line}: {what}");
    shell::report(&findings.iter().map(line).collect::<Vec<_>>(), "findings")?;
    println!("   {checked} files");
    Ok(())
}

/// Translated idioms, and names that were replaced, in lower case. They must not come back.
const PHRASES: [&str; 12] = [
    "classroom",
    "workshop",
    "seeker",
    "gone on with",
    "is none",
    "whoever",
    "made again",
    "put aside",
    "in the place of",
    "as it comes",
    "as they come",
    "who wants",
];

/// Lines that contain one of [`PHRASES`].
fn phrases(path: &str, text: &str) -> Vec<Finding> {
    let exempt = path == "CHANGELOG.md" || path.starts_with("docs/log/") || path == "xtask/src/tidy.rs";
    let mut findings = Vec::new();
    for (line, words) in text.lines().enumerate().filter(|_| !exempt) {
        // `is None` is Python.
        let words = if path.ends_with(".py") { words.replace("is None", "") } else { words.to_string() };
        let words = words.to_lowercase();
        // A name may be part of a longer one, such as `ClassroomConfig`; an idiom is whole words.
        let contains =
            |phrase: &str| if phrase.contains(' ') { has_token(&words, phrase) } else { words.contains(phrase) };
        let found = PHRASES.iter().filter(|phrase| contains(phrase));
        let what = |phrase| format!("\"{phrase}\": use plain English, or the field's term");
        findings.extend(found.map(|phrase| Finding { path: path.into(), line: line + 1, what: what(phrase) }));
    }
    findings
}

/// Every rule about one Rust file.
fn rust(path: &str, text: &str) -> Vec<Finding> {
    let source = Source::new(text);
    let member = path.split('/').next().unwrap_or_default();
    let library = !PROGRAMS.contains(&member);
    // Integration tests, examples and benchmarks are programs, and may panic.
    let shipped = path.contains("/src/") && !path.ends_with("/tests.rs") && !path.contains("/tests/");
    let mut findings = Vec::new();
    let mut say = |line: usize, what: String| findings.push(Finding { path: path.into(), line: line + 1, what });

    if !text.starts_with("//!") {
        say(0, "a file starts with a `//!` header that says what it contains and why".into());
    }
    for (line, comment) in source.comments.iter().enumerate() {
        for note in ["TODO", "FIXME", "XXX", "HACK"] {
            if has_token(comment, note) {
                say(line, format!("{note} in a comment: do it, or open an issue"));
            }
        }
    }
    let mut forbid = |tokens: &[&str], why: &str| {
        for token in tokens {
            for line in source.lines_with(token).filter(|&line| !source.test[line]) {
                say(line, format!("`{token}` {why}"));
            }
        }
    };
    forbid(&["dbg!", "todo!", "unimplemented!"], "is for drafts");
    if library && shipped {
        forbid(&["print!", "println!", "eprint!", "eprintln!"], "in a library: use `tracing`, or return it");
    }
    if !KERNELS.iter().any(|folder| path.starts_with(folder)) {
        forbid(&["unsafe {", "unsafe fn", "unsafe impl"], "outside gafi-kernels and gafi-audit/src/product.rs");
    }
    if shipped && PURE.contains(&member) && !LOCKS.contains(&path) {
        forbid(&["env::var", "env::var_os"], "in a library: no environment variable changes a result");
    }
    if !TOOLS.contains(&member) && shipped && path != WRITES {
        forbid(&["fs::write", "File::create"], "may leave an incomplete file: use gafi_core::write_atomic");
        let why = "may wait on a named pipe for ever: use gafi_core::open_regular, read_regular or read_text";
        forbid(&["File::open", "fs::read", "fs::read_to_string"], why);
    }
    if library && shipped {
        for token in [".unwrap()", ".expect("] {
            for line in source.lines_with(token).filter(|&line| !source.test[line]) {
                if !proven(&source, line) {
                    say(line, format!("`{token}` without a comment that proves it cannot fail"));
                }
            }
        }
    }
    findings
}

/// Whether there is a plain comment on `line` or within the three lines above, or the compiler evaluates the line.
fn proven(source: &Source, line: usize) -> bool {
    let code = source.code[line].trim_start();
    if code.trim_start_matches("pub ").starts_with("const ") && !code.contains(" fn ") {
        return true;
    }
    source.comments[line.saturating_sub(3)..=line].iter().any(|comment| {
        let comment = comment.trim_start();
        comment.starts_with("//") && !comment.starts_with("///") && !comment.starts_with("//!")
    })
}

/// Dead local links of a page. `exists` takes paths relative to the root.
fn links(page: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let folder = page.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut findings = Vec::new();
    let mut fenced = false;
    for (line, words) in text.lines().enumerate() {
        if words.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        for link in words.split("](").skip(1).filter(|_| !fenced) {
            let to = link.split([')', '#', ' ']).next().unwrap_or_default();
            if to.is_empty() || to.contains("://") || to.starts_with("mailto:") {
                continue;
            }
            let whole = join(folder, to);
            // `mdbook` copies only files below `docs`.
            let leaves_the_book = page.starts_with("docs/") && !whole.starts_with("docs/");
            let what = if !exists(&whole) {
                format!("the link to `{to}` is dead")
            } else if leaves_the_book {
                format!("the link to `{to}` is dead in the book: name the file instead")
            } else {
                continue;
            };
            findings.push(Finding { path: page.into(), line: line + 1, what });
        }
    }
    findings
}

/// Resolves `to` relative to `folder`; both use `/`.
fn join(folder: &str, to: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in to.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Golden values without the program that generated them beside them.
fn goldens(files: &[String]) -> Vec<Finding> {
    let folder = |path: &String| PathBuf::from(path).parent().map(Path::to_path_buf).unwrap_or_default();
    let golden = |path: &&String| path.contains("/goldens/") && !path.ends_with(".py");
    let explained = |path: &String| files.iter().any(|f| f.ends_with(".py") && folder(f) == folder(path));
    let alone = files.iter().filter(golden).filter(|path| !explained(path));
    let what = "golden values need the program that generated them beside them";
    alone.map(|path| Finding { path: path.clone(), line: 1, what: what.into() }).collect()
}

/// Pages of `docs` that are missing from the table of contents.
fn book(summary: &str, files: &[String]) -> Vec<Finding> {
    let page = |file: &&String| {
        let name = file.strip_prefix("docs/").filter(|name| name.ends_with(".md") && !name.contains('/'));
        name.is_some_and(|name| **file != SUMMARY && !summary.contains(&format!("({name})")))
    };
    let missing = files.iter().filter(page);
    missing.map(|file| Finding { path: SUMMARY.into(), line: 1, what: format!("{file} is missing") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        rust(path, text).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_tidy_file_passes() {
        let text = "//! Adds.\n\n/// Prints nothing: `println!` is only named.\npub fn add(a: u8) -> u8 {\n    a\n}\n";
        assert_eq!(rust("gafi-core/src/add.rs", text), []);
    }

    #[test]
    fn banned_phrases_are_found_in_prose_and_names() {
        let text = "Whoever wants it.\nstruct ClassroomConfig;\nThere is none.\nis_none, is nonempty\nif x is None:\n";
        let lines = |path| phrases(path, text).iter().map(|finding| finding.line).collect::<Vec<_>>();
        assert_eq!(lines("docs/a.md"), [1, 2, 3, 5]);
        assert_eq!(lines("examples/a.py"), [1, 2, 3], "`is None` is Python");
        assert_eq!(lines("docs/log/a.md"), [0_usize; 0]);
    }

    #[test]
    fn a_missing_header_is_found_in_every_file() {
        for path in ["gafi-core/src/a.rs", "gafi-core/tests/a.rs", "xtask/src/a.rs"] {
            assert_eq!(lines(path, "// Adds.\nfn a() {}\n"), [1], "{path}");
        }
    }

    #[test]
    fn prints_are_for_programs() {
        let text = "//! A.\nfn a() {\n    println!(\"\");\n}\n";
        assert_eq!(lines("gafi-core/src/a.rs", text), [3]);
        assert_eq!(lines("gafi-core/examples/a.rs", text), [0_usize; 0]);
        assert_eq!(lines("gafi-cli/src/a.rs", text), [0_usize; 0]);
    }

    #[test]
    fn notes_to_self_are_found_in_comments_alone() {
        let text = "//! A.\n// TODO: later\nconst A: &str = \"TODO\"; // see TODOS\nfn a() { todo!() }\n";
        assert_eq!(lines("gafi-core/src/a.rs", text), [2, 4]);
    }

    #[test]
    fn unsafe_stays_with_the_kernels() {
        let text = "//! A.\n#![deny(unsafe_code)]\nfn a() {\n    unsafe { b() }\n}\n";
        assert_eq!(lines("gafi-gan/src/a.rs", text), [4]);
        assert_eq!(lines("gafi-nn/src/learner.rs", text), [4]);
        for kernels in KERNELS {
            assert_eq!(lines(&format!("{kernels}cpu/a.rs"), text), [0_usize; 0]);
        }
    }

    #[test]
    fn an_unwrap_needs_a_proof_outside_tests() {
        let bare = "//! A.\n\n\n\nfn a() { b().unwrap(); }\n";
        assert_eq!(lines("gafi-core/src/a.rs", bare), [5]);
        let proven = "//! A.\nfn a() {\n    // b is never empty: see c\n    b().unwrap();\n}\n";
        assert_eq!(lines("gafi-core/src/a.rs", proven), [0_usize; 0]);
        let documented = "//! A.\n/// Says.\nfn a() {\n    b().expect(\"\");\n}\n";
        assert_eq!(lines("gafi-core/src/a.rs", documented), [4]);
        let constant =
            "//! A.\n/// Says.\npub const A: u8 = b().unwrap();\n/// Says.\nconst fn c() -> u8 { b().unwrap() }\n";
        assert_eq!(lines("gafi-core/src/a.rs", constant), [5], "the compiler evaluates a constant");
        let test = "//! A.\n#[cfg(test)]\nmod tests {\n    fn a() { b().unwrap(); }\n}\n";
        assert_eq!(lines("gafi-core/src/a.rs", test), [0_usize; 0]);
    }

    #[test]
    fn the_environment_is_for_programs_and_for_finding_data() {
        let text = "//! A.\nfn a() { std::env::var(\"A\"); }\n";
        assert_eq!(lines("gafi-core/src/a.rs", text), [2]);
        assert_eq!(lines("gafi-data/src/a.rs", text), [0_usize; 0]);
    }

    #[test]
    fn files_are_written_in_one_place() {
        let text =
            "//! A.\nfn a() { std::fs::write(\"a\", b); }\n#[cfg(test)]\nmod tests { fn b() { fs::write(); } }\n";
        assert_eq!(lines("gafi-cli/src/a.rs", text), [2]);
        assert_eq!(lines(WRITES, text), [0_usize; 0]);
        assert_eq!(lines("gafi-cli/tests/a.rs", text), [0_usize; 0]);
    }

    #[test]
    fn files_are_opened_in_one_place() {
        let text = "//! A.\nfn a() { std::fs::read(\"a\"); fs::read_dir(\"a\"); }\nfn b() { File::open(\"a\"); }\n";
        assert_eq!(lines("gafi-data/src/a.rs", text), [3, 2]);
        assert_eq!(lines(WRITES, text), [0_usize; 0]);
        assert_eq!(lines("gafi-data/tests/a.rs", text), [0_usize; 0]);
    }

    #[test]
    fn dead_links_are_found_from_the_page_they_stand_on() {
        let text = "[a](../README.md) [b](gone.md#x)\n[c](https://example.org) [d](#here)\n```\n[e](f.md)\n```\n";
        let found = |page: &str| -> Vec<_> {
            links(page, text, |to| to == "README.md").into_iter().map(|found| (found.line, found.what)).collect()
        };
        let gone = (1, "the link to `gone.md` is dead".to_string());
        assert_eq!(found("crate/page.md"), std::slice::from_ref(&gone));
        let outside = (1, "the link to `../README.md` is dead in the book: name the file instead".to_string());
        assert_eq!(found("docs/page.md"), [outside, gone], "the book is made of docs alone");
    }

    #[test]
    fn goldens_need_their_program() {
        let files: Vec<String> =
            ["a/tests/goldens/x.safetensors", "b/tests/goldens/y.safetensors", "b/tests/goldens/y.py"]
                .map(String::from)
                .into();
        let found = goldens(&files);
        assert_eq!(found.len(), 1);
        assert!(found[0].path.starts_with("a/"));
    }
}
