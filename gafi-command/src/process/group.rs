//! A group of processes that ends with this process, in whatever way this process ends.
//!
//! The leader of the group is a shell that waits for the end of its standard input. Only this process holds the other end of that
//! pipe, so the system closes it when this process ends, even by SIGKILL; the shell then kills its group, itself included. The
//! leader starts first: a program is in the group before it runs. (A parent-death signal would not reach the program's own
//! children and, on Linux, is tied to the thread that started the program.)

use std::process::Command;

/// Signals to the group, such as a program's own `kill 0`, must not end the leader before its work is done.
#[cfg(unix)]
const WATCH: &str = "trap '' HUP INT QUIT TERM TSTP USR1 USR2; read -r line; kill -KILL 0";

/// A process group. Its processes are killed when it is dropped. A process that left the group (`setsid`) is not in it.
#[derive(Debug)]
pub(super) struct Group {
    // `None` once the group was killed.
    #[cfg(unix)]
    leader: Option<std::process::Child>,
}

#[cfg(unix)]
impl Group {
    /// Starts a group that contains only its leader.
    pub(super) fn start() -> std::io::Result<Self> {
        use std::os::unix::process::CommandExt;
        use std::process::Stdio;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", WATCH]).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { leader: Some(shell.spawn()?) })
    }

    /// Makes the process of `command` start in this group.
    pub(super) fn adopt(&self, command: &mut Command) {
        use std::os::unix::process::CommandExt;
        if let Some(leader) = &self.leader {
            command.process_group(leader.id() as i32);
        }
    }

    /// Kills every process in the group.
    pub(super) fn kill(&mut self) {
        use nix::sys::signal::{Signal, killpg};
        let Some(mut leader) = self.leader.take() else { return };
        // The leader is not reaped yet, so no other group can have its number. The call fails when the group is empty.
        let _ = killpg(nix::unistd::Pid::from_raw(leader.id() as i32), Signal::SIGKILL);
        let _ = leader.wait();
    }
}

/// Other systems have no process groups: only the program itself is killed.
#[cfg(not(unix))]
impl Group {
    pub(super) fn start() -> std::io::Result<Self> {
        Ok(Self {})
    }

    pub(super) fn adopt(&self, _: &mut Command) {}

    pub(super) fn kill(&mut self) {}
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
