//! The cost of a schedule, part by part, for a dry run.

use std::fmt;
use std::ops::Add;

use serde::Serialize;

use super::bound::CostBound;
use super::job::{Job, Work};
use crate::costs::Costs;
use crate::data::DataSummary;

/// Samples that a strict filter draws for each one that it keeps. Rows `gafi` of the quickstart drew 1.5 to 5.5.
const DRAWN_PER_KEPT: f64 = 4.0;

/// An upper bound on the cost of a schedule: a search may end early, and equal students are trained once. Only the samples that
/// a filter rejects are not known beforehand.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Its parts, in the order of the run.
    pub parts: Vec<Part>,
    /// The training of each generator; `None` if none is trained.
    pub generator: Option<GeneratorCost>,
    /// Images of each class in a synthetic set; `None` if that depends on images that are not on this machine.
    pub per_class: Option<u64>,
    /// Seconds of all parts, without concurrency; `None` if costs were not measured.
    pub seconds: Option<Seconds>,
    /// Bytes of all artifacts, without the test images; `None` if costs were not measured.
    pub bytes: Option<u64>,
    /// The measured costs.
    pub costs: Option<Costs>,
}

/// The cost of each generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GeneratorCost {
    /// Number of generators.
    pub generators: usize,
    /// Updates of one generator.
    pub updates: u64,
    /// Real images in each update.
    pub batch: usize,
    /// Maximum number of students in its search by the main strategy.
    pub searched: u64,
}

impl GeneratorCost {
    fn of(jobs: &[Job]) -> Option<Self> {
        let gans = jobs.iter().filter_map(|job| match &job.work {
            Work::Generator { config, .. } => Some((job.bound.steps, config.batch)),
            _ => None,
        });
        let (updates, batch) = gans.clone().next()?;
        let steps = || {
            jobs.iter().filter_map(|job| match &job.work {
                Work::SearchStep(step) if step.search.row.is_none() => Some((&step.search, job.bound.trainings)),
                _ => None,
            })
        };
        let main = steps().next()?.0;
        let searched = steps().filter(|(search, _)| *search == main).map(|(_, trainings)| trainings).sum();
        Some(Self { generators: gans.count(), updates, batch, searched })
    }
}

/// Seconds that a part or a whole schedule takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// If filters reject nothing.
    pub lenient: f64,
    /// If filters keep one sample in four.
    pub strict: f64,
}

impl Add for Seconds {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { lenient: self.lenient + other.lenient, strict: self.strict + other.strict }
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = (duration(self.lenient), duration(self.strict));
        if low == high {
            return f.pad(&low);
        }
        // "6 to 9 min", but "50 s to 2 min".
        let low = high.split_once(' ').and_then(|(_, unit)| low.strip_suffix(unit)).map_or(&*low, str::trim_end);
        f.pad(&format!("{low} to {high}"))
    }
}

/// Jobs that are shown together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// An upper bound on its cost.
    pub bound: CostBound,
    /// Seconds that it takes.
    pub seconds: Option<Seconds>,
    /// Bytes of its artifacts.
    pub bytes: Option<u64>,
}

impl Estimate {
    /// Adds up `jobs`.
    pub fn of(jobs: &[Job], per_class: Option<u64>, costs: Option<(Costs, &DataSummary)>) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        for job in jobs {
            let seconds = costs.as_ref().map(|(costs, _)| job.seconds(costs));
            let bytes = costs.as_ref().map(|(costs, data)| job.bytes(costs, data));
            let name = job.part();
            match parts.iter_mut().find(|part| part.name == name) {
                Some(part) => {
                    part.bound = part.bound + job.bound;
                    part.seconds = part.seconds.zip(seconds).map(|(a, b)| a + b);
                    part.bytes = part.bytes.zip(bytes).map(|(a, b)| a.saturating_add(b));
                }
                None => parts.push(Part { name, bound: job.bound, seconds, bytes }),
            }
        }
        let seconds = parts.iter().try_fold(Seconds::default(), |all, part| Some(all + part.seconds?));
        let bytes = parts.iter().try_fold(0u64, |all, part| Some(all.saturating_add(part.bytes?)));
        let costs = costs.map(|(costs, _)| costs);
        Self { parts, generator: GeneratorCost::of(jobs), per_class, seconds, bytes, costs }
    }
}

impl Job {
    /// The part that it belongs to.
    fn part(&self) -> String {
        match &self.work {
            Work::Import { .. } => "real images".into(),
            Work::Teacher(spec) | Work::Reference(spec) => spec.name.clone(),
            Work::Generator { .. } => "GAN".into(),
            Work::SearchStep(step) => step.search.to_string(),
            Work::Row(row) if row.template.times > 1 || row.template.distill.is_some() => format!("row {}", row.name),
            Work::Row(_) => "rows".into(),
            Work::Repeat { .. } => "repeats with other student seeds".into(),
            Work::Test { .. } => "test".into(),
        }
    }

    fn seconds(&self, costs: &Costs) -> Seconds {
        let bound = &self.bound;
        let images = bound.images as f64;
        let evaluated = bound.evaluated as f64;
        let sample_s = costs.sample_s + costs.teacher_judges_s;
        let lenient = match &self.work {
            Work::Import { .. } | Work::Test { .. } => 0.0,
            Work::Teacher(_) => images * costs.teacher_image_s + evaluated * costs.teacher_judges_s,
            Work::Generator { .. } => bound.steps as f64 * costs.gan_step_s,
            Work::Reference(_) | Work::SearchStep(_) | Work::Row(_) | Work::Repeat { .. } => {
                let training = images * costs.student_image_s + evaluated * costs.student_judges_s;
                training + bound.samples as f64 * sample_s
            }
        };
        Seconds { lenient, strict: lenient + bound.filtered as f64 * (DRAWN_PER_KEPT - 1.0) * sample_s }
    }

    fn bytes(&self, costs: &Costs, data: &DataSummary) -> u64 {
        let bound = &self.bound;
        match &self.work {
            Work::Import { .. } => bound.rows.saturating_mul(data.image.bytes() as u64),
            Work::Teacher(_) => bound.trainings.saturating_mul(costs.teacher_bytes),
            Work::Generator { .. } => bound.checkpoints.saturating_mul(costs.checkpoint_bytes),
            Work::Reference(_) | Work::SearchStep(_) | Work::Row(_) | Work::Repeat { .. } => {
                bound.trainings.saturating_mul(costs.student_bytes)
            }
            Work::Test { .. } => 0,
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Part { name, bound, seconds, .. } in self.parts.iter().filter(|part| part.bound.trainings > 0) {
            let time = seconds.map_or_else(String::new, |s| format!(", about {s:>18}"));
            let length = if bound.steps > 0 { counted(bound.steps, "step") } else { counted(bound.epochs, "epoch") };
            writeln!(f, "# {:>15}, {length:>15}{time}: {name}", counted(bound.trainings, "training"))?;
        }
        if let Some(GeneratorCost { generators, updates, batch, searched }) = self.generator {
            let which =
                if generators == 1 { "The generator".into() } else { format!("Each of {generators} generators") };
            let students = searched + 1;
            writeln!(
                f,
                "# {which}: {updates} updates at batch {batch}, {students} students ({searched} searched and the final one)"
            )?;
        }
        if let Some(seconds) = self.seconds {
            let how = "one training after the other, extrapolated from a few batches timed on this machine just now";
            writeln!(f, "# About {seconds} in total: {how}")?;
            let is_range = |s: &Seconds| duration(s.lenient) != duration(s.strict);
            if self.parts.iter().filter_map(|part| part.seconds.as_ref()).chain([&seconds]).any(is_range) {
                writeln!(
                    f,
                    "# The longer times are for filters that keep one sample in four, the shorter for filters that keep all"
                )?;
            }
        }
        if let Some(bytes) = self.bytes {
            writeln!(f, "# Disk: at most about {} for weights, checkpoints and training images", size(bytes))?;
        }
        Ok(())
    }
}

fn counted(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s if s < 48.0 * 3600.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86400.0),
    }
}

fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b < 1e9 => format!("{:.0} MB", (b / 1e6).ceil()),
        b => format!("{:.1} GB", b / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_have_units_that_people_use() {
        assert_eq!([30.0, 600.0, 7200.0, 864_000.0].map(duration), ["30 s", "10 min", "2.0 h", "10.0 days"]);
        assert_eq!([1, 20_000_000, 3_400_000_000].map(size), ["1 MB", "20 MB", "3.4 GB"]);
    }
}
