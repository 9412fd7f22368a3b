//! The conversation with a program: the handshake, then requests, one at a time. Whatever goes wrong ends the program and
//! becomes a [`Failure`]; nothing is asked of it afterwards.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gafi_core::{Error, Result, write_atomic};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

use crate::failure::{Failure, Mismatch};
use crate::process::{Process, Silence};
use crate::program::Program;
use crate::protocol::{Answer, Greeting, Numbered, PROTOCOL, Role};

/// Bytes that an answer's file may have beyond its values: the header, and room for what a program adds to it.
const HEADER_MAX: u64 = 1 << 20;

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Link {
    program: Program,
    process: Process,
    // Where files are exchanged; gone with the link.
    scratch: TempDir,
    stop: Arc<AtomicBool>,
    asked: u64,
    failed: bool,
}

impl Link {
    /// Starts the program and hears what it says of itself.
    pub(crate) fn open<H: DeserializeOwned>(
        program: &Program,
        role: Role,
        artifact: Option<&Path>,
        stop: &Arc<AtomicBool>,
    ) -> Result<(Self, H)> {
        program.check()?;
        let scratch = tempfile::Builder::new().prefix("gafi-command-").tempdir();
        let scratch = scratch.map_err(Error::other("making a folder to exchange files in"))?;
        let process = Process::spawn(&program.arguments(artifact))
            .map_err(Error::other(format!("starting the program `{}`", program.name())))?;
        let (program, stop) = (program.clone(), stop.clone());
        let mut link = Self { program, process, scratch, stop, asked: 0, failed: false };
        let asked = format!("its hello as a {role}");
        let greeting = Greeting { protocol: PROTOCOL, role, scratch: link.scratch.path() };
        let greeting = line(&greeting)?;
        let answer = link.exchange(greeting, &asked, "a line with what it is")?;
        let hello = hello(&answer).map_err(|wrong| link.fail(&asked, wrong))?;
        Ok((link, hello))
    }

    /// Asks, and gives the bytes of the file that the program answers with: `values` bytes and a header.
    pub(crate) fn ask(&mut self, request: impl Serialize, asked: &str, values: usize) -> Result<Vec<u8>> {
        let id = self.asked;
        self.asked += 1;
        let file = self.file(&format!("answer-{id}.safetensors"));
        let request = line(&Numbered { id, request, answer: &file })?;
        let said = self.exchange(request, asked, &format!("the line {{\"id\":{id}}}"))?;
        let read = answer(&said, id).and_then(|()| read(&file, values as u64));
        read.map_err(|wrong| self.fail(asked, wrong))
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

    /// Says a line and hears one.
    fn exchange(&mut self, line: String, asked: &str, expected: &str) -> Result<String> {
        if self.failed {
            return Err(self.failure(asked, Mismatch::new(expected, "that it was ended after an earlier failure")));
        }
        self.process.say(line);
        self.process.listen(self.program.timeout(), &self.stop).map_err(|silence| match silence {
            Silence::Stopped => {
                self.failed = true;
                self.process.kill();
                Error::Interrupted
            }
            Silence::Timeout => {
                let within = format!("{expected} within {} seconds", self.program.timeout_s);
                self.fail(asked, Mismatch::new(within, "nothing"))
            }
            Silence::Ended(how) => self.fail(asked, Mismatch::new(expected, how)),
            Silence::Garbled(what) => self.fail(asked, Mismatch::new(expected, what)),
        })
    }

    /// Ends the program for an answer that is not as it should be.
    pub(crate) fn fail(&mut self, asked: &str, wrong: Mismatch) -> Error {
        self.failed = true;
        self.process.kill();
        self.failure(asked, wrong)
    }

    fn failure(&self, asked: &str, Mismatch { expected, found }: Mismatch) -> Error {
        let (program, stderr) = (self.program.name(), self.process.last_words());
        Failure { program, asked: asked.into(), expected, found, stderr }.into()
    }
}

fn line(message: &impl Serialize) -> Result<String> {
    let mut text = serde_json::to_string(message).map_err(Error::other("writing a line to a program"))?;
    text.push('\n');
    Ok(text)
}

/// What a program says of itself, the version before anything else.
fn hello<H: DeserializeOwned>(said: &str) -> Result<H, Mismatch> {
    let expected =
        || format!("an object with \"protocol\": {PROTOCOL}, \"classes\", \"image\" and what else the role has");
    let value: Value =
        serde_json::from_str(said).map_err(|e| Mismatch::new(expected(), format!("{} ({e})", excerpt(said))))?;
    match value.get("protocol").map(|version| (version.as_u64(), version)) {
        Some((Some(version), _)) if version == u64::from(PROTOCOL) => {}
        Some((_, version)) => {
            return Err(Mismatch::new(format!("protocol {PROTOCOL}"), format!("protocol {version}")));
        }
        None => return Err(Mismatch::new(expected(), excerpt(said))),
    }
    serde_json::from_value(value).map_err(|e| Mismatch::new(expected(), format!("{} ({e})", excerpt(said))))
}

/// Whether the line `said` answers request `id`.
fn answer(said: &str, id: u64) -> Result<(), Mismatch> {
    let expected = format!("the line {{\"id\":{id}}}");
    match serde_json::from_str::<Answer>(said) {
        Ok(Answer { error: Some(error), .. }) => Err(Mismatch::new(expected, format!("the error {error:?}"))),
        Ok(answer) if answer.id == id => Ok(()),
        Ok(answer) => Err(Mismatch::new(expected, format!("an answer to request {}", answer.id))),
        Err(_) => {
            let found = format!("{}; standard output is for answers alone", excerpt(said));
            Err(Mismatch::new(expected, found))
        }
    }
}

/// The answer's file, which goes when it has been read.
fn read(file: &Path, values: u64) -> Result<Vec<u8>, Mismatch> {
    let wrong = |found: String| Mismatch::new(format!("the file {}", file.display()), found);
    let length = file.metadata().map_err(|e| wrong(e.to_string()))?.len();
    if length > values.saturating_add(HEADER_MAX) {
        return Err(wrong(format!("{length} bytes, where the answer has {values} and a header")));
    }
    let bytes = std::fs::read(file).map_err(|e| wrong(e.to_string()))?;
    // It goes with the folder otherwise.
    let _ = std::fs::remove_file(file);
    Ok(bytes)
}

/// The begin of a line, to be shown.
fn excerpt(line: &str) -> String {
    let short: String = line.chars().take(200).collect();
    if short.len() < line.len() { format!("{short:?}…") } else { format!("{short:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::GeneratorHello;

    #[test]
    fn version_is_looked_at_first() {
        let found = |said: &str| hello::<GeneratorHello>(said).map_err(|wrong| wrong.found);
        let good = r#"{"protocol":1,"classes":["a"],"image":[1,2,3]}"#;
        let hello = found(good).unwrap();
        assert_eq!((hello.image, hello.latent_dim, hello.std, hello.batch), ([1, 2, 3], 0, false, None));
        assert_eq!(found(r#"{"protocol":2,"news":1}"#).unwrap_err(), "protocol 2");
        assert_eq!(found(r#"{"protocol":"1"}"#).unwrap_err(), "protocol \"1\"");
        assert!(found("Loading weights").unwrap_err().starts_with("\"Loading weights\""));
        let misspelt = good.replace("}", r#","latent-dim":3}"#);
        assert!(found(&misspelt).unwrap_err().contains("latent-dim"), "a key that nobody reads is a mistake");
        assert!(found(&"x".repeat(5000)).unwrap_err().len() < 400);
    }

    #[test]
    fn an_answer_is_to_the_request() {
        assert_eq!(answer(r#"{"id":3}"#, 3), Ok(()));
        for (said, found) in [
            (r#"{"id":2}"#, "an answer to request 2"),
            (r#"{"id":3,"error":"no weights"}"#, "the error \"no weights\""),
            ("epoch 1: loss 2", "\"epoch 1: loss 2\"; standard output is for answers alone"),
            ("", "\"\"; standard output is for answers alone"),
        ] {
            assert_eq!(answer(said, 3).unwrap_err().found, found);
        }
    }
}
