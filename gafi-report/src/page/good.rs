//! "Is it good enough?": accuracy on real test images, with its spread; the gap; each class; what is taken for what.

use anyhow::Result;
use gafi_core::Protocol;
use maud::{Markup, html};

use super::{level, missing, scrolled, spread};
use crate::Report;
use crate::facts::{Group, RowFacts};
use crate::gather::Run;

/// With more classes tables are folded, and confusions listed instead of shown as a matrix.
const CLASSES: usize = 20;
/// Lines of a list that would be too long.
const LISTED: usize = 12;

pub(super) fn section(report: &Report) -> Result<Markup> {
    let unfinished: Vec<_> = report.runs.iter().filter(|r| r.results.is_none()).collect();
    Ok(html! {
        @for group in &report.groups { (of_group(group, &report.classes, report.groups.len() > 1)) }
        @for run in &unfinished { (so_far(run)) }
    })
}

fn of_group(group: &Group, classes: &[String], several: bool) -> Markup {
    let (real, gafi, baseline) = (group.rows.first(), group.find("gafi"), group.find("baseline"));
    // Only where it is another row: what did best by the scores that may choose.
    let better = |b: &&RowFacts| gafi.is_none_or(|g| b.val.mean() > g.val.mean());
    let best = group.best().filter(better);
    html! {
        @if several { h3 { (group.dataset) ", protocol " (group.protocol) } }
        @if group.protocol == Protocol::Paper { p.warn {
            "Protocol paper: every choice was made on these very test images, as in the paper's program. The figures flatter and do \
             not compare with held-out ones."
        } }
        @if let (Some(real), Some(gafi)) = (real, gafi) { (verdict(real, gafi, baseline, best)) }
        (table(group))
        @if !group.impossible.is_empty() {
            p { "Rows without a student, because a class ran out of samples:" }
            ul { @for (name, why) in &group.impossible { li { (name) ": " (why) } } }
        }
        @if let Some(real) = real {
            (per_class(real, [baseline, gafi, best].into_iter().flatten().collect(), classes))
            @for row in [best, gafi, Some(real)].into_iter().flatten() { (confusion(row, classes, group.n)) }
        }
    }
}

fn verdict(real: &RowFacts, gafi: &RowFacts, baseline: Option<&RowFacts>, best: Option<&RowFacts>) -> Markup {
    let card = |name: &str, row: &RowFacts| {
        html! { div { dt { (name) } dd { (format!("{:.2} %", row.accuracy.mean())) " " small { (uncertainty(row)) } } } }
    };
    let gap = |row: &RowFacts| format!("{:.2}", row.gap.mean());
    let noise = noise(real, gafi);
    // Of a gap that may be chance, shares mean nothing.
    let closed = baseline
        .filter(|b| b.gap.mean() > noise.unwrap_or(0.0))
        .map(|b| 100.0 * (1.0 - gafi.gap.mean() / b.gap.mean()))
        .filter(|c| c.is_finite());
    let gap_error = gafi.gap.sd().or(noise.map(|noise| noise / 2.0));
    html! {
        dl.key {
            (card("real images", real))
            @if let Some(baseline) = baseline { (card("baseline", baseline)) }
            (card("gafi", gafi))
            @if let Some(best) = best { (card(&format!("{}, best by validation", best.name), best)) }
            div { dt { "gap of gafi" } dd { (gap(gafi)) " " small { "points" @if let Some(error) = gap_error { (format!(" ± {error:.2}")) } } } }
        }
        p {
            "A student that never saw a real image (" b { "gafi" } ") recognises " b { (format!("{:.2} %", gafi.accuracy.mean())) }
            " of real test images, the same classifier trained on as many real ones " b { (format!("{:.2} %", real.accuracy.mean())) }
            ": a gap of " b { (gap(gafi)) " points" }
            @if let Some(baseline) = baseline {
                ", where samples as they come leave " (gap(baseline))
                @if let Some(closed) = closed {
                    @if closed >= 100.0 { " (all of it closed)" }
                    @else if closed >= 0.0 { " (" (format!("{closed:.0}")) " % of it closed)" }
                    @else { " (the gap has grown)" }
                }
            }
            "."
            @if gafi.gap.mean() < 0.0 { " Below zero: the student of generated images did better than that of real ones." }
        }
        @if let Some(best) = best {
            p {
                "On the split that chooses, row " b { (best.name) } " did better still; on test images its gap is " (gap(best)) " points"
                @if best.against != gafi.against { ", to as many real images as its own set has (row " b { (best.against) } ")" }
                "."
            }
        }
        p.soft {
            @if gafi.accuracy.n() > 1 {
                "± is the sample standard deviation over " (gafi.accuracy.n()) " runs."
            } @else {
                "One training of each (n = 1). ± is one standard error of drawing " (real.tested) " test images"
                @if let Some(noise) = noise { "; differences below " (format!("{noise:.1}")) " points may be that alone" }
                ". Chance in training comes on top: runs with other seeds (--seed), given to the report together, show how much."
            }
        }
    }
}

/// Two standard errors, of drawing test images, of the difference of two accuracies, in percentage points; none over several runs, whose
/// spread tells.
fn noise(one: &RowFacts, other: &RowFacts) -> Option<f64> {
    (one.accuracy.n() == 1).then_some(())?;
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
    let chose = match group.protocol {
        Protocol::Holdout => "val",
        Protocol::Paper => "test-as-val",
    };
    html! {
        h3 { "All rows" }
        (scrolled("Accuracies of all rows", html! { table {
            caption { "Split test, read after the last choice; column " (chose) " is the split that chose. A shorter bar is a smaller gap." }
            thead { tr {
                th scope="col" { "trained on" } th scope="col" { "test, %" } th scope="col" { "gap, points" }
                th scope="col" { (chose) ", %" } th scope="col" { "n" }
            } }
            tbody { @for row in &group.rows {
                tr.mark[row.name == "gafi"] {
                    th scope="row" { (row.name) }
                    td { (spread(&row.accuracy)) }
                    @if row.gap.n() > 0 { td.bar style=(level(row.gap.mean() / most)) { (spread(&row.gap)) } } @else { td {} }
                    td { (spread(&row.val)) }
                    td { (row.accuracy.n()) }
                }
            } }
        } }))
        details { summary { "Settings of the rows" } dl {
            @for row in group.rows.iter().filter(|r| !r.settings.is_empty()) {
                dt { b { (row.name) } }
                @for setting in &row.settings { dd.soft { (setting) } }
            }
        } }
    }
}

fn name(classes: &[String], class: usize) -> String {
    classes.get(class).cloned().unwrap_or_else(|| format!("class {class}"))
}

fn per_class(real: &RowFacts, rows: Vec<&RowFacts>, classes: &[String]) -> Markup {
    let rows: Vec<_> = rows.into_iter().filter(|r| !r.per_class.is_empty()).collect();
    let Some(gafi) = rows.iter().find(|r| r.name == "gafi").filter(|_| !real.per_class.is_empty()) else {
        return html! { h3 { "Each class" } (missing("Accuracy of each class", "no evaluation of these students was found in the folder")) };
    };
    let gap = |c: usize| real.per_class[c] - gafi.per_class.get(c).copied().unwrap_or(0.0);
    let mut order: Vec<usize> = (0..real.per_class.len()).collect();
    order.sort_by(|&a, &b| gap(b).total_cmp(&gap(a)));
    let most = order.first().map_or(1.0, |&c| gap(c).max(1e-9));
    let table = |order: &[usize]| {
        scrolled(
            "Accuracy of each class",
            html! { table {
                caption { "Accuracy on the test split in percent, mean over runs; largest gap first" }
                thead { tr {
                    th scope="col" { "class" } th scope="col" { "real" }
                    @for row in &rows { th scope="col" { (row.name) } }
                    th scope="col" { "gap of gafi" }
                } }
                tbody { @for &c in order { tr {
                    th scope="row" { (name(classes, c)) }
                    td { (format!("{:.1}", real.per_class[c])) }
                    @for row in &rows { td { (row.per_class.get(c).map_or(String::new(), |a| format!("{a:.1}"))) } }
                    td.bar style=(level(gap(c) / most)) { (format!("{:.1}", gap(c))) }
                } } }
            } },
        )
    };
    let (first, rest) = order.split_at(if order.len() > CLASSES { LISTED } else { order.len() });
    html! {
        h3 { "Each class" }
        (table(first))
        @if !rest.is_empty() { details { summary { "The other " (rest.len()) " classes" } (table(rest)) } }
    }
}

fn confusion(row: &RowFacts, classes: &[String], runs: usize) -> Markup {
    let n = row.confusion.len();
    if n == 0 {
        return html! {};
    }
    let share = |c: usize, d: usize| row.confusion[c][d] as f64 / row.confusion[c].iter().sum::<u64>().max(1) as f64;
    let mut wrong: Vec<(usize, usize)> =
        (0..n).flat_map(|c| (0..n).map(move |d| (c, d))).filter(|(c, d)| c != d).collect();
    wrong.sort_by_key(|&(c, d)| std::cmp::Reverse(row.confusion[c][d]));
    wrong.retain(|&(c, d)| row.confusion[c][d] > 0);
    let over = if runs > 1 { format!(", all {runs} runs together") } else { String::new() };
    html! {
        details open[row.name == "gafi"] {
            summary { "Confusions: " (row.name) }
            @if n <= CLASSES {
                p.soft { "Percent of the test images of a row's class that were taken for a column's" (over) "." }
                (scrolled(&format!("Confusion matrix of {}", row.name), html! { table.confusion {
                    thead { tr { th scope="col" { "is \\ taken for" } @for d in 0..n { th scope="col" { (name(classes, d)) } } } }
                    tbody { @for c in 0..n { tr {
                        th scope="row" { (name(classes, c)) }
                        @for d in 0..n { td style=(level(share(c, d))) { (format!("{:.0}", 100.0 * share(c, d))) } }
                    } } }
                } }))
            }
            @if wrong.is_empty() { p { "No image was taken for another class." } } @else { p { "Most often:" } }
            ol { @for &(c, d) in wrong.iter().take(if n <= CLASSES { 5 } else { 2 * LISTED }) {
                li { (name(classes, c)) " for " (name(classes, d)) ": " (format!("{:.1} %", 100.0 * share(c, d))) " of its images" }
            } }
        }
    }
}

/// What is known before the test split is opened.
fn so_far(run: &Run) -> Markup {
    let score = |made: Option<&crate::gather::Made>| {
        made.and_then(|m| m.trial.as_ref())
            .map_or("not trained yet".into(), |t| format!("{:.2} %", 100.0 * t.val.accuracy()))
    };
    let mut students: Vec<_> =
        run.of_stage("recycle").filter_map(|m| Some((m.trial.as_ref()?.val.accuracy(), m.lesson()?))).collect();
    students.sort_by(|a, b| b.0.total_cmp(&a.0));
    html! {
        (missing(&format!("Test accuracies of {}", run.name), "the test split is opened after the last choice, when every student is trained"))
        dl.key {
            div { dt { "teacher, validation" } dd { (score(run.teacher())) } }
            div { dt { "real images, validation" } dd { (score(run.reference())) } }
            div { dt { "students trained" } dd { (students.len()) } }
        }
        @if !students.is_empty() {
            (scrolled("Students so far", html! { table {
                caption { "Best students so far, by accuracy on the split that chooses" }
                thead { tr {
                    th scope="col" { "checkpoint" } th scope="col" { "std" } th scope="col" { "threshold" } th scope="col" { "epochs" }
                    th scope="col" { "accuracy, %" }
                } }
                tbody { @for (val, lesson) in students.iter().take(LISTED) { tr {
                    td { (lesson.source.checkpoint.map_or("last".into(), |c| c.to_string())) }
                    td { (lesson.source.std) }
                    td { (match lesson.threshold() { Some(Some(t)) => format!("{t:.2}"), Some(None) => "none".into(), None => "per class".into() }) }
                    td { (lesson.epochs) }
                    td { (format!("{:.2}", 100.0 * val)) }
                } } }
            } }))
        }
    }
}
