//! A child process that exchanges lines with GaFi. Threads read and write its pipes, so no call here blocks on a pipe:
//! a wait also watches the clock, the child and the stop flag.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::ChildStdin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::child::{Pipes, Process, TICK};

/// Lines of standard error that are kept for error messages.
const STDERR_LINES: usize = 20;

/// Longest line in bytes. An answer has a few dozen; a program that never ends its line must not exhaust memory.
const LINE_MAX: u64 = 1 << 16;

/// How long a program may keep running after its standard input was closed.
const GRACE: Duration = Duration::from_secs(2);

/// What the reading thread sends: a line, or why the bytes are not one.
type Line = Result<String, &'static str>;

/// Why no line was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoLine {
    /// The program was silent for the whole timeout.
    Timeout,
    /// The stop flag was set.
    Stopped,
    /// The program exited or closed its standard output; in words that follow "found".
    Ended(String),
    /// The bytes are not a line; in words that follow "found".
    Malformed(&'static str),
}

/// A running program. Dropping it closes its standard input, waits [`GRACE`], then kills it.
#[derive(Debug)]
pub(crate) struct LineProcess {
    process: Process,
    // `None` once standard input is closed.
    input: Option<Sender<String>>,
    output: Receiver<Line>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    stderr_reader: JoinHandle<()>,
}

impl LineProcess {
    pub(crate) fn spawn(arguments: &[String]) -> std::io::Result<Self> {
        let (process, Pipes { stdin, stdout, stderr: pipe }) = Process::spawn_piped(arguments)?;
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        // The threads end with the pipes. They are not joined, because a grandchild may hold a pipe open indefinitely.
        Ok(Self {
            process,
            input: Some(write_lines(stdin)),
            output: read_lines(stdout),
            stderr_reader: keep_last(pipe, stderr.clone()),
            stderr,
        })
    }

    /// Sends a line. A program that has stopped reading is noticed by the next [`LineProcess::receive`].
    pub(crate) fn send(&self, line: String) {
        if let Some(input) = &self.input {
            let _ = input.send(line);
        }
    }

    /// The next line, within `timeout` and as long as `stop` is not set.
    pub(crate) fn receive(&mut self, timeout: Duration, stop: &AtomicBool) -> Result<String, NoLine> {
        let started = Instant::now();
        let checked = |line: Line| line.map_err(NoLine::Malformed);
        loop {
            match self.output.recv_timeout(TICK) {
                Ok(line) => return checked(line),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended(stop)),
                Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => return Err(NoLine::Stopped),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // A grandchild may hold the pipe of a program that has exited.
            if !self.process.is_running() {
                return self.output.recv_timeout(5 * TICK).map_or_else(|_| Err(self.ended(stop)), checked);
            }
            if started.elapsed() >= timeout {
                return Err(NoLine::Timeout);
            }
        }
    }

    /// How the program ended, once its standard output is closed.
    fn ended(&mut self, stop: &AtomicBool) -> NoLine {
        let status = self.process.wait_for(GRACE);
        if stop.load(Ordering::Relaxed) {
            // Ctrl-C in a terminal reaches the program too, perhaps before this check.
            return NoLine::Stopped;
        }
        NoLine::Ended(match status {
            Some(status) => format!("that the program had exited ({status})"),
            None => "that the program had closed its standard output".into(),
        })
    }

    /// Kills the program at once.
    pub(crate) fn kill(&mut self) {
        self.input = None;
        self.process.kill();
    }

    /// The last lines of standard error of a program that has ended.
    pub(crate) fn last_stderr(&self) -> Vec<String> {
        let started = Instant::now();
        while !self.stderr_reader.is_finished() && started.elapsed() < 10 * TICK {
            std::thread::sleep(TICK);
        }
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Drop for LineProcess {
    fn drop(&mut self) {
        // The end of its input asks a program to exit, with time to clean up.
        self.input = None;
        self.process.wait_for(GRACE);
    }
}

fn write_lines(mut pipe: ChildStdin) -> Sender<String> {
    let (send, receive) = channel::<String>();
    std::thread::spawn(move || {
        for line in receive {
            if pipe.write_all(line.as_bytes()).and_then(|()| pipe.flush()).is_err() {
                break; // the program has ended, as `receive` reports
            }
        }
    });
    send
}

fn read_lines(pipe: impl Read + Send + 'static) -> Receiver<Line> {
    // Bounded, so that a program that prints unrequested lines has to wait.
    let (send, receive) = sync_channel(16);
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        while let Some(line) = next_line(&mut pipe) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}

/// The next line without its end; `None` at the end of the pipe.
pub(crate) fn next_line(pipe: &mut impl BufRead) -> Option<Line> {
    let mut bytes = Vec::new();
    match pipe.take(LINE_MAX).read_until(b'\n', &mut bytes) {
        Ok(0) | Err(_) => return None,
        Ok(n) if n as u64 == LINE_MAX && bytes.last() != Some(&b'\n') => {
            return Some(Err("a line of 64 KiB without an end"));
        }
        Ok(_) => {}
    }
    let text = String::from_utf8(bytes).map(|text| text.trim_end().to_owned());
    Some(text.map_err(|_| "a line that is not UTF-8"))
}

fn keep_last(pipe: impl Read + Send + 'static, kept: Arc<Mutex<VecDeque<String>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while let Ok(1..) = (&mut pipe).take(LINE_MAX).read_until(b'\n', &mut bytes) {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            bytes.clear();
            tracing::debug!("{}", gafi_core::printable(&line));
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() == STDERR_LINES {
                kept.pop_front();
            }
            kept.push_back(line);
        }
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn exists(pid: u32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    /// A running child of `sh`, and its process id.
    fn running(script: &str) -> (LineProcess, u32) {
        let mut process = LineProcess::spawn(&["sh".into(), "-c".into(), format!("echo ready; {script}")]).unwrap();
        assert_eq!(process.receive(Duration::from_secs(60), &AtomicBool::new(false)).unwrap(), "ready");
        let pid = process.process.child.id();
        assert!(exists(pid));
        (process, pid)
    }

    #[test]
    fn children_are_always_killed_and_reaped() {
        // One that ends with its input, one that never ends, one that has ended, one whose own child holds the pipes.
        for script in ["cat", "exec sleep 100", "exit 1", "sleep 5 & wait"] {
            let (process, pid) = running(script);
            drop(process);
            assert!(!exists(pid), "{script}: running, or a zombie");
        }
    }

    /// Whether the process runs: it exists and is not a zombie waiting for its new parent.
    fn runs(pid: &str) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        status.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
    }

    #[test]
    fn no_descendant_outlives_the_program() {
        // One that ignores every signal that can be ignored, one whose parent has ended, and one that stopped its whole group.
        for script in [
            "trap '' HUP INT TERM; (while :; do sleep 1; done) & echo $!; wait",
            "(sleep 1000 & echo $!)",
            "sleep 1000 & echo $!; kill -STOP 0",
            "trap '' TERM; sh -c 'trap \"\" TERM; while :; do sleep 1; done' & echo $!; sleep 0.2; kill 0; wait",
        ] {
            let (mut process, _) = running(script);
            let grandchild = process.receive(Duration::from_secs(60), &AtomicBool::new(false)).unwrap();
            assert!(runs(&grandchild), "{script}");
            drop(process);
            // The system ends killed processes in its own time.
            let started = Instant::now();
            while runs(&grandchild) {
                assert!(started.elapsed() < Duration::from_secs(60), "{script}: its child still runs");
                std::thread::sleep(TICK);
            }
        }
    }

    #[test]
    fn an_exit_is_noticed_while_a_grandchild_holds_the_pipe() {
        let (mut process, _) = running("sleep 5 & exit 7");
        let error = process.receive(Duration::from_secs(60), &AtomicBool::new(false)).unwrap_err();
        assert_eq!(error, NoLine::Ended("that the program had exited (exit status: 7)".into()));
    }

    #[test]
    fn the_last_lines_of_stderr_are_kept() {
        let (mut process, _) = running("for i in $(seq 50); do echo line $i >&2; done; exit 1");
        process.receive(Duration::from_secs(60), &AtomicBool::new(false)).unwrap_err();
        let lines = process.last_stderr();
        assert_eq!((lines.len(), lines[0].as_str(), lines[19].as_str()), (20, "line 31", "line 50"));
    }
}
