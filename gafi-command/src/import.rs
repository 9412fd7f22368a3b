//! The stages `import-generator` and `import-teacher` for programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gafi_core::{Artifact, ArtifactWriter, Context, Error, Inputs, Kind, Result, Stage, StageInfo, hash_file};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::artifact::{Architecture, classifier_info, generator_info};
use crate::generator::CommandGenerator;
use crate::program::Program;
use crate::protocol::Role;
use crate::scorer::CommandScorer;

/// Imports a program as a generator or classifier artifact: starts it, checks its hello message, records its command
/// line.
#[derive(Debug, Clone)]
pub struct ImportProgram {
    role: Role,
    program: Program,
    // By the name in the artifact: the path of the original, and its BLAKE3.
    files: BTreeMap<String, (PathBuf, String)>,
    revision: u32,
}

impl ImportProgram {
    /// A program in `role`. `files` are copied into the artifact, where `{artifact}/NAME` in the arguments finds them.
    ///
    /// The fingerprint covers the bytes of `files`, but no other part of the program: raise `revision` when that
    /// changes.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Config`] for two files of the same name; the errors of
    /// [`Program::check`].
    pub fn new(role: Role, program: Program, files: &[PathBuf], revision: u32) -> Result<Self> {
        program.check()?;
        let mut named = BTreeMap::new();
        for path in files {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| Error::config("include", path.display(), "the path of a file"))?;
            let entry = (path.clone(), hash_file(path)?.blake3);
            if named.insert(name.to_owned(), entry).is_some() {
                return Err(Error::config("include", path.display(), "files whose names differ"));
            }
        }
        Ok(Self { role, program, files: named, revision })
    }

    /// Whether `artifact` starts this program with these files. Its fingerprint alone does not prove it: somebody may have written
    /// the manifest by hand.
    pub fn describes(&self, artifact: &Artifact) -> bool {
        let architecture = artifact.manifest().content.get("architecture");
        let recorded = architecture.and_then(|value| Architecture::deserialize(value).ok());
        let files = artifact.manifest().files.iter().map(|(name, entry)| (name, &entry.blake3));
        recorded.is_some_and(|recorded| recorded.program == self.program)
            && files.eq(self.files.iter().map(|(name, (_, hash))| (name, hash)))
    }

    fn copy(&self, out: &mut ArtifactWriter, name: &str, from: &Path) -> Result<()> {
        // The empty file checks the name; the bytes may not fit into memory, so they are copied.
        out.write(name, &[])?;
        std::fs::copy(from, out.dir().join(name)).map_err(Error::io("copy", from))?;
        out.add(name)
    }
}

impl Stage for ImportProgram {
    fn info(&self) -> StageInfo {
        let (name, output) = match self.role {
            Role::Generator => ("import-generator", Kind::Generator),
            Role::Scorer => ("import-teacher", Kind::Classifier),
        };
        StageInfo { name, revision: 1, ports: &[], output }
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
