//! The Python that reads our artifacts in the tests: `docs/format.md` promises that `safetensors` and `numpy` suffice.
//!
//! A virtual environment under `target/`, made once; nothing is installed outside it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Pinned, so that the snippet is tested against the same packages everywhere.
const PACKAGES: &str = include_str!("../python.txt");

/// A Python with the packages, or why there is none.
pub(crate) fn find(target: &Path) -> Result<PathBuf> {
    let system = "python3";
    if !shell::exists(system, "--version") {
        bail!("there is no `python3` on this machine");
    }
    let home = target.join("python");
    let python = home.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let stamp = home.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == PACKAGES) && imports(&python) {
        return Ok(python);
    }
    let made = make(system, &home, &python).and_then(|()| {
        fs::write(&stamp, PACKAGES).with_context(|| format!("cannot write {}", stamp.display()))?;
        Ok(python)
    });
    // A Debian without `python3-venv`, or a machine without a network: the system's own packages serve as well.
    made.or_else(|why| if imports(Path::new(system)) { Ok(system.into()) } else { Err(why) })
}

fn make(system: &str, home: &Path, python: &Path) -> Result<()> {
    shell::run(Command::new(system).args(["-m", "venv", "--clear"]).arg(home))?;
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("python.txt");
    let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "-r"];
    shell::run(Command::new(python).args(quiet).arg(list))?;
    if !imports(python) {
        bail!("{} cannot import safetensors and numpy though both were installed", python.display());
    }
    Ok(())
}

fn imports(python: &Path) -> bool {
    let mut probe = Command::new(python);
    probe.args(["-c", "import safetensors, numpy"]).stdin(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}
