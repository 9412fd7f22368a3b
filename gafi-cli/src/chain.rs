//! A pipeline file: stages in sequence. Their inputs are results of earlier stages, or existing artifacts.
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

use anyhow::{Context as _, Result, bail};
use gafi_core::{Artifact, Inputs, Outcome, execute};
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
    /// The name of its folder in the run, and its name in the inputs of later stages.
    pub name: String,
    /// The stage: a verb of the program.
    pub stage: String,
    /// For each port, the name of an earlier stage, or the folder of an artifact relative to the current directory. A list of these
    /// for a port that takes several.
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
        for step in &self.stage {
            if Path::new(&step.name).file_name().is_none_or(|f| f != step.name.as_str()) || step.name.starts_with('.') {
                bail!(Usage(format!("stage {:?}: expected a name that is valid as a folder name", step.name)));
            }
            if seen.contains(&&step.name) {
                bail!(Usage(format!("stage {:?}: an earlier stage has this name; choose another one", step.name)));
            }
            seen.push(&step.name);
            step.stage(session)?;
        }
        Ok(())
    }

    /// Runs the stages in order, into folders of `dir`.
    ///
    /// # Errors
    /// Those of a stage, with its name. Results of finished stages are kept.
    pub(crate) fn run(&self, session: &Session, dir: &Path) -> Result<Vec<Outcome>> {
        self.check(session)?;
        let mut outcomes: Vec<Outcome> = Vec::new();
        for step in &self.stage {
            let mut inputs = Inputs::new();
            let inputs_of = step.inputs.iter().flat_map(|(port, from)| from.all().iter().map(move |from| (port, from)));
            for (port, from) in inputs_of {
                let earlier = self.stage.iter().zip(&outcomes).find(|(earlier, _)| earlier.name == *from);
                let artifact = match earlier {
                    Some((_, outcome)) => outcome.artifact.clone(),
                    None => Artifact::open(PathBuf::from(from)).with_context(|| {
                        format!("stage {}: {port}: {from:?} is neither an earlier stage nor an artifact", step.name)
                    })?,
                };
                inputs = inputs.with(port, &artifact);
            }
            let outcome = execute(&*step.stage(session)?, &inputs, &dir.join(&step.name), &session.cx)
                .with_context(|| format!("stage {} failed", step.name))?;
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
