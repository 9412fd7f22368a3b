//! The stage that makes an artifact of a program: a generator, or a classifier that judges.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gafi_core::{ArtifactWriter, Context, Error, Inputs, Kind, Result, Stage, StageInfo, hash_file};
use serde_json::{Value, json};

use crate::artifact::{classifier_info, generator_info};
use crate::generator::CommandGenerator;
use crate::program::Program;
use crate::protocol::Role;
use crate::scorer::CommandScorer;

/// Starts a program, checks what it says of itself, and notes how to start it again.
#[derive(Debug, Clone)]
pub struct ImportProgram {
    role: Role,
    program: Program,
    // Name in the artifact: where it lies now, and its BLAKE3.
    files: BTreeMap<String, (PathBuf, String)>,
    revision: u32,
}

impl ImportProgram {
    /// A program in `role`, and `files` that are copied into the artifact, where `{artifact}/NAME` in the arguments finds them.
    /// The program's own bytes are not looked at, but those of `files` are: raise `revision` when the rest of it changes.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read; [`Error::Config`] for two of one name, and what [`Program::check`] says.
    pub fn new(role: Role, program: Program, files: &[PathBuf], revision: u32) -> Result<Self> {
        program.check()?;
        let mut named = BTreeMap::new();
        for path in files {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| Error::config("include", path.display(), "a file with a name"))?;
            let entry = (path.clone(), hash_file(path)?.blake3);
            if named.insert(name.to_owned(), entry).is_some() {
                return Err(Error::config("include", path.display(), "files of different names"));
            }
        }
        Ok(Self { role, program, files: named, revision })
    }

    fn copy(&self, out: &mut ArtifactWriter, name: &str, from: &Path) -> Result<()> {
        // Says whether the name is one that an artifact may have; the bytes may not fit into memory.
        out.write(name, &[])?;
        std::fs::copy(from, out.dir().join(name)).map_err(Error::io("copy", from))?;
        out.add(name)
    }
}

impl Stage for ImportProgram {
    fn info(&self) -> StageInfo {
        StageInfo {
            name: match self.role {
                Role::Generator => "import-generator",
                Role::Scorer => "import-teacher",
            },
            revision: 1,
            ports: &[],
            output: match self.role {
                Role::Generator => Kind::Generator,
                Role::Scorer => Kind::Classifier,
            },
        }
    }

    fn config(&self) -> Value {
        let files: BTreeMap<_, _> = self.files.iter().map(|(name, (_, hash))| (name, hash)).collect();
        json!({ "from": "command", "program": self.program, "files": files, "revision": self.revision })
    }

    fn check(&self, _: &Inputs) -> Result<()> {
        self.program.check()
    }

    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        for (name, (from, _)) in &self.files {
            cx.checkpoint()?;
            self.copy(out, name, from)?;
        }
        let folder = std::path::absolute(out.dir()).map_err(Error::io("find", out.dir()))?;
        match self.role {
            Role::Generator => {
                let generator = CommandGenerator::start(&self.program, Some(&folder), &cx.stop)?;
                out.set_content(&generator_info(&self.program, &generator)?)
            }
            Role::Scorer => {
                let scorer = CommandScorer::start(&self.program, Some(&folder), &cx.stop)?;
                out.set_content(&classifier_info(&self.program, &scorer)?)
            }
        }
    }
}
