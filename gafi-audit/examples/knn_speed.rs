//! Times the neighbour search: `cargo run --release -p gafi-audit --example knn_speed [POINTS] [DIM]`.
//!
//! Points are uniform in the unit cube; k is 5. Run it on an idle machine.

#![allow(clippy::print_stdout)]

use std::time::Instant;

use gafi_audit::{FeatureSet, knn};
use gafi_core::stream::unit_f32;
use gafi_core::{Result, Stream};

fn main() -> Result<()> {
    let argument = |at: usize, default| std::env::args().nth(at).and_then(|a| a.parse().ok()).unwrap_or(default);
    let n = argument(1, 20_000);
    let dim = argument(2, 256);
    let set = |seed: u64| -> Vec<f32> {
        let mut rng = Stream::new(seed).rng();
        (0..n * dim).map(|_| unit_f32(&mut rng)).collect()
    };
    let a = set(1);
    let b = set(2);
    let begun = Instant::now();
    knn(&a, &b, dim, 5, false)?;
    let seconds = begun.elapsed().as_secs_f64();
    let gflops = 2.0 * (n * n * dim) as f64 / seconds / 1e9;
    println!("knn {n} x {n} x {dim}: {seconds:.2} s ({gflops:.0} GFLOP/s)");
    let bytes: Vec<Vec<u8>> = [&a, &b].map(|set| set.iter().map(|v| (v * 255.0) as u8).collect()).into();
    let begun = Instant::now();
    knn(&bytes[0], &bytes[1], dim, 1, false)?;
    println!("knn of bytes, k = 1: {:.2} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let found = FeatureSet::new(&a, dim, 5)?.fidelity(&FeatureSet::new(&b, dim, 5)?)?;
    println!("all measures of two sets: {:.2} s; {found:?}", begun.elapsed().as_secs_f64());
    Ok(())
}
