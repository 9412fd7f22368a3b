//! Plans for GPUs that are not here: cuDNN answers by their properties.
//!
//! These tests need cuDNN's library (9.8 or later, no driver) where the loader finds it; `cargo xtask test --cuda` sets that up.

#[cfg(feature = "cuda")]
mod gpu;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::api::{Api, Descriptor, Note};
use super::graph::{Plan, Target, acceptable, name, properties, tensors};
use crate::cuda::Product;
use crate::geometry::Geometry;
use crate::precision::Precision;

/// Every convolution of every preset, one per line, with the fields of [`crate::trunk::Convolution`].
const CONVOLUTIONS: &str = include_str!("convolutions.txt");

const PRODUCTS: [Product; 3] = [Product::Forward, Product::Input, Product::Weights];

/// A GPU of each architecture, by its data sheet and CUDA's table of compute capabilities.
struct Card {
    name: &'static str,
    /// Compute capability, times ten.
    capability: u32,
    multiprocessors: u32,
    /// Maximum shared memory of a block, in KiB.
    shared_kib: u32,
    /// Maximum threads of a multiprocessor.
    threads: u32,
    /// Maximum blocks of a multiprocessor.
    blocks: u32,
    l2_mib: u32,
    memory_gib: u64,
}

#[rustfmt::skip]
const CARDS: [Card; 7] = [
    Card { name: "T4", capability: 75, multiprocessors: 40, shared_kib: 64, threads: 1024, blocks: 16, l2_mib: 4, memory_gib: 16 },
    Card { name: "A100", capability: 80, multiprocessors: 108, shared_kib: 163, threads: 2048, blocks: 32, l2_mib: 40, memory_gib: 40 },
    Card { name: "RTX 3090", capability: 86, multiprocessors: 82, shared_kib: 99, threads: 1536, blocks: 16, l2_mib: 6, memory_gib: 24 },
    Card { name: "RTX 4090", capability: 89, multiprocessors: 128, shared_kib: 99, threads: 1536, blocks: 24, l2_mib: 72, memory_gib: 24 },
    Card { name: "H100", capability: 90, multiprocessors: 132, shared_kib: 227, threads: 2048, blocks: 32, l2_mib: 50, memory_gib: 80 },
    Card { name: "B200", capability: 100, multiprocessors: 148, shared_kib: 227, threads: 2048, blocks: 32, l2_mib: 126, memory_gib: 180 },
    Card { name: "RTX 5090", capability: 120, multiprocessors: 170, shared_kib: 99, threads: 1536, blocks: 24, l2_mib: 96, memory_gib: 32 },
];

impl Card {
    /// What cuDNN asks of a GPU, in its own JSON.
    fn json(&self) -> String {
        let Self { name, capability, multiprocessors, shared_kib, threads, blocks, l2_mib, memory_gib } = self;
        // A block's shared memory includes what the system reserves, from Ampere on.
        let reserved = if *capability < 80 { 0 } else { 1024 };
        format!(
            r#"{{"deviceName": "{name}", "deviceVer": {}, "driverVer": 13000, "multiProcessorCount": {multiprocessors}, "warpSize": 32,
            "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": {}, "reservedSharedMemoryPerBlock": {reserved},
            "oversizedSharedMemoryPerBlock": 0, "maxRegistersPerSM": 65536, "regsPerBlock": 65536, "maxCtasPerSM": {blocks},
            "maxThreadsPerBlock": 1024, "maxThreadsPerSM": {threads}, "maxBlockSize": [1024, 1024, 64],
            "maxGridSize": [2147483647, 65535, 65535], "totalGlobalMem": {}, "l2CacheSize": {}, "smClockRateKHz": 1700000,
            "memClockRateKHz": 2600000, "supportCoopLaunch": 1, "pciDeviceId": 0, "isTccDriver": 0, "cudaDeviceId": 0}}"#,
            capability * 10,
            shared_kib << 10,
            memory_gib << 30,
            u64::from(*l2_mib) << 20,
        )
    }

    fn precisions(&self) -> &'static [Precision] {
        if self.capability < 80 { &[Precision::F32] } else { &[Precision::F32, Precision::Tf32, Precision::Bf16] }
    }
}

/// The library's version, as text.
fn version() -> String {
    let number = api().version();
    format!("{}.{}.{}", number / 10000, number / 100 % 100, number % 100)
}

fn api() -> &'static Api {
    Api::get().expect("cuDNN's library where the loader finds it; `cargo xtask test --cuda` sets that up")
}

/// The list's convolutions, each with its number of images.
fn convolutions() -> Vec<(Geometry, usize)> {
    let each = CONVOLUTIONS.lines().map(|line| {
        let numbers: Vec<usize> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let [n, cin, cout, k, stride, pad, h, w] = numbers[..] else { panic!("{line}") };
        (Geometry::of([cin, cout, k, stride, pad, h, w]), n)
    });
    each.collect()
}

/// What the check found for one card in one precision.
#[derive(Default)]
struct Found {
    plans: usize,
    tensor_cores: usize,
    /// Largest workspace, in bytes.
    workspace: usize,
    /// Products that have no plan, or one that the check rejects.
    faults: Vec<String>,
}

/// Plans every product of every convolution with the filter `accept`, and checks the chosen plans.
fn check(device: &Descriptor, precision: Precision, accept: fn(&[Note], Precision) -> bool) -> Found {
    let mut found = Found::default();
    for (g, n) in convolutions() {
        for product in PRODUCTS {
            match Plan::find(api(), Target::Properties(device), product, &g, n, precision, accept) {
                Ok(plan) if plan.notes.contains(&Note::NONDETERMINISTIC) => {
                    found
                        .faults
                        .push(format!("{product:?} of {n} images, {g:?}: engine {} is not deterministic", plan.engine));
                }
                Ok(plan) => {
                    found.plans += 1;
                    found.tensor_cores += usize::from(plan.notes.contains(&Note::TENSOR_CORE));
                    found.workspace = found.workspace.max(plan.workspace);
                }
                Err(error) => found.faults.push(format!("{product:?} of {n} images, {g:?}: {error}")),
            }
        }
    }
    found
}

#[test]
fn the_list_of_convolutions_can_be_read() {
    assert!(convolutions().len() > 50);
    assert!(convolutions().iter().any(|(g, _)| g.cin == 3) && convolutions().iter().any(|(g, _)| g.cin == 1));
}

#[test]
fn notes_decide_what_is_acceptable() {
    use Precision::{Bf16, F32, Tf32};
    assert!([F32, Tf32, Bf16].iter().all(|precision| acceptable(&[], *precision)));
    assert!(
        [F32, Tf32, Bf16].iter().all(|precision| !acceptable(&[Note::TENSOR_CORE, Note::NONDETERMINISTIC], *precision))
    );
    let cores = [Note::TENSOR_CORE];
    assert_eq!([F32, Tf32, Bf16].map(|precision| acceptable(&cores, precision)), [false, true, true]);
}

/// Prints the table of `docs/cuda.md`.
#[test]
#[ignore = "needs cuDNN's library"]
#[expect(clippy::print_stdout, reason = "the table is what the caller asks for")]
fn every_convolution_has_a_deterministic_plan_on_every_card() {
    println!("\ncuDNN {}, {} convolutions, three passes of each:\n", version(), convolutions().len());
    println!("| GPU | compute capability | precision | plans | on tensor cores | largest workspace, MiB |");
    println!("|---|---|---|---:|---:|---:|");
    let mut faults = BTreeMap::new();
    for card in &CARDS {
        let device = properties(api(), &card.json()).unwrap();
        for &precision in card.precisions() {
            let found = check(&device, precision, acceptable);
            let Card { name, capability, .. } = card;
            let Found { plans, tensor_cores, workspace, .. } = found;
            let mib = workspace.div_ceil(1 << 20);
            let dtype = format!("{precision:?}").to_lowercase();
            println!(
                "| {name} | {}.{} | `{dtype}` | {plans} of {} | {tensor_cores} | {mib} |",
                capability / 10,
                capability % 10,
                plans + found.faults.len()
            );
            if !found.faults.is_empty() {
                faults.insert(format!("{name}, {precision:?}"), found.faults);
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The check reports the plans that a wrong filter lets through.
#[test]
#[ignore = "needs cuDNN's library"]
fn a_nondeterministic_plan_is_a_fault() {
    let device = properties(api(), &CARDS[4].json()).unwrap();
    let only_others = |notes: &[Note], _: Precision| notes.contains(&Note::NONDETERMINISTIC);
    let found = check(&device, Precision::F32, only_others);
    assert!(found.faults.iter().any(|fault| fault.contains("is not deterministic")), "{:?}", found.faults);
    assert_eq!(found.plans, 0);
}

/// Sizes and strides that cuDNN holds for a tensor, and those of a Candle tensor (n, h, w, c) seen as (n, c, h, w).
fn check_layout(descriptor: &Descriptor, n: usize, h: usize, w: usize, c: usize) -> Result<()> {
    let candle = Tensor::zeros((n, h, w, c), DType::F32, &Device::Cpu)?.permute((0, 3, 1, 2))?;
    let want = |numbers: &[usize]| numbers.iter().map(|&number| number as i64).collect::<Vec<_>>();
    let found = (descriptor.get::<i64>(name::TENSOR_SIZES)?, descriptor.get::<i64>(name::TENSOR_STRIDES)?);
    let expected = (want(candle.dims()), want(candle.stride()));
    if found != expected {
        bail!("expected sizes and strides {expected:?}, found {found:?}")
    }
    Ok(())
}

#[test]
#[ignore = "needs cuDNN's library"]
fn cudnn_sees_maps_and_weights_as_candle_stores_them() {
    for (g, n) in convolutions() {
        let [x, w, y] = tensors(api(), &g, n, Precision::F32).unwrap();
        check_layout(&x, n, g.h, g.w, g.cin).unwrap();
        check_layout(&w, g.cout, g.k, g.k, g.cin).unwrap();
        check_layout(&y, n, g.ho, g.wo, g.cout).unwrap();
    }
    // A layout that is off is found.
    let g = Geometry { cin: 4, cout: 4, k: 3, stride: 1, pad: 1, h: 8, w: 6, ho: 8, wo: 6 };
    let [x, ..] = tensors(api(), &g, 2, Precision::F32).unwrap();
    assert!(check_layout(&x, 2, 6, 8, 4).is_err());
}
