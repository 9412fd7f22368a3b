//! "What went in": the images, the resolved configuration of each stage, and what every artifact is known by.

use anyhow::Result;
use gafi_core::{DatasetInfo, Kind};
use maud::{Markup, html};

use super::{duration, missing, scrolled};
use crate::Report;
use crate::gather::{Made, Run};
use gafi_pipeline::CONFIG;

pub(super) fn section(report: &Report) -> Result<Markup> {
    Ok(html! { @for (i, run) in report.runs.iter().enumerate() {
        @if report.runs.len() > 1 { details open[i == 0] { summary { "Run " (run.name) } (of_run(run)?) } } @else { (of_run(run)?) }
    } })
}

fn of_run(run: &Run) -> Result<Markup> {
    let datasets: Vec<_> = run.made.iter().filter(|m| m.artifact.kind() == Kind::Dataset).collect();
    let mut stages: Vec<(&str, &Made)> = Vec::new();
    stages.extend(run.dataset("train").map(|m| ("real images", m)));
    stages.extend(run.teacher().map(|m| ("teacher", m)));
    stages.extend(run.generators().into_iter().map(|m| ("generator", m)));
    stages.extend(run.reference().map(|m| ("student on real images", m)));
    stages.extend(run.row("gafi").and_then(|row| run.student(row)).map(|m| ("student gafi", m)));
    if run.made.is_empty() {
        return Ok(missing("Inputs", "no artifact is whole yet"));
    }
    Ok(html! {
        h3 { "Images" }
        (scrolled("Images", html! { table {
            thead { tr { th scope="col" { "split" } th scope="col" { "images" } th scope="col" { "classes" } th scope="col" { "each" }
                th scope="col" { "shape" } th scope="col" { "folder" } } }
            tbody { @for made in &datasets { @if let Ok(info) = DatasetInfo::of(&made.artifact) {
                @let (least, most) = (info.counts.iter().min().unwrap_or(&0), info.counts.iter().max().unwrap_or(&0));
                tr {
                    th scope="row" { (info.split) } td { (info.rows()) } td { (info.classes.len()) }
                    td { (least) @if most > least { " to " (most) } } td { (info.image) } td.left { code { (made.folder) } }
                }
            } } }
        } }))
        h3 { "Resolved configuration" }
        @if let Some(config) = &run.config {
            details { summary { "the whole pipeline: " code { (CONFIG) } } pre tabindex="0" { (serde_json::to_string_pretty(config)?) } }
        }
        @for (what, made) in &stages {
            details { summary { (what) ": " code { (made.folder) } }
                pre tabindex="0" { (serde_json::to_string_pretty(&made.artifact.manifest().made_by.config)?) }
            }
        }
        h3 { "Artifacts" }
        details { summary { "All " (run.made.len()) ", with fingerprints and versions" }
            p.soft { "The fingerprint says what made an artifact (stage, revision, configuration, inputs), the id what is in it. First 12 \
                      digits each; the whole of them is in the folders' manifests." }
            (scrolled("Artifacts", html! { table {
                thead { tr { th scope="col" { "folder" } th scope="col" { "stage" } th scope="col" { "revision" } th scope="col" { "fingerprint" }
                    th scope="col" { "id" } th scope="col" { "program" } th scope="col" { "time" } } }
                tbody { @for made in &run.made { @let by = &made.artifact.manifest().made_by; tr {
                    th scope="row" { (made.folder) } td.left { (by.stage) } td { (by.revision) }
                    td { code { (short(&made.artifact.manifest().fingerprint)) } } td { code { (short(made.artifact.id())) } }
                    td { (by.version) } td { (made.wall_s.map_or(String::new(), duration)) }
                } } }
            } }))
        }
    })
}

/// Ids are hexadecimal where this program wrote them; another's may be anything.
fn short(id: &str) -> String {
    id.chars().take(12).collect()
}
