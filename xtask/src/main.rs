//! The project's own chores, so that whoever has Rust has everything: `cargo xtask quickstart` shows GaFi at work,
//! `cargo xtask test` is every check there is, and CI calls nothing else.
//!
//! It shells out and depends on nothing heavy (asserted in `layering.rs`): it must be there in seconds, also when the
//! workspace does not compile.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod browser;
mod layering;
mod python;
mod quickstart;
mod reproduce;
mod shell;
mod source;
mod table;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The chores of the GaFi workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Show what GaFi does for a classifier that never sees a real image: real Fashion-MNIST, everything trained here.
    Quickstart(quickstart::Quickstart),
    /// Run all of GaFi for some seeds through `gafi-cli`, and write the table to docs/results.
    Reproduce(reproduce::Reproduce),
    /// Measure training and sampling, beside PyTorch where its program is given: one JSON line a case.
    Bench(bench::Bench),
    /// Run every check there is, the cheapest first, and stop at the first that fails.
    Test(test::Test),
}

fn main() -> ExitCode {
    let done = match Args::parse().chore {
        Chore::Quickstart(quickstart) => quickstart.run(),
        Chore::Reproduce(reproduce) => reproduce.run().map(|()| ExitCode::SUCCESS),
        Chore::Bench(bench) => bench.run().map(|()| ExitCode::SUCCESS),
        Chore::Test(test) => test.run().map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
