//! Section "Search and training": the search as curves, training curves, cost.

use anyhow::Result;
use maud::{Markup, html};

use super::parts::{data_table, duration, figures, lines, missing};
use crate::costs::costs;
use crate::curves;
use crate::report::Report;
use crate::run::Run;

pub(super) fn section(report: &Report) -> Result<Markup> {
    let searches = curves::search(report.runs);
    let steps = report.runs.iter().flat_map(|run| &run.record().searches).flat_map(|search| &search.steps);
    let infeasible: Vec<_> = steps.flat_map(|step| step.infeasible.iter().map(move |one| (step.kind, one))).collect();
    let training = report.runs.first().map(curves::training).transpose()?.unwrap_or_default();
    let costs = report.runs.iter().map(cost).collect::<Result<Vec<_>>>()?;
    Ok(html! {
        h3 { "Search" }
        p.soft {
            "Each point is a student, evaluated on the validation split. A ring marks the chosen setting, from which the next step starts. "
            "In charts titled “closed-form screening”, each point is a linear classifier solved in closed form instead."
        }
        @if searches.main.is_empty() { (missing("Search", "no step has started yet")) }
        @else { (figures(&searches.main)?) }
        @if !searches.other.is_empty() {
            details { summary { "Other searches (" (searches.other.len()) ")" } (figures(&searches.other)?) }
        }
        @if !infeasible.is_empty() {
            p { "These settings are infeasible, because a class ran out of samples:" }
            ul { @for (kind, one) in &infeasible { li { (kind) " search, " (one.setting) ": " (lines(&one.why)) } } }
        }
        h3 { "Training" @if report.runs.len() > 1 { " of " (report.runs[0].name) } }
        @if training.is_empty() { (missing("Training", "nothing has been trained yet")) }
        @else {
            p.soft { "A ring marks the epoch whose weights were kept." }
            (figures(&training)?)
        }
        h3 { "Cost" }
        div.tables { @for one in &costs { (one) } }
    })
}

fn cost(run: &Run) -> Result<Markup> {
    let name = format!("Cost of {}", run.name);
    let costs = costs(run)?;
    if costs.is_empty() {
        return Ok(missing(&name, "there are no artifacts yet"));
    }
    let seconds: f64 = costs.values().map(|c| c.wall_s).sum();
    let epochs: usize = costs.values().map(|c| c.epochs).sum();
    let artifacts: usize = costs.values().map(|c| c.artifacts).sum();
    let caption = format!(
        "{}: times from the logs of the artifacts that the run uses. Stages may run in parallel, so the total can exceed the \
         elapsed time.",
        run.name
    );
    let body = html! {
        @for (stage, cost) in &costs { tr {
            th scope="row" { (stage) }
            td { (cost.artifacts) }
            td { @if cost.epochs > 0 { (cost.epochs) } }
            td { (duration(cost.wall_s)) @if cost.untimed > 0 { " + " (cost.untimed) " without a time" } }
        } }
        tr.mark { th scope="row" { "total" } td { (artifacts) } td { (epochs) } td { (duration(seconds)) } }
    };
    Ok(data_table(&name, &caption, &["stage", "artifacts", "epochs", "time"], body))
}
