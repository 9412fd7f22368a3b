//! The program `gafi-cli`. Everything is in the library, so that your own program can add stages and call it too.

/// Training allocates and frees large tensors at every step. This allocator can keep their pages; the system allocator returns them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tune();
    gafi_cli::run(gafi_cli::Registry::standard())
}

/// Sets two environment variables that libraries read when they start; neither changes a result. They must be set before the
/// first allocation, so the program starts itself again, once.
#[cfg(unix)]
fn tune() {
    use std::os::unix::process::CommandExt;
    const SETTINGS: [(&str, &str); 2] = [
        // Keeps the pages of freed tensors. By default they go back to the system after 10 ms, and the next step pays a
        // fault and a zeroing for each.
        ("MIMALLOC_PURGE_DELAY", "-1"),
        // Candle sums gradients on a separate pool whose threads wait by spinning. On a busy machine a third of the training
        // time went into that.
        ("CANDLE_NUM_THREADS", "1"),
    ];
    let missing: Vec<_> = SETTINGS.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()).collect();
    if missing.is_empty() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        // Returns only if it failed; the program then runs on without the settings, a little slower.
        let _ = std::process::Command::new(program).args(std::env::args_os().skip(1)).envs(missing).exec();
    }
}

#[cfg(not(unix))]
fn tune() {}
