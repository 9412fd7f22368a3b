//! "What the data looks like": what a threshold keeps, samples that pass and samples that do not, the effect of the deviation,
//! nearest real images.

use anyhow::Result;
use maud::{Markup, PreEscaped, html};

use super::{level, missing, scrolled};
use crate::Report;
use crate::pictures::Picture;
use crate::plots;
use crate::samples::{BINS, Confidences, Grid, Neighbours, Samples};

/// Bars of the histogram.
const BARS: usize = 20;
/// With more classes the table of classes is folded.
const CLASSES: usize = 20;

pub(super) fn section(report: &Report) -> Result<Markup> {
    let samples = match &report.samples {
        Ok(samples) => samples,
        Err(why) => return Ok(missing("Samples", why)),
    };
    let classes = &report.classes;
    Ok(html! {
        p { "Samples of " (samples.made) ". They are the first of their names, not picked; the teacher judges each." }
        (threshold(samples, classes)?)
        h3 { "Samples of each class" }
        p.soft {
            @match samples.threshold {
                Some(t) => { "A sample is accepted if its class is the likeliest one and has a probability above " (format!("{t:.2}")) "." }
                None => { "The student took samples without one threshold for all; what is called accepted here is what the rule with \
                          threshold 0, or the classes' own, accepts." }
            }
            @if samples.grids.len() < classes.len() {
                " Of " (classes.len()) " classes, the " (samples.grids.len()) " that the teacher recognises least."
            }
        }
        div.cards { @for grid in &samples.grids { (card(grid, &samples.confidences, classes)) } }
        (deviations(samples, classes))
        @match &samples.neighbours {
            Some(found) => (neighbours(found, classes)),
            None => { h3 { "Nearest real images" } (missing("Nearest real images", "not asked for, or the training images or the teacher's features are not there")) }
        }
    })
}

fn name(classes: &[String], class: usize) -> &str {
    classes.get(class).map_or("?", String::as_str)
}

fn percent(p: f32) -> String {
    // A hundred percent is said of nothing that is not.
    if p < 0.9995 {
        format!("{:.1}\u{a0}%", (f64::from(p) * 1000.0).floor() / 10.0)
    } else {
        ">\u{a0}99.9\u{a0}%".into()
    }
}

/// The histogram with its slider, and what each class keeps. Without scripts it shows the threshold that was chosen.
fn threshold(samples: &Samples, classes: &[String]) -> Result<Markup> {
    let at = samples.threshold.map_or(0, |t| (t * BINS as f64).round() as usize).min(BINS - 1);
    let sum = |of: &dyn Fn(&Confidences) -> &Vec<u64>| -> Vec<u64> {
        let bar = |b: usize| {
            samples.confidences.iter().map(move |c| of(c)[b * BINS / BARS..(b + 1) * BINS / BARS].iter().sum::<u64>())
        };
        (0..BARS).map(|b| bar(b).sum()).collect()
    };
    let (recognised, others) = (sum(&|c| &c.recognised), sum(&|c| &c.others));
    let (kept, drawn): (u64, u64) =
        (samples.confidences.iter().map(|c| c.kept(at)).sum(), samples.confidences.iter().map(|c| c.drawn).sum());
    let share = |kept: u64, drawn: u64| kept as f64 / drawn.max(1) as f64;
    let label = format!(
        "Histogram of the teacher's probability of the class asked for, over {drawn} samples: {} are taken for it, {} for another \
         class",
        recognised.iter().sum::<u64>(),
        others.iter().sum::<u64>()
    );
    let drawing = plots::histogram(&recognised, &others, &label)?;
    let x = drawing.x.0 as f64 + (drawing.x.1 - drawing.x.0) as f64 * at as f64 / BINS as f64;
    let overlay = html! {
        g.overlay data-from=(drawing.x.0) data-to=(drawing.x.1) {
            rect x=(drawing.x.0) y=(drawing.y.0) width=(x - drawing.x.0 as f64) height=(drawing.y.1 - drawing.y.0) {}
            line x1=(x) x2=(x) y1=(drawing.y.0) y2=(drawing.y.1) {}
        }
    };
    let svg = drawing.svg.replace("</svg>", &format!("{}</svg>", overlay.into_string()));
    let table = html! { table {
        caption { "Samples that the threshold keeps, of each class" }
        thead { tr { th scope="col" { "class" } th scope="col" { "kept" } th scope="col" { "drawn" } th scope="col" { "share" } } }
        tbody { @for (c, of) in samples.confidences.iter().enumerate() {
            @let bins: Vec<_> = of.recognised.iter().map(u64::to_string).collect();
            tr data-drawn=(of.drawn) data-bins=(bins.join(",")) {
                th scope="row" { (name(classes, c)) }
                td { (of.kept(at)) } td { (of.drawn) }
                td.bar style=(level(share(of.kept(at), of.drawn))) { (format!("{:.1} %", 100.0 * share(of.kept(at), of.drawn))) }
            }
        } }
    } };
    let table = scrolled("Samples that the threshold keeps, of each class", table);
    Ok(html! {
        h3 { "What a threshold keeps" }
        div.charts {
            figure {
                (PreEscaped(svg))
                ul.legend {
                    li { span class=(plots::colour_class(0)) aria-hidden="true" { "■ " } "taken for the class asked for" }
                    li { span class=(plots::colour_class(1)) aria-hidden="true" { "■ " } "taken for another: rejected at any threshold" }
                }
                div.slider {
                    label for="threshold" { "Threshold " b id="threshold-at" { (format!("{:.2}", at as f64 / BINS as f64)) }
                        @if let Some(t) = samples.threshold { " (chosen: " (t) ")" } }
                    input id="threshold" type="range" min="0" max=(BINS - 1) step="1" value=(at) disabled autocomplete="off";
                    output id="kept" for="threshold" { "kept " (kept) " of " (drawn) " (" (format!("{:.1}", 100.0 * share(kept, drawn))) " %)" }
                    noscript { "Moving the threshold needs a script; shown is what was chosen." }
                }
            }
            div.card {
                @if classes.len() > CLASSES { details { summary { "Each class" } (table) } } @else { (table) }
            }
        }
    })
}

/// A picture, and up to two lines below it.
fn picture(picture: &Picture, alt: &str, first: &str, second: &str) -> Markup {
    html! { figure {
        img src=(picture.png) alt=(alt) title=(alt);
        figcaption { span { (first) } @if !second.is_empty() { span { (second) } } }
    } }
}

fn card(grid: &Grid, confidences: &[Confidences], classes: &[String]) -> Markup {
    let class = name(classes, grid.class);
    let says = |p: &Picture| format!("the teacher says {}, {}", name(classes, p.guess), percent(p.confidence));
    let recognised: u64 = confidences.get(grid.class).map_or(0, |c| c.kept(0));
    let drawn = confidences.get(grid.class).map_or(0, |c| c.drawn);
    html! {
        section.card {
            h4 { (class) " " span.soft { "taken for it: " (recognised) " of " (drawn) } }
            p.soft { "accepted" }
            @if grid.accepted.is_empty() { p.soft { "none" } }
            div.pictures { @for p in &grid.accepted {
                (picture(p, &format!("accepted sample of {class}; {}", says(p)), &percent(p.confidence), ""))
            } }
            p.soft { "rejected" }
            @if grid.rejected.is_empty() { p.soft { "none" } }
            div.pictures.no { @for p in &grid.rejected {
                (picture(p, &format!("rejected sample of {class}; {}", says(p)), name(classes, p.guess), &percent(p.confidence)))
            } }
        }
    }
}

fn deviations(samples: &Samples, classes: &[String]) -> Markup {
    let stds: Vec<f64> = samples.stds.first().map(|of| of.at.iter().map(|(std, _)| *std).collect()).unwrap_or_default();
    html! {
        h3 { "The effect of std" }
        p.soft { "The same latents, scaled: what lies further out is more diverse and less sure to be of its class. A thick \
                  frame: the teacher takes it for another class." }
        (scrolled("Samples of the same latents at several deviations", html! { table.stds {
            thead { tr { th scope="col" { "class" } @for std in &stds {
                th scope="col" { (std) @if samples.std == Some(*std) { br; "chosen" } }
            } } }
            tbody { @for of in &samples.stds { tr {
                th scope="row" { (name(classes, of.class)) }
                @for (std, pictures) in &of.at { td { @for p in pictures {
                    @let alt = format!("{} at std {std}; the teacher says {}, {}", name(classes, of.class), name(classes, p.guess), percent(p.confidence));
                    span.no[p.guess != of.class] { img src=(p.png) alt=(alt) title=(alt); }
                } } }
            } } }
        } }))
    }
}

fn neighbours(found: &Neighbours, classes: &[String]) -> Markup {
    let mut by_class: std::collections::BTreeMap<usize, Vec<_>> = Default::default();
    for of in &found.found {
        by_class.entry(of.class).or_default().push(of);
    }
    html! {
        h3 { "Nearest real images" }
        p.soft {
            "Accepted samples (first of each line), then the training images that are nearest in the teacher's features, of "
            (found.references) " that were looked through. Below: distance, and class if it is another. A training image is "
            (format!("{:.2}", found.typical)) " (median) from its own nearest. Much smaller distances, and pictures that are the same, \
            would mean that the generator copies."
        }
        div.cards { @for (class, samples) in &by_class { section.card {
            h4 { (name(classes, *class)) }
            @for of in samples { div.pictures {
                (picture(&of.sample, &format!("sample of {}", name(classes, *class)), "sample", &percent(of.sample.confidence)))
                @for (distance, real) in &of.real {
                    @let other = if real.guess == *class { "" } else { name(classes, real.guess) };
                    (picture(real, &format!("real training image of {}, distance {distance:.2}", name(classes, real.guess)), &format!("{distance:.2}"), other))
                }
            } }
        } } }
    }
}
