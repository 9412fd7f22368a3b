//! The page: its frame, and what its sections share. Every text from a run goes through `maud`, which escapes it; what does not
//! is drawn or written here.

mod data;
mod good;
mod inputs;
mod tried;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Report;
use super::facts::Stat;
use super::plots::{self, Chart};

/// Tells a report of ours from another file.
pub(crate) const GENERATOR: &str = "gafi-cli report";

/// Nothing is loaded from anywhere, whatever a name in a run contains.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// The whole page.
///
/// # Errors
/// What the drawing library says.
pub(crate) fn render(report: &Report) -> anyhow::Result<String> {
    let title = format!("GaFi report: {}", report.title());
    let sections = [
        ("good", "Is it good enough?", good::section(report)?),
        ("tried", "What was tried", tried::section(report)?),
        ("data", "What the data looks like", data::section(report)?),
        ("inputs", "What went in", inputs::section(report)?),
    ];
    let style = format!("{}{}", include_str!("page.css"), plots::css());
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content=(GENERATOR);
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (title) }
                style { (PreEscaped(style)) }
            }
            body {
                header {
                    h1 { (title) }
                    (state(report))
                    nav aria-label="Sections" { ul {
                        @for (id, name, _) in &sections { li { a href={ "#" (id) } { (name) } } }
                    } }
                }
                main {
                    @for (id, name, body) in &sections {
                        section aria-labelledby=(id) { h2 id=(id) { (name) } (body) }
                    }
                }
                footer { p.soft {
                    "Written by gafi-cli " (env!("CARGO_PKG_VERSION")) " report. Nothing in this file is loaded from elsewhere. "
                    @if report.real_images() > 0 {
                        "It holds pictures of " (report.real_images()) " real training images; "
                        code { "--no-real" } " leaves them out."
                    } @else { "It holds no real image." }
                } }
                script { (PreEscaped(include_str!("page.js"))) }
            }
        }
    };
    Ok(page.into_string())
}

/// Which runs, and how far they have come.
fn state(report: &Report) -> Markup {
    let (ended, all) = (report.runs.iter().filter(|r| r.results.is_some()).count(), report.runs.len());
    let names: Vec<_> = report.runs.iter().map(|r| r.name.as_str()).collect();
    let begun: Vec<_> = report.runs.iter().flat_map(|run| run.begun.iter().map(move |b| (run, b))).collect();
    html! {
        p.soft {
            @if all == 1 { "Run " (names[0]) @if ended == 1 { ", ended." } @else { ", in progress." } }
            @else { (all) " runs (" (names.join(", ")) "), " (ended) " of them ended." }
        }
        @if ended < all { p.warn role="status" {
            "In progress: what is not there yet is named where it will stand. Write the report again for more."
        } }
        @if !begun.is_empty() {
            details open[ended < all] {
                summary { "Begun and not whole (" (begun.len()) ")" }
                ul { @for (run, b) in &begun { li { (run.name) "/" (b.folder) ": " (b.place()) } } }
            }
        }
        @let notes: Vec<_> = report.runs.iter().flat_map(|r| r.notes.iter().map(move |n| (&r.name, n))).collect();
        @if !notes.is_empty() {
            details open { summary { "Could not be read (" (notes.len()) ")" }
                ul { @for (run, note) in &notes { li { (run) ": " (note) } } }
            }
        }
    }
}

/// A box that says what is not there yet, and why.
fn missing(what: &str, why: &str) -> Markup {
    html! { p.missing { b { (what) ": " } (why) } }
}

/// A table that may be wider than the page: it scrolls by itself, by keyboard too.
fn scrolled(name: &str, table: Markup) -> Markup {
    html! { div.scroll role="region" tabindex="0" aria-label=(name) { (table) } }
}

/// "74.29 ± 0.50"; where there is little room the spread goes below.
fn spread(stat: &Stat) -> Markup {
    html! {
        @if stat.n() > 0 { (format!("{:.2}", stat.mean())) }
        @if let Some(sd) = stat.sd() { " " span.pm { (format!("± {sd:.2}")) } }
    }
}

/// The custom property that bars and shades are made of, in [0, 1].
fn level(share: f64) -> String {
    format!("--v:{:.3}", if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 })
}

/// A chart with its legend, in words for those who cannot see it, and as a table.
fn figure(chart: &Chart) -> anyhow::Result<Markup> {
    let number =
        |v: f64| if v.fract() == 0.0 { format!("{v:.0}") } else { format!("{v:.4}").trim_end_matches('0').into() };
    let at = |p: (f64, f64)| format!("{:.2} at {}", p.1, number(p.0));
    let lines = chart.lines.iter().map(|line| {
        let ends = line.points.first().zip(line.points.last());
        let ends = ends.map_or("no points".into(), |(a, b)| format!("from {} to {}", at(*a), at(*b)));
        let chosen = line.chosen.map_or(String::new(), |c| format!(", chosen {}", at(c)));
        format!("{}: {ends}{chosen}", line.name)
    });
    let label = format!("{}; {} by {}. {}", chart.title, chart.y, chart.x, lines.collect::<Vec<_>>().join(". "));
    let svg = plots::draw(chart, &label)?;
    let points: usize = chart.lines.iter().map(|l| l.points.len()).sum();
    Ok(html! {
        figure {
            h4 { (chart.title) }
            (PreEscaped(svg))
            ul.legend {
                @for (i, line) in chart.lines.iter().enumerate() {
                    li {
                        span class=(plots::colour_class(i)) aria-hidden="true" { (plots::mark(i)) " " }
                        (line.name)
                        @if let Some(chosen) = line.chosen { ", chosen (○): " (number(chosen.0)) }
                    }
                }
            }
            @if points <= 80 { details {
                summary { "Figures" }
                table {
                    thead { tr { th scope="col" { "line" } th scope="col" { (chart.x) } th scope="col" { (chart.y) } } }
                    tbody { @for line in &chart.lines { @for p in &line.points {
                        tr { th scope="row" { (line.name) } td { (number(p.0)) } td { (format!("{:.2}", p.1)) } }
                    } } }
                }
            } }
        }
    })
}

fn figures(charts: &[Chart]) -> anyhow::Result<Markup> {
    let drawn = charts.iter().map(figure).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(html! { div.charts { @for one in &drawn { (one) } } })
}

/// "3 h 12 min", "46 s".
fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 3600.0 => format!("{:.0} h {:.0} min", (s / 3600.0).floor(), (s % 3600.0 / 60.0).floor()),
        s if s >= 120.0 => format!("{:.0} min", s / 60.0),
        s => format!("{s:.1} s"),
    }
}
