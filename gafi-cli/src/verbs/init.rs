//! `init` and `schema`: a configuration file to start from, and the JSON schema that editors check one against.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use gafi_core::write_atomic;
use serde_json::json;

use crate::schema::{self, Guide};
use crate::session::Session;
use crate::starter;
use crate::stdout;
use gafi_pipeline::Usage;
use gafi_pipeline::{self as pipeline, PRESETS, PipelineConfig};

/// Write a starting configuration for `pipeline`: every key with its meaning and value
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    #[arg(long, value_name = "NAME", help = format!("Values of a preset ({}) instead of the paper's", presets()))]
    preset: Option<String>,
    /// The file to write; --force overwrites it
    #[arg(long, short, value_name = "FILE", default_value = "gafi.toml")]
    output: PathBuf,
    /// Also write the JSON schema beside it, so that editors can complete and check the file
    #[arg(long)]
    schema: bool,
}

/// Print the JSON schema of a configuration, for editors
#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// The verb with the configuration: pipeline, import, or a stage
    #[arg(value_name = "VERB", default_value = "pipeline")]
    of: String,
}

/// The names of the presets, for help texts.
pub(super) fn presets() -> String {
    PRESETS.map(|(name, _)| name).join(", ")
}

pub(super) fn run(session: &Session, args: &InitArgs) -> Result<()> {
    let output = &args.output;
    let preset = args.preset.as_deref();
    let guide = Guide::of::<PipelineConfig>();
    let text = starter::write(&guide, &pipeline::preset(None)?, &pipeline::preset(preset)?);
    let schema = args.schema.then(|| output.with_extension("schema.json"));
    for file in schema.iter().chain([output]) {
        let allowed = session.cx.force || !file.exists();
        ensure!(allowed, Usage(format!("{} already exists; --force overwrites it", file.display())));
    }
    let mut whole = String::new();
    if let Some(schema) = &schema {
        write_atomic(schema, format!("{:#}\n", schema::of::<PipelineConfig>()).as_bytes())?;
        let name = schema.file_name().unwrap_or_default().to_string_lossy();
        whole += &format!("#:schema ./{name}\n\n");
    }
    whole += &heading(preset, output);
    whole += &text;
    write_atomic(output, whole.as_bytes())?;
    if session.json {
        return stdout::line(json!({ "config": output, "schema": schema, "preset": preset }));
    }
    session.log(&format!("wrote {}; edit it, then run: gafi-cli pipeline --config {0} --out DIR", output.display()));
    Ok(())
}

fn heading(preset: Option<&str>, output: &Path) -> String {
    let values = preset.map_or("the paper's values for CIFAR-10".to_string(), |name| format!("preset {name}"));
    let file = output.display();
    let data = if preset.is_none() { "# Name your real images: set or path in [data].\n" } else { "" };
    format!(
        "# Configuration of the whole pipeline: {values}. Run it with: gafi-cli pipeline --config {file} --out DIR\n\
         # Keys that are commented out show their default; remove the # to change one.\n\
         {data}"
    )
}

pub(super) fn schema(session: &Session, args: &SchemaArgs) -> Result<()> {
    let schema = match args.of.as_str() {
        "pipeline" => schema::of::<PipelineConfig>(),
        "import" => schema::of::<gafi_data::ImportConfig>(),
        stage => {
            let kind = session.registry.stage(stage)?;
            kind.schema.clone().ok_or_else(|| Usage(format!("stage {stage} has no schema for its configuration")))?
        }
    };
    stdout::line(format_args!("{schema:#}"))
}
