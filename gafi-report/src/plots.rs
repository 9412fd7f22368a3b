//! Draws line charts and the histogram of the teacher's confidence as SVG.

use std::ops::Range;

use anyhow::{Result, anyhow};
use maud::Render as _;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::chart::Chart;
use crate::colours::{GRID, INK, LINES, Pair, SOFT};

/// Width and height of a chart in pixels: a phone shows it without scaling it down.
const SIZE: (u32, u32) = (360, 240);

/// Font size; plotters draws letters 1/1.24 as high.
const FONT: u32 = 16;

/// A line with more points is drawn without markers.
const MARKED: usize = 24;

/// A histogram and the position of its plot area.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    /// The SVG element.
    pub(crate) svg: String,
    /// Where 0 and 1 lie on the horizontal axis, in SVG units.
    pub(crate) x: (i32, i32),
    /// Top and bottom of the plot area, in SVG units.
    pub(crate) y: (i32, i32),
}

/// The legend's symbol for a line: lines differ in shape as well as in colour.
pub(crate) fn symbol(line: usize) -> &'static str {
    ["●", "▲", "■", "✕"][line % 4]
}

/// The colour as drawn: that of the light page.
fn light(colours: Pair) -> RGBColor {
    let (r, g, b) = colours[0];
    RGBColor(r, g, b)
}

/// Errors of plotters borrow from its drawing area; this one does not.
fn failed(e: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing a chart failed: {e}")
}

/// Draws `chart` as an SVG element as wide as its container; `label` describes it to screen readers.
///
/// # Errors
/// When plotters fails.
pub(crate) fn draw(chart: &Chart, label: &str) -> Result<String> {
    let points = || chart.lines.iter().flat_map(|l| l.points.iter().chain(&l.chosen));
    let x = range(points().map(|p| p.0));
    let y = range(points().map(|p| p.1));
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut plot = axes(&root, x, y, &chart.x, &chart.y)?;
        for (i, line) in chart.lines.iter().enumerate() {
            let colour = light(LINES[i % LINES.len()]);
            plot.draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2))).map_err(failed)?;
            if line.points.len() <= MARKED {
                for &at in &line.points {
                    marker(&mut plot, i, at, colour)?;
                }
            }
            if let Some(at) = line.chosen {
                plot.draw_series([Circle::new(at, 8, light(INK).stroke_width(2))]).map_err(failed)?;
            }
        }
        root.present().map_err(failed)?;
    }
    Ok(embed(&svg, label))
}

type Plot<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws the shape of [`symbol`].
fn marker(plot: &mut Plot, line: usize, at: (f64, f64), colour: RGBColor) -> Result<()> {
    let fill = colour.filled();
    match line % 4 {
        0 => plot.draw_series([Circle::new(at, 4, fill)]).map(drop),
        1 => plot.draw_series([TriangleMarker::new(at, 5, fill)]).map(drop),
        2 => plot.draw_series([EmptyElement::at(at) + Rectangle::new([(-4, -4), (4, 4)], fill)]).map(drop),
        _ => plot.draw_series([Cross::new(at, 4, colour.stroke_width(2))]).map(drop),
    }
    .map_err(failed)
}

fn axes<'a, 'b>(
    root: &'a DrawingArea<SVGBackend<'b>, plotters::coord::Shift>,
    x: Range<f64>,
    y: Range<f64>,
    x_label: &str,
    y_label: &str,
) -> Result<Plot<'a, 'b>> {
    let width = x.end - x.start;
    let height = y.end - y.start;
    let mut plot = ChartBuilder::on(root)
        .margin(10)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(x, y)
        .map_err(failed)?;
    plot.configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(light(GRID))
        .axis_style(light(SOFT))
        .x_labels(5)
        .y_labels(5)
        .x_label_formatter(&|v| whole(*v, width))
        .y_label_formatter(&|v| number(*v, height))
        .label_style(("sans-serif", FONT).into_font().color(&light(SOFT)))
        .axis_desc_style(("sans-serif", FONT).into_font().color(&light(INK)))
        .x_desc(x_label)
        .y_desc(y_label)
        .draw()
        .map_err(failed)?;
    Ok(plot)
}

/// Like [`number`], but 40 instead of 40.0: steps and epochs are integers.
fn whole(value: f64, width: f64) -> String {
    let text = number(value, width);
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// A tick label with as many decimals as an axis of this width needs.
fn number(value: f64, width: f64) -> String {
    let decimals = match width {
        w if w > 8.0 => 0,
        w if w > 0.8 => 1,
        w if w > 0.08 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// The range of the finite `values` with a margin; 0 to 1 without any.
fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let mut lo = f64::INFINITY;
    let mut hi = f64::NEG_INFINITY;
    for v in values.filter(|v| v.is_finite()) {
        lo = lo.min(v);
        hi = hi.max(v);
    }
    if lo > hi {
        return 0.0..1.0;
    }
    let margin = if hi > lo { 0.06 * (hi - lo) } else { (0.05 * hi.abs()).max(0.5) };
    lo - margin..hi + margin
}

/// Draws a histogram of the teacher's probability of the requested class over equal bins from 0 to 1. `recognised` counts samples
/// whose most likely class is the requested one, stacked on `others`.
///
/// # Errors
/// When plotters fails.
pub(crate) fn histogram(recognised: &[u64], others: &[u64], label: &str) -> Result<Histogram> {
    let bins = recognised.len().max(1) as f64;
    let most = recognised.iter().zip(others).map(|(a, b)| a + b).max().unwrap_or(0).max(1) as f64;
    let top = 1.05 * most;
    let mut svg = String::new();
    let (x, y);
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut plot = axes(&root, 0.0..1.0, 0.0..top, "teacher's probability of the requested class", "samples")?;
        for (i, (&a, &b)) in recognised.iter().zip(others).enumerate() {
            let from = (i as f64 + 0.08) / bins;
            let to = (i as f64 + 0.92) / bins;
            for (bottom, top, colour) in [(0, b, LINES[1]), (b, a + b, LINES[0])] {
                if top > bottom {
                    let bar = Rectangle::new([(from, bottom as f64), (to, top as f64)], light(colour).filled());
                    plot.draw_series([bar]).map_err(failed)?;
                }
            }
        }
        let bottom_left = plot.backend_coord(&(0.0, 0.0));
        let top_right = plot.backend_coord(&(1.0, top));
        x = (bottom_left.0, top_right.0);
        y = (top_right.1, bottom_left.1);
        root.present().map_err(failed)?;
    }
    Ok(Histogram { svg: embed(&svg, label), x, y })
}

/// Makes a stand-alone SVG an element of a page: labelled, sized by its container, without a namespace.
fn embed(svg: &str, label: &str) -> String {
    let svg = svg.replace(" xmlns=\"http://www.w3.org/2000/svg\"", "");
    let (width, height) = SIZE;
    let sized = format!("<svg width=\"{width}\" height=\"{height}\"");
    let named = format!("<svg role=\"img\" aria-label=\"{}\"", label.render().into_string());
    svg.replacen(&sized, &named, 1).replace('\n', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::Line;
    use crate::colours::hex;

    #[test]
    fn charts_are_labelled_escaped_and_self_contained() {
        let line = Line { name: "a".into(), points: vec![(1.0, 50.0), (2.0, 70.0)], chosen: Some((2.0, 70.0)) };
        let chart = Chart { x: "<x>".into(), y: "y".into(), lines: vec![line; 5], ..Chart::default() };
        let svg = draw(&chart, "a \"quoted\" <label>").unwrap();
        assert!(svg.starts_with("<svg role=\"img\" aria-label=\"a &quot;quoted&quot; &lt;label&gt;\""), "{svg}");
        assert!(svg.contains("viewBox") && !svg.contains("http") && !svg.contains("<x>"), "{svg}");
        assert!(svg.contains(&format!("stroke=\"{}\"", hex(LINES[0][0]))), "{svg}");
    }

    #[test]
    fn charts_without_points_are_drawn() {
        draw(&Chart::default(), "").unwrap();
        let point = Line { points: vec![(3.0, 3.0)], ..Line::default() };
        draw(&Chart { lines: vec![point], ..Chart::default() }, "").unwrap();
    }
}
