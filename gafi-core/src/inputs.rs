//! `Port` and `Inputs`: the artifacts that a stage accepts, and those it was given.

use std::collections::BTreeMap;

use crate::artifact::Artifact;
use crate::error::{Error, Result};
use crate::manifest::Kind;

/// How many artifacts a port takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    /// Exactly one.
    Required,
    /// One or none.
    Optional,
    /// Any number. A stage that needs at least one checks that itself.
    Many,
}

/// One input of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Name of the port.
    pub name: &'static str,
    /// Kind of artifact it takes.
    pub kind: Kind,
    /// Number of artifacts it takes.
    pub arity: Arity,
}

impl Port {
    /// A port that takes exactly one artifact.
    pub const fn required(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, arity: Arity::Required }
    }

    /// A port that may stay empty.
    pub const fn optional(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, arity: Arity::Optional }
    }

    /// A port that takes any number of artifacts, in order.
    pub const fn many(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, arity: Arity::Many }
    }
}

/// The artifacts given to a stage, by port.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    // Named in errors; empty outside a stage.
    stage: String,
    ports: BTreeMap<String, Vec<Artifact>>,
}

impl Inputs {
    /// No inputs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `artifact` to `port`, after those already there.
    pub fn with(mut self, port: &str, artifact: &Artifact) -> Self {
        self.ports.entry(port.into()).or_default().push(artifact.clone());
        self
    }

    /// The same inputs, with `stage` named in errors. [`crate::execute`] and [`crate::check_inputs`] do this.
    pub fn for_stage(mut self, stage: &str) -> Self {
        self.stage = stage.into();
        self
    }

    /// The first artifact of `port`.
    pub fn get(&self, port: &str) -> Option<&Artifact> {
        self.all(port).first()
    }

    /// All artifacts of `port`, in the order they were added.
    pub fn all(&self, port: &str) -> &[Artifact] {
        self.ports.get(port).map_or(&[], Vec::as_slice)
    }

    /// The artifact of a required `port`.
    ///
    /// # Errors
    /// [`Error::Input`] when the port is empty.
    pub fn require(&self, port: &str) -> Result<&Artifact> {
        self.get(port).ok_or_else(|| self.error(port, "an artifact", "nothing"))
    }

    /// An [`Error::Input`] of this stage about `port`.
    pub fn error(&self, port: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::input(&self.stage, port, expected, found)
    }

    /// Ports and their artifacts, by name of the port. No list is empty.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[Artifact])> {
        self.ports.iter().map(|(port, artifacts)| (port.as_str(), artifacts.as_slice()))
    }
}
