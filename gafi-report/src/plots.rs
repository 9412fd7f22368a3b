//! Drawing: line charts and the histogram of the teacher's confidence, as SVG by plotters. Colours are those of the light page;
//! [`css`] says what they are on a dark one.

use anyhow::{Result, anyhow};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

/// Width and height of a chart in pixels: what a phone shows without shrinking the letters.
const SIZE: (u32, u32) = (360, 240);

/// Height of letters; the library draws them in 1/1.24 of it.
const LETTERS: u32 = 16;

/// Colours that charts are drawn in: on a light page, on a dark page. Each has a contrast of 4.5 or more with its ground.
const INK: [(u8, u8, u8); 2] = [(0x1d, 0x23, 0x2b), (0xe8, 0xea, 0xec)];
const SOFT: [(u8, u8, u8); 2] = [(0x55, 0x5f, 0x6b), (0xa9, 0xb2, 0xbd)];
const GRID: [(u8, u8, u8); 2] = [(0xdf, 0xe2, 0xe6), (0x36, 0x3d, 0x46)];
const LINES: [[(u8, u8, u8); 2]; 6] = [
    [(0x0b, 0x62, 0xb8), (0x6d, 0xb3, 0xf2)],
    [(0xb0, 0x43, 0x1a), (0xf2, 0x96, 0x6c)],
    [(0x0a, 0x74, 0x50), (0x4c, 0xc7, 0x9b)],
    [(0x85, 0x43, 0x9c), (0xcf, 0x9b, 0xe6)],
    [(0x7d, 0x60, 0x00), (0xd9, 0xba, 0x4a)],
    [(0x4a, 0x55, 0x63), (0xb4, 0xbd, 0xc9)],
];

/// A line chart.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chart {
    /// What it shows.
    pub(crate) title: String,
    /// Its axes, with units.
    pub(crate) x: String,
    /// The upright one.
    pub(crate) y: String,
    /// The lines.
    pub(crate) lines: Vec<Line>,
}

/// One line of a chart.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line {
    /// For the legend.
    pub(crate) name: String,
    /// From left to right.
    pub(crate) points: Vec<(f64, f64)>,
    /// The point that was chosen.
    pub(crate) chosen: Option<(f64, f64)>,
}

/// A histogram, and where its plot lies in the picture.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    /// The SVG element.
    pub(crate) svg: String,
    /// Left and right end of the axis from 0 to 1, in units of the picture.
    pub(crate) x: (i32, i32),
    /// Top and bottom of the plot.
    pub(crate) y: (i32, i32),
}

/// The style sheet's rules for what is drawn here.
pub(crate) fn css() -> String {
    let rules = |which: usize| -> String {
        let of = |colours: &[(u8, u8, u8); 2]| {
            let [light, to] = [hex(colours[0]), hex(colours[which])];
            format!("svg [fill=\"{light}\" i]{{fill:{to}}}svg [stroke=\"{light}\" i]{{stroke:{to}}}")
        };
        [&INK, &SOFT, &GRID].into_iter().chain(&LINES).map(of).collect()
    };
    let swatches = |which: usize| -> String {
        let of = |(i, colours): (usize, &[(u8, u8, u8); 2])| format!(".l{i}{{color:{}}}", hex(colours[which]));
        LINES.iter().enumerate().map(of).collect()
    };
    format!("{}@media screen and (prefers-color-scheme:dark){{{}{}}}", swatches(0), rules(1), swatches(1))
}

/// The mark of a line in the legend: lines differ in more than colour.
pub(crate) fn mark(line: usize) -> &'static str {
    ["●", "▲", "■", "✕"][line % 4]
}

/// The class of a line's colour.
pub(crate) fn colour_class(line: usize) -> String {
    format!("l{}", line % LINES.len())
}

fn hex((r, g, b): (u8, u8, u8)) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

fn rgb((r, g, b): (u8, u8, u8)) -> RGBColor {
    RGBColor(r, g, b)
}

/// What plotters says, which borrows from what it draws on.
fn said(e: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing a chart: {e}")
}

/// The chart as an SVG element that fills the width it is given; what it shows in words is `label`.
///
/// # Errors
/// What the library says.
pub(crate) fn draw(chart: &Chart, label: &str) -> Result<String> {
    let points = || chart.lines.iter().flat_map(|l| l.points.iter().chain(&l.chosen));
    let (x, y) = (range(points().map(|p| p.0)), range(points().map(|p| p.1)));
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut plot = axes(&root, x.clone(), y, &chart.x, &chart.y)?;
        for (i, line) in chart.lines.iter().enumerate() {
            let colour = rgb(LINES[i % LINES.len()][0]);
            plot.draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2))).map_err(said)?;
            if line.points.len() <= 24 {
                for &at in &line.points {
                    marker(&mut plot, i, at, colour)?;
                }
            }
            if let Some(at) = line.chosen {
                plot.draw_series([Circle::new(at, 8, rgb(INK[0]).stroke_width(2))]).map_err(said)?;
            }
        }
        root.present().map_err(said)?;
    }
    Ok(finish(&svg, label))
}

type Plot<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn marker(plot: &mut Plot, line: usize, at: (f64, f64), colour: RGBColor) -> Result<()> {
    let fill = colour.filled();
    match line % 4 {
        0 => plot.draw_series([Circle::new(at, 4, fill)]).map(drop),
        1 => plot.draw_series([TriangleMarker::new(at, 5, fill)]).map(drop),
        2 => plot.draw_series([EmptyElement::at(at) + Rectangle::new([(-4, -4), (4, 4)], fill)]).map(drop),
        _ => plot.draw_series([Cross::new(at, 4, colour.stroke_width(2))]).map(drop),
    }
    .map_err(said)
}

fn axes<'a, 'b>(
    root: &'a DrawingArea<SVGBackend<'b>, plotters::coord::Shift>,
    x: std::ops::Range<f64>,
    y: std::ops::Range<f64>,
    x_label: &str,
    y_label: &str,
) -> Result<Plot<'a, 'b>> {
    let (wide, high) = (x.end - x.start, y.end - y.start);
    let mut plot = ChartBuilder::on(root)
        .margin(10)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(x, y)
        .map_err(said)?;
    plot.configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(rgb(GRID[0]))
        .axis_style(rgb(SOFT[0]))
        .x_labels(5)
        .y_labels(5)
        .x_label_formatter(&|v| short(*v, wide))
        .y_label_formatter(&|v| number(*v, high))
        .label_style(("sans-serif", LETTERS).into_font().color(&rgb(SOFT[0])))
        .axis_desc_style(("sans-serif", LETTERS).into_font().color(&rgb(INK[0])))
        .x_desc(x_label)
        .y_desc(y_label)
        .draw()
        .map_err(said)?;
    Ok(plot)
}

/// [`number`] without decimals where there is nothing behind the point: steps and epochs.
fn short(value: f64, width: f64) -> String {
    let text = number(value, width);
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// As many decimals as a range of this width needs.
fn number(value: f64, width: f64) -> String {
    let decimals = match width {
        w if w > 8.0 => 0,
        w if w > 0.8 => 1,
        w if w > 0.08 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// From the least to the largest of `values` with a little room; not a number where there are none.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (mut lo, mut hi) = (f64::INFINITY, f64::NEG_INFINITY);
    for v in values.filter(|v| v.is_finite()) {
        (lo, hi) = (lo.min(v), hi.max(v));
    }
    if lo > hi {
        return 0.0..1.0;
    }
    let room = if hi > lo { 0.06 * (hi - lo) } else { (0.05 * hi.abs()).max(0.5) };
    lo - room..hi + room
}

/// The histogram of the teacher's confidence in the class asked for, in bins of equal width from 0 to 1: samples that it
/// recognises above those that it takes for another class.
///
/// # Errors
/// What the library says.
pub(crate) fn histogram(recognised: &[u64], others: &[u64], label: &str) -> Result<Histogram> {
    let bins = recognised.len().max(1) as f64;
    let most = recognised.iter().zip(others).map(|(a, b)| a + b).max().unwrap_or(0).max(1) as f64;
    let (mut svg, x, y);
    svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut plot =
            axes(&root, 0.0..1.0, 0.0..1.05 * most, "teacher's probability of the class asked for", "samples")?;
        for (i, (&a, &b)) in recognised.iter().zip(others).enumerate() {
            let (from, to) = ((i as f64 + 0.08) / bins, (i as f64 + 0.92) / bins);
            let (low, high) = (b as f64, (a + b) as f64);
            for (bottom, top, colour) in [(0.0, low, LINES[1][0]), (low, high, LINES[0][0])] {
                if top > bottom {
                    plot.draw_series([Rectangle::new([(from, bottom), (to, top)], rgb(colour).filled())])
                        .map_err(said)?;
                }
            }
        }
        let (low, high) = (plot.backend_coord(&(0.0, 0.0)), plot.backend_coord(&(1.0, 1.05 * most)));
        (x, y) = ((low.0, high.0), (high.1, low.1));
        root.present().map_err(said)?;
    }
    Ok(Histogram { svg: finish(&svg, label), x, y })
}

/// Fits the element into a page: named for those who cannot see it, as wide as there is room, its name space left to HTML.
fn finish(svg: &str, label: &str) -> String {
    let svg = svg.replace(" xmlns=\"http://www.w3.org/2000/svg\"", "");
    let (width, height) = SIZE;
    let sized = format!("<svg width=\"{width}\" height=\"{height}\"");
    let named = format!("<svg role=\"img\" aria-label=\"{}\"", escape(label));
    svg.replacen(&sized, &named, 1).replace('\n', "")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_is_named_and_brings_nothing_from_outside() {
        let line = Line { name: "a".into(), points: vec![(1.0, 50.0), (2.0, 70.0)], chosen: Some((2.0, 70.0)) };
        let chart = Chart { x: "<x>".into(), y: "y".into(), lines: vec![line; 5], ..Chart::default() };
        let svg = draw(&chart, "a \"quoted\" <label>").unwrap();
        assert!(svg.starts_with("<svg role=\"img\" aria-label=\"a &quot;quoted&quot; &lt;label&gt;\""), "{svg}");
        assert!(svg.contains("viewBox") && !svg.contains("http") && !svg.contains("<x>"), "{svg}");
        assert!(svg.contains(&format!("stroke=\"{}\"", hex(LINES[0][0]))), "{svg}");
        // Nothing to draw is no error.
        draw(&Chart::default(), "").unwrap();
        draw(&Chart { lines: vec![Line { points: vec![(3.0, 3.0)], ..Line::default() }], ..Chart::default() }, "")
            .unwrap();
    }

    #[test]
    fn colours_can_be_read_on_both_grounds() {
        let luminance = |(r, g, b): (u8, u8, u8)| {
            let of = |v: u8| {
                let v = f64::from(v) / 255.0;
                if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * of(r) + 0.7152 * of(g) + 0.0722 * of(b)
        };
        let contrast = |a, b| {
            let (a, b): (f64, f64) = (luminance(a), luminance(b));
            (a.max(b) + 0.05) / (a.min(b) + 0.05)
        };
        // The grounds of page.css.
        let grounds = [(0xff, 0xff, 0xff), (0x1b, 0x1f, 0x25)];
        for colours in [&INK, &SOFT].into_iter().chain(&LINES) {
            for which in 0..2 {
                let found = contrast(colours[which], grounds[which]);
                assert!(found >= 4.5, "{:?} has {found}", colours[which]);
            }
        }
    }
}
