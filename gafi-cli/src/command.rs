//! The stage `command`: any program as a stage. `docs/format.md` is its contract.

use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use gafi_core::{
    ArtifactWriter, Context, DatasetInfo, Error, Inputs, Kind, LOG_FILE, Port, Result, Stage, StageInfo, check_dataset,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The ports that a command may use; which ones it needs is its own affair.
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

/// The file that a program leaves with what its artifact says of itself.
const CONTENT: &str = "content.json";

/// Runs a program on artifact folders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Command {
    /// The program and its arguments; `{port}` stands for the folder of an input, `{out}` for the folder to write to.
    pub program: Vec<String>,
    /// What it makes.
    pub output: Kind,
    /// Raise it when the program changes: nothing else tells that equal inputs now give other bytes.
    pub revision: u32,
}

impl Default for Command {
    fn default() -> Self {
        Self { program: Vec::new(), output: Kind::Dataset, revision: 1 }
    }
}

impl Command {
    fn argument(&self, text: &str, inputs: &Inputs, out: &Path) -> String {
        let folders = inputs.iter().filter_map(|(port, artifacts)| Some((port, artifacts.first()?.path())));
        let folders = folders.chain([("out", out)]);
        folders.fold(text.to_string(), |text, (name, path)| {
            text.replace(&format!("{{{name}}}"), &path.display().to_string())
        })
    }
}

impl Stage for Command {
    fn info(&self) -> StageInfo {
        StageInfo { name: "command", revision: 1, ports: PORTS, output: self.output }
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }

    fn check(&self, _: &Inputs) -> Result<()> {
        if self.program.first().is_none_or(String::is_empty) {
            return Err(Error::config("program", format!("{:?}", self.program), "a program and its arguments"));
        }
        if !self.program.iter().any(|a| a.contains("{out}")) {
            return Err(Error::config(
                "program",
                format!("{:?}", self.program),
                "an argument {out}, the folder to write to",
            ));
        }
        Ok(())
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let arguments: Vec<String> = self.program.iter().map(|a| self.argument(a, inputs, out.dir())).collect();
        let context = || format!("running {}", arguments.join(" "));
        let mut process = Process::new(&arguments[0]);
        // Its standard output is not ours: what we print there is one record.
        let process = process.args(&arguments[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = process.spawn().map_err(Error::other(context()))?;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(Error::other(context()))? {
                break status;
            }
            if let Err(stop) = cx.checkpoint() {
                // It is gone already if this fails.
                let _ = child.kill();
                let _ = child.wait();
                return Err(stop);
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if !status.success() {
            return Err(Error::other(context())(format!("it ended with {status}")));
        }
        self.take(out)
    }
}

impl Command {
    /// Lists what the program wrote, after checking it.
    fn take(&self, out: &mut ArtifactWriter) -> Result<()> {
        let path = out.dir().join(CONTENT);
        let bytes = std::fs::read(&path).map_err(Error::io("read what the program says of its result in", &path))?;
        let bad = |e: serde_json::Error| {
            Error::format(&path, "content", format!("what a {} says of itself", self.output), e.to_string())
        };
        let content: Value = serde_json::from_slice(&bytes).map_err(bad)?;
        if self.output == Kind::Dataset {
            let info: DatasetInfo = serde_json::from_value(content.clone()).map_err(bad)?;
            check_dataset(out.dir(), &info)?;
        }
        std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        let mut names = Vec::new();
        for entry in std::fs::read_dir(out.dir()).map_err(Error::io("read", out.dir()))? {
            let entry = entry.map_err(Error::io("read", out.dir()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_file() && !name.starts_with('.') && !matches!(name.as_str(), LOG_FILE | "begun.json") {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            out.add(&name)?;
        }
        out.set_content(&content)
    }
}
