//! Section "Samples": what a threshold keeps, accepted and rejected samples, the effect of std, nearest real images.

use std::collections::BTreeMap;

use anyhow::Result;
use maud::{Markup, PreEscaped, html};

use super::parts::{MANY_CLASSES, class_name, data_table, level, missing, scrolled};
use crate::colours;
use crate::plots;
use crate::report::Report;
use crate::samples::{BINS, Confidences, Grid, Neighbours, Samples};
use crate::thumbnail::Thumbnail;

/// Bars of the histogram.
const BARS: usize = 20;

pub(super) fn section(report: &Report) -> Result<Markup> {
    let samples = match &report.samples {
        Ok(samples) => samples,
        Err(why) => return Ok(missing("Samples", why)),
    };
    let classes = &report.classes;
    Ok(html! {
        p { "Samples of " (samples.description) ". They are the first ones drawn, not picked." }
        (threshold(samples, classes)?)
        h3 { "Samples by class" }
        p.soft {
            @match samples.threshold {
                Some(t) => { "The filter accepts a sample if the requested class is the teacher's most likely one, with a probability \
                             above " (format!("{t:.2}")) "." }
                None => { "The student got unfiltered samples. Accepted here means that the requested class is the teacher's most likely one." }
            }
            @if samples.grids.len() < classes.len() {
                " Shown are the " (samples.grids.len()) " of " (classes.len()) " classes that the teacher recognises least."
            }
        }
        div.cards { @for grid in &samples.grids { (card(grid, &samples.confidences, classes)) } }
        (scaled(samples, classes))
        h3 { "Nearest real images" }
        @match &samples.neighbours {
            Some(found) => (neighbours(found, classes)),
            None => (missing("Nearest real images", "left out, or the training images or the teacher's features are not available")),
        }
    })
}

/// A probability in percent, rounded down: 100 % never appears.
fn percent(p: f32) -> String {
    if p < 0.9995 {
        format!("{:.1}\u{a0}%", (f64::from(p) * 1000.0).floor() / 10.0)
    } else {
        ">\u{a0}99.9\u{a0}%".into()
    }
}

fn share(kept: u64, drawn: u64) -> f64 {
    kept as f64 / drawn.max(1) as f64
}

/// The histogram with its slider, and how much of each class is kept. Without scripts it shows the chosen threshold.
fn threshold(samples: &Samples, classes: &[String]) -> Result<Markup> {
    let at = samples.threshold.map_or(0, |t| (t * BINS as f64).round() as usize).min(BINS - 1);
    let kept: u64 = samples.confidences.iter().map(|c| c.kept(at)).sum();
    let drawn: u64 = samples.confidences.iter().map(|c| c.drawn).sum();
    let table = kept_by_class(samples, classes, at);
    Ok(html! {
        h3 { "Choosing a threshold" }
        div.charts {
            figure {
                (PreEscaped(histogram(samples, at, drawn)?))
                ul.legend {
                    li { span class=(colours::class(0)) aria-hidden="true" { "■ " } "recognised as the requested class" }
                    li { span class=(colours::class(1)) aria-hidden="true" { "■ " } "recognised as another class: rejected at any threshold" }
                }
                div.slider {
                    label for="threshold" { "Threshold " b id="threshold-at" { (format!("{:.2}", at as f64 / BINS as f64)) }
                        @if let Some(t) = samples.threshold { " (chosen: " (t) ")" } }
                    input id="threshold" type="range" min="0" max=(BINS - 1) step="1" value=(at) disabled autocomplete="off";
                    output id="kept" for="threshold" { "kept " (kept) " of " (drawn) " (" (format!("{:.1}", 100.0 * share(kept, drawn))) " %)" }
                    noscript { "The slider needs JavaScript. Shown is the chosen threshold." }
                }
            }
            div.card {
                @if classes.len() > MANY_CLASSES { details { summary { "By class" } (table) } } @else { (table) }
            }
        }
    })
}

/// The histogram as SVG, with what the slider moves laid over it.
fn histogram(samples: &Samples, at: usize, drawn: u64) -> Result<String> {
    let bars = |of: &dyn Fn(&Confidences) -> &Vec<u64>| -> Vec<u64> {
        let bins = |bar: usize| bar * BINS / BARS..(bar + 1) * BINS / BARS;
        (0..BARS).map(|bar| samples.confidences.iter().flat_map(|c| &of(c)[bins(bar)]).sum::<u64>()).collect()
    };
    let recognised = bars(&|c| &c.recognised);
    let others = bars(&|c| &c.others);
    let label = format!(
        "Histogram of the teacher's probability of the requested class over {drawn} samples: {} are recognised as that class, {} are \
         recognised as another",
        recognised.iter().sum::<u64>(),
        others.iter().sum::<u64>()
    );
    let plots::Histogram { svg, x, y } = plots::histogram(&recognised, &others, &label)?;
    let line = f64::from(x.0) + f64::from(x.1 - x.0) * at as f64 / BINS as f64;
    let overlay = html! {
        g.overlay data-from=(x.0) data-to=(x.1) {
            rect x=(x.0) y=(y.0) width=(line - f64::from(x.0)) height=(y.1 - y.0) {}
            line x1=(line) x2=(line) y1=(y.0) y2=(y.1) {}
        }
    };
    Ok(svg.replace("</svg>", &format!("{}</svg>", overlay.into_string())))
}

fn kept_by_class(samples: &Samples, classes: &[String], at: usize) -> Markup {
    let body = html! { @for (c, of) in samples.confidences.iter().enumerate() {
        @let bins: Vec<_> = of.recognised.iter().map(u64::to_string).collect();
        tr data-drawn=(of.drawn) data-bins=(bins.join(",")) {
            th scope="row" { (class_name(classes, c)) }
            td { (of.kept(at)) } td { (of.drawn) }
            td.bar style=(level(share(of.kept(at), of.drawn))) { (format!("{:.1} %", 100.0 * share(of.kept(at), of.drawn))) }
        }
    } };
    let name = "Samples above the threshold, by class";
    data_table(name, name, &["class", "kept", "drawn", "share"], body)
}

/// A picture with up to two lines of caption.
fn picture(thumbnail: &Thumbnail, alt: &str, first: &str, second: &str) -> Markup {
    html! { figure {
        img src=(thumbnail.png) alt=(alt) title=(alt);
        figcaption { span { (first) } @if !second.is_empty() { span { (second) } } }
    } }
}

/// "predicted cat, 97.1 %".
fn prediction(thumbnail: &Thumbnail, classes: &[String]) -> String {
    format!("predicted {}, {}", class_name(classes, thumbnail.class), percent(thumbnail.probability))
}

fn card(grid: &Grid, confidences: &[Confidences], classes: &[String]) -> Markup {
    let class = class_name(classes, grid.class);
    let recognised: u64 = confidences.get(grid.class).map_or(0, |c| c.kept(0));
    let drawn = confidences.get(grid.class).map_or(0, |c| c.drawn);
    html! {
        section.card {
            h4 { (class) " " span.soft { "recognised: " (recognised) " of " (drawn) } }
            p.soft { "accepted" }
            @if grid.accepted.is_empty() { p.soft { "none" } }
            div.pictures { @for p in &grid.accepted {
                (picture(p, &format!("accepted sample of {class}; {}", prediction(p, classes)), &percent(p.probability), ""))
            } }
            p.soft { "rejected" }
            @if grid.rejected.is_empty() { p.soft { "none" } }
            div.pictures.no { @for p in &grid.rejected {
                (picture(p, &format!("rejected sample of {class}; {}", prediction(p, classes)), &class_name(classes, p.class), &percent(p.probability)))
            } }
        }
    }
}

fn scaled(samples: &Samples, classes: &[String]) -> Markup {
    let stds: Vec<f64> =
        samples.scaled.first().map(|of| of.at.iter().map(|(std, _)| *std).collect()).unwrap_or_default();
    html! {
        h3 { "Effect of std" }
        p.soft { "The same latents at several standard deviations. A larger std gives more diverse samples, of which fewer are \
                  recognised. A thick frame marks samples that the teacher classifies as another class." }
        (scrolled("The same latents at several std", html! { table.stds {
            thead { tr { th scope="col" { "class" } @for std in &stds {
                th scope="col" { (std) @if samples.std == Some(*std) { br; "chosen" } }
            } } }
            tbody { @for of in &samples.scaled { tr {
                @let class = class_name(classes, of.class);
                th scope="row" { (class) }
                @for (std, pictures) in &of.at { td { @for p in pictures {
                    @let alt = format!("{class} at std {std}; {}", prediction(p, classes));
                    span.no[p.class != of.class] { img src=(p.png) alt=(alt) title=(alt); }
                } } }
            } } }
        } }))
    }
}

fn neighbours(found: &Neighbours, classes: &[String]) -> Markup {
    let mut by_class: BTreeMap<usize, Vec<_>> = BTreeMap::new();
    for of in &found.found {
        by_class.entry(of.class).or_default().push(of);
    }
    html! {
        p.soft {
            "Each line shows an accepted sample and the three nearest of " (found.references) " training images, by distance in the \
             teacher's features; the class is named where it differs. The median distance between a training image and its own nearest \
             neighbour is " (format!("{:.2}", found.median)) ". Distances far below that, or identical pictures, suggest that the \
             generator copies training images."
        }
        div.cards { @for (class, samples) in &by_class { section.card {
            @let class_of = class_name(classes, *class);
            h4 { (class_of) }
            @for of in samples { div.pictures {
                (picture(&of.sample, &format!("sample of {class_of}"), "sample", &percent(of.sample.probability)))
                @for (distance, real) in &of.real {
                    @let real_class = class_name(classes, real.class);
                    @let alt = format!("real training image of {real_class}, distance {distance:.2}");
                    (picture(real, &alt, &format!("{distance:.2}"), if real.class == *class { "" } else { &real_class }))
                }
            } }
        } } }
    }
}
