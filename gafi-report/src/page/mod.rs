//! The HTML page. `maud` escapes every text that comes from a run; only drawings and files of this crate are inserted unescaped.

mod inputs;
mod parts;
mod results;
mod samples;
mod search;

use gafi_pipeline::record::Status;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::colours;
use crate::report::Report;

/// Content of the page's meta element `generator`, which identifies a report.
pub(crate) const GENERATOR: &str = "gafi-cli report";

/// Keeps the page from loading anything, whatever a name in a run contains.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// The head of a page: its title, the command that wrote it, its content security policy, and styles beside the common ones.
pub(crate) fn head(title: &str, generator: &str, policy: &str, style: &str) -> Markup {
    let style = format!("{}{}{style}", include_str!("page.css"), colours::css());
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="generator" content=(generator);
            meta http-equiv="Content-Security-Policy" content=(policy);
            title { (title) }
            style { (PreEscaped(style)) }
        }
    }
}

/// The page as HTML.
///
/// # Errors
/// When a chart cannot be drawn.
pub(crate) fn render(report: &Report) -> anyhow::Result<String> {
    let title = format!("GaFi report: {}", report.title());
    let sections = [
        ("results", "Results", results::section(report)),
        ("search", "Search and training", search::section(report)?),
        ("samples", "Samples", samples::section(report)?),
        ("inputs", "Inputs and configuration", inputs::section(report)?),
    ];
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            (head(&title, GENERATOR, POLICY, ""))
            body {
                header {
                    h1 { (title) }
                    (progress(report))
                    nav aria-label="Sections" { ul {
                        @for (id, name, _) in &sections { li { a href={ "#" (id) } { (name) } } }
                    } }
                }
                main {
                    @for (id, name, body) in &sections {
                        section aria-labelledby=(id) { h2 id=(id) { (name) } (body) }
                    }
                }
                footer { p.soft { (footer(report)) } }
                script { (PreEscaped(include_str!("page.js"))) }
            }
        }
    };
    Ok(page.into_string())
}

fn footer(report: &Report) -> Markup {
    html! {
        "Written by gafi-cli report, version " (env!("CARGO_PKG_VERSION")) ". This file loads nothing from the network. "
        @if report.real_images() > 0 {
            "It contains " (report.real_images()) " real training images; use " code { "--no-real" } " to leave them out."
        } @else { "It contains no real images." }
    }
}

/// Names of the runs, and whether they have finished.
fn progress(report: &Report) -> Markup {
    let all = report.runs.len();
    let finished = report.runs.iter().filter(|r| r.is_finished()).count();
    let names: Vec<_> = report.runs.iter().map(|r| r.name.as_str()).collect();
    let partial: Vec<_> = report.runs.iter().flat_map(|run| run.partial.iter().map(move |p| (run, p))).collect();
    html! {
        p.soft {
            @if all == 1 { "Run " (names[0]) ": " (report.runs[0].state()) "." }
            @else { (all) " runs (" (names.join(", ")) "), " (finished) " finished." }
        }
        @if finished < all { p.warn role="status" {
            "Dashed boxes stand for results that don't exist yet. Run this report again when training has advanced."
        } }
        @for run in report.runs { @if let Status::Failed { error } = &run.record().status {
            p.warn { "Run " (run.name) " failed: " (error) }
        } }
        @if !partial.is_empty() {
            details open[finished < all] {
                summary { "Unfinished artifacts (" (partial.len()) ")" }
                ul { @for (run, p) in &partial { li { (run.name) "/" (p.folder) ": " (p.progress()) } } }
            }
        }
    }
}
