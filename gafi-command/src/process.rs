//! A child process that is talked to by lines. Threads read and write its pipes, so that nothing here ever waits on a
//! pipe: whoever listens also watches the clock, the child and the wish to stop.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Lines of standard error that are kept.
const LAST: usize = 20;

/// Bytes of a line at most: an answer has a few dozen, and a program that never ends its line must not fill the memory.
const LINE_MAX: u64 = 1 << 16;

/// How often a wait looks up.
const TICK: Duration = Duration::from_millis(20);

/// How long a program that was told that nothing follows may take to end by itself.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a thread that reads lines hands over.
type Line = Result<String, &'static str>;

/// Why no line came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Silence {
    /// The time is up.
    Timeout,
    /// A stop was asked for.
    Stopped,
    /// The process has ended, or closed its output: how.
    Ended(String),
    /// What came is no line.
    Garbled(&'static str),
}

/// A running child. Dropped, it is ended and reaped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    // None once nothing more will be said to it.
    input: Option<Sender<String>>,
    output: Receiver<Line>,
    said: Arc<Mutex<VecDeque<String>>>,
    stderr: JoinHandle<()>,
}

impl Process {
    pub(crate) fn spawn(arguments: &[String]) -> std::io::Result<Self> {
        let (program, rest) = arguments.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        // A Python module that lies in an artifact must not leave its cache there.
        command.args(rest).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let gone = || std::io::Error::other("a pipe that was asked for is not there");
        let (stdin, stdout) = (child.stdin.take().ok_or_else(gone)?, child.stdout.take().ok_or_else(gone)?);
        let stderr = child.stderr.take().ok_or_else(gone)?;
        let said = Arc::new(Mutex::new(VecDeque::new()));
        // The threads end with the pipes. Nobody joins them: a grandchild may hold a pipe open for as long as it likes.
        let (input, output) = (write_lines(stdin), read_lines(stdout));
        let stderr = keep_last(stderr, said.clone());
        Ok(Self { child, input: Some(input), output, said, stderr })
    }

    /// Sends a line. That the program no longer reads shows when its answer is listened for.
    pub(crate) fn say(&self, line: String) {
        if let Some(input) = &self.input {
            let _ = input.send(line);
        }
    }

    /// The next line, within `timeout` and as long as `stop` is not set.
    pub(crate) fn listen(&mut self, timeout: Duration, stop: &AtomicBool) -> Result<String, Silence> {
        let begun = Instant::now();
        let garbled = |line: Line| line.map_err(Silence::Garbled);
        loop {
            match self.output.recv_timeout(TICK) {
                Ok(line) => return garbled(line),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended(stop)),
                Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => return Err(Silence::Stopped),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // A grandchild may hold the pipe of a program that has ended.
            if !matches!(self.child.try_wait(), Ok(None)) {
                return self.output.recv_timeout(5 * TICK).map_or_else(|_| Err(self.ended(stop)), garbled);
            }
            if begun.elapsed() >= timeout {
                return Err(Silence::Timeout);
            }
        }
    }

    /// How a process ended that closed its output.
    fn ended(&mut self, stop: &AtomicBool) -> Silence {
        let status = self.wait(FAREWELL);
        if stop.load(Ordering::Relaxed) {
            // Ctrl-C in a terminal reaches the program too, and sooner than we look.
            return Silence::Stopped;
        }
        Silence::Ended(match status {
            Some(status) => format!("that it ended with {status}"),
            None => "that it closed its standard output".into(),
        })
    }

    fn wait(&mut self, most: Duration) -> Option<std::process::ExitStatus> {
        let begun = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(None) if begun.elapsed() < most => std::thread::sleep(TICK),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
    }

    /// Ends it now.
    pub(crate) fn kill(&mut self) {
        self.input = None;
        // Both fail when it has been reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The last lines of its standard error, once it has ended.
    pub(crate) fn last_words(&self) -> Vec<String> {
        let begun = Instant::now();
        while !self.stderr.is_finished() && begun.elapsed() < 10 * TICK {
            std::thread::sleep(TICK);
        }
        self.said.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of its input asks a program to end; it may have something to put away.
        self.input = None;
        self.wait(FAREWELL);
        self.kill();
    }
}

fn write_lines(mut pipe: ChildStdin) -> Sender<String> {
    let (send, receive) = channel::<String>();
    std::thread::spawn(move || {
        for line in receive {
            if pipe.write_all(line.as_bytes()).and_then(|()| pipe.flush()).is_err() {
                break; // it has ended, which whoever listens finds out
            }
        }
    });
    send
}

fn read_lines(pipe: impl Read + Send + 'static) -> Receiver<Line> {
    // Bounded: a program that talks without being asked waits.
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
fn next_line(pipe: &mut impl BufRead) -> Option<Line> {
    let mut bytes = Vec::new();
    match pipe.take(LINE_MAX).read_until(b'\n', &mut bytes) {
        Ok(0) | Err(_) => return None,
        Ok(n) if n as u64 == LINE_MAX && bytes.last() != Some(&b'\n') => return Some(Err("a line without an end")),
        Ok(_) => {}
    }
    let text = String::from_utf8(bytes).map(|text| text.trim_end().to_owned());
    Some(text.map_err(|_| "bytes that are no UTF-8"))
}

fn keep_last(pipe: impl Read + Send + 'static, said: Arc<Mutex<VecDeque<String>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while let Ok(1..) = (&mut pipe).take(LINE_MAX).read_until(b'\n', &mut bytes) {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            bytes.clear();
            tracing::debug!("{line}");
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.len() == LAST {
                said.pop_front();
            }
            said.push_back(line);
        }
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn there(pid: u32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    /// A child of `sh` that has said that it runs, and its number.
    fn running(script: &str) -> (Process, u32) {
        let mut process = Process::spawn(&["sh".into(), "-c".into(), format!("echo ready; {script}")]).unwrap();
        assert_eq!(process.listen(Duration::from_secs(60), &AtomicBool::new(false)).unwrap(), "ready");
        let pid = process.child.id();
        assert!(there(pid));
        (process, pid)
    }

    #[test]
    fn a_child_is_ended_and_reaped_whatever_it_does() {
        // One that ends when its input does, one that never would, one that has ended, one whose own child holds the pipes.
        for script in ["cat", "exec sleep 100", "exit 1", "sleep 5 & wait"] {
            let (process, pid) = running(script);
            drop(process);
            assert!(!there(pid), "{script}: running, or a zombie");
        }
    }

    #[test]
    fn the_end_is_seen_though_a_grandchild_holds_the_pipe() {
        let (mut process, _) = running("sleep 5 & exit 7");
        let silence = process.listen(Duration::from_secs(60), &AtomicBool::new(false)).unwrap_err();
        assert_eq!(silence, Silence::Ended("that it ended with exit status: 7".into()));
    }

    #[test]
    fn the_last_lines_are_kept() {
        let (mut process, _) = running("for i in $(seq 50); do echo line $i >&2; done; exit 1");
        process.listen(Duration::from_secs(60), &AtomicBool::new(false)).unwrap_err();
        let lines = process.last_words();
        assert_eq!((lines.len(), lines[0].as_str(), lines[19].as_str()), (20, "line 31", "line 50"));
    }
}
