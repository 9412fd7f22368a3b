//! `Lock`: keeps two processes, on one machine or on several, from writing the same destination.
//!
//! A lock is `flock` on `.NAME.lock`, which the system releases when the process dies. Some cluster file systems refuse `flock`;
//! on others it only excludes processes on the same machine. There the holder also takes a *lease*: the file `.NAME.lease`,
//! which only one process can create (`O_EXCL`) and which its holder rewrites regularly. Another process steals a lease that has
//! expired without renewal, or whose process has died on this machine. A holder that lost its lease fails before it commits.
//!
//! `GAFI_LOCKS` selects the mode: `auto`, the default, takes a lease where `flock` is refused or known to be local to a machine;
//! `lease` always takes one; `flock` never does. `GAFI_LEASE_SECONDS` is how long this process's leases last, 120 by default.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::control::RunControl;
use crate::error::{Error, Result};
use crate::files::{open_regular_with, parent, read_regular, remove, sibling};
use crate::mounts::Mount;
use crate::owner::Owner;

/// Time between the first two attempts of a waiting process. It grows up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Time between two log lines that say what a process waits for.
const REMIND: Duration = Duration::from_secs(600);
/// Attempts at a call that fails because the file server forgot the file.
const STALE_TRIES: usize = 5;
/// How long a lease lasts without renewal: longer than an NFS client caches attributes (60 s).
const LEASE_SECONDS: u64 = 120;
/// Renewals of a lease before it would expire.
const RENEWALS: u32 = 6;
/// Number of the next probe of the file server's clock, which gives each probe of this process its own file name.
static PROBES: AtomicU64 = AtomicU64::new(0);
/// Longest record of an owner in bytes.
const OWNER_MAX: u64 = 4 << 10;

/// Whether a lock takes a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Auto,
    Flock,
    Lease,
}

/// How this process locks.
#[derive(Debug, Clone, Copy)]
struct Policy {
    mode: Mode,
    lease: Duration,
}

impl Policy {
    fn of_environment() -> Result<Self> {
        let mode = match std::env::var("GAFI_LOCKS").as_deref() {
            Err(_) | Ok("" | "auto") => Mode::Auto,
            Ok("flock") => Mode::Flock,
            Ok("lease") => Mode::Lease,
            Ok(other) => return Err(Error::config("GAFI_LOCKS", other, "auto, flock or lease")),
        };
        let seconds = match std::env::var("GAFI_LEASE_SECONDS") {
            Err(_) => LEASE_SECONDS,
            Ok(text) => text
                .parse()
                .ok()
                .filter(|s| (1..=86_400).contains(s))
                .ok_or_else(|| Error::config("GAFI_LEASE_SECONDS", text, "seconds from 1 to 86400"))?,
        };
        Ok(Self { mode, lease: Duration::from_secs(seconds) })
    }
}

/// The lock of a destination, released when this value is dropped.
#[derive(Debug)]
pub struct Lock {
    dest: PathBuf,
    path: PathBuf,
    flock: Option<File>,
    lease: Option<Lease>,
    /// Whether to keep the lock file after use: on a network file system, another machine may be about to lock the file that
    /// this one would remove.
    keep: bool,
}

impl Lock {
    /// Takes the lock of `dest`, creating its parent folder if necessary.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process, or another handle of this one, holds it; [`Error::Config`] for unknown values of
    /// `GAFI_LOCKS` or `GAFI_LEASE_SECONDS`.
    pub fn take(dest: &Path) -> Result<Self> {
        Self::take_with(dest, Policy::of_environment()?)
    }

    fn take_with(dest: &Path, policy: Policy) -> Result<Self> {
        let path = sibling(dest, "lock")?;
        let parent = parent(dest);
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        let mount = Mount::of(parent);
        let mut lock = Self { dest: dest.into(), path, flock: None, lease: None, keep: !mount.is_local() };
        if policy.mode == Mode::Lease || (policy.mode == Mode::Auto && mount.has_local_flock()) {
            lock.lease = Some(Lease::take(dest, policy.lease)?);
        }
        match lock.flock() {
            Ok(Some(file)) => lock.flock = Some(file),
            Ok(None) => return Err(held(dest, &lock.path)),
            Err(e) if is_refused(&e) && policy.mode != Mode::Flock => {
                // A file that cannot be locked is useless.
                let _ = fs::remove_file(&lock.path);
                if lock.lease.is_none() {
                    lock.lease = Some(Lease::take(dest, policy.lease)?);
                }
            }
            Err(e) => return Err(Error::io("lock", &lock.path)(e)),
        }
        // A process on another machine may have taken a lease.
        if lock.lease.is_none() && policy.mode == Mode::Auto {
            Lease::clear(dest)?;
        }
        Ok(lock)
    }

    /// As [`Lock::take`]. With `control.wait`, it waits while another process holds the lock, and logs this at once and then
    /// every ten minutes.
    ///
    /// # Errors
    /// As [`Lock::take`]; [`Error::Interrupted`].
    pub fn acquire(dest: &Path, control: &RunControl) -> Result<Self> {
        let mut logged: Option<Instant> = None;
        let mut pause = RETRY;
        loop {
            match Self::take(dest) {
                Err(held @ Error::Locked { .. }) if control.wait => {
                    if logged.is_none_or(|at| at.elapsed() >= REMIND) {
                        control.progress.log(&format!("{held}; waiting until it ends"));
                        logged = Some(Instant::now());
                    }
                    control.checkpoint()?;
                    std::thread::sleep(pause);
                    pause = (pause * 3 / 2).min(RETRY_MAX);
                }
                taken => return taken,
            }
        }
    }

    /// Checks that this process still holds the lock: a lease may have been stolen while the process was suspended.
    ///
    /// # Errors
    /// [`Error::Locked`].
    pub fn check(&self) -> Result<()> {
        match &self.lease {
            Some(lease) if !lease.is_held() => Err(held(&self.dest, &lease.path)),
            _ => Ok(()),
        }
    }

    /// Removes the lock file of `dest` if its process was killed after the commit and left it.
    pub(crate) fn sweep(dest: &Path) {
        let exists = |suffix| sibling(dest, suffix).is_ok_and(|path| path.exists());
        if exists("lease") || (exists("lock") && Mount::of(parent(dest)).is_local()) {
            drop(Self::take(dest));
        }
    }

    /// Locks the lock file; `None` when another process holds it.
    fn flock(&self) -> io::Result<Option<File>> {
        loop {
            // Network file systems grant an exclusive lock only on a file that is open for reading and writing.
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).read(true).write(true);
            let mut file = retry_stale(|| open_regular_with(&mut options, &self.path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(e)) => return Err(e),
            }
            // The previous holder may have removed the file between our opening and our locking it, and a third process
            // would then lock a new file of that name. So the lock counts only if the name still refers to this file.
            if retry_stale(|| is_at(&file, &self.path))? {
                // Only other processes' messages use it, so a full disk must not make this fail.
                let _ = file.set_len(0).and_then(|()| file.write_all(&Owner::this(None).to_json()));
                return Ok(Some(file));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The file closes after this, so it is still locked and certainly this lock's own. A lock file left behind is
        // harmless, hence no error.
        if cfg!(unix) && self.flock.is_some() && !self.keep {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The error when another process holds the file `lock` of `dest`.
fn held(dest: &Path, lock: &Path) -> Error {
    let owner = read_regular(lock, OWNER_MAX).ok().and_then(|bytes| Owner::parse(&bytes));
    Error::Locked { path: dest.into(), lock: lock.into(), owner: owner.map(|owner| owner.to_string()) }
}

/// Whether the file system refuses to lock at all.
fn is_refused(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(libc::ENOLCK) {
        return true;
    }
    error.kind() == io::ErrorKind::Unsupported
}

fn retry_stale<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..STALE_TRIES {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::StaleNetworkFileHandle => {}
            done => return done,
        }
    }
    call()
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((held.dev(), held.ino()) == (named.dev(), named.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true) // never removed there
}

/// The file `.NAME.lease`, renewed by a thread while this lives.
#[derive(Debug)]
struct Lease {
    path: PathBuf,
    content: Vec<u8>,
    lost: Arc<AtomicBool>,
    end: Option<Sender<()>>,
    renewal: Option<JoinHandle<()>>,
}

impl Lease {
    fn take(dest: &Path, time: Duration) -> Result<Self> {
        let path = sibling(dest, "lease")?;
        loop {
            match File::create_new(&path) {
                Ok(file) => return Self::start(path, file, time),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Self::clear(dest)?,
                Err(e) => return Err(Error::io("create", path)(e)),
            }
        }
    }

    fn start(path: PathBuf, mut file: File, time: Duration) -> Result<Self> {
        let content = Owner::this(Some(time)).to_json();
        if let Err(e) = file.write_all(&content).and_then(|()| file.sync_all()) {
            let _ = fs::remove_file(&path);
            return Err(Error::io("write", path)(e));
        }
        let (end, ended) = mpsc::channel();
        let lost = Arc::new(AtomicBool::new(false));
        let renewal = std::thread::spawn({
            let (path, content, lost) = (path.clone(), content.clone(), lost.clone());
            move || {
                let mut renewed = Instant::now();
                while ended.recv_timeout(time / RENEWALS) == Err(RecvTimeoutError::Timeout) {
                    match renew(&path, &content) {
                        // The file server may be unreachable for a moment.
                        Err(_) if renewed.elapsed() < time => {}
                        Ok(true) if renewed.elapsed() < time => renewed = Instant::now(),
                        _ => {
                            lost.store(true, Ordering::SeqCst);
                            return;
                        }
                    }
                }
            }
        });
        Ok(Self { path, content, lost, end: Some(end), renewal: Some(renewal) })
    }

    fn is_held(&self) -> bool {
        !self.lost.load(Ordering::SeqCst)
            && retry_stale(|| read_regular(&self.path, OWNER_MAX)).is_ok_and(|found| found == self.content)
    }

    /// Removes the lease of `dest` if it has expired or its process is dead.
    ///
    /// # Errors
    /// [`Error::Locked`] when it is alive.
    fn clear(dest: &Path) -> Result<()> {
        let path = sibling(dest, "lease")?;
        let Some(found) = expired(&path, dest)? else { return Ok(()) };
        // Of two processes that see it expired, the slower could otherwise remove the lease that the faster has taken since.
        let claim = sibling(dest, "steal")?;
        match File::create_new(&claim) {
            Ok(mut file) => {
                let _ = file.write_all(&Owner::this(Some(Duration::from_secs(LEASE_SECONDS))).to_json());
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                // The process that claimed it was killed.
                if expired(&claim, dest)?.is_some() {
                    remove(&claim)?;
                }
                return Err(held(dest, &path));
            }
            Err(e) => return Err(Error::io("create", claim)(e)),
        }
        let still = expired(&path, dest);
        let cleared = match still {
            Ok(Some(now)) if now == found => remove(&path),
            other => other.map(drop),
        };
        remove(&claim)?;
        cleared
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(renewal) = self.renewal.take() {
            let _ = renewal.join();
        }
        if self.is_held() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Rewrites a lease, which sets its modification time by the file server's clock. `false` if it is gone or another process's.
fn renew(path: &Path, content: &[u8]) -> io::Result<bool> {
    match read_regular(path, OWNER_MAX) {
        Ok(found) if found == content => {}
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => return Ok(false),
    }
    let mut file = open_regular_with(OpenOptions::new().write(true), path)?;
    file.rewind()?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(true)
}

/// The content of a lease that is not renewed in time or whose process is dead; `None` when there is no lease.
///
/// # Errors
/// [`Error::Locked`] when it is alive.
fn expired(path: &Path, dest: &Path) -> Result<Option<Vec<u8>>> {
    let read = retry_stale(|| {
        // Opening makes an NFS client ask the server instead of its cache.
        let file = open_regular_with(OpenOptions::new().read(true), path)?;
        Ok((file.metadata()?.modified()?, read_regular(path, OWNER_MAX)?))
    });
    let (renewed, content) = match read {
        Ok(read) => read,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    let owner = Owner::parse(&content);
    if owner.as_ref().is_some_and(Owner::is_dead) {
        return Ok(Some(content));
    }
    // The owner may not have written its record yet.
    let time = owner.and_then(|owner| owner.lease()).unwrap_or(Duration::from_secs(LEASE_SECONDS));
    // Clocks of two machines differ, so both times come from the file server.
    let probe = sibling(dest, &format!("{}-{}.probe", Owner::tag(), PROBES.fetch_add(1, Ordering::Relaxed)))?;
    remove(&probe)?;
    let now = File::create_new(&probe).and_then(|mut file| {
        file.write_all(b"\n")?;
        file.sync_all()?;
        file.metadata()?.modified()
    });
    let _ = fs::remove_file(&probe);
    let now = now.map_err(Error::io("write", &probe))?;
    let alive = now.duration_since(renewed).is_ok_and(|age| age <= time) || now < renewed;
    if alive { Err(held(dest, path)) } else { Ok(Some(content)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    /// Eight threads take the lock of `dest`; two never hold it at once, and no file is left.
    fn exclude(dir: &Path, policy: Policy, rounds: usize) {
        let dest = dir.join("x");
        let (inside, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..rounds {
                        let lock = match Lock::take_with(&dest, policy) {
                            Ok(lock) => lock,
                            Err(Error::Locked { .. }) => continue,
                            Err(error) => panic!("{error}"),
                        };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                        taken.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        lock.check().unwrap();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0);
    }

    fn policy(mode: Mode) -> Policy {
        Policy { mode, lease: Duration::from_secs(60) }
    }

    /// Lock files appear and disappear while other threads open and lock them.
    #[test]
    fn a_lock_has_one_holder_while_its_file_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        exclude(dir.path(), policy(Mode::Flock), 4000);
        let stays = !cfg!(unix) || !Mount::of(dir.path()).is_local();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), usize::from(stays), "its file stays behind");
    }

    #[test]
    fn a_lease_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        exclude(dir.path(), policy(Mode::Lease), 100);
        assert!(!dir.path().join(".x.lease").exists());
    }

    fn owner(lease_s: u64) -> serde_json::Value {
        serde_json::from_slice(&Owner::this(Some(Duration::from_secs(lease_s))).to_json()).unwrap()
    }

    /// Many threads try to steal the lease of a dead process of this machine.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_lease_of_a_dead_process_is_stolen_by_one() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let mut dead = owner(3600);
        dead["pid"] = child.id().into();
        for _ in 0..30 {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(".x.lease"), dead.to_string()).unwrap();
            exclude(dir.path(), policy(Mode::Lease), 4);
        }
    }

    /// A lease of another machine expires after the time that it states. Until then the error names its owner.
    #[test]
    fn a_lease_of_another_machine_lasts_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let (dest, lease) = (dir.path().join("x"), dir.path().join(".x.lease"));
        let mut far = owner(2);
        far["host"] = "node7".into();
        far["job"] = "1189".into();
        fs::write(&lease, far.to_string()).unwrap();
        for mode in [Mode::Lease, Mode::Auto] {
            let error = Lock::take_with(&dest, policy(mode)).unwrap_err();
            assert!(matches!(&error, Error::Locked { lock, .. } if *lock == lease), "{error}");
            assert!(error.to_string().contains("on node7, job 1189 is writing it"), "{error}");
        }
        let lock = loop {
            match Lock::take_with(&dest, policy(Mode::Lease)) {
                Err(Error::Locked { .. }) => std::thread::sleep(RETRY),
                taken => break taken.unwrap(),
            }
        };
        lock.check().unwrap();
        // A renewed lease has not expired.
        far["lease_s"] = 1.into();
        let other = dir.path().join("y");
        let held = Lock::take_with(&other, Policy { mode: Mode::Lease, lease: Duration::from_secs(1) }).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            assert!(matches!(Lock::take_with(&other, policy(Mode::Lease)), Err(Error::Locked { .. })));
            std::thread::sleep(RETRY);
        }
        held.check().unwrap();
        // The holder of a stolen lease notices, and leaves the thief's lease in place.
        fs::write(dir.path().join(".y.lease"), far.to_string()).unwrap();
        assert!(matches!(held.check(), Err(Error::Locked { .. })));
        drop(held);
        assert!(dir.path().join(".y.lease").exists());
    }
}
