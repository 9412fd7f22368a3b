//! The results table as Markdown.

use std::fmt::{self, Write as _};

use gafi_core::Protocol;

use super::paper;
use crate::facts::{Group, REAL, RowFacts, TrainedOn};
use crate::run::Run;
use crate::values::Values;

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
        let protocol = if groups.len() > 1 { format!(", protocol {}", group.protocol) } else { String::new() };
        writeln!(page, "{before}# {}{protocol}\n", group.dataset)?;
        facts(page, group, &runs, meta)?;
        results(page, group)?;
        notes(page, group, &runs)?;
        searches(page, group)?;
    }
    protocols(page, groups)
}

/// How the results were made, as a list.
fn facts(page: &mut String, group: &Group, runs: &[&Run], meta: &[(String, String)]) -> fmt::Result {
    let choices = match group.protocol {
        Protocol::Holdout => "choices use a validation split; test images are read once, after all choices",
        Protocol::Paper => "all choices use the TEST images, as in the paper's code, so the accuracies are optimistic",
    };
    writeln!(page, "- protocol `{}`: {choices}", group.protocol)?;
    if let [run] = runs {
        writeln!(page, "- run: `{}`, seed {} (n = 1)", run.name, run.record().config.seed)?;
        if let (Some(real), Some(noise)) = (group.find(REAL), run.record().noise()) {
            let test = real.tested;
            writeln!(
                page,
                "- test images: {test}; differences below {noise:.1} points are within two standard errors"
            )?;
        }
    } else {
        let seeds = list(runs.iter().map(|run| run.record().config.seed.to_string()));
        let n = runs.len();
        writeln!(
            page,
            "- runs: {n} (seeds {seeds}) on one split of the real images; ± is the sample standard deviation over runs"
        )?;
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
        // A value is one line, whatever is in it.
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        let value = if key == "command" { format!("`{value}`") } else { value };
        writeln!(page, "- {key}: {value}")?;
    }
    writeln!(page)
}

/// One row for each line of the results; of a single run, with its settings.
fn results(page: &mut String, group: &Group) -> fmt::Result {
    let single = group.runs.len() == 1;
    let paper = paper::gap(&group.dataset);
    let mut header = vec!["trained on", "test accuracy, %", "gap, points", "validation, %"];
    if paper.is_some() {
        header.push("paper's gap");
    }
    if single {
        header.extend(["checkpoint", "std", "threshold", "renewed every"]);
    } else {
        header.push("n");
    }
    line(page, &header)?;
    writeln!(page, "|---|{}", "---:|".repeat(header.len() - 1))?;
    for row in &group.rows {
        let mut cells = vec![row.name.clone(), row.accuracy.to_string(), row.gap.to_string(), row.val.to_string()];
        if let Some(gap) = paper {
            cells.push(if row.name == paper::ROW { format!("{gap:.2}") } else { String::new() });
        }
        if single {
            cells.extend(settings(row));
        } else {
            cells.push(row.accuracy.n().to_string());
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
    if group.rows.iter().any(|row| row.is_reference() && row.name != REAL) {
        writeln!(
            page,
            "\nA row with a larger set has its gap measured against the reference with as many real images, or as many steps where \
             there are fewer."
        )?;
    }
    for row in &group.infeasible {
        writeln!(page, "\nRow {} of run `{}` is infeasible: {}", row.name, runs[row.run].name, row.why)?;
    }
    if let Some(gap) = paper::gap(&group.dataset) {
        writeln!(
            page,
            "\nThe paper reports a gap of {gap:.2} points for all techniques with several generators, at its own scale and with choices \
             made on test images."
        )?;
    }
    Ok(())
}

/// What the searches of the grids cost and found.
fn searches(page: &mut String, group: &Group) -> fmt::Result {
    if group.searches.is_empty() {
        return Ok(());
    }
    writeln!(page)?;
    line(page, &["search", "students trained", "their epochs", "validation accuracy of the choice, %"])?;
    writeln!(page, "|---|---:|---:|---:|")?;
    for search in &group.searches {
        let trainings = whole(&search.trainings);
        line(page, &[search.name.clone(), trainings, whole(&search.epochs), search.val.to_string()])?;
    }
    Ok(())
}

/// The gaps under both protocols side by side, where there are runs of both on one set.
fn protocols(page: &mut String, groups: &[Group]) -> fmt::Result {
    let under = |protocol| groups.iter().filter(move |group| group.protocol == protocol);
    for holdout in under(Protocol::Holdout) {
        let Some(paper) = under(Protocol::Paper).find(|group| group.dataset == holdout.dataset) else { continue };
        writeln!(page, "\n# {}: both protocols\n", holdout.dataset)?;
        line(page, &["trained on", "gap, `holdout` (n)", "gap, `paper` (n)"])?;
        writeln!(page, "|---|---:|---:|")?;
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

/// A line of a table.
fn line(page: &mut String, cells: &[impl AsRef<str>]) -> fmt::Result {
    // A name of a row or class may hold anything.
    let cells: Vec<String> = cells.iter().map(|cell| cell.as_ref().replace('|', "\\|").replace('\n', " ")).collect();
    writeln!(page, "| {} |", cells.join(" | "))
}

fn list(values: impl Iterator<Item = String>) -> String {
    values.collect::<Vec<_>>().join(", ")
}
