//! One child process with everything that it starts: its environment, starting, waiting and killing.

use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::group::Group;

/// Time between two checks of the child, the clock and the stop flag during a wait.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// A child process, killed with its whole group and reaped when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pub(super) child: Child,
    group: Group,
}

/// The three pipes of a child.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

impl Process {
    /// Starts a program without input. Its standard output is dropped, its standard error is the caller's.
    pub(crate) fn spawn(arguments: &[String]) -> std::io::Result<Self> {
        let (mut command, group) = command(arguments)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        Ok(Self { child, group })
    }

    pub(super) fn spawn_piped(arguments: &[String]) -> std::io::Result<(Self, Pipes)> {
        let (mut command, group) = command(arguments)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(std::io::Error::other("the child process has no pipes"));
        };
        Ok((Self { child, group }, Pipes { stdin, stdout, stderr }))
    }

    /// Waits until the program ends; `None` when `give_up` became true first.
    pub(crate) fn wait_unless(&mut self, give_up: impl Fn() -> bool) -> std::io::Result<Option<ExitStatus>> {
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || give_up() {
                return Ok(status);
            }
            std::thread::sleep(TICK);
        }
    }

    /// Waits at most `limit`; `None` when the program still runs.
    pub(super) fn wait_for(&mut self, limit: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        self.wait_unless(|| started.elapsed() >= limit).unwrap_or_default()
    }

    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills the program and everything that it started and that still runs, even after it ended normally.
    pub(crate) fn kill(&mut self) {
        // The program itself may have left the group. Both calls on it fail when it has been reaped already.
        let _ = self.child.kill();
        self.group.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The command line with the environment that every foreign program gets, and the process group that it will be in.
fn command(arguments: &[String]) -> std::io::Result<(Command, Group)> {
    let (program, rest) = arguments.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    // A Python module inside an artifact must not leave its bytecode cache there.
    command.args(rest).env("PYTHONDONTWRITEBYTECODE", "1");
    let group = Group::start()?;
    group.adopt(&mut command);
    Ok((command, group))
}
