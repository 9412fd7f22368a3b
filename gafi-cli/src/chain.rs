//! A pipeline file of one's own: stages in a row, each fed by earlier ones or by artifacts that are there already.
//!
//! ```toml
//! [[stage]]
//! name = "wide"                          # for people, and for later stages' inputs
//! stage = "expand"                       # a verb, or "command"
//! inputs = { generator = "runs/gan" }    # port = an earlier stage's name, or a folder
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
    pub stage: Vec<Link>,
}

/// One stage of a pipeline file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Link {
    /// Folder of its artifact within the pipeline's, and what later stages call it.
    pub name: String,
    /// Which stage: a verb of the program.
    pub stage: String,
    /// Port to an earlier stage's name, or to the folder of an artifact (relative to where the program runs); a list of
    /// these for a port that takes many.
    #[serde(default)]
    pub inputs: BTreeMap<String, OneOrMany>,
    /// Its configuration, laid over the stage's defaults.
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
    /// Whether names are folder names, each once, and every stage is known and takes its configuration.
    ///
    /// # Errors
    /// [`Usage`] naming the stage.
    pub(crate) fn check(&self, session: &Session) -> Result<()> {
        let mut seen = Vec::new();
        for link in &self.stage {
            if Path::new(&link.name).file_name().is_none_or(|f| f != link.name.as_str()) || link.name.starts_with('.') {
                return Err(Usage(format!("stage {:?}: expected a name that can be a folder's", link.name)).into());
            }
            if seen.contains(&&link.name) {
                return Err(Usage(format!("stage {:?}: the name is taken by an earlier stage", link.name)).into());
            }
            seen.push(&link.name);
            link.stage(session)?;
        }
        Ok(())
    }

    /// Runs the stages in order into folders of `dir`.
    ///
    /// # Errors
    /// What a stage says, with its name before it. What was done is kept.
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

impl Link {
    fn stage(&self, session: &Session) -> Result<Box<dyn gafi_core::Stage>> {
        let named = || format!("stage {}", self.name);
        let kind = session.registry.stage(&self.stage).with_context(named)?;
        let mut config = kind.defaults.clone();
        merge(&mut config, self.config.clone());
        kind.make(config, &session.device).with_context(named)
    }
}
