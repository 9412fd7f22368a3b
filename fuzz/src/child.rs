//! The process that runs the cases of a target.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use gafi_core::Stream;
use gafi_fuzz::{Target, mutate};

/// The file, in the folder for temporary files, with the number of the current case: eight bytes.
pub(crate) const PROGRESS: &str = "progress";

/// The cases of one target.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) target: &'static Target,
    pub(crate) seed: u64,
    pub(crate) from: u64,
    pub(crate) cases: u64,
    pub(crate) time: Option<Duration>,
}

/// The inputs that are mutated.
pub(crate) fn start(target: &Target) -> Vec<Vec<u8>> {
    (target.seeds)().into_iter().chain(corpus(target)).collect()
}

/// Inputs that made the target fail once.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut files: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path()).collect();
    files.sort();
    files.iter().filter_map(|file| fs::read(file).ok()).collect()
}

/// Case `index`: the seeds themselves, then mutations.
pub(crate) fn input(work: &Work, seeds: &[Vec<u8>], index: u64) -> Vec<u8> {
    let plain = usize::try_from(index).ok().and_then(|index| seeds.get(index));
    plain.cloned().unwrap_or_else(|| mutate(&mut Stream::new(work.seed).child(work.target.name).at(index).rng(), seeds))
}

/// Runs the cases until one panics. Aborts, hangs and memory limits are left to the parent.
pub(crate) fn run(work: &Work) -> bool {
    // The last panic, wherever it happened; printed only if it ends a case.
    static PANIC: Mutex<String> = Mutex::new(String::new());
    let seeds = start(work.target);
    let progress = File::create(std::env::temp_dir().join(PROGRESS)).expect("the driver gave a folder");
    std::panic::set_hook(Box::new(|info| {
        if let Ok(mut last) = PANIC.lock() {
            *last = info.to_string();
        }
    }));
    let begun = Instant::now();
    // At least every seed, however few cases are requested.
    let last = work.from + work.cases.max(seeds.len() as u64);
    for index in work.from..last {
        progress.write_all_at(&index.to_le_bytes(), 0).expect("memory has room for eight bytes");
        let bytes = input(work, &seeds, index);
        if catch_unwind(AssertUnwindSafe(|| (work.target.run)(&bytes))).is_err() {
            eprintln!("{}", PANIC.lock().map(|last| last.clone()).unwrap_or_default());
            return false;
        }
        if work.time.is_some_and(|time| begun.elapsed() > time) {
            progress.write_all_at(&(index + 1).to_le_bytes(), 0).expect("memory has room for eight bytes");
            return true;
        }
    }
    progress.write_all_at(&last.to_le_bytes(), 0).expect("memory has room for eight bytes");
    true
}
