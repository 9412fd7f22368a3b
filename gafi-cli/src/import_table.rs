//! The report of an import as text: a table of classes and splits, then sizes, modes and notes.

use gafi_core::printable;
use gafi_data::{ImportReport, NoteKind};

/// How many classes have a row of their own.
const CLASSES: usize = 12;

/// The lines of the table.
pub(crate) fn lines(report: &ImportReport) -> Vec<String> {
    let mut lines = vec![format!("{} images, {} classes", report.format.name(), report.classes.len())];
    let header = std::iter::once("class".to_owned()).chain(report.splits.iter().map(|split| split.split.to_string()));
    let mut rows: Vec<Vec<String>> = vec![header.collect()];
    for (class, name) in report.classes.iter().enumerate().take(CLASSES) {
        let counts = report.splits.iter().map(|split| split.counts[class].to_string());
        rows.push(std::iter::once(short(name)).chain(counts).collect());
    }
    if report.classes.len() > CLASSES {
        let name = format!("... {} more", report.classes.len() - CLASSES);
        let ranges = report.splits.iter().map(|split| {
            let rest = &split.counts[CLASSES..];
            let least = rest.iter().min().unwrap_or(&0);
            let most = rest.iter().max().unwrap_or(&0);
            if least == most { format!("{least} each") } else { format!("{least} to {most}") }
        });
        rows.push(std::iter::once(name).chain(ranges).collect());
    }
    let sums = report.splits.iter().map(|split| split.counts.iter().sum::<u64>().to_string());
    rows.push(std::iter::once("all".into()).chain(sums).collect());
    let origins = report.splits.iter().map(|split| if split.own { "own" } else { "held out" }.to_owned());
    rows.push(std::iter::once(String::new()).chain(origins).collect());
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        lines.push(format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned());
    }
    let counted = |all: Vec<(String, u64)>, more: u64| {
        let mut parts: Vec<String> = all.into_iter().map(|(name, count)| format!("{name} ({count})")).collect();
        parts.extend((more > 0).then(|| format!("{more} more sizes")));
        parts.join("; ")
    };
    if !report.sizes.is_empty() {
        let sizes: Vec<_> = report.sizes.iter().take(5).cloned().collect();
        let more = report.different_sizes - sizes.len() as u64;
        lines.push(format!("  sizes: {}", counted(sizes, more)));
    }
    if !report.modes.is_empty() {
        lines.push(format!("  modes: {}", counted(report.modes.clone().into_iter().collect(), 0)));
    }
    for (kind, word) in [
        (NoteKind::Assumed, "assumed"),
        (NoteKind::Skipped, "skipped"),
        (NoteKind::Converted, "converted"),
        (NoteKind::Warning, "warning"),
    ] {
        let own = report.notes.iter().filter(|note| note.kind == kind);
        lines.extend(own.map(|note| format!("  {word}: {}", printable(note.sentence()))));
    }
    lines
}

/// A class name, shortened to 40 characters.
fn short(name: &str) -> String {
    let name = printable(name).to_string();
    if name.chars().count() > 40 { name.chars().take(39).chain(['…']).collect() } else { name }
}
