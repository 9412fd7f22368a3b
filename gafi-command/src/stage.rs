//! Stage `command`: any program as a stage. `docs/format.md` specifies it.

use std::path::Path;

use gafi_core::{
    ArtifactWriter, Context, DatasetInfo, Error, Inputs, Kind, LOG_FILE, Port, Result, Stage, StageInfo, check_dataset,
    read_regular,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::process::Process;
use crate::program::{check_arguments, fill};

/// Every port that a program may use. All are optional, because only the program knows which it needs.
const PORTS: &[Port] = &[
    Port::optional("dataset", Kind::Dataset),
    Port::optional("train", Kind::Dataset),
    Port::optional("val", Kind::Dataset),
    Port::optional("samples", Kind::Dataset),
    Port::optional("classifier", Kind::Classifier),
    Port::optional("teacher", Kind::Classifier),
    Port::optional("generator", Kind::Generator),
    Port::optional("trials", Kind::Trials),
];

/// The file in which a program leaves the manifest's `content`.
const CONTENT: &str = "content.json";

/// Longest content in bytes; it becomes part of the manifest.
const CONTENT_MAX: u64 = 32 << 20;

/// Stage `command`: runs a program on the folders of artifacts; what it writes becomes an artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct CommandStage {
    /// The program and its arguments. `{port}` becomes the folder of the artifact at that port, `{out}` the folder to
    /// write to.
    pub program: Vec<String>,
    /// Kind of the artifact that it makes.
    pub output: Kind,
    /// Raise it when the program changes: the program's own bytes are not part of the fingerprint.
    pub revision: u32,
}

impl Default for CommandStage {
    fn default() -> Self {
        Self { program: Vec::new(), output: Kind::Dataset, revision: 1 }
    }
}

impl Stage for CommandStage {
    fn info(&self) -> StageInfo {
        StageInfo { name: "command", revision: 1, ports: PORTS, output: self.output }
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }

    fn check(&self, _: &Inputs) -> Result<()> {
        check_arguments(&self.program)?;
        if !self.program.iter().any(|argument| argument.contains("{out}")) {
            let expected = "an argument with {out}, the folder to write to";
            return Err(Error::config("program", format!("{:?}", self.program), expected));
        }
        Ok(())
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let folders = inputs.iter().filter_map(|(port, artifacts)| Some((port, artifacts.first()?.path())));
        let arguments = fill(&self.program, folders.chain([("out", out.dir())]));
        let context = || format!("running the program `{}`", arguments.join(" "));
        let mut process = Process::spawn(&arguments).map_err(Error::other(context()))?;
        let status = process.wait_unless(|| cx.checkpoint().is_err()).map_err(Error::other(context()))?;
        // Processes that it left in the background must not write to the finished artifact.
        process.kill();
        let Some(status) = status else { return Err(Error::Interrupted) };
        if !status.success() {
            return Err(Error::other(context())(format!("it failed ({status}); its messages are printed above")));
        }
        self.add_files(out)
    }
}

impl CommandStage {
    /// Checks the content and the files that the program wrote, and adds them to the artifact.
    fn add_files(&self, out: &mut ArtifactWriter) -> Result<()> {
        let path = out.dir().join(CONTENT);
        let bytes = read_regular(&path, CONTENT_MAX)
            .map_err(Error::io("read the content that the program describes in", &path))?;
        let malformed = |e: serde_json::Error| {
            Error::format(&path, "content", format!("the content of a {}", self.output), e.to_string())
        };
        let content: Value = serde_json::from_slice(&bytes).map_err(malformed)?;
        if self.output == Kind::Dataset {
            let info: DatasetInfo = serde_json::from_value(content.clone()).map_err(malformed)?;
            check_dataset(out.dir(), &info)?;
        }
        std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        for name in file_names(out.dir())? {
            out.add(&name)?;
        }
        out.set_content(&content)
    }
}

/// The files of the artifact in `folder`, sorted: all but hidden ones and those of the writer itself.
fn file_names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_file() && !name.starts_with('.') && !matches!(name.as_str(), LOG_FILE | "begun.json") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
