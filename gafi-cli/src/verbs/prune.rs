//! `prune`: frees the space of artifacts that a run's results do not need.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use gafi_pipeline::prune;
use serde_json::json;

use crate::session::Session;
use crate::stdout;

/// Delete artifacts of a finished run that no row needs: students of the search, leftovers of interrupted stages
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Folder of a finished pipeline run
    run: PathBuf,
    /// List what would be deleted, and stop
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(session: &Session, args: &PruneArgs) -> Result<()> {
    let pruned = prune(&args.run, args.dry_run)?;
    let bytes = pruned.bytes();
    if session.json {
        let folders: Vec<_> =
            pruned.folders.iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes })).collect();
        return stdout::line(json!({ "run": args.run, "dry_run": args.dry_run, "bytes": bytes, "folders": folders }));
    }
    for (name, bytes) in &pruned.folders {
        stdout::line(format_args!("{name} ({:.1} MiB)", mib(*bytes)))?;
    }
    let verb = if args.dry_run { "would free" } else { "freed" };
    session.log(&format!("{verb} {:.1} MiB in {} folders", mib(bytes), pruned.folders.len()));
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
