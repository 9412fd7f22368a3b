//! The results table as Markdown.

use std::fmt::{self, Write as _};

use gafi_core::Protocol;

use super::paper;
use crate::facts::{Group, RowFacts, TrainedOn};
use crate::run::Run;
use crate::values::Values;
use crate::wording::{STUDENT_SEEDS, TWO_SEEDS, p_value, plain};

/// A page with one section for each group.
pub(super) fn render(groups: &[Group], runs: &[Run], meta: &[(String, String)]) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    write_page(&mut page, groups, runs, meta).unwrap_or_default();
    page
}

fn write_page(page: &mut String, groups: &[Group], runs: &[Run], meta: &[(String, String)]) -> fmt::Result {
    for (i, group) in groups.iter().enumerate() {
        let runs: Vec<&Run> = group.runs.iter().map(|&at| &runs[at]).collect();
        let before = if i > 0 { "\n" } else { "" };
        writeln!(page, "{before}# {}\n", group.title())?;
        facts(page, group, &runs, meta)?;
        results(page, group)?;
        notes(page, group, &runs)?;
        comparisons(page, group)?;
        student_seeds(page, group)?;
        searches(page, group)?;
    }
    protocols(page, groups)
}

/// How the results were made, as a list.
fn facts(page: &mut String, group: &Group, runs: &[&Run], meta: &[(String, String)]) -> fmt::Result {
    writeln!(page, "- protocol `{}`: {}", group.protocol, group.choices())?;
    if let [run] = runs {
        writeln!(page, "- run: `{}`, seed {}", run.name, run.record().config.seed)?;
    } else {
        let seeds = list(runs.iter().map(|run| run.record().config.seed.to_string()));
        writeln!(page, "- runs: {} (seeds {seeds})", runs.len())?;
    }
    writeln!(page, "- uncertainty: {}", group.uncertainty())?;
    if !group.differs.is_empty() {
        let keys = list(group.differs.iter().map(|(key, value)| format!("`{key} = {}`", shortened(&plain(value)))));
        writeln!(page, "- keys that differ from the other tables: {keys}")?;
    }
    let unfinished = list(runs.iter().filter(|run| !run.is_finished()).map(|run| format!("`{}`", run.name)));
    if !unfinished.is_empty() {
        writeln!(page, "- not finished: {unfinished}")?;
    }
    let cost = runs.iter().map(|run| run.record().cost);
    let trainings = list(cost.map(|cost| format!("{} ({} epochs)", cost.trainings, cost.epochs)));
    writeln!(page, "- classifiers trained in each run: {trainings}")?;
    let timings: Vec<_> = runs.iter().filter_map(|run| run.timings.as_ref()).collect();
    if !timings.is_empty() {
        let wall = list(timings.iter().map(|t| format!("{:.0} s", t.wall_s)));
        let cached = timings.iter().flat_map(|t| &t.stages).filter(|stage| stage.cached).count();
        let reused = if cached > 0 { format!(", with {cached} stages reused") } else { String::new() };
        writeln!(page, "- wall time of the last call: {wall}{reused}")?;
    }
    for (key, value) in meta {
        // A value stays on one line, whatever it contains.
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        let value = if key == "command" { format!("`{value}`") } else { value };
        writeln!(page, "- {key}: {value}")?;
    }
    writeln!(page)
}

/// One row for each line of the results; of a single run, with its settings.
fn results(page: &mut String, group: &Group) -> fmt::Result {
    let single = group.runs.len() == 1;
    let paper = paper::gap(group);
    let mut header = vec!["trained on", "test accuracy, %", "gap, points", "gap from", "n", "validation, %"];
    if paper.is_some() {
        header.push("paper's gap");
    }
    let backfilled = group.any_backfilled();
    if backfilled {
        header.push("backfilled");
    }
    if single {
        header.extend(["checkpoint", "std", "threshold", "renewed every"]);
    }
    line(page, &header)?;
    writeln!(page, "|---|---:|---:|---|{}", "---:|".repeat(header.len() - 4))?;
    for row in &group.rows {
        let against = row.against.clone().filter(|_| row.gap.n() > 0).unwrap_or_default();
        let (accuracy, gap) = (row.accuracy.to_string(), row.gap.to_string());
        let mut cells =
            vec![row.name.clone(), accuracy, gap, against, row.accuracy.n().to_string(), row.val.to_string()];
        if let Some(gap) = paper {
            cells.push(if row.name == paper::ROW { format!("{gap:.2}") } else { String::new() });
        }
        if backfilled {
            cells.push(row.backfilled().unwrap_or_default());
        }
        if single {
            cells.extend(settings(row));
        }
        line(page, &cells)?;
    }
    Ok(())
}

/// Checkpoint, std, threshold and renewal of a row; empty for references.
fn settings(row: &RowFacts) -> [String; 4] {
    let Some(Some(TrainedOn::Generated { settings, .. })) = row.trained_on.first() else { return Default::default() };
    let setting = &settings[0];
    let threshold = setting.threshold.map_or("-".into(), |t| format!("{t:.2}"));
    [setting.checkpoint.to_string(), setting.std.to_string(), threshold, setting.renewal_period()]
}

fn notes(page: &mut String, group: &Group, runs: &[&Run]) -> fmt::Result {
    let explained = group.notes();
    if !explained.is_empty() {
        writeln!(page)?;
        explained.iter().try_for_each(|note| writeln!(page, "- {note}"))?;
    }
    for row in &group.infeasible {
        let why = row.why.replace('\n', " ");
        writeln!(page, "\nRow {} of run `{}` is infeasible: {why}", row.name, runs[row.run].name)?;
    }
    if let Some(gap) = paper::gap(group) {
        writeln!(
            page,
            "\nThe paper reports a gap of {gap:.2} points for all techniques with several generators, at its own scale and with choices \
             made on test images."
        )?;
    }
    Ok(())
}

/// The declared comparisons.
fn comparisons(page: &mut String, group: &Group) -> fmt::Result {
    if group.comparisons.is_empty() {
        return Ok(());
    }
    head(page, &["comparison", "difference, points", "n", "p", "p (Holm)"])?;
    for found in &group.comparisons {
        let name = format!("{} - {}", found.row, found.with);
        let n = found.difference.n().to_string();
        line(page, &[name, found.difference.to_string(), n, p_value(found.p), p_value(found.p_holm)])?;
    }
    writeln!(page, "\n{}", group.tests())
}

/// The spread over seeds and over student seeds.
fn student_seeds(page: &mut String, group: &Group) -> fmt::Result {
    let rows = group.student_seeds();
    if rows.is_empty() {
        return Ok(());
    }
    head(page, &STUDENT_SEEDS)?;
    rows.iter().try_for_each(|row| line(page, row))?;
    writeln!(page, "\n{TWO_SEEDS}")
}

/// What the searches of the grids cost and found.
fn searches(page: &mut String, group: &Group) -> fmt::Result {
    if group.searches.is_empty() {
        return Ok(());
    }
    head(page, &["search", "students trained", "their epochs", "validation accuracy of the choice, %"])?;
    for search in &group.searches {
        let trainings = whole(&search.trainings);
        line(page, &[search.name.clone(), trainings, whole(&search.epochs), search.val.to_string()])?;
    }
    Ok(())
}

/// The gaps under both protocols side by side, for runs that differ in nothing else.
fn protocols(page: &mut String, groups: &[Group]) -> fmt::Result {
    for holdout in groups.iter().filter(|group| group.protocol == Protocol::Holdout) {
        let Some(paper) = groups.iter().find(|group| group.is_other_protocol_of(holdout)) else { continue };
        writeln!(page, "\n# {}: both protocols", holdout.dataset)?;
        head(page, &["trained on", "gap, `holdout` (n)", "gap, `paper` (n)"])?;
        for row in holdout.rows.iter().filter(|row| !row.is_reference()) {
            let cell = |row: Option<&RowFacts>| {
                row.filter(|row| row.gap.n() > 0).map_or(String::new(), |row| format!("{} ({})", row.gap, row.gap.n()))
            };
            line(page, &[row.name.clone(), cell(Some(row)), cell(paper.find(&row.name))])?;
        }
    }
    Ok(())
}

/// Counts: without decimals if all are equal.
fn whole(values: &Values) -> String {
    match values.summary() {
        Some(summary) if summary.sd.unwrap_or(0.0) == 0.0 => format!("{:.0}", summary.mean),
        _ => values.to_string(),
    }
}

/// A blank line and the head of a table, whose columns after the first are numbers.
fn head(page: &mut String, names: &[&str]) -> fmt::Result {
    writeln!(page)?;
    line(page, names)?;
    writeln!(page, "|---|{}", "---:|".repeat(names.len() - 1))
}

/// A line of a table.
fn line(page: &mut String, cells: &[impl AsRef<str>]) -> fmt::Result {
    // Names of rows and classes may contain anything.
    let cells: Vec<String> = cells.iter().map(|cell| cell.as_ref().replace('|', "\\|").replace('\n', " ")).collect();
    writeln!(page, "| {} |", cells.join(" | "))
}

/// At most 60 characters of `text`.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.into(),
    }
}

fn list(values: impl Iterator<Item = String>) -> String {
    values.collect::<Vec<_>>().join(", ")
}
