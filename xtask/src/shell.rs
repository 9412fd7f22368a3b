//! Runs other programs: prints the command, and names it in errors.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

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
    fn the_root_holds_the_workspace() {
        assert!(root().join("gafi-core/Cargo.toml").is_file());
    }
}
