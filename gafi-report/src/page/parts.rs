//! What the sections share: boxes, tables, figures and number formats.

use anyhow::Result;
use maud::{Markup, PreEscaped, html};

use crate::chart::Chart;
use crate::colours;
use crate::plots;
use crate::values::{Values, rounded};

/// With more classes, tables of them are folded, and their confusion matrix is left out.
pub(super) const MANY_CLASSES: usize = 20;
/// A chart with at most this many points also has a table of them.
const TABLED: usize = 80;

/// A box for something that is not available, and why.
pub(super) fn missing(what: &str, why: &str) -> Markup {
    html! { p.missing { b { (what) ": " } (why) } }
}

/// A [`scrolled`] table of `rows` under the headings `columns`; no caption if `caption` is empty.
pub(super) fn data_table(name: &str, caption: &str, columns: &[&str], rows: Markup) -> Markup {
    scrolled(
        name,
        html! { table {
            @if !caption.is_empty() { caption { (caption) } }
            (headings(columns))
            tbody { (rows) }
        } },
    )
}

/// A table that scrolls when it is wider than the page, with the mouse or the keyboard.
pub(super) fn scrolled(name: &str, table: Markup) -> Markup {
    html! { div.scroll role="region" tabindex="0" aria-label=(name) { (table) } }
}

fn headings(columns: &[&str]) -> Markup {
    html! { thead { tr { @for column in columns { th scope="col" { (column) } } } } }
}

/// "74.29 ± 0.50", a mean with half the width of its 95 % t-interval; on narrow screens the style sheet puts that on a second line.
pub(super) fn estimate(values: &Values) -> Markup {
    html! {
        @if values.n() > 0 { (rounded(values.mean())) }
        @if let Some(half) = half_width(values) { " " span.pm { (format!("± {half:.2}")) } }
    }
}

/// Half the width of the 95 % t-interval of the mean; `None` for one value.
pub(super) fn half_width(values: &Values) -> Option<f64> {
    values.summary()?.half_width()
}

/// Text with its line ends.
pub(super) fn lines(text: &str) -> Markup {
    html! { @for (i, line) in text.lines().enumerate() { @if i > 0 { br; } (line) } }
}

/// Text whose `quoted` parts are set as code.
pub(super) fn coded(text: &str) -> Markup {
    html! { @for (i, part) in text.split('`').enumerate() { @if i % 2 == 1 { code { (part) } } @else { (part) } } }
}

/// The CSS property behind bars and shades, in [0, 1].
pub(super) fn level(share: f64) -> String {
    format!("--v:{:.3}", if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 })
}

/// The name of a class, or its number where names are unknown.
pub(super) fn class_name(classes: &[String], class: usize) -> String {
    classes.get(class).cloned().unwrap_or_else(|| format!("class {class}"))
}

/// "3 h 12 min", "46 min", "3.2 s".
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 3600.0 => format!("{:.0} h {:.0} min", (s / 3600.0).floor(), (s % 3600.0 / 60.0).floor()),
        s if s >= 120.0 => format!("{:.0} min", s / 60.0),
        s => format!("{s:.1} s"),
    }
}

/// Charts side by side.
///
/// # Errors
/// When a chart cannot be drawn.
pub(super) fn figures(charts: &[Chart]) -> Result<Markup> {
    let drawn = charts.iter().map(figure).collect::<Result<Vec<_>>>()?;
    Ok(html! { div.charts { @for one in &drawn { (one) } } })
}

/// A chart with its legend and a table of its points.
fn figure(chart: &Chart) -> Result<Markup> {
    let svg = plots::draw(chart, &description(chart))?;
    let points: usize = chart.lines.iter().map(|l| l.points.len()).sum();
    Ok(html! {
        figure {
            h4 { (chart.title) }
            (PreEscaped(svg))
            ul.legend {
                @for (i, line) in chart.lines.iter().enumerate() {
                    li {
                        span class=(colours::class(i)) aria-hidden="true" { (plots::symbol(i)) " " }
                        (line.name)
                        @if let Some(chosen) = line.chosen { ", chosen (○): " (number(chosen.0)) }
                    }
                }
            }
            @if points <= TABLED { details {
                summary { "Values" }
                table {
                    (headings(&["line", &chart.x, &chart.y]))
                    tbody { @for line in &chart.lines { @for p in &line.points {
                        tr { th scope="row" { (line.name) } td { (number(p.0)) } td { (format!("{:.2}", p.1)) } }
                    } } }
                }
            } }
        }
    })
}

/// The chart in words, for screen readers.
fn description(chart: &Chart) -> String {
    let at = |p: (f64, f64)| format!("{:.2} at {}", p.1, number(p.0));
    let lines = chart.lines.iter().map(|line| {
        let ends = line.points.first().zip(line.points.last());
        let ends = ends.map_or("no points".into(), |(first, last)| format!("from {} to {}", at(*first), at(*last)));
        let chosen = line.chosen.map_or(String::new(), |c| format!(", chosen {}", at(c)));
        format!("{}: {ends}{chosen}", line.name)
    });
    format!("{}; {} by {}. {}", chart.title, chart.y, chart.x, lines.collect::<Vec<_>>().join(". "))
}

/// Up to four decimals, without trailing zeros.
fn number(v: f64) -> String {
    if v.fract() == 0.0 { format!("{v:.0}") } else { format!("{v:.4}").trim_end_matches('0').into() }
}
