//! A pipeline file: stages in sequence, each fed by earlier ones or by existing artifacts.
//!
//! ```toml
//! [[stage]]
//! name = "wide"                          # its folder, and its name in later inputs
//! stage = "expand"                       # a verb, or "command"
//! inputs = { generator = "runs/gan" }    # port = name of an earlier stage, or a folder
//! config = { std = 1.4, per_class = 1000 }
//!
//! [[stage]]
//! name = "clean"
//! stage = "filter"
//! inputs = { samples = "wide", teacher = "runs/teacher" }
//! config = { threshold = 0.5 }
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use gafi_core::{Artifact, Inputs, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::session::Session;
use gafi_pipeline::Usage;
use gafi_pipeline::overrides::merge;

/// A pipeline file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chain {
    /// The stages, in order.
    pub stage: Vec<ChainStep>,
}

/// One stage of a pipeline file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChainStep {
    /// Its folder within the run's, and its name in the inputs of later stages.
    pub name: String,
    /// The stage: a verb of the program.
    pub stage: String,
    /// For each port the name of an earlier stage, or the folder of an artifact relative to the current directory; a list of
    /// these for a port that takes many.
    #[serde(default)]
    pub inputs: BTreeMap<String, OneOrMany>,
    /// Its configuration, merged over the stage's defaults.
    #[serde(default = "empty")]
    pub config: Value,
}

/// A value, or a list of values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    /// One.
    One(String),
    /// Any number.
    Many(Vec<String>),
}

impl OneOrMany {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

fn empty() -> Value {
    Value::Object(Default::default())
}

impl Chain {
    /// Checks that names are unique folder names, stages are known, and configurations are valid.
    ///
    /// # Errors
    /// [`Usage`] naming the stage.
    pub(crate) fn check(&self, session: &Session) -> Result<()> {
        let mut seen = Vec::new();
        for link in &self.stage {
            if Path::new(&link.name).file_name().is_none_or(|f| f != link.name.as_str()) || link.name.starts_with('.') {
                return Err(
                    Usage(format!("stage {:?}: expected a name that is valid as a folder name", link.name)).into()
                );
            }
            if seen.contains(&&link.name) {
                return Err(Usage(format!("stage {:?}: an earlier stage has the same name", link.name)).into());
            }
            seen.push(&link.name);
            link.stage(session)?;
        }
        Ok(())
    }

    /// Runs the stages in order, into folders of `dir`.
    ///
    /// # Errors
    /// Those of a stage, with its name. Finished stages are kept.
    pub(crate) fn run(&self, session: &Session, dir: &Path) -> Result<Vec<Outcome>> {
        self.check(session)?;
        let mut outcomes: Vec<Outcome> = Vec::new();
        for link in &self.stage {
            let mut inputs = Inputs::new();
            let inputs_of = link.inputs.iter().flat_map(|(port, from)| from.all().iter().map(move |from| (port, from)));
            for (port, from) in inputs_of {
                let earlier = self.stage.iter().zip(&outcomes).find(|(l, _)| l.name == *from);
                let artifact = match earlier {
                    Some((_, outcome)) => outcome.artifact.clone(),
                    None => Artifact::open(PathBuf::from(from))
                        .with_context(|| format!("stage {}: {port}: no earlier stage is called {from:?}", link.name))?,
                };
                inputs = inputs.with(port, &artifact);
            }
            let outcome = session
                .execute(&*link.stage(session)?, &inputs, &dir.join(&link.name))
                .with_context(|| format!("stage {} failed", link.name))?;
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }
}

impl ChainStep {
    fn stage(&self, session: &Session) -> Result<Box<dyn gafi_core::Stage>> {
        let named = || format!("stage {}", self.name);
        let kind = session.registry.stage(&self.stage).with_context(named)?;
        let mut config = kind.defaults.clone();
        merge(&mut config, self.config.clone());
        kind.make(config, &session.device).with_context(named)
    }
}
