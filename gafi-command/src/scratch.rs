//! The temporary folder for the files exchanged with a program, and the removal of folders that killed processes left.

use std::path::Path;
use std::sync::Once;

use tempfile::TempDir;

/// Every folder is called `gafi-command-HOST-PID-RANDOM`.
const PREFIX: &str = "gafi-command-";

/// Creates a folder, removed when dropped. The first call of a process also removes folders of processes that are gone.
pub(crate) fn create() -> std::io::Result<TempDir> {
    static SWEEP: Once = Once::new();
    let host = host();
    SWEEP.call_once(|| sweep(&std::env::temp_dir(), &host));
    tempfile::Builder::new().prefix(&format!("{PREFIX}{host}-{}-", std::process::id())).tempdir()
}

/// A name of the host and its PID namespace: containers may share a host's name and temporary folder, but not process ids.
fn host() -> String {
    #[cfg(unix)]
    let name = nix::unistd::gethostname().ok().map(|name| name.to_string_lossy().into_owned());
    #[cfg(not(unix))]
    let name: Option<String> = None;
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let digits = |c: &char| c.is_ascii_digit();
    let namespace: String = namespace.to_string_lossy().chars().filter(digits).collect();
    // A dash separates the parts of a folder's name.
    let plain = |c: char| if c.is_alphanumeric() { c } else { '_' };
    format!("{}_{namespace}", name.unwrap_or_default().chars().map(plain).collect::<String>())
}

/// Removes folders in `temp` that dead processes of `host` left. Those that cannot be removed are left for the next call.
fn sweep(temp: &Path, host: &str) {
    for entry in std::fs::read_dir(temp).into_iter().flatten().flatten() {
        let owner = entry.file_name().to_str().and_then(|name| owner(name, host));
        // Links are not followed.
        let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if folder && owner.is_some_and(|pid| !is_running(pid)) {
            let path = entry.path();
            match std::fs::remove_dir_all(&path) {
                Ok(()) => {
                    tracing::info!(path = %path.display(), "removed the temporary folder of a process that was killed")
                }
                Err(e) => tracing::debug!(path = %path.display(), error = %e, "cannot remove a stale temporary folder"),
            }
        }
    }
}

/// The process of `host` that created the folder `name`.
fn owner(name: &str, host: &str) -> Option<i32> {
    let rest = name.strip_prefix(PREFIX)?.strip_prefix(host)?.strip_prefix('-')?;
    rest.split_once('-')?.0.parse().ok().filter(|pid| *pid > 0)
}

#[cfg(unix)]
fn is_running(pid: i32) -> bool {
    // A process that may not be signalled exists.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) != Err(nix::errno::Errno::ESRCH)
}

#[cfg(not(unix))]
fn is_running(_: i32) -> bool {
    true
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_dead_processes_of_this_host_are_removed() {
        let temp = tempfile::tempdir().unwrap();
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let (host, me) = (host(), std::process::id());
        let stale = format!("{PREFIX}{host}-{}-a", gone.id());
        let kept = [
            format!("{PREFIX}{host}-{me}-a"),
            format!("{PREFIX}{host}-1-a"),
            format!("{PREFIX}elsewhere-{}-a", gone.id()),
            format!("{PREFIX}{host}-0-a"),
            format!("{PREFIX}{host}-x-a"),
            format!("{PREFIX}x3f9Qa"),
            format!("other-{host}-{}-a", gone.id()),
        ];
        for name in kept.iter().chain([&stale]) {
            std::fs::create_dir(temp.path().join(name)).unwrap();
            std::fs::write(temp.path().join(name).join("answer"), "x").unwrap();
        }
        // A link with the name of a stale folder: neither it nor its target is touched.
        let link = temp.path().join(format!("{PREFIX}{host}-{}-link", gone.id()));
        std::os::unix::fs::symlink(temp.path().join(&kept[6]), &link).unwrap();
        sweep(temp.path(), &host);
        assert!(!temp.path().join(&stale).exists());
        assert!(link.join("answer").exists());
        for name in kept {
            assert!(temp.path().join(&name).join("answer").exists(), "{name}");
        }
    }

    #[test]
    fn a_folder_names_its_process() {
        let folder = create().unwrap();
        let name = folder.path().file_name().unwrap().to_str().unwrap();
        assert_eq!(owner(name, &host()), Some(std::process::id() as i32));
    }
}
