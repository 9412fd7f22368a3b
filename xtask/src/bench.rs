//! How fast training and sampling are, beside a PyTorch program of the same networks: one JSON line a case.
//!
//! Each case is run several times, ours and the peer's in turn (A B A B), each in a process of its own, and the best round of
//! each side counts: whatever else the machine does slows both, and by chance. The peer runs in both of PyTorch's memory
//! layouts, and the faster one counts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::shell;

/// What `cargo xtask bench` was asked to do.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// A PyTorch program with the options of a peer: --what classifier|gan --width --batch --device --bf16 --channels-last
    /// --threads --reps, which prints one JSON line with `train_step_s` and `infer_s`
    #[arg(long, value_name = "FILE")]
    peer: Option<PathBuf>,
    /// The Python that runs it, with torch
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: PathBuf,
    /// Only width 16, one round of three steps
    #[arg(long)]
    quick: bool,
    /// Only these cases
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CASE")]
    only: Vec<Case>,
    /// These widths: channels of the first stage of the ResNet, `ch` of BigGAN-Deep
    #[arg(long, value_delimiter = ',', value_name = "N", default_values_t = [16, 32, 64])]
    widths: Vec<usize>,
    /// f32, tf32 or bf16; the peer's is autocast
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// cpu or cuda
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads, for both; as many as there are cores when absent
    #[arg(long)]
    threads: Option<usize>,
    /// Rounds of ours and the peer's
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
    /// Three updates of BigGAN-Deep's discriminator and one of its generator, batch 64
    GanTrain,
    /// Images of a batch of 64
    GanSample,
}

impl Case {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What the peer calls the network, the batch, and the key of its figure.
    fn peer(self) -> (&'static str, usize, &'static str) {
        match self {
            Self::ClassifierTrain => ("classifier", 128, "train_step_s"),
            Self::ClassifierInfer => ("classifier", 128, "infer_s"),
            Self::GanTrain => ("gan", 64, "train_step_s"),
            Self::GanSample => ("gan", 64, "infer_s"),
        }
    }

    fn trains(self) -> bool {
        matches!(self, Self::ClassifierTrain | Self::GanTrain)
    }
}

/// Runs a peer's program and tells the most memory that it held.
const PEAK: &str = "import json, resource, runpy, sys; sys.argv = sys.argv[1:]; \
    runpy.run_path(sys.argv[0], run_name='__main__'); \
    print(json.dumps({'peak_rss_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))";

/// The best of several rounds.
#[derive(Debug, Clone, Copy)]
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
        build.args(["build", "-p", "gafi-gan", "--example", "bench_train", "--message-format=json-render-diagnostics"]);
        if self.device == "cuda" {
            build.args(["--features", "cuda"]);
        }
        let program = executable(&shell::output(&mut build)?)?;
        let (widths, rounds, reps) =
            if self.quick { (&[16][..], 1, 3) } else { (&self.widths[..], self.rounds, self.reps) };
        for case in Case::value_variants() {
            if !self.only.is_empty() && !self.only.contains(case) {
                continue;
            }
            for &width in widths {
                println!("{}", self.case(&program, *case, width, rounds, reps)?);
            }
        }
        Ok(())
    }

    fn case(&self, program: &PathBuf, case: Case, width: usize, rounds: usize, reps: usize) -> Result<Value> {
        let (_, batch, _) = case.peer();
        let (mut ours, mut peers) = (None, BTreeMap::new());
        for _ in 0..rounds {
            let line = self.ours(program, case, width, reps)?;
            ours = Some(Best::of(ours, number(&line, "seconds")?, number(&line, "peak_rss_mb")?));
            // The peer infers in f32 whatever it trains in.
            if self.peer.is_some() && (case.trains() || self.dtype == "f32") {
                for layout in ["nchw", "channels-last"] {
                    let (seconds, peak) = self.peers(case, width, reps, layout)?;
                    peers.insert(layout, Best::of(peers.get(layout).copied(), seconds, peak));
                }
            }
        }
        let ours = ours.context("no round was run")?;
        let mut line = json!({
            "bench": case.name(), "width": width, "batch": batch, "device": self.device, "dtype": self.dtype,
            "ours_s": ours.seconds, "peak_rss_mb": ours.peak_rss_mb.round(), "rounds": rounds, "reps": reps,
        });
        if let Some((layout, peer)) = peers.into_iter().min_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds)) {
            line["peer_s"] = json!(peer.seconds);
            line["peer_layout"] = json!(layout);
            line["peer_peak_rss_mb"] = json!(peer.peak_rss_mb.round());
            line["ratio"] = json!((1000.0 * ours.seconds / peer.seconds).round() / 1000.0);
        }
        Ok(line)
    }

    fn ours(&self, program: &PathBuf, case: Case, width: usize, reps: usize) -> Result<Value> {
        let mut run = std::process::Command::new(program);
        run.arg(case.name()).args([width, case.peer().1, reps].map(|n| n.to_string()));
        run.args([&self.dtype, &self.device]);
        // What gafi-cli sets for itself.
        run.envs([("MIMALLOC_PURGE_DELAY", "-1"), ("CANDLE_NUM_THREADS", "1")]);
        if let Some(threads) = self.threads {
            run.env("RAYON_NUM_THREADS", threads.to_string());
        }
        last_line(&shell::output(&mut run)?)
    }

    /// Seconds and peak memory of the peer's.
    fn peers(&self, case: Case, width: usize, reps: usize, layout: &str) -> Result<(f64, f64)> {
        let peer = self.peer.as_ref().context("no peer")?;
        let (what, batch, key) = case.peer();
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.threads.unwrap_or_else(cores);
        let mut run = std::process::Command::new(&self.python);
        run.args(["-c", PEAK]).arg(peer).args(["--what", what, "--device", &self.device]);
        for (option, value) in [("--width", width), ("--batch", batch), ("--reps", reps), ("--threads", threads)] {
            run.arg(option).arg(value.to_string());
        }
        if layout == "channels-last" {
            run.arg("--channels-last");
        }
        if self.dtype == "bf16" {
            run.arg("--bf16");
        }
        let lines = shell::output(&mut run)?;
        let mut figures = lines.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let (memory, line) = (figures.next(), figures.next());
        let (Some(memory), Some(line)) = (memory, line) else { bail!("the peer printed no JSON lines:\n{lines}") };
        Ok((number(&line, key)?, number(&memory, "peak_rss_mb")?))
    }
}

/// The example's program among the messages of `cargo build`.
fn executable(messages: &str) -> Result<PathBuf> {
    let built = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let path = built.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
    path.context("cargo built no program")
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
    fn the_program_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","executable":null}
{"reason":"compiler-artifact","executable":"/t/bench_train"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages).unwrap(), PathBuf::from("/t/bench_train"));
        assert!(executable("{}").unwrap_err().to_string().contains("no program"));
        assert!(number(&json!({"a": "x"}), "a").unwrap_err().to_string().contains("`a`"));
    }
}
