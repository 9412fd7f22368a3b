//! "What was tried": the searches as curves, the trainings, the cost.

use anyhow::Result;
use maud::{Markup, html};

use super::{duration, figures, missing, scrolled};
use crate::gather::Run;
use crate::{Report, curves, facts};

pub(super) fn section(report: &Report) -> Result<Markup> {
    let runs: Vec<&Run> = report.runs.iter().collect();
    let (charts, first) = curves::search(&runs);
    let unfinished: Vec<_> = runs.iter().filter(|r| r.steps.is_empty()).collect();
    let so_far: Vec<_> = unfinished.iter().flat_map(|r| curves::unfinished(r)).collect();
    let impossible: Vec<_> =
        runs.iter().flat_map(|r| &r.steps).flat_map(|s| s.impossible.iter().map(|i| (&s.name, i))).collect();
    let training = report.runs.first().map(curves::training).unwrap_or_default();
    Ok(html! {
        h3 { "The search" }
        p.soft { "Each point is a student, scored on the split that chooses; a ring marks the choice, which the next step starts from. "
            "Where it says “without students”, a point is a classifier that was solved for, not trained." }
        @if !charts.is_empty() { (figures(&charts[..first])?) }
        @if charts.len() > first {
            details { summary { "Other searches (" (charts.len() - first) ")" } (figures(&charts[first..])?) }
        }
        @for run in &unfinished {
            (missing(&format!("Choices of {}", run.name), "search.json is written when every choice is made"))
        }
        @if !so_far.is_empty() { (figures(&so_far)?) }
        @if !impossible.is_empty() {
            p { "Settings that were tried and are impossible:" }
            ul { @for (name, tried) in &impossible { li { (name) ": " (tried.setting) ": " (tried.why) } } }
        }
        h3 { "The trainings" @if report.runs.len() > 1 { " of " (report.runs[0].name) } }
        @if training.is_empty() { (missing("Trainings", "nothing has been trained yet")) }
        @else {
            p.soft { "A ring marks the epoch whose weights were kept." }
            (figures(&training)?)
        }
        h3 { "The cost" }
        div.tables { @for run in &report.runs { (cost(run)) } }
    })
}

fn cost(run: &Run) -> Markup {
    let costs = facts::costs(run);
    let all: f64 = costs.iter().map(|c| c.wall_s).sum();
    html! {
        @if costs.is_empty() { (missing(&format!("Cost of {}", run.name), "nothing has been made yet")) }
        @else {
            (scrolled(&format!("Cost of {}", run.name), html! { table {
                caption { (run.name) ": every artifact in the folder; times as their logs tell, added up, though stages may run side by side" }
                thead { tr {
                    th scope="col" { "stage" } th scope="col" { "artifacts" } th scope="col" { "epochs" } th scope="col" { "time" }
                } }
                tbody {
                    @for cost in &costs { tr {
                        th scope="row" { (cost.stage) }
                        td { (cost.made) }
                        td { @if cost.epochs > 0 { (cost.epochs) } }
                        td { (duration(cost.wall_s)) @if cost.untold > 0 { " + " (cost.untold) " untold" } }
                    } }
                    tr.mark { th scope="row" { "all" } td { (costs.iter().map(|c| c.made).sum::<usize>()) }
                        td { (costs.iter().map(|c| c.epochs).sum::<usize>()) } td { (duration(all)) } }
                }
            } }))
        }
    }
}
