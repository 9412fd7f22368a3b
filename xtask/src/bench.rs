//! Benchmarks training and sampling against a PyTorch program of the same networks: one JSON line per case.
//!
//! Each case runs several rounds, ours and the peer's in turn (A B A B), each in its own process. The best round of each side
//! counts, because other load on the machine only slows a round down. The peer runs in both memory layouts of PyTorch and, with
//! `--compile`, through torch.compile; the fastest counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::shell::{self, word};

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// A PyTorch program to compare with: xtask/peers/torch_bench.py, or another one with the same options and output
    #[arg(long, value_name = "FILE")]
    peer: Option<PathBuf>,
    /// Also measure the peer through torch.compile
    #[arg(long, requires = "peer")]
    compile: bool,
    /// The Python that runs it, with torch
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: PathBuf,
    /// Only width 16, one round of three steps
    #[arg(long)]
    quick: bool,
    /// Only these cases
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CASE")]
    only: Vec<Case>,
    /// Widths: channels of the classifiers' first stage, `ch` of BigGAN-Deep
    #[arg(long, value_delimiter = ',', value_name = "N", default_values_t = [16, 32, 64])]
    widths: Vec<usize>,
    /// f32, tf32 or bf16; for bf16 the peer runs under autocast
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// cpu or cuda
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads of both programs [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    /// Rounds of each program
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Timed steps in each round, of which the median counts
    #[arg(long, default_value_t = 5)]
    reps: usize,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    /// A step of a ResNet-20, batch 128: forward, backward, update
    ClassifierTrain,
    /// Logits of a batch of 128
    ClassifierInfer,
    /// A step of airbench, batch 1000
    AirbenchTrain,
    /// Logits of a batch of 1000
    AirbenchInfer,
    /// Three updates of BigGAN-Deep's discriminator and one of its generator, batch 64
    GanTrain,
    /// Images of a batch of 64
    GanSample,
}

impl Case {
    /// The peer's JSON key for this case.
    fn key(self) -> &'static str {
        match self {
            Self::ClassifierTrain | Self::AirbenchTrain | Self::GanTrain => "train_step_s",
            Self::ClassifierInfer | Self::AirbenchInfer | Self::GanSample => "infer_s",
        }
    }
}

/// The peer's name of a network, its batch size, and its cases; one run of the peer measures both cases.
const NETWORKS: [(&str, usize, [Case; 2]); 3] = [
    ("classifier", 128, [Case::ClassifierTrain, Case::ClassifierInfer]),
    ("airbench", 1000, [Case::AirbenchTrain, Case::AirbenchInfer]),
    ("gan", 64, [Case::GanTrain, Case::GanSample]),
];

/// How the peer runs.
const LAYOUTS: [&str; 3] = ["nchw", "channels-last", COMPILED];
const COMPILED: &str = "compile";

/// Runs the peer and prints its peak memory.
const PEAK: &str = "import json, resource, runpy, sys; sys.argv = sys.argv[1:]; \
    runpy.run_path(sys.argv[0], run_name='__main__'); \
    print(json.dumps({'peak_rss_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))";

/// The best of several rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Best {
    seconds: f64,
    peak_rss_mb: f64,
}

impl Best {
    fn of(best: Option<Best>, seconds: f64, peak_rss_mb: f64) -> Best {
        match best {
            Some(best) if best.seconds <= seconds => best,
            _ => Best { seconds, peak_rss_mb },
        }
    }
}

impl Bench {
    /// Builds, measures and prints.
    pub(crate) fn run(&self) -> Result<()> {
        ensure!(self.rounds > 0 && self.reps > 0, "rounds and reps must be at least 1");
        let mut build = shell::cargo();
        build.args(["build", "-p", "gafi-gan", "--example", "bench_train"]);
        if self.device == "cuda" {
            build.args(["--features", "cuda"]);
        }
        let program = shell::build(&mut build)?.pop().context("cargo built no program")?.path;
        let widths = if self.quick { &[16][..] } else { &self.widths };
        for (network, batch, cases) in NETWORKS {
            let cases: Vec<Case> =
                cases.into_iter().filter(|case| self.only.is_empty() || self.only.contains(case)).collect();
            for &width in widths {
                if !cases.is_empty() {
                    self.network(&program, network, batch, &cases, width)?;
                }
            }
        }
        Ok(())
    }

    /// Prints the results of one network at one width.
    fn network(&self, program: &Path, network: &str, batch: usize, cases: &[Case], width: usize) -> Result<()> {
        let rounds = if self.quick { 1 } else { self.rounds };
        let reps = if self.quick { 3 } else { self.reps };
        let mut ours: Vec<Option<Best>> = vec![None; cases.len()];
        let mut peers: Vec<BTreeMap<&str, Best>> = vec![BTreeMap::new(); cases.len()];
        for _ in 0..rounds {
            for (case, best) in cases.iter().zip(&mut ours) {
                let line = self.ours(program, *case, [width, batch, reps])?;
                *best = Some(Best::of(*best, number(&line, "seconds")?, number(&line, "peak_rss_mb")?));
            }
            for layout in
                LAYOUTS.into_iter().filter(|layout| self.peer.is_some() && (self.compile || *layout != COMPILED))
            {
                let (line, peak) = self.peers(network, [width, batch, reps], layout)?;
                for (case, peers) in cases.iter().zip(&mut peers) {
                    peers.insert(layout, Best::of(peers.get(layout).copied(), number(&line, case.key())?, peak));
                }
            }
        }
        for ((case, ours), peers) in cases.iter().zip(ours).zip(peers) {
            let ours = ours.context("no round was run")?;
            let mut line = json!({
                "bench": word(*case), "width": width, "batch": batch, "device": self.device, "dtype": self.dtype,
                "ours_s": ours.seconds, "peak_rss_mb": ours.peak_rss_mb.round(), "rounds": rounds, "reps": reps,
            });
            // Our sampler computes in f32, whatever the dtype.
            let comparable = *case != Case::GanSample || self.dtype == "f32";
            let best = peers.into_iter().min_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds)).filter(|_| comparable);
            if let Some((layout, peer)) = best {
                line["peer_s"] = json!(peer.seconds);
                line["peer_layout"] = json!(layout);
                line["peer_peak_rss_mb"] = json!(peer.peak_rss_mb.round());
                line["ratio"] = json!((1000.0 * ours.seconds / peer.seconds).round() / 1000.0);
            }
            println!("{line}");
        }
        Ok(())
    }

    fn ours(&self, program: &Path, case: Case, numbers: [usize; 3]) -> Result<Value> {
        let mut run = std::process::Command::new(program);
        run.arg(word(case)).args(numbers.map(|n| n.to_string()));
        run.args([&self.dtype, &self.device]);
        // As gafi-cli sets them.
        run.envs([("MIMALLOC_PURGE_DELAY", "-1"), ("CANDLE_NUM_THREADS", "1")]);
        if let Some(threads) = self.threads {
            run.env("RAYON_NUM_THREADS", threads.to_string());
        }
        last_line(&shell::output(&mut run)?)
    }

    /// The peer's result and peak memory.
    fn peers(&self, network: &str, [width, batch, reps]: [usize; 3], layout: &str) -> Result<(Value, f64)> {
        let peer = self.peer.as_ref().context("no peer")?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.threads.unwrap_or_else(cores);
        let mut run = std::process::Command::new(&self.python);
        run.args(["-c", PEAK]).arg(peer).args(["--what", network, "--device", &self.device]);
        for (option, value) in [("--width", width), ("--batch", batch), ("--reps", reps), ("--threads", threads)] {
            run.arg(option).arg(value.to_string());
        }
        if layout != "nchw" {
            run.arg("--channels-last");
        }
        if layout == COMPILED {
            run.arg("--compile");
        }
        if matches!(&*self.dtype, "bf16" | "tf32") {
            run.arg(format!("--{}", self.dtype));
        }
        let lines = shell::output(&mut run)?;
        let mut figures = lines.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let memory = figures.next();
        let Some((memory, line)) = memory.zip(figures.next()) else {
            bail!("the peer printed no JSON lines:\n{lines}")
        };
        Ok((line, number(&memory, "peak_rss_mb")?))
    }
}

fn last_line(output: &str) -> Result<Value> {
    let line = output.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("no JSON in {line:?}"))
}

fn number(line: &Value, key: &str) -> Result<f64> {
    line[key].as_f64().with_context(|| format!("no number `{key}` in {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_round_counts_with_its_memory() {
        let best = Best::of(Some(Best { seconds: 2.0, peak_rss_mb: 10.0 }), 1.5, 12.0);
        assert_eq!((best.seconds, best.peak_rss_mb), (1.5, 12.0));
        let best = Best::of(Some(best), 1.7, 9.0);
        assert_eq!((best.seconds, best.peak_rss_mb), (1.5, 12.0));
    }

    #[test]
    fn a_missing_number_is_named() {
        assert!(number(&json!({"a": "x"}), "a").unwrap_err().to_string().contains("`a`"));
    }
}
