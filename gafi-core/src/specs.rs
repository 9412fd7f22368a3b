//! Sources, architectures and learners by name: configuration that the core passes on without knowing its fields.
//!
//! Each is a JSON object with a name that the host program registered, and options that only the registered loader knows.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A source of samples, such as `{"kind": "gafi", "std": 1.3}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SourceSpec {
    /// Name of the kind of source.
    #[serde(default)]
    pub kind: String,
    /// All other keys.
    #[serde(flatten)]
    pub options: Map<String, Value>,
}

/// The architecture of a network, such as `{"name": "resnet", "depth": 20}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ArchitectureSpec {
    /// Name of the architecture.
    #[serde(default)]
    pub name: String,
    /// All other keys.
    #[serde(flatten)]
    pub options: Map<String, Value>,
}

/// A learner, such as `{"architecture": {"name": "resnet"}, "epochs": 30}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LearnerSpec {
    /// The network to train.
    #[serde(default)]
    pub architecture: ArchitectureSpec,
    /// All other keys: epochs, batch size, learning rate and so on.
    #[serde(flatten)]
    pub options: Map<String, Value>,
}

impl SourceSpec {
    /// A source of `kind` without options.
    pub fn named(kind: &str) -> Self {
        Self { kind: kind.into(), options: Map::new() }
    }

    /// From a type that serialises to such an object.
    ///
    /// # Errors
    /// [`Error::Other`] when it does not.
    pub fn of(config: &impl Serialize) -> Result<Self> {
        convert(config).map_err(Error::other("describing a source"))
    }

    /// The whole object as `T`, the type that knows the options.
    ///
    /// # Errors
    /// [`Error::Config`] when the options do not fit.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        convert(self).map_err(|e| Error::config("source.kind", &self.kind, format!("options that fit it: {e}")))
    }

    /// Checks that a name is given.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check(&self) -> Result<()> {
        if self.kind.is_empty() { Err(Error::config("source.kind", "\"\"", "the name of a source")) } else { Ok(()) }
    }
}

impl ArchitectureSpec {
    /// The architecture `name` without options.
    pub fn named(name: &str) -> Self {
        Self { name: name.into(), options: Map::new() }
    }

    /// Adds an option.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.options.insert(key.into(), value.into());
        self
    }

    /// From a type that serialises to such an object.
    ///
    /// # Errors
    /// [`Error::Other`] when it does not.
    pub fn of(config: &impl Serialize) -> Result<Self> {
        convert(config).map_err(Error::other("describing an architecture"))
    }

    /// The whole object as `T`, the type that knows the options.
    ///
    /// # Errors
    /// [`Error::Config`] when the options do not fit.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        convert(self).map_err(|e| Error::config("architecture.name", &self.name, format!("options that fit it: {e}")))
    }
}

impl LearnerSpec {
    /// A learner of `architecture` without options.
    pub fn named(architecture: &str) -> Self {
        Self { architecture: ArchitectureSpec::named(architecture), options: Map::new() }
    }

    /// From a type that serialises to such an object.
    ///
    /// # Errors
    /// [`Error::Other`] when it does not.
    pub fn of(config: &impl Serialize) -> Result<Self> {
        convert(config).map_err(Error::other("describing a learner"))
    }

    /// The whole object as `T`, the type that knows the options.
    ///
    /// # Errors
    /// [`Error::Config`] when the options do not fit.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        convert(self).map_err(|e| {
            Error::config("learner.architecture.name", &self.architecture.name, format!("options that fit it: {e}"))
        })
    }

    /// Checks that a name is given.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check(&self) -> Result<()> {
        if self.architecture.name.is_empty() {
            Err(Error::config("learner.architecture.name", "\"\"", "the name of a learner"))
        } else {
            Ok(())
        }
    }
}

fn convert<T: DeserializeOwned>(from: &impl Serialize) -> serde_json::Result<T> {
    serde_json::to_value(from).and_then(serde_json::from_value)
}

impl std::fmt::Display for ArchitectureSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        if self.options.is_empty() { Ok(()) } else { write!(f, " {}", Value::Object(self.options.clone())) }
    }
}
