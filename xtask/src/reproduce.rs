//! `cargo xtask reproduce`: the whole of GaFi for some seeds, and the table of it in `docs/results`.
//!
//! The work is `gafi-cli pipeline`, once a seed, as anyone can type it; here the program is built, the runs are made one
//! after the other, and their `results.json` become one record (`table.rs`).

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::{quickstart, shell, table};

/// What the name of a table of the authors' protocol ends in.
const PAPER_SUFFIX: &str = ".protocol-paper";

/// What `cargo xtask reproduce` was asked to do.
#[derive(Debug, Args)]
pub(crate) struct Reproduce {
    /// Real images
    #[arg(long, value_enum)]
    dataset: Dataset,
    /// How much of it
    #[arg(long, value_enum)]
    scale: Scale,
    /// Runs of everything, with seeds from 0; all on one split of the real images
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Trials side by side
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// What chooses: validation images (holdout), or test images as in the authors' program (paper)
    #[arg(long, value_enum, default_value_t = Protocol::Holdout)]
    protocol: Protocol,
    /// Folder of everything that is made; what is there already is reused [default: reproduce/DATASET-SCALE]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder of the tables [default: docs/results]
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Build with the feature cuda
    #[arg(long)]
    cuda: bool,
    /// Further options for `gafi-cli pipeline`
    #[arg(last = true, value_name = "OPTION")]
    more: Vec<String>,
}

/// The sets that there are presets for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dataset {
    FashionMnist,
    Cifar10,
    Cifar100,
    /// Drawn here, needs no files
    Shapes,
}

/// How long a run is; see `gafi-pipeline/presets`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scale {
    /// Every step in seconds; the figures mean nothing
    Smoke,
    /// Hours on two cores
    Cpu,
    /// Hours on one large GPU
    Gpu,
    /// The published hyper-parameters
    Paper,
}

/// What chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Holdout,
    Paper,
}

/// The word on the command line, which is also that of presets and configurations.
fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// All of it at scale smoke for two seeds, into `folder`, which holds nothing yet; its table must have every row.
pub(crate) fn smoke(folder: &Path) -> Result<()> {
    let out = Some(folder.join("runs"));
    let results = Some(folder.join("results"));
    let dataset = Dataset::Shapes;
    let scale = Scale::Smoke;
    let protocol = Protocol::Holdout;
    let asked =
        Reproduce { dataset, scale, seeds: 2, jobs: None, protocol, out, results, cuda: false, more: Vec::new() };
    asked.run()?;
    let record = table::read_record(&folder.join("results/shapes-smoke.json"))?;
    let rows = record["rows"].as_array().map_or(0, Vec::len);
    let whole = record["rows"].as_array().is_some_and(|rows| rows.iter().all(|row| row["n"] == 2));
    if rows < 10 || !whole {
        bail!("expected ten rows or more of two seeds each, found {record}");
    }
    Ok(())
}

impl Reproduce {
    /// All seeds, then the table.
    pub(crate) fn run(&self) -> Result<()> {
        let preset = self.preset()?;
        let out = self.out.clone().unwrap_or_else(|| Path::new("reproduce").join(self.name()));
        println!("Building gafi-cli (minutes the first time, no work when nothing changed) ...");
        let program = quickstart::build(if self.cuda { &["--features", "cuda"] } else { &[] })?;
        let mut runs = Vec::new();
        for seed in 0..self.seeds {
            let folder = out.join(format!("seed-{seed}"));
            shell::run(Command::new(&program).args(self.pipeline(&preset, seed, &folder)))?;
            runs.push(table::read(&folder.join("results.json"), &word(self.protocol))?);
        }
        let made = json!({
            "command": self.command(),
            "commit": commit(),
            "dataset": word(self.dataset),
            "hardware": hardware(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default(), cores()),
            "scale": word(self.scale),
        });
        let record = table::record(made, &runs);
        let results = self.results.clone().unwrap_or_else(|| shell::root().join("docs/results"));
        // The authors' protocol has a table of its own: the two are not to be mixed up. Where both are there, each shows both.
        let (name, other) = match self.protocol {
            Protocol::Holdout => (self.name(), self.name() + PAPER_SUFFIX),
            Protocol::Paper => (self.name() + PAPER_SUFFIX, self.name()),
        };
        let mut text = table::markdown(&record);
        let beside = results.join(format!("{other}.json"));
        if beside.exists() {
            let there = table::read_record(&beside)?;
            text += &table::side_by_side(&record, &there);
            let page = table::markdown(&there) + &table::side_by_side(&there, &record);
            write(&results.join(format!("{other}.md")), &page)?;
        }
        write(&results.join(format!("{name}.json")), &(serde_json::to_string_pretty(&record)? + "\n"))?;
        write(&results.join(format!("{name}.md")), &text)?;
        println!("\n{text}\nWritten to {}.", results.join(format!("{name}.md")).display());
        Ok(())
    }

    /// The preset's name.
    fn preset(&self) -> Result<String> {
        match (self.scale, self.dataset) {
            (Scale::Smoke, Dataset::Shapes) => {}
            (Scale::Smoke, other) => bail!("--scale smoke is for --dataset shapes, not for {}", word(other)),
            (Scale::Paper, Dataset::Shapes) => bail!("--scale paper is for the paper's sets, which shapes is none of"),
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
        if self.protocol == Protocol::Paper {
            args.extend(["--set", "protocol=paper"].map(Into::into));
        }
        args.extend(self.more.iter().map(Into::into));
        args
    }

    /// What was asked for, as far as it bears on figures or times: folders are left out.
    fn command(&self) -> String {
        let mut line = format!(
            "cargo xtask reproduce --dataset {} --scale {} --seeds {}",
            word(self.dataset),
            word(self.scale),
            self.seeds
        );
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

/// The commit that is built, with `-dirty` where files differ from it; nothing outside of a checkout.
fn commit() -> Option<String> {
    let mut git = Command::new("git");
    git.current_dir(shell::root()).args(["describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]);
    let done = git.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(done.stdout).ok()?;
    (done.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

fn cores() -> Option<usize> {
    thread::available_parallelism().ok().map(usize::from)
}

/// The CPU's name as the kernel tells it, and the cores that this program may use.
fn hardware(cpuinfo: &str, cores: Option<usize>) -> Value {
    let name = cpuinfo.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == "model name");
    json!({ "cpu": name.map(|(_, name)| name.trim()), "cores": cores, "os": env::consts::OS })
}

/// Writes `text` under another name first, so that half a table is never there.
fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let done = fs::write(&partial, text).and_then(|()| fs::rename(&partial, path));
    done.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        asked: Reproduce,
    }

    fn asked(line: &str) -> Result<Reproduce, clap::Error> {
        Line::command().debug_assert();
        Line::try_parse_from(["reproduce"].into_iter().chain(line.split_whitespace())).map(|line| line.asked)
    }

    #[test]
    fn presets_go_with_scale_and_set() {
        for (line, preset) in [
            ("--dataset shapes --scale smoke", Some("smoke")),
            ("--dataset fashion-mnist --scale cpu", Some("cpu")),
            ("--dataset cifar10 --scale gpu", Some("gpu")),
            ("--dataset cifar100 --scale paper", Some("paper-cifar100")),
            ("--dataset fashion-mnist --scale paper", Some("paper-fashion-mnist")),
            ("--dataset cifar10 --scale smoke", None),
            ("--dataset shapes --scale paper", None),
        ] {
            assert_eq!(asked(line).unwrap().preset().ok().as_deref(), preset, "{line}");
        }
        for line in ["--dataset cifar --scale cpu", "--dataset shapes", "--dataset shapes --scale smoke --seeds 0"] {
            assert!(asked(line).is_err(), "{line}");
        }
    }

    #[test]
    fn every_preset_of_the_paper_is_there() {
        for dataset in Dataset::value_variants().iter().filter(|set| **set != Dataset::Shapes) {
            let file = format!("gafi-pipeline/presets/paper-{}.toml", word(*dataset));
            assert!(shell::root().join(&file).is_file(), "{file}");
        }
    }

    #[test]
    fn options_are_handed_on() {
        let plain = asked("--dataset cifar10 --scale cpu").unwrap();
        let expected = ["pipeline", "--preset", "cpu", "--data", "cifar10", "--seed", "4", "--out", "a b/seed-4"];
        assert_eq!(plain.pipeline("cpu", 4, Path::new("a b/seed-4")), expected);
        assert_eq!(plain.command(), "cargo xtask reproduce --dataset cifar10 --scale cpu --seeds 1");
        let line = "--dataset cifar10 --scale cpu --seeds 3 --jobs 2 --protocol paper -- --threads 2";
        let all = asked(line).unwrap();
        let begin = ["pipeline", "--preset", "cpu", "--data", "cifar10", "--seed", "0", "--jobs", "2", "--out", "o"];
        let end = ["--set", "protocol=paper", "--threads", "2"];
        assert_eq!(all.pipeline("cpu", 0, Path::new("o")), [&begin[..], &end].concat());
        assert_eq!(all.command(), format!("cargo xtask reproduce {line}"));
    }

    #[test]
    fn hardware_is_what_the_kernel_says() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2.0: GHz\nmodel name\t: Other\n";
        assert_eq!(hardware(text, Some(2))["cpu"], "Some CPU @ 2.0: GHz");
        assert_eq!(hardware("", None)["cpu"], Value::Null);
    }

    #[test]
    fn tables_are_replaced_and_leave_nothing_behind() {
        let folder = env::temp_dir().join(format!("gafi-xtask-{}-reproduce", std::process::id()));
        let path = folder.join("new/a.json");
        for text in ["one", "two"] {
            write(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(folder.join("new")).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }
}
