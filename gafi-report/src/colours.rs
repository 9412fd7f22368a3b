//! Colours of charts. Charts are drawn in the light page's colours; [`css`] replaces them on a dark page.

/// A colour on a light and on a dark page.
pub(crate) type Pair = [(u8, u8, u8); 2];

/// Axis titles and rings. Like every colour of text and lines, it has a contrast of at least 4.5 with both backgrounds.
pub(crate) const INK: Pair = [(0x1d, 0x23, 0x2b), (0xe8, 0xea, 0xec)];
/// Axes and their numbers.
pub(crate) const SOFT: Pair = [(0x55, 0x5f, 0x6b), (0xa9, 0xb2, 0xbd)];
/// Grid lines.
pub(crate) const GRID: Pair = [(0xdf, 0xe2, 0xe6), (0x36, 0x3d, 0x46)];
/// Lines of a chart, in order.
pub(crate) const LINES: [Pair; 6] = [
    [(0x0b, 0x62, 0xb8), (0x6d, 0xb3, 0xf2)],
    [(0xb0, 0x43, 0x1a), (0xf2, 0x96, 0x6c)],
    [(0x0a, 0x74, 0x50), (0x4c, 0xc7, 0x9b)],
    [(0x85, 0x43, 0x9c), (0xcf, 0x9b, 0xe6)],
    [(0x7d, 0x60, 0x00), (0xd9, 0xba, 0x4a)],
    [(0x4a, 0x55, 0x63), (0xb4, 0xbd, 0xc9)],
];

/// The rules that the page's style sheet needs for charts and legends.
pub(crate) fn css() -> String {
    let rules: String = [&INK, &SOFT, &GRID].into_iter().chain(&LINES).map(dark_rules).collect();
    format!("{}@media screen and (prefers-color-scheme:dark){{{rules}{}}}", legend_rules(0), legend_rules(1))
}

/// Replaces a colour of the light page with its dark counterpart.
fn dark_rules(colours: &Pair) -> String {
    let [light, dark] = [hex(colours[0]), hex(colours[1])];
    format!("svg [fill=\"{light}\" i]{{fill:{dark}}}svg [stroke=\"{light}\" i]{{stroke:{dark}}}")
}

fn legend_rules(page: usize) -> String {
    let rule = |(i, colours): (usize, &Pair)| format!(".l{i}{{color:{}}}", hex(colours[page]));
    LINES.iter().enumerate().map(rule).collect()
}

/// The CSS class of a line's colour in a legend.
pub(crate) fn class(line: usize) -> String {
    format!("l{}", line % LINES.len())
}

/// `#RRGGBB`.
pub(crate) fn hex((r, g, b): (u8, u8, u8)) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_readable_on_both_backgrounds() {
        let luminance = |(r, g, b): (u8, u8, u8)| {
            let linear = |v: u8| {
                let v = f64::from(v) / 255.0;
                if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
        };
        // WCAG 2.1, contrast ratio.
        let contrast = |a, b| {
            let a: f64 = luminance(a);
            let b: f64 = luminance(b);
            (a.max(b) + 0.05) / (a.min(b) + 0.05)
        };
        // `--card` of page.css, light and dark.
        let backgrounds = [(0xff, 0xff, 0xff), (0x1b, 0x1f, 0x25)];
        for colours in [&INK, &SOFT].into_iter().chain(&LINES) {
            for page in 0..2 {
                let found = contrast(colours[page], backgrounds[page]);
                assert!(found >= 4.5, "{:?} has {found}", colours[page]);
            }
        }
    }
}
