//! `inspect` and `verify`: what an artifact holds and how it was made, a dataset's contact sheet, and whether files are intact.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::Args;
use gafi_core::{Artifact, write_atomic};
use gafi_pipeline::record::RECORD;
use gafi_pipeline::{Usage, verify_run};
use serde_json::json;

use super::{open, without_nulls};
use crate::session::Session;
use crate::{stdout, summary};

#[derive(Debug, Args)]
struct ArtifactArgs {
    /// Artifacts: folders, or RUN:NAME for train, val, test, teacher, real, generator or a row of a run
    #[arg(required = true, value_name = "DIR")]
    artifact: Vec<PathBuf>,
}

/// Show what artifacts hold and how they were made
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    artifacts: ArtifactArgs,
    /// Print only their folders, one per line, for use in scripts
    #[arg(long)]
    path: bool,
    /// Write a contact sheet of a dataset: for each class the darkest, lightest, blurriest and most duplicated images
    #[arg(long, value_name = "FILE", conflicts_with = "path")]
    html: Option<PathBuf>,
    /// With --html: also show the likeliest label errors, judged by this classifier
    #[arg(long, value_name = "DIR", requires = "html")]
    teacher: Option<PathBuf>,
}

/// Check artifacts, or a run with all of its artifacts, byte by byte
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    artifacts: ArtifactArgs,
}

pub(super) fn run(session: &Session, args: &InspectArgs) -> Result<()> {
    if let Some(output) = &args.html {
        let [dataset] = &args.artifacts.artifact[..] else {
            bail!(Usage("--html: expected one dataset".into()));
        };
        let allowed = session.cx.force || !output.exists();
        ensure!(allowed, Usage(format!("{} exists; --force overwrites it", output.display())));
        let teacher = args.teacher.as_deref().map(open).transpose()?;
        let page = gafi_report::contact_sheet(&open(dataset)?, teacher.as_ref(), &session.cx)?;
        write_atomic(output, page.as_bytes())?;
        session.log(&format!("{}: {} KiB", output.display(), page.len().div_ceil(1024)));
        return Ok(());
    }
    for path in &args.artifacts.artifact {
        let artifact = open(path)?;
        if args.path {
            stdout::line(artifact.path().display())?;
        } else if session.json {
            let manifest = artifact.manifest();
            let bytes = size(&artifact);
            stdout::line(json!({"artifact": path, "id": artifact.id(), "bytes": bytes, "manifest": manifest}))?;
        } else {
            stdout::text(describe(path, &artifact)?)?;
        }
    }
    Ok(())
}

fn size(artifact: &Artifact) -> u64 {
    artifact.manifest().files.values().map(|file| file.bytes).sum()
}

fn describe(path: &Path, artifact: &Artifact) -> Result<String> {
    let manifest = artifact.manifest();
    let made_by = &manifest.made_by;
    let files = match manifest.files.len() {
        1 => "1 file".to_string(),
        files => format!("{files} files"),
    };
    let mut lines = vec![format!("{}: {}, {files}, {} bytes", path.display(), artifact.kind(), size(artifact))];
    lines.extend(summary::lines(artifact).iter().map(|line| format!("  {line}")));
    lines.push(format!("  id {}", artifact.id()));
    lines.push(format!("  made by {} (revision {}, gafi-cli {})", made_by.stage, made_by.revision, made_by.version));
    lines.extend(made_by.inputs.iter().map(|(port, ids)| format!("    {port}: {}", ids.join(", "))));
    let config = toml::to_string(&without_nulls(made_by.config.clone()))?;
    lines.extend(config.lines().map(|line| format!("    {line}").trim_end().to_string()));
    Ok(lines.join("\n") + "\n")
}

pub(super) fn verify(session: &Session, args: &VerifyArgs) -> Result<()> {
    for path in &args.artifacts.artifact {
        if path.join(RECORD).exists() {
            let artifacts = verify_run(path, &session.cx)?;
            if session.json {
                stdout::line(json!({"run": path, "artifacts": artifacts, "whole": true}))?;
            } else {
                stdout::line(format_args!("{}: run is intact, {artifacts} artifacts", path.display()))?;
            }
            continue;
        }
        let artifact = open(path)?;
        artifact.verify_rows(&session.cx)?;
        let kind = artifact.kind();
        if session.json {
            stdout::line(json!({"artifact": path, "id": artifact.id(), "kind": kind, "whole": true}))?;
        } else {
            stdout::line(format_args!("{}: {kind} is intact", path.display()))?;
        }
    }
    Ok(())
}
