//! Section "Inputs and configuration": images, configurations, and the identity of every artifact.

use anyhow::Result;
use gafi_core::DatasetInfo;
use gafi_pipeline::record::RECORD;
use maud::{Markup, html};

use super::parts::{data_table, duration, missing};
use crate::report::Report;
use crate::run::Run;

/// Digits shown of hashes.
const DIGITS: usize = 12;

pub(super) fn section(report: &Report) -> Result<Markup> {
    Ok(html! { @for (i, run) in report.runs.iter().enumerate() {
        @if report.runs.len() > 1 { details open[i == 0] { summary { "Run " (run.name) } (of_run(run)?) } } @else { (of_run(run)?) }
    } })
}

fn of_run(run: &Run) -> Result<Markup> {
    let record = run.record();
    Ok(html! {
        h3 { "Images" }
        (images(run)?)
        h3 { "Configuration" }
        details { summary { "The whole pipeline (" code { (RECORD) } ")" } (json(&record.config)?) }
        @for name in ["train", "teacher", "generator", "real", "gafi"] {
            @if let Some(artifact) = record.artifact(name).map(|link| run.artifact(link)).transpose()? {
                details { summary { (name) ": " code { (artifact.path) } } (json(artifact.config())?) }
            }
        }
        h3 { "Artifacts" }
        (artifacts(run))
    })
}

/// The real images of each split.
fn images(run: &Run) -> Result<Markup> {
    let links: Vec<_> = run.record().roles.images().map(|(_, link)| link).collect();
    if links.is_empty() {
        return Ok(missing("Images", "they are not imported yet"));
    }
    let mut rows = Vec::new();
    for link in links {
        let artifact = run.artifact(link)?;
        rows.push((&artifact.path, DatasetInfo::of(&artifact.artifact)?));
    }
    let columns = ["split", "images", "classes", "per class", "shape", "folder"];
    let body = html! { @for (path, info) in &rows {
        @let least = info.counts.iter().min().unwrap_or(&0);
        @let most = info.counts.iter().max().unwrap_or(&0);
        tr {
            th scope="row" { (info.split) } td { (info.rows()) } td { (info.classes.len()) }
            td { (least) @if most > least { " to " (most) } } td { (info.image) } td.left { code { (path) } }
        }
    } };
    Ok(data_table("Images", "", &columns, body))
}

fn artifacts(run: &Run) -> Markup {
    let columns = ["folder", "stage", "revision", "fingerprint", "id", "version", "time"];
    let body = html! { @for one in &run.artifacts {
        @let manifest = one.artifact.manifest();
        tr {
            th scope="row" { (one.path) } td.left { (one.stage()) } td { (manifest.made_by.revision) }
            td { code { (short(&manifest.fingerprint)) } } td { code { (short(one.artifact.id())) } }
            td { (manifest.made_by.version) } td { (one.wall_s.map_or(String::new(), duration)) }
        }
    } };
    html! { details { summary { "All " (run.artifacts.len()) ", with fingerprints and versions" }
        p.soft { "The fingerprint identifies how an artifact was made (stage, revision, configuration, inputs); the id identifies its \
                  contents. Shown are the first " (DIGITS) " digits; each folder's manifest has all of them." }
        (data_table("Artifacts", "", &columns, body))
    } }
}

fn json(value: &impl serde::Serialize) -> Result<Markup> {
    let text = serde_json::to_string_pretty(value)?;
    Ok(html! { pre tabindex="0" { (text) } })
}

/// The first digits of a hash.
fn short(hash: &str) -> String {
    hash.chars().take(DIGITS).collect()
}
