//! `init` and `schema`: a configuration file to begin with, and what editors check one against.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use gafi_core::write_atomic;
use serde_json::json;

use crate::schema::{self, Guide};
use crate::session::Session;
use crate::starter;
use crate::stdout;
use gafi_pipeline::Usage;
use gafi_pipeline::{self as pipeline, PRESETS, PipelineConfig};

pub(super) fn command() -> Command {
    let presets = PRESETS.map(|(name, _)| name);
    Command::new("init")
        .about("Write a configuration file for `pipeline` to begin with: every key, what it means, and its value")
        .arg(
            Arg::new("preset")
                .long("preset")
                .value_name("NAME")
                .help(format!("The values of a preset ({}) instead of the paper's", presets.join(", "))),
        )
        .arg(
            Arg::new("output")
                .long("output")
                .short('o')
                .value_name("FILE")
                .default_value("gafi.toml")
                .value_parser(value_parser!(PathBuf))
                .help("The file, which must not be there yet (--force replaces it)"),
        )
        .arg(
            Arg::new("schema").long("schema").action(ArgAction::SetTrue).help(
                "Write the JSON schema beside it too, and name it in the file, for editors that complete and check",
            ),
        )
}

pub(super) fn schema_command() -> Command {
    Command::new("schema")
        .about(
            "Print the JSON schema of a configuration, for editors: of `pipeline`, of `import`, or of a stage's verb",
        )
        .arg(Arg::new("of").value_name("VERB").default_value("pipeline").help("Whose configuration"))
}

pub(super) fn run(session: &Session, options: &ArgMatches) -> Result<()> {
    let output = options.get_one::<PathBuf>("output").context("--output is missing")?;
    let preset = options.get_one::<String>("preset").map(String::as_str);
    let guide = Guide::of::<PipelineConfig>();
    let text = starter::write(&guide, &pipeline::preset(None)?, &pipeline::preset(preset)?);
    let beside = options.get_flag("schema").then(|| output.with_extension("schema.json"));
    for file in beside.iter().chain([output]) {
        if file.exists() && !session.cx.force {
            return Err(Usage(format!("{} is there already; --force replaces it", file.display())).into());
        }
    }
    let mut whole = String::new();
    if let Some(schema) = &beside {
        write_atomic(schema, format!("{:#}\n", schema::of::<PipelineConfig>()).as_bytes())?;
        let name = schema.file_name().unwrap_or_default().to_string_lossy();
        whole += &format!("#:schema ./{name}\n\n");
    }
    whole += &heading(preset, output);
    whole += &text;
    write_atomic(output, whole.as_bytes())?;
    if session.json {
        return stdout::line(json!({ "config": output, "schema": beside, "preset": preset }));
    }
    session.log(&format!("{}: edit it, then gafi-cli pipeline --config {0} --out DIR", output.display()));
    Ok(())
}

fn heading(preset: Option<&str>, output: &Path) -> String {
    let values = preset.map_or("the paper's values for CIFAR-10".to_string(), |name| format!("preset {name}"));
    let file = output.display();
    let data = if preset.is_none() { "# Real images are still to be named: set or path in [data].\n" } else { "" };
    format!(
        "# All of GaFi: {values}. Run it with: gafi-cli pipeline --config {file} --out DIR\n\
         # Keys that are commented out have the value shown anyway, if nothing else is said; take the # away to change one.\n\
         {data}"
    )
}

pub(super) fn schema(session: &Session, options: &ArgMatches) -> Result<()> {
    let of = options.get_one::<String>("of").map_or("pipeline", String::as_str);
    let schema = match of {
        "pipeline" => schema::of::<PipelineConfig>(),
        "import" => schema::of::<gafi_data::ImportConfig>(),
        stage => {
            let kind = session.registry.stage(stage)?;
            kind.schema.clone().ok_or_else(|| Usage(format!("stage {stage} does not describe its configuration")))?
        }
    };
    stdout::line(format_args!("{schema:#}"))
}
