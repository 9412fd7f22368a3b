//! Python environments for tests: one that reads artifacts (`docs/format.md` promises that `safetensors` and `numpy` suffice),
//! one with the libraries that read exports, one with CUDA, and one for the package `gafi`.
//!
//! They are virtual environments below `target/`; nothing is installed elsewhere.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::shell;

/// A virtual environment.
#[derive(Debug)]
pub(crate) struct Environment {
    folder: &'static str,
    /// A requirements file in xtask's folder, with pinned versions.
    list: &'static str,
    /// The modules that must be importable.
    modules: &'static str,
    /// Whether packages of the system are used if their versions fit.
    system_packages: bool,
}

/// Runs the Python of `docs/format.md`.
pub(crate) const FORMAT: Environment =
    Environment { folder: "python", list: "python.txt", modules: "safetensors, numpy", system_packages: false };

/// Reads exports. PyTorch is large, so an installed one is used.
pub(crate) const INTEROP: Environment = Environment {
    folder: "python-interop",
    list: "interop.txt",
    modules: "datasets, webdataset, torch, torchvision, safetensors, numpy, yaml, tensorboard, jsonschema",
    system_packages: true,
};

/// Builds the package `gafi`, has it installed, and runs its tests.
const PACKAGE: Environment = Environment {
    folder: "python-package",
    list: "package.txt",
    modules: "maturin, mypy, pytest, numpy, torch, datasets, diffusers, PIL",
    system_packages: true,
};

/// CUDA's compiler and libraries, and cuDNN: 2 GB.
pub(crate) const CUDA: Environment =
    Environment { folder: "python-cuda", list: "cuda.txt", modules: "nvidia.cudnn", system_packages: false };

/// Installs the package `gafi` into an environment of its own with `pip install .`, and runs its tests.
pub(crate) fn test_package(target: &Path) -> Result<()> {
    let python = PACKAGE.find(target)?;
    let own = python.starts_with(target);
    ensure!(own, "the tests of the Python package need `python3 -m venv`, because they install it");
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--force-reinstall"];
    let mut install = Command::new(&python);
    install.args(pip).arg("--no-build-isolation").arg(shell::root()).env("CARGO_TARGET_DIR", target);
    // Pip calls `maturin` by its name.
    let programs = python.parent().context("a Python without a folder")?;
    shell::run(install.env("PATH", shell::search_path(programs)))?;
    let types = ["-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", "mypy-cache", "-p", "gafi"];
    shell::run(Command::new(&python).args(types).current_dir(target))?;
    // Away from the sources, so that the installed package is the one that is imported.
    let tests = shell::root().join("gafi-python/tests");
    shell::run(
        Command::new(&python).args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).arg(tests).current_dir(target),
    )
}

impl Environment {
    /// A Python with the packages, or the reason why it is not available.
    pub(crate) fn find(&self, target: &Path) -> Result<PathBuf> {
        let system = "python3";
        ensure!(shell::exists(system, "--version"), "`python3` was not found");
        let home = target.join(self.folder);
        let python = home.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
        let list = shell::root().join("xtask").join(self.list);
        let packages = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        let stamp = home.join("installed.txt");
        if fs::read_to_string(&stamp).is_ok_and(|installed| installed == packages) && self.imports(&python) {
            return Ok(python);
        }
        let made = self.make(system, &home, &python, &list).and_then(|()| {
            fs::write(&stamp, packages).with_context(|| format!("cannot write {}", stamp.display()))?;
            Ok(python)
        });
        // Debian without `python3-venv`, or no network: the system's packages may suffice.
        made.or_else(|why| if self.imports(Path::new(system)) { Ok(system.into()) } else { Err(why) })
    }

    fn make(&self, system: &str, home: &Path, python: &Path, list: &Path) -> Result<()> {
        let mut venv = Command::new(system);
        venv.args(["-m", "venv", "--clear"]);
        if self.system_packages {
            venv.arg("--system-site-packages");
        }
        shell::run(venv.arg(home))?;
        let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "-r"];
        shell::run(Command::new(python).args(quiet).arg(list))?;
        let works = self.imports(python);
        ensure!(works, "{} cannot import {} although they were installed", python.display(), self.modules);
        Ok(())
    }

    fn imports(&self, python: &Path) -> bool {
        let mut probe = Command::new(python);
        probe.arg("-c").arg(format!("import {}", self.modules)).stdin(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    }
}
