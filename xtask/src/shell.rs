//! Runs other programs: prints the command, and names it in errors.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
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
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(())
}

/// Runs `command` and returns its standard output, which must be UTF-8.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !done.status.success() {
        bail!("`{}` failed ({})", line(command), done.status);
    }
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
