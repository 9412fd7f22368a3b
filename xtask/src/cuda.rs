//! The CUDA code, checked on a machine without a GPU (`cargo xtask test --cuda`).
//!
//! Compiler and libraries come from Python packages, into a virtual environment below `target/`. NVIDIA's driver is in none of
//! them; a stand-in without a GPU lets programs start. Then:
//!
//! - lints of the feature `cuda`
//! - the kernels compile for every architecture without warnings, and no register spills to memory
//! - `gafi-cli` finds every symbol in the real libraries, and starts
//! - the kernels' tests, emulated on the CPU; NVRTC's code for every architecture
//! - cuDNN's plans for every convolution of every preset on seven GPUs, whose table is in `docs/cuda.md`

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::python;
use crate::shell;

/// Compute capabilities that CUDA 13 compiles for, each times ten.
const ARCHITECTURES: [u32; 12] = [75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121];
/// Oldest compute capability that a distributed program runs on; the driver compiles Candle's kernels again for newer ones.
pub(crate) const OLDEST: &str = "75";
/// The release of CUDA in `cuda.txt`.
pub(crate) const RELEASE: &str = "13.0";
/// Where the table of plans begins in the page.
const MARK: &str = "<!-- plans: written by `GAFI_UPDATE=1 cargo xtask test --only cuda` -->\n";
const PAGE: &str = "docs/cuda.md";
const PACKAGES: [&str; 5] = ["-p=gafi-kernels", "-p=gafi-nn", "-p=gafi-gan", "-p=gafi-cli", "--features=gafi-cli/cuda"];

/// CUDA's compiler and libraries in one folder.
pub(crate) struct Toolkit {
    /// What build scripts take as `CUDA_HOME`: `bin`, `include`, `nvvm` and `lib64`, which also holds cuDNN.
    home: PathBuf,
    /// The stand-in for the driver's library.
    driver: PathBuf,
}

/// Runs the whole check.
pub(crate) fn check(target: &Path) -> Result<()> {
    let toolkit = Toolkit::assemble(target)?;
    let mut clippy = toolkit.cargo();
    shell::run(clippy.arg("clippy").args(PACKAGES).args(["--all-targets", "--", "-D", "warnings"]))?;
    for architecture in ARCHITECTURES {
        let mut nvcc = Command::new(toolkit.home.join("bin/nvcc"));
        nvcc.current_dir(shell::root()).args(["--cubin", "-std=c++17", "-Werror", "all-warnings"]);
        nvcc.args(["-Xptxas", "-warn-spills,-Werror", &format!("-arch=sm_{architecture}"), "-o"]);
        shell::run(nvcc.arg(target.join("kernels.cubin")).arg("gafi-kernels/src/cuda/kernels/all.cu"))?;
    }
    let program = toolkit.build(&["build", "--bin", "gafi-cli"], "gafi-cli")?;
    toolkit.check_symbols(&program)?;
    shell::run(toolkit.libraries(&mut Command::new(&program), &[]).arg("doctor"))?;
    let tests = toolkit.build(&["test", "--no-run", "--lib"], "gafi_kernels")?;
    shell::run(toolkit.libraries(&mut Command::new(&tests), &[]).arg("cuda::"))?;
    let mut plans = Command::new(&tests);
    toolkit.libraries(&mut plans, &[]).args(["--ignored", "--nocapture", "--test-threads=1", "--skip=tests::gpu"]);
    let printed = shell::output(plans.args(["cudnn::tests", "every_architecture"]))?;
    ensure!(printed.contains(" 4 passed"), "expected four tests of plans and architectures to pass: {printed}");
    table(&printed)
}

impl Toolkit {
    /// Installs the packages and links their folders together.
    pub(crate) fn assemble(target: &Path) -> Result<Self> {
        let python = python::CUDA.find(target)?;
        let probe = "import nvidia.cudnn, os; print(os.path.dirname(nvidia.cudnn.__path__[0]))";
        let packages = shell::output(Command::new(&python).args(["-c", probe]))?;
        let packages = PathBuf::from(packages.trim());
        let home = target.join("cuda-toolkit");
        shell::empty_folder(&home)?;
        let libraries = home.join("lib64");
        fs::create_dir_all(&libraries)?;
        for folder in ["bin", "include", "nvvm"] {
            link(&packages.join("cu13").join(folder), &home.join(folder))?;
        }
        for folder in [packages.join("cu13/lib"), packages.join("cudnn/lib")] {
            for file in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
                let file = file?.path();
                let Some(name) = file.file_name().and_then(|name| name.to_str()) else { continue };
                link(&file, &libraries.join(name))?;
                // Linkers look for the name without the version.
                if let Some((plain, _)) = name.split_once(".so.") {
                    let plain = libraries.join(format!("{plain}.so"));
                    if !plain.exists() {
                        link(&file, &plain)?;
                    }
                }
            }
        }
        let driver = home.join("driver");
        fs::create_dir_all(&driver)?;
        // CUDA_ERROR_NO_DEVICE
        shared_library(&driver.join("libcuda.so.1"), &driver_functions()?, 100)?;
        link(&driver.join("libcuda.so.1"), &libraries.join("libcuda.so"))?;
        Ok(Self { home, driver })
    }

    /// A call of cargo that builds with this toolkit, for all GPUs from [`OLDEST`] on.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = shell::cargo();
        cargo.env("CUDA_HOME", &self.home).env("CUDA_PATH", &self.home);
        cargo.env("NVCC", self.home.join("bin/nvcc")).env("CUDA_COMPUTE_CAP", OLDEST);
        // cudarc asks the compiler on the search path for its version.
        cargo.env("PATH", shell::search_path(&self.home.join("bin")));
        cargo
    }

    /// Builds with the feature, and returns the program of the target `name`.
    fn build(&self, arguments: &[&str], name: &str) -> Result<PathBuf> {
        let mut cargo = self.cargo();
        let built = shell::build(cargo.args(arguments).args(PACKAGES))?;
        let named = built.into_iter().find(|built| built.target == name);
        Ok(named.with_context(|| format!("cargo built no {name}"))?.path)
    }

    /// Sets the loader's search path to `first` and this toolkit.
    fn libraries<'a>(&self, command: &'a mut Command, first: &[&Path]) -> &'a mut Command {
        let libraries = self.home.join("lib64");
        let folders: Vec<&Path> = first.iter().copied().chain([libraries.as_path(), &self.driver]).collect();
        command.env("LD_LIBRARY_PATH", std::env::join_paths(folders).unwrap_or_default())
    }

    /// Every symbol of `program` is in a library; and the check finds a library that lacks symbols.
    fn check_symbols(&self, program: &Path) -> Result<()> {
        let ldd = |first: &[&Path]| -> Result<Vec<String>> {
            let mut ldd = Command::new("ldd");
            let done = self.libraries(&mut ldd, first).arg("-r").arg(program).output().context("cannot start `ldd`")?;
            let text = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
            ensure!(text.contains("libc.so"), "`ldd -r {}` listed no libraries: {text}", program.display());
            Ok(unresolved(&text))
        };
        let missing = ldd(&[])?;
        ensure!(missing.is_empty(), "{} lacks: {}", program.display(), missing.join("; "));
        let empty = self.home.join("empty");
        fs::create_dir_all(&empty)?;
        shared_library(&empty.join("libcudnn.so.9"), &BTreeSet::new(), 0)?;
        let missing = ldd(&[&empty])?;
        ensure!(missing.iter().any(|line| line.contains("cudnnCreate")), "an empty cuDNN was not noticed: {missing:?}");
        Ok(())
    }
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) -> Result<()> {
    std::os::unix::fs::symlink(from, to).with_context(|| format!("cannot link {}", to.display()))
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) -> Result<()> {
    bail!("the CUDA code is checked on Linux only")
}

/// The lines of `ldd -r` about libraries and symbols that are missing.
fn unresolved(ldd: &str) -> Vec<String> {
    let lines = ldd.lines().map(str::trim);
    lines.filter(|line| line.contains("undefined symbol") || line.contains("not found")).map(String::from).collect()
}

/// Compiles a library of functions that return `status`.
fn shared_library(file: &Path, functions: &BTreeSet<String>, status: i32) -> Result<()> {
    let code: String = functions.iter().map(|name| format!("int {name}(void) {{ return {status}; }}\n")).collect();
    let source = file.with_extension("c");
    fs::write(&source, code)?;
    let name = file.file_name().and_then(|name| name.to_str()).context("a library without a name")?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-fno-builtin", &format!("-Wl,-soname,{name}"), "-o"]);
    shell::run(cc.arg(file).arg(&source))
}

/// The functions of the driver that Candle's binding of it declares.
fn driver_functions() -> Result<BTreeSet<String>> {
    let metadata = shell::metadata(&["--features", "gafi-cli/cuda"])?;
    let packages = metadata["packages"].as_array().context("`cargo metadata` lists no packages")?;
    let cudarc = packages.iter().find(|package| package["name"] == "cudarc").context("there is no package cudarc")?;
    let manifest = cudarc["manifest_path"].as_str().context("cudarc has no manifest")?;
    let file = Path::new(manifest).with_file_name("src/driver/sys/mod.rs");
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut functions = declared(&String::from_utf8_lossy(&text), "cu");
    // NVIDIA's libraries look for some functions by their names without a version.
    let plain: Vec<String> = functions.iter().filter_map(|name| Some(name.strip_suffix("_v2")?.to_owned())).collect();
    functions.extend(plain);
    ensure!(functions.len() > 100, "{} declares only {} functions", file.display(), functions.len());
    Ok(functions)
}

/// The functions with a prefix that the `extern` blocks of a binding declare.
fn declared(source: &str, prefix: &str) -> BTreeSet<String> {
    let lines = source.lines().filter_map(|line| line.trim().strip_prefix("fn "));
    let names = lines.filter_map(|line| Some(line.split_once('(')?.0));
    names.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect()
}

/// Compares the table in a test's output with the page; writes it if the environment variable `GAFI_UPDATE` is set.
fn table(printed: &str) -> Result<()> {
    let found: Vec<&str> = printed.lines().filter(|line| line.starts_with("| ") || line.starts_with("|--")).collect();
    let head = printed.lines().find(|line| line.starts_with("cuDNN ")).context("the test of plans printed no table")?;
    let table = format!("{head}\n\n{}\n", found.join("\n"));
    let file = shell::root().join(PAGE);
    let page = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let page = String::from_utf8_lossy(&page);
    let (before, rest) = page.split_once(MARK).with_context(|| format!("{PAGE} has no line {MARK}"))?;
    let end = rest.find("\n\n## ").map_or(rest.len(), |at| at + 1);
    if rest[..end] == table {
        return Ok(());
    }
    if std::env::var_os("GAFI_UPDATE").is_none() {
        bail!(
            "the table of plans in {PAGE} is out of date; run `GAFI_UPDATE=1 cargo xtask test --only cuda`. Now:\n{table}"
        );
    }
    fs::write(&file, format!("{before}{MARK}{table}{}", &rest[end..])).with_context(|| format!("cannot write {PAGE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_libraries_and_symbols_are_found() {
        let text = "\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\tlibcudnn.so.9 => not found\nundefined symbol: cudnnCreate\t(./gafi-cli)\n";
        let expected = ["libcudnn.so.9 => not found", "undefined symbol: cudnnCreate\t(./gafi-cli)"];
        assert_eq!(unresolved(text), expected);
        assert_eq!(unresolved("\tlibc.so.6 => /lib/libc.so.6 (0x1)\n"), Vec::<String>::new());
    }

    #[test]
    fn declarations_are_listed_once() {
        let source = "pub unsafe fn cuInit(flags: u32) {\n    extern \"C\" {\n        fn cuInit(flags: u32) -> u32;\n        fn other();\n        fn cuInit(flags: u32);\n";
        assert_eq!(declared(source, "cu"), BTreeSet::from(["cuInit".to_owned()]));
    }
}
