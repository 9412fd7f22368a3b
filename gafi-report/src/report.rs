//! Everything that the HTML page shows, computed before any of it is rendered.

use crate::evaluations::Evaluations;
use crate::facts::Group;
use crate::run::Run;
use crate::samples::Samples;

/// The contents of a page.
pub(crate) struct Report<'a> {
    pub(crate) runs: &'a [Run],
    /// Groups of runs that differ only in their seed.
    pub(crate) groups: Vec<Group>,
    /// For each group, the results of its rows by class.
    pub(crate) evaluations: Vec<Evaluations>,
    /// Samples of the first run that has some, or why there are none.
    pub(crate) samples: Result<Samples, String>,
    /// Names of the classes.
    pub(crate) classes: Vec<String>,
}

impl Report<'_> {
    /// The names of the real sets.
    pub(crate) fn title(&self) -> String {
        let mut sets: Vec<String> = self.runs.iter().map(Run::dataset).collect();
        sets.dedup();
        sets.join(", ")
    }

    /// Real images on the page.
    pub(crate) fn real_images(&self) -> usize {
        let neighbours = self.samples.as_ref().ok().and_then(|s| s.neighbours.as_ref());
        neighbours.map_or(0, |n| n.found.iter().map(|of| of.real.len()).sum())
    }
}
