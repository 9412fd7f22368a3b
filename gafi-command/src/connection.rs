//! The connection to a program: the handshake, then requests, one at a time. Any failure kills the program and becomes
//! a [`Failure`]; later requests fail at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gafi_core::{Error, Result, read_regular, write_atomic};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

use crate::failure::{Failure, Mismatch};
use crate::process::{LineProcess, NoLine};
use crate::program::Program;
use crate::protocol::{Answer, Greeting, Numbered, PROTOCOL, Role};
use crate::scratch;

/// Bytes that an answer's file may have besides its values: the header, and metadata that a program may add to it.
const HEADER_MAX: u64 = 1 << 20;

/// A running program that answers requests.
#[derive(Debug)]
pub(crate) struct Connection {
    program: Program,
    process: LineProcess,
    // Folder of the exchanged files, removed with the connection.
    scratch: TempDir,
    stop: Arc<AtomicBool>,
    requests: u64,
    failed: bool,
}

impl Connection {
    /// Starts the program and reads its hello message.
    pub(crate) fn open<H: DeserializeOwned>(
        program: &Program,
        role: Role,
        artifact: Option<&Path>,
        stop: &Arc<AtomicBool>,
    ) -> Result<(Self, H)> {
        program.check()?;
        let scratch = scratch::create();
        let scratch = scratch.map_err(Error::other("creating a temporary folder for the files of a program"))?;
        let process = LineProcess::spawn(&program.arguments(artifact))
            .map_err(Error::other(format!("starting the program `{}`", program.name())))?;
        let mut connection =
            Self { program: program.clone(), process, scratch, stop: stop.clone(), requests: 0, failed: false };
        let greeting = line(&Greeting { protocol: PROTOCOL, role, scratch: connection.scratch.path() })?;
        let answer = connection.exchange(greeting, role.hello(), "a line of JSON")?;
        let hello = hello(&answer).map_err(|wrong| connection.fail(role.hello(), wrong))?;
        Ok((connection, hello))
    }

    /// Sends a request and returns the file of its answer, which may have `values` bytes and a header. `what` names the
    /// request in errors.
    pub(crate) fn request(&mut self, request: impl Serialize, what: &str, values: usize) -> Result<Vec<u8>> {
        let id = self.requests;
        self.requests += 1;
        let file = self.file(&format!("answer-{id}.safetensors"));
        let request = line(&Numbered { id, request, answer: &file })?;
        let answer = self.exchange(request, what, &expected_answer(id))?;
        let read = check_answer(&answer, id).and_then(|()| read(&file, values as u64));
        read.map_err(|wrong| self.fail(what, wrong))
    }

    /// Writes a file for the program to read.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let file = self.file(name);
        write_atomic(&file, bytes)?;
        Ok(file)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Sends a line and receives one.
    fn exchange(&mut self, line: String, what: &str, expected: &str) -> Result<String> {
        if self.failed {
            return Err(self.failure(what, Mismatch::new(expected, "that it was killed after an earlier failure")));
        }
        self.process.send(line);
        self.process.receive(self.program.timeout(), &self.stop).map_err(|reason| match reason {
            NoLine::Stopped => {
                self.failed = true;
                self.process.kill();
                Error::Interrupted
            }
            NoLine::Timeout => {
                let within = format!("{expected} within {} seconds", self.program.timeout_s);
                self.fail(what, Mismatch::new(within, "no output"))
            }
            NoLine::Ended(how) => self.fail(what, Mismatch::new(expected, how)),
            NoLine::Malformed(found) => self.fail(what, Mismatch::new(expected, found)),
        })
    }

    /// Kills the program because of a wrong answer.
    pub(crate) fn fail(&mut self, what: &str, wrong: Mismatch) -> Error {
        self.failed = true;
        self.process.kill();
        self.failure(what, wrong)
    }

    fn failure(&self, what: &str, Mismatch { expected, found }: Mismatch) -> Error {
        let program = self.program.name();
        Failure { program, request: what.into(), expected, found, stderr: self.process.last_stderr() }.into()
    }
}

/// A message as a line of JSON.
fn line(message: &impl Serialize) -> Result<String> {
    let mut text = serde_json::to_string(message).map_err(Error::other("encoding a request to a program"))?;
    text.push('\n');
    Ok(text)
}

/// Parses a hello message, its version first.
pub(crate) fn hello<H: DeserializeOwned>(text: &str) -> Result<H, Mismatch> {
    let expected =
        || format!("an object with \"protocol\": {PROTOCOL}, \"classes\", \"image\" and the other keys of the role");
    let malformed = |e: serde_json::Error| Mismatch::new(expected(), format!("{} ({e})", excerpt(text)));
    let value: Value = serde_json::from_str(text).map_err(malformed)?;
    let Some(version) = value.get("protocol") else { return Err(Mismatch::new(expected(), excerpt(text))) };
    if version.as_u64() != Some(u64::from(PROTOCOL)) {
        return Err(Mismatch::new(format!("protocol {PROTOCOL}"), format!("protocol {version}")));
    }
    serde_json::from_value(value).map_err(malformed)
}

fn expected_answer(id: u64) -> String {
    format!("the line {{\"id\":{id}}}")
}

/// Whether the line `text` answers request `id` with success.
pub(crate) fn check_answer(text: &str, id: u64) -> Result<(), Mismatch> {
    let wrong = |found: String| Err(Mismatch::new(expected_answer(id), found));
    match serde_json::from_str::<Answer>(text) {
        Ok(Answer { error: Some(error), .. }) => wrong(format!("the error {error:?}")),
        Ok(answer) if answer.id == id => Ok(()),
        Ok(answer) => wrong(format!("an answer to request {}", answer.id)),
        Err(_) => wrong(format!("{}; print only answers to standard output", excerpt(text))),
    }
}

/// Reads the file of an answer, and removes it.
fn read(file: &Path, values: u64) -> Result<Vec<u8>, Mismatch> {
    let wrong = |found: String| Mismatch::new(format!("the file {}", file.display()), found);
    let limit = values.saturating_add(HEADER_MAX);
    let bytes = read_regular(file, limit).map_err(|e| wrong(e.to_string()))?;
    // A file that stays is removed with the folder.
    let _ = std::fs::remove_file(file);
    Ok(bytes)
}

/// The beginning of a line, for an error.
fn excerpt(line: &str) -> String {
    let short: String = line.chars().take(200).collect();
    if short.len() < line.len() { format!("{short:?}…") } else { format!("{short:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::GeneratorHello;

    #[test]
    fn the_version_is_checked_before_the_keys() {
        let found = |text: &str| hello::<GeneratorHello>(text).map_err(|wrong| wrong.found);
        let good = r#"{"protocol":1,"classes":["a"],"image":[1,2,3]}"#;
        let hello = found(good).unwrap();
        assert_eq!((hello.image, hello.latent_dim, hello.std, hello.batch()), ([1, 2, 3], 0, false, 256));
        assert_eq!(found(r#"{"protocol":2,"news":1}"#).unwrap_err(), "protocol 2");
        assert_eq!(found(r#"{"protocol":"1"}"#).unwrap_err(), "protocol \"1\"");
        assert!(found("Loading weights").unwrap_err().starts_with("\"Loading weights\""));
        let misspelt = good.replace("}", r#","latent-dim":3}"#);
        assert!(found(&misspelt).unwrap_err().contains("latent-dim"), "unknown keys are errors");
        assert!(found(&"x".repeat(5000)).unwrap_err().len() < 400);
    }

    #[test]
    fn an_answer_must_match_its_request() {
        assert_eq!(check_answer(r#"{"id":3}"#, 3), Ok(()));
        for (text, found) in [
            (r#"{"id":2}"#, "an answer to request 2"),
            (r#"{"id":3,"error":"no weights"}"#, "the error \"no weights\""),
            ("epoch 1: loss 2", "\"epoch 1: loss 2\"; print only answers to standard output"),
            ("", "\"\"; print only answers to standard output"),
        ] {
            assert_eq!(check_answer(text, 3).unwrap_err().found, found);
        }
    }
}
