//! `cargo xtask reproduce`: runs the pipeline for several seeds and writes the results table to `docs/results`.
//!
//! It builds `gafi-cli`, calls `gafi-cli pipeline` once for each seed, and then `gafi-cli report` for the table.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::{
    quickstart,
    shell::{self, word},
};

#[derive(Debug, Args)]
pub(crate) struct Reproduce {
    /// Real images
    #[arg(long, value_enum)]
    dataset: Dataset,
    /// Size of the networks and of the search
    #[arg(long, value_enum)]
    scale: Scale,
    /// Number of runs, with seeds from 0, all on the same split of the real images
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Trainings to run at the same time
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Which split choices are made on: holdout uses a validation split, paper the test split, as the released program does
    #[arg(long, value_enum, default_value_t = Protocol::Holdout)]
    protocol: Protocol,
    /// Folder of the runs; finished results are reused [default: reproduce/DATASET-SCALE]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder for the table [default: docs/results]
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Build with the feature cuda
    #[arg(long)]
    cuda: bool,
    /// Further options for `gafi-cli pipeline`
    #[arg(last = true, value_name = "OPTION")]
    more: Vec<String>,
}

/// The sets that have presets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dataset {
    FashionMnist,
    Cifar10,
    Cifar100,
    /// Drawn by the program, needs no files
    Shapes,
}

/// The length of a run; see `gafi-pipeline/presets`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scale {
    /// Seconds; the figures are meaningless
    Smoke,
    /// Hours on two cores
    Cpu,
    /// Hours on one large GPU
    Gpu,
    /// The published hyper-parameters
    Paper,
}

/// The split that choices are made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Holdout,
    Paper,
}

impl Protocol {
    fn other(self) -> Self {
        match self {
            Self::Holdout => Self::Paper,
            Self::Paper => Self::Holdout,
        }
    }
}

/// Runs scale smoke for two seeds in the empty `folder`, and checks that its table has every row.
pub(crate) fn smoke(folder: &Path) -> Result<()> {
    let results = folder.join("results");
    let smoke = Reproduce {
        dataset: Dataset::Shapes,
        scale: Scale::Smoke,
        seeds: 2,
        jobs: None,
        protocol: Protocol::Holdout,
        out: Some(folder.join("runs")),
        results: Some(results.clone()),
        cuda: false,
        more: Vec::new(),
    };
    smoke.run()?;
    let path = results.join("shapes-smoke.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let document: Value = serde_json::from_str(&text).with_context(|| format!("parsing {}", path.display()))?;
    let rows = document["tables"][0]["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let whole = |row: &Value| row["accuracy_percent"]["n"] == 2 && row["accuracy_percent"]["ci95"].is_array();
    let complete = rows.len() >= 10 && rows.iter().all(whole);
    ensure!(complete, "expected at least ten rows of two runs each, with intervals, found {document}");
    Ok(())
}

impl Reproduce {
    /// Runs all seeds, then writes the table.
    pub(crate) fn run(&self) -> Result<()> {
        let preset = self.preset()?;
        let out = self.folder(self.protocol);
        println!("Building gafi-cli (minutes the first time, seconds when nothing changed) ...");
        let program = quickstart::build(if self.cuda { &["--features", "cuda"] } else { &[] })?;
        let runs: Vec<PathBuf> = (0..self.seeds).map(|seed| out.join(format!("seed-{seed}"))).collect();
        for (seed, folder) in (0..).zip(&runs) {
            shell::run(Command::new(&program).args(self.pipeline(&preset, seed, folder)))?;
        }
        // Runs under the other protocol are shown beside these.
        let other = self.folder(self.protocol.other());
        let folders = runs.into_iter().chain(other.is_dir().then_some(other));
        let mut report = Command::new(&program);
        report.arg("report").args(folders).args(["--meta", &format!("command={}", self.command())]);
        if let Some(commit) = commit() {
            report.args(["--meta", &format!("commit={commit}")]);
        }
        let cores = thread::available_parallelism().ok().map(usize::from);
        let hardware = hardware(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default(), cores);
        report.args(["--meta", &format!("hardware={hardware}")]);
        let results = self.results.clone().unwrap_or_else(|| shell::root().join("docs/results"));
        fs::create_dir_all(&results).with_context(|| format!("cannot create {}", results.display()))?;
        for (format, ending) in [("json", "json"), ("markdown", "md")] {
            let mut command = Command::new(&program);
            command.args(report.get_args()).args(["--force", "--format", format, "--output"]);
            shell::run(command.arg(results.join(format!("{}.{ending}", self.name()))))?;
        }
        Ok(())
    }

    /// The folder of the runs under `protocol`.
    fn folder(&self, protocol: Protocol) -> PathBuf {
        let mut folder = self.out.clone().unwrap_or_else(|| Path::new("reproduce").join(self.name())).into_os_string();
        if protocol == Protocol::Paper {
            folder.push(".protocol-paper");
        }
        folder.into()
    }

    /// The preset's name.
    fn preset(&self) -> Result<String> {
        match (self.scale, self.dataset) {
            (Scale::Smoke, Dataset::Shapes) => {}
            (Scale::Smoke, other) => bail!("--scale smoke is for --dataset shapes, not for {}", word(other)),
            (Scale::Paper, Dataset::Shapes) => bail!("--scale paper is for the paper's sets, not for shapes"),
            (Scale::Paper, paper) => return Ok(format!("paper-{}", word(paper))),
            (Scale::Cpu | Scale::Gpu, _) => {}
        }
        Ok(word(self.scale))
    }

    fn name(&self) -> String {
        format!("{}-{}", word(self.dataset), word(self.scale))
    }

    /// The arguments of `gafi-cli` for one seed.
    fn pipeline(&self, preset: &str, seed: u64, out: &Path) -> Vec<OsString> {
        let mut args: Vec<OsString> = ["pipeline", "--preset", preset, "--data"].map(Into::into).into();
        args.extend([word(self.dataset).into(), "--seed".into(), seed.to_string().into()]);
        if let Some(jobs) = self.jobs {
            args.extend(["--jobs".into(), jobs.to_string().into()]);
        }
        args.extend(["--out".into(), out.into()]);
        // Presets `paper-*` have a protocol of their own.
        args.extend(["--set".into(), format!("protocol={}", word(self.protocol)).into()]);
        args.extend(self.more.iter().map(Into::into));
        args
    }

    /// The command line, without folders.
    fn command(&self) -> String {
        let options = format!("--dataset {} --scale {}", word(self.dataset), word(self.scale));
        let mut line = format!("cargo xtask reproduce {options} --seeds {}", self.seeds);
        if let Some(jobs) = self.jobs {
            line += &format!(" --jobs {jobs}");
        }
        if self.protocol == Protocol::Paper {
            line += " --protocol paper";
        }
        if self.cuda {
            line += " --cuda";
        }
        if !self.more.is_empty() {
            line += &format!(" -- {}", self.more.join(" "));
        }
        line
    }
}

/// The commit of this checkout, with `-dirty` if files differ from it.
fn commit() -> Option<String> {
    let mut git = Command::new("git");
    git.current_dir(shell::root()).args(["describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]);
    let done = git.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(done.stdout).ok()?;
    (done.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// The CPU's name in `cpuinfo`, the number of cores and the system.
fn hardware(cpuinfo: &str, cores: Option<usize>) -> String {
    let name = cpuinfo.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == "model name");
    let cpu = name.map_or("unknown CPU", |(_, name)| name.trim());
    let cores = cores.map_or("unknown number of".to_string(), |cores| cores.to_string());
    format!("{cpu}, {cores} cores, {}", env::consts::OS)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        reproduce: Reproduce,
    }

    fn parsed(line: &str) -> Result<Reproduce, clap::Error> {
        Line::command().debug_assert();
        Line::try_parse_from(["reproduce"].into_iter().chain(line.split_whitespace())).map(|line| line.reproduce)
    }

    #[test]
    fn presets_follow_scale_and_set() {
        for (line, preset) in [
            ("--dataset shapes --scale smoke", Some("smoke")),
            ("--dataset fashion-mnist --scale cpu", Some("cpu")),
            ("--dataset cifar10 --scale gpu", Some("gpu")),
            ("--dataset cifar100 --scale paper", Some("paper-cifar100")),
            ("--dataset fashion-mnist --scale paper", Some("paper-fashion-mnist")),
            ("--dataset cifar10 --scale smoke", None),
            ("--dataset shapes --scale paper", None),
        ] {
            assert_eq!(parsed(line).unwrap().preset().ok().as_deref(), preset, "{line}");
        }
        for line in ["--dataset cifar --scale cpu", "--dataset shapes", "--dataset shapes --scale smoke --seeds 0"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn every_preset_of_the_paper_exists() {
        for dataset in Dataset::value_variants().iter().filter(|set| **set != Dataset::Shapes) {
            let file = format!("gafi-pipeline/presets/paper-{}.toml", word(*dataset));
            assert!(shell::root().join(&file).is_file(), "{file}");
        }
    }

    #[test]
    fn options_reach_the_program() {
        let plain = parsed("--dataset cifar10 --scale cpu").unwrap();
        let begin = ["pipeline", "--preset", "cpu", "--data", "cifar10", "--seed", "4", "--out", "a b/seed-4"];
        let expected = [&begin[..], &["--set", "protocol=holdout"]].concat();
        assert_eq!(plain.pipeline("cpu", 4, Path::new("a b/seed-4")), expected);
        assert_eq!(plain.command(), "cargo xtask reproduce --dataset cifar10 --scale cpu --seeds 1");
        let line = "--dataset cifar10 --scale cpu --seeds 3 --jobs 2 --protocol paper -- --threads 2";
        let all = parsed(line).unwrap();
        let begin = ["pipeline", "--preset", "cpu", "--data", "cifar10", "--seed", "0", "--jobs", "2", "--out", "o"];
        let end = ["--set", "protocol=paper", "--threads", "2"];
        assert_eq!(all.pipeline("cpu", 0, Path::new("o")), [&begin[..], &end].concat());
        assert_eq!(all.command(), format!("cargo xtask reproduce {line}"));
    }

    #[test]
    fn hardware_names_cpu_and_cores() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2.0: GHz\nmodel name\t: Other\n";
        assert!(hardware(text, Some(2)).starts_with("Some CPU @ 2.0: GHz, 2 cores, "));
        assert!(hardware("", None).starts_with("unknown CPU, unknown number of cores"));
    }

    #[test]
    fn protocols_have_separate_folders() {
        let line = parsed("--dataset cifar10 --scale cpu --out a").unwrap();
        assert_eq!(line.folder(Protocol::Holdout), Path::new("a"));
        assert_eq!(line.folder(Protocol::Paper), Path::new("a.protocol-paper"));
    }
}
