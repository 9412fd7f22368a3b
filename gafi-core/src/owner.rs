//! The owner of a lock or temporary file: a process, its machine and the machine's boot.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Environment variables that name the job of a batch system: Slurm, PBS and Torque, LSF, Grid Engine.
pub const BATCH_JOB_VARIABLES: [&str; 4] = ["SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"];

/// The process that owns a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    host: String,
    /// Identifies the machine's boot and the PID namespace; empty when unknown.
    boot: String,
    pid: u32,
    job: Option<String>,
    /// Distinguishes the locks of one process.
    serial: u64,
    /// Seconds without renewal after which the lease expires; `None` for `flock`.
    lease_s: Option<u64>,
}

impl Owner {
    /// This process.
    pub(crate) fn this(lease: Option<Duration>) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let (host, boot) = machine();
        Self {
            host: host.clone(),
            boot: boot.clone(),
            pid: std::process::id(),
            job: BATCH_JOB_VARIABLES.iter().find_map(|name| std::env::var(name).ok()),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            lease_s: lease.map(|time| time.as_secs()),
        }
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// How long its lease lasts without renewal.
    pub(crate) fn lease(&self) -> Option<Duration> {
        self.lease_s.map(Duration::from_secs)
    }

    /// Whether its process is certainly dead: it ran on this machine since the last boot and no longer exists.
    pub(crate) fn is_dead(&self) -> bool {
        let (host, boot) = machine();
        (&self.host, &self.boot) == (host, boot) && is_gone(self.pid)
    }

    /// `HOST-BOOT-PID`, for the names of this process's temporary files.
    pub(crate) fn tag() -> String {
        format!("{}{}", tag_of_machine(), std::process::id())
    }

    /// Whether `tag`, from a file name, is of a dead process of this machine.
    pub(crate) fn is_dead_tag(tag: &str) -> bool {
        tag.strip_prefix(tag_of_machine()).and_then(|pid| pid.parse().ok()).is_some_and(is_gone)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Anyone may have written the file.
        let plain = |text: &str| text.chars().filter(|c| !c.is_control()).take(64).collect::<String>();
        write!(f, "process {} on {}", self.pid, plain(&self.host))?;
        self.job.as_ref().map_or(Ok(()), |job| write!(f, ", job {}", plain(job)))
    }
}

/// This machine's name, and the id of its boot and PID namespace: two containers may share a name.
fn machine() -> &'static (String, String) {
    static MACHINE: OnceLock<(String, String)> = OnceLock::new();
    MACHINE.get_or_init(|| {
        let read = |path| crate::files::read_text(path, 1 << 16).map(|text| text.trim().to_string()).ok();
        let host = read("/proc/sys/kernel/hostname").or_else(|| std::env::var("HOSTNAME").ok());
        let boot = read("/proc/sys/kernel/random/boot_id");
        let processes = std::fs::read_link("/proc/self/ns/pid").ok().map(|link| link.to_string_lossy().into_owned());
        let boot = boot.zip(processes).map(|(boot, processes)| format!("{boot} {processes}"));
        (host.unwrap_or_else(|| "unknown".into()), boot.unwrap_or_default())
    })
}

fn tag_of_machine() -> &'static str {
    static TAG: OnceLock<String> = OnceLock::new();
    TAG.get_or_init(|| {
        let (host, boot) = machine();
        let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(32).collect();
        format!("{host}-{}-", &blake3::hash(boot.as_bytes()).to_hex()[..8])
    })
}

/// Whether no process has this id. Only Linux shows this without a raw system call; elsewhere every process counts as alive.
fn is_gone(pid: u32) -> bool {
    std::path::Path::new("/proc/self").exists() && !std::path::Path::new(&format!("/proc/{pid}")).exists()
}
