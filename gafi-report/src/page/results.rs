//! Section "Results": accuracy on the test split and its uncertainty, the gap, declared comparisons, each class, confusions.

use std::collections::BTreeMap;

use gafi_core::Protocol;
use gafi_pipeline::REAL_ROW as REAL;
use gafi_pipeline::record::Trial;
use maud::{Markup, html};

use super::parts::{
    MANY_CLASSES, class_name, coded, data_table, estimate, half_width, level, lines, missing, scrolled,
};
use crate::evaluations::{Confusion, Evaluations};
use crate::facts::{BASELINE, GAFI, Group, RowFacts};
use crate::report::Report;
use crate::run::Run;
use crate::values::{Values, rounded};
use crate::wording::{STUDENT_SEEDS, TWO_SEEDS, p_value, plain};

/// Lines of a shortened list.
const LISTED: usize = 12;

pub(super) fn section(report: &Report) -> Markup {
    html! {
        @for (group, evaluations) in report.groups.iter().zip(&report.evaluations) {
            @if report.groups.len() > 1 { (title(group, report.runs)) }
            (of_group(group, evaluations, &report.classes))
        }
        @for run in report.runs.iter().filter(|r| !r.is_finished()) { (unfinished(run)) }
    }
}

/// The group's name, its runs, and every key in which it differs from the other groups.
fn title(group: &Group, runs: &[Run]) -> Markup {
    let names: Vec<&str> = group.runs.iter().map(|&at| runs[at].name.as_str()).collect();
    html! {
        h3 { (group.title()) ": " (names.join(", ")) }
        details { summary { "Keys that differ from the other groups" } dl {
            @for (key, value) in &group.differs { dt { code { (key) } } dd.soft { (plain(value)) } }
        } }
    }
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
            "Protocol paper: " (coded(group.choices())) "."
        } }
        @if let (Some(real), Some(gafi)) = (real.filter(tested), gafi.filter(tested)) {
            (summary(group, real, gafi, baseline.filter(tested), best))
        }
        @if !group.rows.is_empty() { (table(group)) }
        @if !group.comparisons.is_empty() { (comparisons(group)) }
        @if group.rows.iter().any(|row| row.student_seeds.is_some()) { (student_seeds(group)) }
        @if !group.infeasible.is_empty() {
            p { "These rows are infeasible, because a class ran out of samples:" }
            ul { @for row in &group.infeasible { li { (row.name) ": " (lines(&row.why)) } } }
        }
        @if let Some((_, real)) = of(real) {
            (by_class(real, [baseline, gafi, best].into_iter().filter_map(of).collect(), classes))
        }
        @for (name, confusion) in [best, gafi, real].into_iter().filter_map(of) { (confusions(&name, confusion, classes, group.runs.len())) }
    }
}

/// The main figures, in cards and in words.
fn summary(
    group: &Group,
    real: &RowFacts,
    gafi: &RowFacts,
    baseline: Option<&RowFacts>,
    best: Option<&RowFacts>,
) -> Markup {
    let card = |name: &str, values: &Values, unit: &str| {
        html! { div { dt { (name) } dd { (rounded(values.mean())) (unit) " " small {
            @if let Some(half) = half_width(values) { (format!("± {half:.2} ")) }
            (format!("(n = {})", values.n()))
        } } } }
    };
    html! {
        dl.key {
            (card(&real.name, &real.accuracy, " %"))
            @if let Some(baseline) = baseline { (card(BASELINE, &baseline.accuracy, " %")) }
            (card(GAFI, &gafi.accuracy, " %"))
            @if let Some(best) = best { (card(&format!("{} (best on validation)", best.name), &best.accuracy, " %")) }
            (card("gap of gafi", &gafi.gap, " points"))
        }
        p {
            "A student trained only on generated images (" b { (GAFI) } ") classifies " b { (format!("{:.2} %", gafi.accuracy.mean())) }
            " of the real test images correctly. The same classifier trained on real images (" b { (real.name) } ") reaches "
            b { (format!("{:.2} %", real.accuracy.mean())) } ". The gap is " b { (points(&gafi.gap)) } "."
            @if let Some(baseline) = baseline {
                " With raw samples of the generator (" (BASELINE) ") it is " (points(&baseline.gap)) ". "
                (GAFI) " minus " (BASELINE) ": " (points(&gafi.accuracy.minus(&baseline.accuracy))) "."
            }
        }
        @if let Some(best) = best {
            p {
                "Row " b { (best.name) } " has the best mean validation accuracy. Its gap on test images is " (points(&best.gap))
                @if let Some(against) = best.against.as_ref().filter(|_| best.against != gafi.against) { ", from row " b { (against) } }
                "."
            }
        }
        p.soft { (group.uncertainty()) }
    }
}

/// A mean in percentage points with its interval: "7.01 points (95 % interval 5.10 to 8.92)".
fn points(values: &Values) -> String {
    let interval = values.summary().and_then(|summary| summary.interval());
    let interval = interval.map(|[low, high]| format!(" (95 % interval {} to {})", rounded(low), rounded(high)));
    format!("{} points{}", rounded(values.mean()), interval.unwrap_or_default())
}

fn table(group: &Group) -> Markup {
    let most = group.rows.iter().filter(|r| r.gap.n() > 0).map(|r| r.gap.mean()).fold(1e-9, f64::max);
    let chosen = match group.protocol {
        Protocol::Holdout => "Test accuracy is measured once, after all choices. Choices use validation accuracy.",
        Protocol::Paper => "For students, the validation column is their accuracy on the test images that chose them.",
    };
    let backfilled = group.any_backfilled().then_some("backfilled");
    let mut columns = vec!["trained on", "test, %", "gap, points", "gap from", "n", "validation, %"];
    columns.extend(backfilled);
    let caption = format!("{chosen} Shorter bars are smaller gaps.");
    let body = html! { @for row in &group.rows {
        tr.mark[row.name == GAFI] {
            th scope="row" { (row.name) }
            td { (estimate(&row.accuracy)) }
            @if row.gap.n() > 0 { td.bar style=(level(row.gap.mean() / most)) { (estimate(&row.gap)) } } @else { td {} }
            td.left { @if row.gap.n() > 0 { (row.against.as_deref().unwrap_or_default()) } }
            td { (row.accuracy.n()) }
            td { (estimate(&row.val)) }
            @if backfilled.is_some() { td { (row.backfilled().unwrap_or_default()) } }
        }
    } };
    html! {
        h3 { "All rows" }
        (data_table("Accuracy of all rows", &caption, &columns, body))
        ul.soft { @for note in &group.notes() { li { (coded(note)) } } }
        details { summary { "Settings of the rows" } dl {
            @for row in &group.rows {
                dt { b { (row.name) } }
                @for training in row.trainings() { dd.soft { (training) } }
            }
        } }
    }
}

/// The declared comparisons.
fn comparisons(group: &Group) -> Markup {
    let columns = ["comparison", "difference, points", "n", "p", "p (Holm)"];
    let body = html! { @for found in &group.comparisons { tr {
        th scope="row" { (found.row) " - " (found.with) }
        td { (estimate(&found.difference)) }
        td { (found.difference.n()) }
        td { (p_value(found.p)) }
        td { (p_value(found.p_holm)) }
    } } };
    html! {
        h3 { "Comparisons" }
        (data_table("Declared comparisons", "", &columns, body))
        p.soft { (group.tests()) }
    }
}

/// The spread over seeds and over student seeds.
fn student_seeds(group: &Group) -> Markup {
    let body = html! { @for [name, figures @ ..] in group.student_seeds() { tr {
        th scope="row" { (name) } @for figure in &figures { td { (figure) } }
    } } };
    html! {
        h3 { "Randomness of training" }
        (data_table("Spread over seeds and student seeds", "", &STUDENT_SEEDS, body))
        p.soft { (TWO_SEEDS) }
    }
}

/// Accuracy on each class, the largest gap first.
fn by_class(real: &Confusion, rows: Vec<(String, &Confusion)>, classes: &[String]) -> Markup {
    let Some((_, gafi)) = rows.iter().find(|(name, _)| name == GAFI) else { return html! {} };
    let gap = |c: usize| real.accuracy(c) - gafi.accuracy(c);
    let mut order: Vec<usize> = (0..real.classes()).collect();
    order.sort_by(|&a, &b| gap(b).total_cmp(&gap(a)));
    let most = order.first().map_or(1.0, |&c| gap(c).max(1e-9));
    let names = rows.iter().map(|(name, _)| name.as_str());
    let columns: Vec<&str> = ["class", "real"].into_iter().chain(names).chain(["gap of gafi"]).collect();
    let table = |order: &[usize]| {
        let caption = "Test accuracy by class in percent, pooled over the runs; largest gap first";
        let body = html! { @for &c in order { tr {
            th scope="row" { (class_name(classes, c)) }
            td { (format!("{:.1}", real.accuracy(c))) }
            @for (_, row) in &rows { td { (format!("{:.1}", row.accuracy(c))) } }
            td.bar style=(level(gap(c) / most)) { (format!("{:.1}", gap(c))) }
        } } };
        data_table("Accuracy by class", caption, &columns, body)
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

/// What is known about a run before its last choice.
fn unfinished(run: &Run) -> Markup {
    let record = run.record();
    let trials = record.searches.iter().flat_map(|s| &s.steps).flat_map(|step| &step.trials);
    // Steps of one search share trials.
    let distinct: BTreeMap<&str, &Trial> = trials.map(|trial| (trial.artifact.id.as_str(), trial)).collect();
    let mut best: Vec<&Trial> = distinct.into_values().collect();
    best.sort_by(|a, b| b.val.accuracy().total_cmp(&a.val.accuracy()));
    let columns = ["checkpoint", "std", "threshold", "epochs", "validation, %"];
    let trials = html! { @for trial in best.iter().take(LISTED) { tr {
        td { (trial.setting.checkpoint) }
        td { (trial.setting.std) }
        td { (trial.setting.threshold.map_or("none".into(), |t| format!("{t:.2}"))) }
        td { (trial.epochs) }
        td { (format!("{:.2}", 100.0 * trial.val.accuracy())) }
    } } };
    html! {
        (missing(&format!("Test accuracy of {}", run.name), "it is measured after the last choice, when every student is trained"))
        dl.key {
            div { dt { "generators" } dd { (record.roles.generators.len()) } }
            div { dt { "classifiers trained" } dd { (record.cost.trainings) } }
            div { dt { "trials of the search" } dd { (best.len()) } }
        }
        @if !best.is_empty() {
            (data_table("Best trials so far", "Best trials so far, by validation accuracy", &columns, trials))
        }
    }
}

#[cfg(test)]
mod tests {
    use gafi_core::{ClassTally, Protocol};

    use super::*;
    use crate::facts::groups;
    use crate::run::tests::run;

    #[test]
    fn backfilled_samples_have_a_column() {
        let mut one = run(0, Protocol::Holdout, &[("real", 75.0), ("gafi", 50.0)]);
        let page = |run: &Run| table(&groups(std::slice::from_ref(run)).unwrap()[0]).into_string();
        assert!(!page(&one).contains("backfilled"));
        one.record.rows[0].tally = Some(ClassTally::new(900, 97, 3));
        let text = page(&one);
        assert!(text.contains("<th scope=\"col\">backfilled</th>") && text.contains("<td>3 (3.0 %)</td>"), "{text}");
        assert!(text.contains("samples that the filter rejected"), "{text}");
    }
}
