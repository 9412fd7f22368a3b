//! The program `gafi-cli`; all of it is in the library, so that a program with stages of its own can be made the same way.

/// Training allocates and frees large tensors at every step; this allocator can keep their pages, the system's gives them
/// back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tune();
    gafi_cli::run(gafi_cli::Registry::standard())
}

/// Settings that two libraries read from the environment when they start, none of which changes a result. They have to be
/// there before the first allocation, so the program replaces itself by itself, once.
#[cfg(unix)]
fn tune() {
    use std::os::unix::process::CommandExt;
    const SETTINGS: [(&str, &str); 2] = [
        // Pages of freed tensors are kept, not given back to the system 10 ms later: the next step wants them again, and
        // each costs a fault and a zeroing.
        ("MIMALLOC_PURGE_DELAY", "-1"),
        // Candle adds gradients on a pool of its own whose threads wait by spinning. On a machine that did other things as
        // well, a third of a training's time went into that waiting.
        ("CANDLE_NUM_THREADS", "1"),
    ];
    let missing: Vec<_> = SETTINGS.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()).collect();
    if missing.is_empty() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        // Comes back only if it failed; then the program runs as it is, a little slower.
        let _ = std::process::Command::new(program).args(std::env::args_os().skip(1)).envs(missing).exec();
    }
}

#[cfg(not(unix))]
fn tune() {}
