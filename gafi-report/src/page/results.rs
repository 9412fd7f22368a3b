//! Section "Results": accuracy on the test split and its uncertainty, the gap, each class, confusions.

use std::collections::BTreeMap;

use gafi_core::Protocol;
use gafi_pipeline::record::Trial;
use maud::{Markup, html};

use super::parts::{class_name, level, missing, scrolled, spread};
use crate::evaluations::{Confusion, Evaluations};
use crate::facts::{BASELINE, GAFI, Group, REAL, RowFacts};
use crate::report::Report;
use crate::run::Run;

/// With more classes, tables are folded and the confusion matrix is left out.
const MANY_CLASSES: usize = 20;
/// Lines of a shortened list.
const LISTED: usize = 12;

pub(super) fn section(report: &Report) -> Markup {
    html! {
        @for (group, evaluations) in report.groups.iter().zip(&report.evaluations) {
            @if report.groups.len() > 1 { h3 { (title(group, report.runs)) } }
            (of_group(group, evaluations, &report.classes))
        }
        @for run in report.runs.iter().filter(|r| !r.is_finished()) { (unfinished(run)) }
    }
}

/// "shapes, protocol holdout: seed-0, seed-1".
fn title(group: &Group, runs: &[Run]) -> String {
    let names: Vec<&str> = group.runs.iter().map(|&at| runs[at].name.as_str()).collect();
    format!("{}, protocol {}: {}", group.dataset, group.protocol, names.join(", "))
}

fn of_group(group: &Group, evaluations: &Evaluations, classes: &[String]) -> Markup {
    let real = group.find(REAL);
    let gafi = group.find(GAFI);
    let baseline = group.find(BASELINE);
    let better = |best: &&RowFacts| gafi.is_none_or(|gafi| best.val.mean() > gafi.val.mean());
    let best = group.best().filter(better);
    let tested = |row: &&RowFacts| row.accuracy.n() > 0;
    let of = |row: Option<&RowFacts>| row.and_then(|row| Some((row.name.clone(), evaluations.get(&row.name)?)));
    html! {
        @if group.protocol == Protocol::Paper { p.warn {
            "Protocol paper: all choices were made on these test images, as in the paper's code. The accuracies are optimistic and \
             cannot be compared with the holdout protocol."
        } }
        @if let (Some(real), Some(gafi)) = (real.filter(tested), gafi.filter(tested)) { (summary(real, gafi, baseline.filter(tested), best)) }
        @if !group.rows.is_empty() { (table(group)) }
        @if !group.infeasible.is_empty() {
            p { "These rows are infeasible, because a class ran out of samples:" }
            ul { @for row in &group.infeasible { li { (row.name) ": " (row.why) } } }
        }
        @if let Some((_, real)) = of(real) {
            (by_class(real, [baseline, gafi, best].into_iter().filter_map(of).collect(), classes))
        }
        @for (name, confusion) in [best, gafi, real].into_iter().filter_map(of) { (confusions(&name, confusion, classes, group.runs.len())) }
    }
}

/// The main figures, in cards and in words.
fn summary(real: &RowFacts, gafi: &RowFacts, baseline: Option<&RowFacts>, best: Option<&RowFacts>) -> Markup {
    let card = |name: &str, row: &RowFacts| {
        html! { div { dt { (name) } dd { (format!("{:.2} %", row.accuracy.mean())) " " small { (uncertainty(row)) } } } }
    };
    let noise = noise(real, gafi);
    let gap_error = gafi.gap.sd().or(noise.map(|noise| noise / 2.0));
    html! {
        dl.key {
            (card(REAL, real))
            @if let Some(baseline) = baseline { (card(BASELINE, baseline)) }
            (card(GAFI, gafi))
            @if let Some(best) = best { (card(&format!("{} (best on validation)", best.name), best)) }
            div { dt { "gap of gafi" } dd { (points(gafi)) " " small { "points" @if let Some(error) = gap_error { (format!(" ± {error:.2}")) } } } }
        }
        p {
            "A student trained only on generated images (" b { (GAFI) } ") classifies " b { (format!("{:.2} %", gafi.accuracy.mean())) }
            " of the real test images correctly. The same classifier trained on as many real images reaches "
            b { (format!("{:.2} %", real.accuracy.mean())) } ": a gap of " b { (points(gafi)) " points" } "."
            @if gafi.gap.mean() < 0.0 { " A negative gap means that the generated images did better than the real ones." }
            @if let Some(baseline) = baseline {
                " With raw samples of the generator (" (BASELINE) ") the gap is " (points(baseline)) " points"
                (closed(baseline, gafi, noise)) "."
            }
        }
        @if let Some(best) = best {
            p {
                "Row " b { (best.name) } " did better than " (GAFI) " on validation. Its gap on test images is " (points(best)) " points"
                @if let Some(against) = best.against.as_ref().filter(|_| best.against != gafi.against) { ", measured against row " b { (against) } ", which has as many real images" }
                "."
            }
        }
        p.soft {
            @if gafi.accuracy.n() > 1 {
                "± is the sample standard deviation over " (gafi.accuracy.n()) " runs."
            } @else {
                "Each classifier was trained once (n = 1). ± is one standard error for a random sample of " (real.tested) " test images"
                @if let Some(noise) = noise { "; differences below " (format!("{noise:.1}")) " points are within two standard errors" }
                ". Standard errors leave out the randomness of training; to see that, report runs with different seeds together."
            }
        }
    }
}

/// A mean gap in percentage points.
fn points(row: &RowFacts) -> String {
    format!("{:.2}", row.gap.mean())
}

/// The share of the baseline's gap that gafi closes. Left out where the baseline's gap is within the noise.
fn closed(baseline: &RowFacts, gafi: &RowFacts, noise: Option<f64>) -> Markup {
    let closed = 100.0 * (1.0 - gafi.gap.mean() / baseline.gap.mean());
    html! {
        @if baseline.gap.mean() > noise.unwrap_or(0.0) && closed.is_finite() {
            @if closed >= 100.0 { ": GaFi closes it completely" }
            @else if closed >= 0.0 { ": GaFi closes " (format!("{closed:.0}")) " % of it" }
            @else { ": GaFi makes it larger" }
        }
    }
}

/// Two standard errors of the difference between two accuracies measured on random test images, in percentage points. `None` over
/// several runs: their spread says more.
fn noise(one: &RowFacts, other: &RowFacts) -> Option<f64> {
    if one.accuracy.n() != 1 {
        return None;
    }
    Some(2.0 * one.sampling_error()?.hypot(other.sampling_error()?))
}

fn uncertainty(row: &RowFacts) -> String {
    match (row.accuracy.sd(), row.sampling_error()) {
        (Some(sd), _) => format!("± {sd:.2} (n = {})", row.accuracy.n()),
        (None, Some(error)) => format!("± {error:.2} (n = 1)"),
        (None, None) => "n = 1".into(),
    }
}

fn table(group: &Group) -> Markup {
    let most = group.rows.iter().filter(|r| r.gap.n() > 0).map(|r| r.gap.mean()).fold(1e-9, f64::max);
    let val = match group.protocol {
        Protocol::Holdout => "validation",
        Protocol::Paper => "test (used as validation)",
    };
    html! {
        h3 { "All rows" }
        (scrolled("Accuracy of all rows", html! { table {
            caption { "Test accuracy is measured once, after all choices; choices use the " (val) " column. Shorter bars are smaller gaps." }
            thead { tr {
                th scope="col" { "trained on" } th scope="col" { "test, %" } th scope="col" { "gap, points" }
                th scope="col" { (val) ", %" } th scope="col" { "n" }
            } }
            tbody { @for row in &group.rows {
                tr.mark[row.name == GAFI] {
                    th scope="row" { (row.name) }
                    td { (spread(&row.accuracy)) }
                    @if row.gap.n() > 0 { td.bar style=(level(row.gap.mean() / most)) { (spread(&row.gap)) } } @else { td {} }
                    td { (spread(&row.val)) }
                    td { (row.accuracy.n()) }
                }
            } }
        } }))
        details { summary { "Settings of the rows" } dl {
            @for row in &group.rows {
                dt { b { (row.name) } }
                @for trained_on in row.trained_on.iter().flatten() { dd.soft { (trained_on) } }
            }
        } }
    }
}

/// Accuracy on each class, the largest gap first.
fn by_class(real: &Confusion, rows: Vec<(String, &Confusion)>, classes: &[String]) -> Markup {
    let Some((_, gafi)) = rows.iter().find(|(name, _)| name == GAFI) else { return html! {} };
    let gap = |c: usize| real.accuracy(c) - gafi.accuracy(c);
    let mut order: Vec<usize> = (0..real.classes()).collect();
    order.sort_by(|&a, &b| gap(b).total_cmp(&gap(a)));
    let most = order.first().map_or(1.0, |&c| gap(c).max(1e-9));
    let table = |order: &[usize]| {
        scrolled(
            "Accuracy by class",
            html! { table {
                caption { "Test accuracy by class in percent, over all runs; largest gap first" }
                thead { tr {
                    th scope="col" { "class" } th scope="col" { "real" }
                    @for (name, _) in &rows { th scope="col" { (name) } }
                    th scope="col" { "gap of gafi" }
                } }
                tbody { @for &c in order { tr {
                    th scope="row" { (class_name(classes, c)) }
                    td { (format!("{:.1}", real.accuracy(c))) }
                    @for (_, row) in &rows { td { (format!("{:.1}", row.accuracy(c))) } }
                    td.bar style=(level(gap(c) / most)) { (format!("{:.1}", gap(c))) }
                } } }
            } },
        )
    };
    let (first, rest) = order.split_at(if order.len() > MANY_CLASSES { LISTED } else { order.len() });
    html! {
        h3 { "Classes" }
        (table(first))
        @if !rest.is_empty() { details { summary { "The other " (rest.len()) " classes" } (table(rest)) } }
    }
}

fn confusions(name: &str, confusion: &Confusion, classes: &[String], runs: usize) -> Markup {
    let n = confusion.classes();
    let mut wrong: Vec<(usize, usize)> = (0..n).flat_map(|c| (0..n).map(move |d| (c, d))).collect();
    wrong.retain(|&(c, d)| c != d && confusion.0[c][d] > 0);
    wrong.sort_by_key(|&(c, d)| std::cmp::Reverse(confusion.0[c][d]));
    let listed = if n <= MANY_CLASSES { 5 } else { 2 * LISTED };
    html! {
        details open[name == GAFI] {
            summary { "Confusions: " (name) }
            @if n <= MANY_CLASSES {
                p.soft { "Percentage of a class's test images (row) predicted as each class (column)"
                    @if runs > 1 { ", over " (runs) " runs" } "." }
                (scrolled(&format!("Confusion matrix of {name}"), matrix(confusion, classes)))
            }
            @if wrong.is_empty() { p { "Every image was classified correctly." } } @else { p { "Most frequent:" } }
            ol { @for &(c, d) in wrong.iter().take(listed) {
                li { (format!("{:.1} %", 100.0 * confusion.share(c, d))) " of " (class_name(classes, c)) " predicted as " (class_name(classes, d)) }
            } }
        }
    }
}

fn matrix(confusion: &Confusion, classes: &[String]) -> Markup {
    let n = confusion.classes();
    html! { table.confusion {
        thead { tr { th scope="col" { "true \\ predicted" } @for d in 0..n { th scope="col" { (class_name(classes, d)) } } } }
        tbody { @for c in 0..n { tr {
            th scope="row" { (class_name(classes, c)) }
            @for d in 0..n { td style=(level(confusion.share(c, d))) { (format!("{:.0}", 100.0 * confusion.share(c, d))) } }
        } } }
    } }
}

/// What is known of a run before its last choice.
fn unfinished(run: &Run) -> Markup {
    let record = run.record();
    let trials = record.searches.iter().flat_map(|s| &s.steps).flat_map(|step| &step.trials);
    // Steps of one search share trials.
    let distinct: BTreeMap<&str, &Trial> = trials.map(|trial| (trial.artifact.id.as_str(), trial)).collect();
    let mut best: Vec<&Trial> = distinct.into_values().collect();
    best.sort_by(|a, b| b.val.accuracy().total_cmp(&a.val.accuracy()));
    html! {
        (missing(&format!("Test accuracy of {}", run.name), "it is measured after the last choice, when every student is trained"))
        dl.key {
            div { dt { "generators" } dd { (record.roles.generators.len()) } }
            div { dt { "classifiers trained" } dd { (record.cost.trainings) } }
            div { dt { "trials of the search" } dd { (best.len()) } }
        }
        @if !best.is_empty() {
            (scrolled("Best trials so far", html! { table {
                caption { "Best trials so far, by validation accuracy" }
                thead { tr {
                    th scope="col" { "checkpoint" } th scope="col" { "std" } th scope="col" { "threshold" } th scope="col" { "epochs" }
                    th scope="col" { "validation, %" }
                } }
                tbody { @for trial in best.iter().take(LISTED) { tr {
                    td { (trial.setting.checkpoint) }
                    td { (trial.setting.std) }
                    td { (trial.setting.threshold.map_or("none".into(), |t| format!("{t:.2}"))) }
                    td { (trial.epochs) }
                    td { (format!("{:.2}", 100.0 * trial.val.accuracy())) }
                } } }
            } }))
        }
    }
}
