//! The program `gafi-cli`; all of it is in the library, so that a program with stages of its own can be made the same way.

/// Training allocates and frees large tensors at every step; this allocator keeps their pages, the system's gives them back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    gafi_cli::run(gafi_cli::Registry::standard())
}
