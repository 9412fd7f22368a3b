//! What the tasks share: other programs, whose commands are printed and named in errors; folders; findings.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde_json::Value;

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    // The variable is right even if the checkout was moved after xtask was built.
    let here = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let mut root = PathBuf::from(here);
    root.pop();
    root
}

/// The cargo that started this program, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    // `cargo run` sets these for xtask. A build script that watches one of them would run again for no reason.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// What `cargo metadata` prints with these options.
pub(crate) fn metadata(options: &[&str]) -> Result<Value> {
    let metadata = output(cargo().args(["metadata", "--format-version", "1"]).args(options))?;
    serde_json::from_str(&metadata).context("parsing the output of `cargo metadata`")
}

/// The search path for programs, with `folder` before all others.
pub(crate) fn search_path(folder: &Path) -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = [folder.to_path_buf()].into_iter().chain(env::split_paths(&path)).collect();
    env::join_paths(folders).unwrap_or(path)
}

/// Whether `program` can be started.
pub(crate) fn exists(program: &str, probe: &str) -> bool {
    let quiet =
        Command::new(program).arg(probe).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

/// Whether this runs in continuous integration, where skipping a check is an error.
pub(crate) fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}

/// Runs `command` and shows its output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("   $ {}", line(command));
    let status = command.status().with_context(|| format!("cannot start `{}`", line(command)))?;
    ensure!(status.success(), "`{}` failed ({status})", line(command));
    Ok(())
}

/// Runs `command` and returns its standard output, which must be UTF-8.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{}`", line(command)))?;
    ensure!(done.status.success(), "`{}` failed ({})", line(command), done.status);
    String::from_utf8(done.stdout).with_context(|| format!("`{}` printed text that is not UTF-8", line(command)))
}

/// A program that cargo built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Built {
    /// The folder of its crate, such as `gafi-cli`.
    pub(crate) package: String,
    /// The name of the binary, example, test or library.
    pub(crate) target: String,
    pub(crate) path: PathBuf,
}

/// Runs a `cargo build` or `cargo test --no-run` and returns the programs that it built or found up to date.
pub(crate) fn build(cargo: &mut Command) -> Result<Vec<Built>> {
    output(cargo.args(["--message-format", "json-render-diagnostics"])).map(|messages| programs(&messages))
}

/// The programs in cargo's messages, one JSON object per line.
fn programs(messages: &str) -> Vec<Built> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let built = messages.filter_map(|message| {
        let folder = Path::new(message["manifest_path"].as_str()?).parent()?.file_name()?;
        Some(Built {
            package: folder.to_string_lossy().into_owned(),
            target: message["target"]["name"].as_str()?.into(),
            path: message["executable"].as_str()?.into(),
        })
    });
    built.collect()
}

/// The name of a value on the command line, in presets and in configurations.
pub(crate) fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Creates `folder`, without what it held.
pub(crate) fn empty_folder(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Calls `work` with a new temporary folder, and removes it unless `work` failed.
pub(crate) fn in_temporary_folder(name: &str, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let root = env::temp_dir().join(format!("gafi-{name}-{}", std::process::id()));
    fs::create_dir_all(&root)?;
    work(&root).with_context(|| format!("its files are in {}", root.display()))?;
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))
}

/// All files below `folder`, in no particular order. Folders that `enter` refuses are skipped.
pub(crate) fn files(folder: &Path, enter: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let entry = entry?;
            let path = entry.path();
            if !entry.file_type()?.is_dir() {
                found.push(path);
            } else if enter(&path) {
                open.push(path);
            }
        }
    }
    Ok(found)
}

/// Prints `findings`, one per line.
///
/// # Errors
/// If there are any; `what` they are follows their number.
pub(crate) fn report(findings: &[String], what: &str) -> Result<()> {
    for line in findings {
        eprintln!("   {line}");
    }
    ensure!(findings.is_empty(), "{} {what}", findings.len());
    Ok(())
}

/// The command line.
fn line(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    command.get_args().fold(name, |line, arg| line + " " + &arg.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command() {
        let error = run(cargo().args(["no-such-command-of-cargo"]).stderr(Stdio::null())).unwrap_err();
        assert!(error.to_string().contains("cargo no-such-command-of-cargo"), "{error}");
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let error = run(&mut Command::new("no-such-program-of-gafi")).unwrap_err();
        assert!(error.to_string().contains("cannot start `no-such-program-of-gafi`"), "{error}");
        assert!(!exists("no-such-program-of-gafi", "--version"));
    }

    #[test]
    fn programs_are_found_in_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","manifest_path":"/w/gafi-cli/Cargo.toml","target":{"name":"gafi_cli"},"executable":null}
not json
{"reason":"compiler-artifact","manifest_path":"/w/gafi-cli/Cargo.toml","target":{"name":"gafi-cli"},"executable":"/t/debug/gafi-cli"}
{"reason":"build-finished","success":true}"#;
        let [found] = &programs(messages)[..] else { panic!("one program is expected") };
        assert_eq!((&*found.package, &*found.target), ("gafi-cli", "gafi-cli"));
        assert_eq!(found.path, PathBuf::from("/t/debug/gafi-cli"));
    }

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("gafi-core/Cargo.toml").is_file());
    }
}
