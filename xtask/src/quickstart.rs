//! The first thing a stranger runs: from a fresh clone to a table that says what GaFi does, with Rust and a C compiler.
//!
//! It sees to the data and the program; the work itself is `gafi-cli pipeline --preset quickstart`, as anyone can type it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::shell;

/// The Debian package that brings Fashion-MNIST, where it is missing.
const PACKAGE: &str = "dataset-fashion-mnist";
/// What asking a mirror may take before it counts as out of reach.
const ASK: Duration = Duration::from_secs(60);
/// What 30 MB may take on a slow line.
const DOWNLOAD: Duration = Duration::from_secs(240);

/// What `cargo xtask quickstart` was asked to do.
#[derive(Debug, Args)]
pub(crate) struct Quickstart {
    /// Folder of everything that is made; what is there already is reused, what was interrupted is gone on with
    #[arg(long, value_name = "DIR", default_value = "quickstart")]
    out: PathBuf,
    /// Seed of all random numbers but the split of the real images; that of the preset when absent
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Which images; when absent, fashion-mnist where it can be had, else shapes
    #[arg(long, value_enum)]
    data: Option<Data>,
    /// Do not install the system's package of Fashion-MNIST when it is missing
    #[arg(long)]
    no_install: bool,
    /// Further options for `gafi-cli pipeline`
    #[arg(last = true, value_name = "OPTION")]
    more: Vec<String>,
}

/// The sets that the preset knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Data {
    /// Real pictures of clothes
    FashionMnist,
    /// Drawn here, needs no files
    Shapes,
}

impl Data {
    fn name(self) -> &'static str {
        match self {
            Self::FashionMnist => "fashion-mnist",
            Self::Shapes => "shapes",
        }
    }
}

impl Quickstart {
    /// Data, build, pipeline. The exit code is the pipeline's.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let before = begun_with(&self.out);
        let mut data = self.data.or(before);
        if data.is_none() && installed(&places()).is_none() && !self.no_install && !install() {
            println!("The package {PACKAGE} could not be installed here.");
        }
        println!("Building gafi-cli (minutes the first time, no work when nothing changed) ...");
        let program = build(&[])?;
        if data.is_none() {
            data = Some(match installed(&places()) {
                Some(folder) => {
                    println!("Images: Fashion-MNIST in {}", folder.display());
                    Data::FashionMnist
                }
                None => from_hub(&program),
            });
        }
        let data = data.unwrap_or(Data::Shapes);
        println!("Training on {}; Ctrl-C stops it, and the same command goes on from there.", data.name());
        let mut pipeline = Command::new(program);
        pipeline.args(self.pipeline(data));
        replace(pipeline)
    }

    /// The arguments of `gafi-cli`.
    fn pipeline(&self, data: Data) -> Vec<std::ffi::OsString> {
        let mut args: Vec<std::ffi::OsString> =
            ["pipeline", "--preset", "quickstart", "--data", data.name(), "--out"].map(Into::into).into();
        args.push(self.out.clone().into());
        if data == Data::Shapes {
            // 1,100 of each class are left to train on, beside the preset's 200 validation images; a synthetic set has 700.
            args.extend(["--set", "data.shapes.train=13000"].map(Into::into));
        }
        if let Some(seed) = self.seed {
            args.extend(["--seed".into(), seed.to_string().into()]);
        }
        args.extend(self.more.iter().map(Into::into));
        args
    }
}

/// The set that an earlier run into `out` imported, if it was one: a set that turns up later must not change a run that is
/// under way.
fn begun_with(out: &Path) -> Option<Data> {
    let folders = fs::read_dir(out).ok()?.flatten();
    let manifests = folders.filter_map(|folder| fs::read(folder.path().join("manifest.json")).ok());
    let mut sets = manifests.filter_map(|manifest| {
        let made_by = &serde_json::from_slice::<Value>(&manifest).ok()?["made_by"];
        let set = Data::value_variants().iter().copied().find(|data| made_by["config"]["set"] == data.name());
        set.filter(|_| made_by["stage"] == "import")
    });
    let first = sets.next()?;
    sets.all(|set| set == first).then_some(first)
}

/// Where `gafi-cli import` looks before it asks the hub.
fn places() -> Vec<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let user = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    let system = ["/usr/local/share/datasets", "/usr/share/datasets"].map(PathBuf::from);
    user.map(|user| user.join("gafi")).into_iter().chain(system).collect()
}

/// The first of `places` that holds something called fashion-mnist.
fn installed(places: &[PathBuf]) -> Option<PathBuf> {
    let folders = places.iter().map(|place| place.join(Data::FashionMnist.name()));
    folders.into_iter().find(|folder| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()))
}

/// Installs the system's package, where that asks for no password. Says whether it is there now.
fn install() -> bool {
    let Some(right) = right() else { return false };
    println!("Fashion-MNIST is not on this machine: installing {PACKAGE} ...");
    // The package may be known already; lists are fetched only when it is not.
    let download = || shell::run(&mut apt(right, Some(DOWNLOAD), &["install", "--download-only", PACKAGE]));
    let fetched = download().or_else(|_| {
        shell::run(&mut apt(right, Some(ASK), &["update"]))?;
        download()
    });
    // Only what waits for a network has a time limit: to stop dpkg half-way would leave the system to be repaired.
    let done = fetched.and_then(|()| shell::run(&mut apt(right, None, &["install", "--no-download", PACKAGE])));
    if let Err(error) = done {
        println!("{error:#}");
    }
    installed(&places()).is_some()
}

/// What stands before `apt-get` so that it may install without a password; `None` where it may not, or is not there.
fn right() -> Option<&'static [&'static str]> {
    if !shell::exists("apt-get", "--version") || !shell::exists("timeout", "--version") {
        return None;
    }
    let id = Command::new("id").arg("-u").stderr(Stdio::null()).output().ok()?;
    if id.stdout.trim_ascii() == b"0" {
        return Some(&[]);
    }
    let sudo = Command::new("sudo").args(["-n", "true"]).stdin(Stdio::null()).stderr(Stdio::null()).status();
    sudo.is_ok_and(|status| status.success()).then_some(&["sudo", "-n"])
}

/// `apt-get` with `args`, stopped after `limit`. `timeout` does that: what sudo started is not ours to stop.
fn apt(right: &[&str], limit: Option<Duration>, args: &[&str]) -> Command {
    let limit = limit.map(|limit| limit.as_secs().to_string());
    let mut words: Vec<&str> = right.to_vec();
    if let Some(limit) = &limit {
        words.extend(["timeout", "--kill-after", "10", limit]);
    }
    words.extend(["apt-get", "-q", "-y", "-o", "Acquire::Retries=1", "-o", "DPkg::Lock::Timeout=20"]);
    words.extend(["-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20"]);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(args).stdin(Stdio::null()).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Asks `gafi-cli` to find the set on the hub, or in the hub's cache; else there is always `shapes`.
fn from_hub(program: &Path) -> Data {
    println!("Fashion-MNIST is not on this machine: asking the hub ...");
    // A few images are kept; what matters is that the hub's files are in its cache afterwards, where the pipeline finds them.
    let kept = env::temp_dir().join(format!("gafi-quickstart-{}", std::process::id()));
    let mut ask = Command::new(program);
    ask.args(["import", "fashion-mnist", "--set", "limit=100", "--set", "test_limit=100", "--out"]).arg(&kept);
    let found = shell::run(ask.stdin(Stdio::null()).stdout(Stdio::null()));
    // Left behind it does no harm.
    let _ = fs::remove_dir_all(&kept);
    if found.is_ok() {
        println!("Images: Fashion-MNIST from the hub");
        return Data::FashionMnist;
    }
    println!();
    println!("Fashion-MNIST could not be had, so this runs on the built-in `shapes`: drawn pictures, no real ones.");
    println!("The figures say how GaFi works, not what it does for real images. For those, install {PACKAGE}");
    println!("or put the set's four IDX files into ~/.local/share/gafi/fashion-mnist, and choose a new --out.");
    println!();
    Data::Shapes
}

/// Builds the program, with further options of cargo, and says where it lies.
pub(crate) fn build(options: &[&str]) -> Result<PathBuf> {
    let mut build = shell::cargo();
    build.args(["build", "--package", "gafi-cli", "--bin", "gafi-cli"]).args(options);
    let messages = shell::output(build.args(["--message-format", "json-render-diagnostics"]))?;
    executable(&messages).context("cargo built gafi-cli and did not say where it lies")
}

/// The program `gafi-cli` in cargo's messages, one JSON a line.
fn executable(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = messages.filter(|message| message["target"]["name"] == "gafi-cli");
    programs.find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// Becomes `command`: signals, terminal and exit code are its own, nobody stands between.
#[cfg(unix)]
fn replace(mut command: Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt as _;
    bail!(anyhow::Error::new(command.exec()).context(format!("cannot start {}", command.get_program().display())))
}

/// Runs `command` and ends as it ends.
#[cfg(not(unix))]
fn replace(mut command: Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    match status.code().map(u8::try_from) {
        Some(Ok(code)) => Ok(code.into()),
        _ => bail!("gafi-cli ended with {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own, gone when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("gafi-xtask-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_empty_folder_is_no_installed_set() {
        let dir = Folder::new("installed");
        let (empty, full) = (dir.0.join("empty"), dir.0.join("full"));
        fs::create_dir_all(empty.join("fashion-mnist")).unwrap();
        assert_eq!(installed(&[dir.0.join("gone"), empty.clone()]), None);
        fs::create_dir_all(full.join("fashion-mnist")).unwrap();
        fs::write(full.join("fashion-mnist/train-images-idx3-ubyte.gz"), b"x").unwrap();
        assert_eq!(installed(&[empty, full.clone()]), Some(full.join("fashion-mnist")));
    }

    #[test]
    fn a_run_goes_on_with_the_set_it_began_with() {
        let dir = Folder::new("begun");
        assert_eq!(begun_with(&dir.0.join("gone")), None);
        assert_eq!(begun_with(&dir.0), None);
        let (shapes, clothes) = (Some(Data::Shapes), Some(Data::FashionMnist));
        for (name, stage, set, begun) in [
            ("gan", "train-gan", "\"fashion-mnist\"", None),
            ("own", "import", "null", None),
            ("a", "import", "\"shapes\"", shapes),
            ("b", "import", "\"shapes\"", shapes),
            ("c", "import", "\"fashion-mnist\"", None),
        ] {
            fs::create_dir_all(dir.0.join(name)).unwrap();
            let manifest = format!(r#"{{"made_by":{{"stage":"{stage}","config":{{"set":{set}}}}}}}"#);
            fs::write(dir.0.join(name).join("manifest.json"), manifest).unwrap();
            assert_eq!(begun_with(&dir.0), begun, "{name}");
        }
        for name in ["a", "b"] {
            fs::write(dir.0.join(name).join("manifest.json"), "{").unwrap();
        }
        assert_eq!(begun_with(&dir.0), clothes);
    }

    #[test]
    fn the_program_is_found_in_what_cargo_says() {
        let messages = "\
{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"gafi_cli\"},\"executable\":null}
not json
{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"gafi-cli\"},\"executable\":\"/t/debug/gafi-cli\"}
{\"reason\":\"build-finished\",\"success\":true}
";
        assert_eq!(executable(messages), Some("/t/debug/gafi-cli".into()));
        assert_eq!(executable("{\"reason\":\"build-finished\"}"), None);
    }

    #[test]
    fn what_waits_for_a_network_has_a_limit() {
        let typed = |command: Command| -> Vec<String> {
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            words.map(|word| word.to_string_lossy().into_owned()).collect()
        };
        let bounded = typed(apt(&["sudo", "-n"], Some(ASK), &["update"]));
        assert_eq!(bounded[..7], ["sudo", "-n", "timeout", "--kill-after", "10", "60", "apt-get"]);
        assert_eq!(bounded.last().map(String::as_str), Some("update"));
        let free = typed(apt(&[], None, &["install", PACKAGE]));
        assert_eq!((free[0].as_str(), free.contains(&"timeout".to_owned())), ("apt-get", false));
    }

    #[test]
    fn options_are_handed_on() {
        let asked = Quickstart {
            out: "a b".into(),
            seed: Some(7),
            data: None,
            no_install: true,
            more: vec!["--threads".into(), "2".into()],
        };
        let begin = ["pipeline", "--preset", "quickstart", "--data"];
        let end = ["--seed", "7", "--threads", "2"];
        let expected = [&begin[..], &["fashion-mnist", "--out", "a b"], &end].concat();
        assert_eq!(asked.pipeline(Data::FashionMnist), expected);
        let expected = [&begin[..], &["shapes", "--out", "a b", "--set", "data.shapes.train=13000"], &end].concat();
        assert_eq!(asked.pipeline(Data::Shapes), expected);
    }
}
