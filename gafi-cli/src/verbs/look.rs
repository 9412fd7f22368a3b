//! `inspect` and `verify`: what is in an artifact, and whether it is whole.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use gafi_core::{Artifact, Dataset, Kind};
use serde_json::json;

use super::open;
use crate::session::Session;
use crate::{stdout, summary};

fn paths() -> Arg {
    Arg::new("artifact")
        .value_name("DIR")
        .required(true)
        .action(ArgAction::Append)
        .value_parser(value_parser!(PathBuf))
        .help("Artifacts: folders, or RUN:NAME for train, val, test, teacher, real, generator or a row of a run")
}

pub(super) fn inspect_command() -> Command {
    Command::new("inspect").about("Tell what artifacts hold and what made them").arg(paths()).arg(
        Arg::new("path")
            .long("path")
            .action(ArgAction::SetTrue)
            .help("Only where they lie, one a line, for other programs"),
    )
}

pub(super) fn verify_command() -> Command {
    Command::new("verify")
        .about("Check every byte of artifacts against their manifests, and every row of datasets")
        .arg(paths())
}

fn each(options: &ArgMatches) -> impl Iterator<Item = &PathBuf> {
    options.get_many::<PathBuf>("artifact").into_iter().flatten()
}

pub(super) fn inspect(session: &Session, options: &ArgMatches) -> Result<()> {
    for path in each(options) {
        let artifact = open(path)?;
        if options.get_flag("path") {
            stdout::line(artifact.path().display())?;
            continue;
        }
        let manifest = artifact.manifest();
        let bytes: u64 = manifest.files.values().map(|f| f.bytes).sum();
        let record = json!({"artifact": path, "id": artifact.id(), "bytes": bytes, "manifest": manifest});
        if session.json {
            stdout::line(record)?;
        } else {
            let (path, kind, files) = (path.display(), artifact.kind(), manifest.files.len());
            stdout::line(format_args!("{path}: {kind}, {files} files, {bytes} bytes"))?;
            summary::lines(&artifact).iter().try_for_each(|line| stdout::line(format_args!("  {line}")))?;
            stdout::line(format_args!("{record:#}"))?;
        }
    }
    Ok(())
}

pub(super) fn verify(session: &Session, options: &ArgMatches) -> Result<()> {
    for path in each(options) {
        let artifact = open(path)?;
        artifact.verify()?;
        if artifact.kind() == Kind::Dataset {
            let dataset = Dataset::open(&artifact)?;
            for shard in dataset.shards() {
                shard?;
                session.cx.checkpoint()?;
            }
        }
        tell(session, path, &artifact)?;
    }
    Ok(())
}

fn tell(session: &Session, path: &std::path::Path, artifact: &Artifact) -> Result<()> {
    if session.json {
        stdout::line(json!({"artifact": path, "id": artifact.id(), "kind": artifact.kind(), "whole": true}))
    } else {
        stdout::line(format_args!("{}: {} is whole", path.display(), artifact.kind()))
    }
}
