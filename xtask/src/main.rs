//! Tasks of the workspace: `cargo xtask quickstart` demonstrates GaFi, `cargo xtask test` runs every check, and CI runs only that.
//!
//! It calls other programs and has no heavy dependencies (`layering.rs` checks this), so it builds in seconds, even when the
//! workspace does not compile.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod browser;
mod cuda;
mod dist;
mod gpu_kit;
mod layering;
mod package;
mod python;
mod quickstart;
mod reproduce;
mod runs;
mod shell;
mod slurm;
mod source;
mod storm;
mod supply;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of the GaFi workspace
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build gafi-cli and run its quickstart: Fashion-MNIST, everything trained on this machine
    Quickstart(quickstart::Quickstart),
    /// Run the whole pipeline for several seeds and write the results table to docs/results
    Reproduce(reproduce::Reproduce),
    /// Benchmark training and sampling, optionally against PyTorch: one JSON line per case
    Bench(bench::Bench),
    /// Build gafi-cli and pack it with completions, manual pages and licences, as a release has it
    Dist(dist::Dist),
    /// Pack programs, tests and benchmarks for ten minutes on somebody's GPU
    GpuKit(gpu_kit::GpuKit),
    /// Run every check, cheapest first, and stop at the first failure
    Test(test::Test),
}

fn main() -> ExitCode {
    let done = match Args::parse().task {
        Task::Quickstart(quickstart) => quickstart.run(),
        Task::Reproduce(reproduce) => reproduce.run().map(|()| ExitCode::SUCCESS),
        Task::Bench(bench) => bench.run().map(|()| ExitCode::SUCCESS),
        Task::Dist(dist) => dist.run().map(|()| ExitCode::SUCCESS),
        Task::GpuKit(kit) => kit.run().map(|()| ExitCode::SUCCESS),
        Task::Test(test) => test.run().map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
