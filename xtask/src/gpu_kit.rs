//! `cargo xtask gpu-kit`: one archive that answers, in ten minutes on somebody's GPU, what GaFi does there.
//!
//! That machine has no Rust and no network. The archive holds the programs, the tests that need a GPU, the PyTorch peer and
//! `gpu-kit/run.sh`, which runs everything under limits and says what it measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::cuda::{self, Toolkit};
use crate::shell::{self, Built};
use crate::test;

/// The largest archive, in bytes: small enough for every way to send it.
const LARGEST: u64 = 60 << 20;
/// Results of a run: their number, and the largest in bytes.
const RESULTS: (usize, u64) = (8, 16 << 20);
const NAME: &str = "gpu-kit";
/// Files of the kit beside `run.sh`: their names in the kit, and their contents.
const TEXTS: [(&str, &str); 3] = [
    ("kit.py", include_str!("../gpu-kit/kit.py")),
    ("README.md", include_str!("../gpu-kit/README.md")),
    ("torch_bench.py", include_str!("../peers/torch_bench.py")),
];
/// Names in the kit of what cargo builds: package, target, name.
const PROGRAMS: [(&str, &str, &str); 5] = [
    ("gafi-cli", "gafi-cli", "gafi-cli"),
    ("gafi-gan", "bench_train", "bench_train"),
    ("gafi-kernels", "cuda", "kernels-cuda"),
    ("gafi-kernels", "gafi_kernels", "kernels-lib"),
    ("gafi-nn", "cuda", "nn-cuda"),
];
/// Steps that must pass in a rehearsal; the others may be skipped.
const ON_A_CPU: [&str; 7] = ["load", "properties", "speed", "enqueue", "determinism", "resume", "epoch"];

#[derive(Debug, Args)]
pub(crate) struct GpuKit {
    /// Folder for the archive gpu-kit.tar.xz
    #[arg(long, value_name = "DIR", default_value = "dist")]
    out: PathBuf,
    /// Cargo profile to build with
    #[arg(long, default_value = "dev")]
    profile: String,
    /// Lowest compute capability of the GPU; newer ones compile Candle's kernels again when they load them
    #[arg(long, value_name = "N", default_value = cuda::OLDEST)]
    compute_cap: String,
    /// Train on these images instead of drawn shapes: the output folder of an import, with train and val
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Build without CUDA
    #[arg(long)]
    cpu: bool,
    /// Also unpack the archive in a temporary folder and run it on the CPU, with small networks
    #[arg(long, requires = "cpu")]
    rehearse: bool,
}

impl GpuKit {
    /// Builds everything and packs the archive.
    pub(crate) fn run(&self) -> Result<()> {
        let folder = self.out.join(NAME);
        shell::empty_folder(&folder)?;
        self.fill(&folder).with_context(|| format!("cannot fill {}", folder.display()))?;
        let archive = self.out.join(format!("{NAME}.tar.xz"));
        let mut tar = Command::new("tar");
        tar.env("XZ_OPT", "-9 -T0").args(["--owner=0", "--group=0", "-cJf"]).arg(&archive).arg("-C").arg(&self.out);
        shell::run(tar.arg(NAME))?;
        let bytes = fs::metadata(&archive)?.len();
        check_size(bytes, &folder)?;
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        println!("{} ({:.1} MiB)", archive.display(), mib(bytes));
        if self.rehearse { rehearse(&archive) } else { Ok(()) }
    }

    /// Writes the content of the archive to `folder`.
    fn fill(&self, folder: &Path) -> Result<()> {
        let bin = folder.join("bin");
        fs::create_dir_all(&bin)?;
        let built = self.build()?;
        for (package, target, name) in PROGRAMS {
            let path = &find(&built, package, target)?.path;
            shell::run(Command::new("strip").arg("-o").arg(bin.join(name)).arg(path))?;
        }
        if !self.cpu {
            stand_in(&bin, &folder.join("stubs"))?;
        }
        for (name, text) in TEXTS {
            fs::write(folder.join(name), text)?;
        }
        // Unlike `write`, it keeps the permission to execute.
        fs::copy(shell::root().join("xtask/gpu-kit/run.sh"), folder.join("run.sh"))?;
        let preset = fs::read_to_string(shell::root().join("gafi-pipeline/presets/gpu.toml"))?;
        fs::write(folder.join("student.toml"), student(&preset)?)?;
        fs::write(folder.join("kit.json"), format!("{}\n", self.describe(&bin)?))?;
        if let Some(data) = &self.data {
            for part in ["train", "val"] {
                let from = data.join(part);
                ensure!(from.join("manifest.json").is_file(), "{} is not a dataset", from.display());
                fs::create_dir_all(folder.join("data"))?;
                shell::run(Command::new("cp").arg("-r").arg(from).arg(folder.join("data")))?;
            }
        }
        Ok(())
    }

    fn build(&self) -> Result<Vec<Built>> {
        // Packages decide about the features of dependencies. With the same ones in each call Candle is compiled once, and
        // without CUDA not at all after `cargo xtask test`.
        let packages = if self.cpu {
            &["--workspace", test::FEATURES][..]
        } else {
            &["-p=gafi-cli", "-p=gafi-gan", "-p=gafi-kernels", "-p=gafi-nn", "--features=gafi-cli/cuda"]
        };
        let toolkit = if self.cpu { None } else { Some(Toolkit::assemble(&test::target()?)?) };
        let mut built = Vec::new();
        for (verb, targets) in [
            ("build", &["--bin", "gafi-cli", "--example", "bench_train"][..]),
            ("test", &["--no-run", "--lib", "--test", "cuda"]),
        ] {
            let mut cargo = toolkit.as_ref().map_or_else(shell::cargo, Toolkit::cargo);
            cargo.arg(verb).args(packages).args(targets).args(["--profile", &self.profile]);
            if toolkit.is_some() {
                cargo.env("CUDA_COMPUTE_CAP", &self.compute_cap);
            }
            built.extend(shell::build(&mut cargo)?);
        }
        Ok(built)
    }

    /// What the kit was built from.
    fn describe(&self, bin: &Path) -> Result<Value> {
        let commit =
            shell::output(Command::new("git").current_dir(shell::root()).args(["describe", "--always", "--dirty"]))?;
        let mut kit = json!({"commit": commit.trim(), "profile": self.profile, "glibc": glibc(bin)?});
        if !self.cpu {
            kit["cuda"] = json!(cuda::RELEASE);
            kit["compute_capability"] = json!(self.compute_cap);
        }
        Ok(kit)
    }
}

/// The version of the C library that the GPU's machine must have or exceed.
fn glibc(bin: &Path) -> Result<String> {
    let programs = PROGRAMS.map(|(_, _, name)| bin.join(name));
    let symbols = shell::output(Command::new("nm").args(["-D", "--undefined-only"]).args(&programs))?;
    newest_glibc(&symbols).context("the programs need no version of the C library")
}

/// The newest version of the C library among the symbols that `nm` lists.
fn newest_glibc(symbols: &str) -> Option<String> {
    let versions = symbols.split("@GLIBC_").skip(1).filter_map(|rest| rest.split_whitespace().next());
    let numbers = |version: &str| version.split('.').filter_map(|part| part.parse::<u32>().ok()).collect::<Vec<_>>();
    versions.max_by_key(|version| numbers(version)).map(String::from)
}

fn find<'a>(built: &'a [Built], package: &str, target: &str) -> Result<&'a Built> {
    let found = built.iter().find(|built| built.package == package && built.target == target);
    found.with_context(|| format!("cargo did not build `{target}` of {package}"))
}

/// The preset's student as a configuration of `train-classifier`.
fn student(preset: &str) -> Result<String> {
    let mut preset: toml::Table = preset.parse().context("preset gpu")?;
    let student = preset.remove("student").context("preset gpu has no student")?;
    Ok(toml::to_string(&toml::Table::from_iter([("classifier".to_owned(), student)]))?)
}

/// Builds a cuRAND that generates nothing, for machines without one: Candle opens a generator for each device, GaFi never uses it, and
/// PyTorch's packages need not bring the library (90 MiB).
fn stand_in(bin: &Path, folder: &Path) -> Result<()> {
    let programs = PROGRAMS.map(|(_, _, name)| bin.join(name));
    let needed = shell::output(Command::new("readelf").arg("-d").args(&programs))?;
    let Some(library) = needed.split(['[', ']']).find(|word| word.starts_with("libcurand.so")) else { return Ok(()) };
    let symbols = shell::output(Command::new("nm").args(["-D", "--undefined-only"]).args(&programs))?;
    fs::create_dir_all(folder)?;
    let (code, versions) = curand(&symbols);
    let [source, script] = ["curand.c", "curand.map"].map(|name| folder.join(name));
    fs::write(&source, code)?;
    fs::write(&script, versions)?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(folder.join(library)).arg(&source);
    shell::run(cc.arg(format!("-Wl,-soname,{library},--version-script,{}", script.display())))?;
    fs::remove_file(source)?;
    fs::remove_file(script)?;
    Ok(())
}

/// The source of a library with the functions of cuRAND that `nm` lists, and its linker script with their versions. Functions that draw
/// numbers fail, the others do nothing.
fn curand(symbols: &str) -> (String, String) {
    let names = symbols.split_whitespace().filter(|word| word.starts_with("curand"));
    let names: BTreeMap<&str, &str> = names.map(|name| name.split_once('@').unwrap_or((name, ""))).collect();
    let mut code = String::new();
    let mut versions = String::new();
    for (name, version) in names {
        // CURAND_STATUS_INTERNAL_ERROR
        let status = if name.starts_with("curandGenerate") { 999 } else { 0 };
        code += &match name {
            // The caller reads the generator.
            "curandCreateGenerator" => {
                format!("int {name}(void **made, int kind) {{ (void)kind; *made = 0; return 0; }}\n")
            }
            _ => format!("int {name}(void) {{ return {status}; }}\n"),
        };
        if !version.is_empty() {
            versions = format!("{version} {{ global: curand*; }};\n");
        }
    }
    if versions.is_empty() {
        versions = "{ global: curand*; };\n".into();
    }
    (code, versions)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Refuses an archive that is too large, and names the largest files in it.
fn check_size(bytes: u64, folder: &Path) -> Result<()> {
    if bytes <= LARGEST {
        return Ok(());
    }
    let mut files = files(folder)?;
    files.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let largest = files.iter().take(5).map(|(path, bytes)| format!("{} {:.1} MiB", path.display(), mib(*bytes)));
    bail!(
        "the archive has {:.1} MiB, more than {:.0}; the largest files before compression: {}",
        mib(bytes),
        mib(LARGEST),
        largest.collect::<Vec<_>>().join(", ")
    )
}

/// All files below `folder` with their sizes in bytes.
fn files(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let sized = |path: PathBuf| -> Result<(PathBuf, u64)> {
        let bytes = path.symlink_metadata()?.len();
        Ok((path, bytes))
    };
    shell::files(folder, |_| true)?.into_iter().map(sized).collect()
}

/// Unpacks the archive and runs it on the CPU.
fn rehearse(archive: &Path) -> Result<()> {
    shell::in_temporary_folder("gpu-kit", |root| {
        let out = root.join("results");
        shell::run(Command::new("tar").arg("-xJf").arg(archive).arg("-C").arg(root))?;
        let mut script = Command::new(root.join(NAME).join("run.sh"));
        script.env("OUT", &out).env("DEVICE", "cpu").env("DEADLINE", "1800");
        script.envs([("WIDTHS", "8 4"), ("SMALL_WIDTH", "4"), ("REPS", "1"), ("DTYPES", "f32")]);
        script.envs([("EPOCHS", "12"), ("PER_CLASS", "20"), ("EPOCH_PER_CLASS", "40")]);
        script.env("STUDENT", r#"--set classifier.architecture={name="resnet",depth=8,width=4}"#);
        shell::run(&mut script)?;
        check_results(&out)
    })
}

/// Checks the results of a rehearsal: their number, names and sizes, and which steps passed.
fn check_results(out: &Path) -> Result<()> {
    let files = files(out)?;
    ensure!(files.len() <= RESULTS.0, "{} result files, more than {}", files.len(), RESULTS.0);
    for (path, bytes) in &files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        ensure!(is_plain(&name), "the result file {name} has an unusual name");
        ensure!(*bytes <= RESULTS.1, "{name} has {:.1} MiB", mib(*bytes));
    }
    let summary = fs::read_to_string(out.join("summary.json")).context("no summary.json")?;
    let summary: Value = serde_json::from_str(&summary).context("summary.json")?;
    let steps = summary["steps"].as_array().context("summary.json has no steps")?;
    for name in ON_A_CPU {
        let step = steps.iter().find(|step| step["step"] == name).with_context(|| format!("no step {name}"))?;
        ensure!(step["status"] == "passed", "step {name}: {step}");
    }
    Ok(())
}

/// Whether a file name consists of letters, digits, `.`, `_` and `-`.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = include_str!("../gpu-kit/run.sh");

    /// The value of a variable of `run.sh` that is set in quotes.
    fn variable(name: &str) -> Vec<&'static str> {
        let (_, rest) = SCRIPT.split_once(&format!("\n{name}=\"")).unwrap();
        rest.split('"').next().unwrap().split_whitespace().collect()
    }

    #[test]
    fn the_script_has_every_step_and_ends_within_ten_minutes() {
        let steps: Vec<(&str, u64)> = variable("STEPS")
            .into_iter()
            .map(|step| step.split_once(':').unwrap())
            .map(|(name, limit)| (name, limit.parse().unwrap()))
            .collect();
        // Each may take two seconds more, until it is killed.
        assert!(steps.iter().map(|(_, limit)| limit + 2).sum::<u64>() <= 600);
        for (name, _) in &steps {
            assert!(SCRIPT.contains(&format!("\nstep_{}() {{", name.replace('-', "_"))), "{name}");
        }
        assert!(ON_A_CPU.iter().all(|name| steps.iter().any(|(step, _)| step == name)));
        assert_eq!(SCRIPT.matches("\nstep_").count(), steps.len());
    }

    #[test]
    fn the_c_library_is_the_newest_that_a_symbol_needs() {
        assert_eq!(newest_glibc("U a@GLIBC_2.9\n U b@GLIBC_2.34\n U c@GLIBC_2.17 (3)\n").as_deref(), Some("2.34"));
        assert_eq!(newest_glibc("U a\n"), None);
    }

    #[test]
    fn results_have_plain_names() {
        let results = variable("RESULTS");
        assert!(results.len() <= RESULTS.0 && results.iter().all(|name| is_plain(name)));
        assert!(!is_plain("a b") && !is_plain("a/b") && !is_plain(""));
    }

    #[test]
    fn an_archive_that_is_too_large_is_refused_with_its_largest_file() {
        let folder = std::env::temp_dir().join(format!("gafi-kit-size-{}", std::process::id()));
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::write(folder.join("small"), "1").unwrap();
        fs::write(folder.join("bin/large"), vec![0; 2 << 20]).unwrap();
        check_size(LARGEST, &folder).unwrap();
        let error = check_size(LARGEST + (1 << 20), &folder).unwrap_err().to_string();
        let [start, ..] = error.split(", ").collect::<Vec<_>>()[..] else { panic!("{error}") };
        assert!(start.starts_with("the archive has 61.0 MiB"), "{error}");
        assert!(error.find("bin/large 2.0 MiB").unwrap() < error.find("small").unwrap(), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_student_is_the_presets() {
        let student = student("flip = \"auto\"\n[student]\nepochs = 3\narchitecture = { width = 32 }\n").unwrap();
        let table: toml::Table = student.parse().unwrap();
        assert_eq!(table.keys().collect::<Vec<_>>(), ["classifier"]);
        assert_eq!(table["classifier"]["architecture"]["width"].as_integer(), Some(32));
    }

    #[test]
    fn the_stand_in_has_the_functions_that_the_program_needs() {
        let symbols = "                 U cublasCreate_v2@libcublas.so.13\n                 U curandCreateGenerator@libcurand.so.10\n                 U curandGenerateUniform@libcurand.so.10\n                 U curandCreateGenerator@libcurand.so.10\n";
        let (code, versions) = curand(symbols);
        let create = "int curandCreateGenerator(void **made, int kind) { (void)kind; *made = 0; return 0; }\n";
        assert_eq!(code, format!("{create}int curandGenerateUniform(void) {{ return 999; }}\n"));
        assert_eq!(versions, "libcurand.so.10 { global: curand*; };\n");
        assert_eq!(curand("U curandCreateGenerator").1, "{ global: curand*; };\n");
    }
}
