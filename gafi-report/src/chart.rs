//! A line chart as data: what [`crate::curves`] computes and [`crate::plots`] draws.

/// A line chart.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chart {
    /// The heading.
    pub(crate) title: String,
    /// Label of the horizontal axis, with its unit.
    pub(crate) x: String,
    /// Label of the vertical axis, with its unit.
    pub(crate) y: String,
    /// One line for each run or network.
    pub(crate) lines: Vec<Line>,
}

/// One line of a chart.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line {
    /// Name in the legend.
    pub(crate) name: String,
    /// Points (x, y), by increasing x.
    pub(crate) points: Vec<(f64, f64)>,
    /// The point to mark with a ring.
    pub(crate) chosen: Option<(f64, f64)>,
}
