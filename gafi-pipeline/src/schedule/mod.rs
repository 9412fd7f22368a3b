//! The schedule of a pipeline: every job in the order of the run. The runner executes it, and a dry run adds up its cost.

mod bound;
mod estimate;
mod halving;
mod job;
mod reference;

use gafi_core::{Artifact, GeneratorInfo, Split, Stream};
use gafi_gan::GanConfig;
use gafi_recycle::Renewal;

use crate::config::{GAFI_ROW, Labels, MULTI_ROW, PipelineConfig, Strategy, TURNS_ROW, Variant};
use crate::data::{DataSummary, choosing_split};
use crate::names::{SearchId, TEACHER_ROW, generator_name};
use halving::{Halving, bisected, has_one, kept, std_method, threshold_method};

pub use bound::CostBound;
pub use estimate::{Estimate, Part};
pub use job::{Grid, Job, JobInput, Method, Round, RowTemplate, SettingTemplate, StepTemplate, Work};
pub(crate) use reference::RealKind;
pub use reference::ReferenceSpec;

/// Images that a classifier in closed form learns from, at most: their features are in memory twice, 5 KiB each time.
const CLOSED_FORM_IMAGES: u64 = 20_000;

/// Images of each class that a setting is screened on.
pub(crate) fn screened_per_class(per_class: u64, classes: usize) -> u64 {
    per_class.min(CLOSED_FORM_IMAGES / classes.max(1) as u64).max(1)
}

/// The schedule of a checked configuration: `given` are its trained generators, opened.
///
/// # Errors
/// When the manifest of a generator does not list its checkpoints.
pub fn schedule(config: &PipelineConfig, data: &DataSummary, given: &[Artifact]) -> gafi_core::Result<Vec<Job>> {
    let mut schedule = Schedule::new(config, data);
    schedule.import(Split::Train);
    schedule.import(choosing_split(config.protocol));
    schedule.teacher();
    let generators = if given.is_empty() {
        (0..config.generators).map(|number| schedule.generator(number)).collect()
    } else {
        given.iter().map(GeneratorInput::given).collect::<gafi_core::Result<Vec<_>>>()?
    };
    for kind in config.references() {
        schedule.reference(kind);
    }
    let main = config.search.strategy;
    for strategy in config.strategies() {
        schedule.search(&generators, 0, strategy);
    }
    for generator in 1..generators.len() {
        schedule.search(&generators, generator, main);
    }
    for variant in &config.variants {
        schedule.variant_search(&generators[0], variant);
    }
    schedule.rows(&generators);
    schedule.tests();
    Ok(schedule.jobs)
}

/// A generator as an input of later jobs.
struct GeneratorInput {
    input: JobInput,
    checkpoints: Vec<u64>,
}

impl GeneratorInput {
    fn given(artifact: &Artifact) -> gafi_core::Result<Self> {
        let checkpoints = artifact.content::<GeneratorInfo>()?.steps().collect();
        Ok(Self { input: JobInput::Artifact(artifact.path().into()), checkpoints })
    }
}

/// A schedule under construction.
struct Schedule<'a> {
    config: &'a PipelineConfig,
    data: &'a DataSummary,
    per_class: u64,
    seeds: Stream,
    jobs: Vec<Job>,
}

impl<'a> Schedule<'a> {
    fn new(config: &'a PipelineConfig, data: &'a DataSummary) -> Self {
        let per_class = config.per_class.unwrap_or(data.smallest_class());
        Self { config, data, per_class, seeds: Stream::new(config.seed), jobs: Vec::new() }
    }

    fn push(&mut self, id: String, stage: &'static str, work: Work, inputs: Vec<JobInput>, bound: CostBound) {
        self.jobs.push(Job { id, stage, work, inputs, bound });
    }

    fn import(&mut self, split: Split) {
        let rows = match split {
            Split::Train => self.data.rows(),
            Split::TrainVal => self.data.rows() + self.data.val,
            Split::Val | Split::TestAsVal | Split::Screen => self.data.val,
            // They are not counted before they are needed.
            Split::Test | Split::Synthetic => 0,
        };
        let work = Work::Import { split, config: Box::new(self.config.data.clone()) };
        self.push(format!("import-{split}"), "import", work, Vec::new(), CostBound { rows, ..CostBound::default() });
    }

    fn real(&self) -> Vec<JobInput> {
        vec![job(&format!("import-{}", Split::Train)), self.val()]
    }

    fn val(&self) -> JobInput {
        job(&format!("import-{}", choosing_split(self.config.protocol)))
    }

    fn teacher(&mut self) {
        let seed = self.seeds.child("teacher").seed();
        let spec = ReferenceSpec::of_all(TEACHER_ROW, &self.config.teacher, seed);
        let bound = self.classifier(self.config.teacher.epochs, self.data.rows());
        self.push(TEACHER_ROW.into(), "train-classifier", Work::Teacher(spec), self.real(), bound);
    }

    fn generator(&mut self, number: usize) -> GeneratorInput {
        let stream = self.seeds.child("gan");
        let seed = if number == 0 { stream.seed() } else { stream.at(number as u64).seed() };
        let config = GanConfig { seed, ..self.config.gan.clone() };
        let length = config.schedule(self.data.rows());
        let checkpoints = length.checkpoints.len() as u64;
        let bound = CostBound { trainings: 1, steps: length.steps, checkpoints, ..CostBound::default() };
        let id = generator_name(number);
        let work = Work::Generator { number, config: Box::new(config) };
        self.push(id.clone(), "train-gan", work, vec![job("import-train")], bound);
        GeneratorInput { input: job(&id), checkpoints: length.checkpoints }
    }

    fn reference(&mut self, kind: RealKind) {
        let seed = self.seeds.child("student").seed();
        let (config, data) = (self.config, self.data);
        let times = match kind {
            RealKind::Usual { times } => times,
            RealKind::Subset => 1,
        };
        let spec = ReferenceSpec::of_subset(kind.name(), &config.student, times, self.per_class, &data.train, seed);
        let an_epoch = spec.per_class.map_or(data.rows(), |per_class| per_class * data.classes.len() as u64);
        let bound = self.classifier(spec.training.classifier.epochs, an_epoch);
        self.push(spec.name.clone(), "train-classifier", Work::Reference(spec), self.real(), bound);
    }

    fn search(&mut self, generators: &[GeneratorInput], generator: usize, strategy: Strategy) {
        let search = SearchId { generator, strategy, variant: None };
        let grids = &self.config.search;
        let generator = &generators[generator];
        let checkpoints =
            if grids.checkpoints.is_empty() { generator.checkpoints.clone() } else { grids.checkpoints.clone() };
        let halving = Halving::plan(checkpoints.len(), self.config);
        let template =
            SettingTemplate { filter: true, expand: true, recycle: Some(grids.recycle), distill: None, times: 1 };
        let method = match strategy {
            Strategy::Grid => Method::Full,
            Strategy::Halving => Method::Screen { keep: kept(checkpoints.len()), rounds: halving.rounds.clone() },
        };
        let step = |grid, method| StepTemplate { search: search.clone(), grid, method, template: template.clone() };
        let steps = [
            step(Grid::Checkpoint(checkpoints), method),
            step(Grid::stds(&grids.stds), std_method(strategy, &halving)),
            step(
                Grid::thresholds(&grids.thresholds),
                threshold_method(strategy, &halving, grids.thresholds.len(), false),
            ),
        ];
        self.steps(generator, steps.into(), None);
    }

    /// The search of a variant starts from what the main search chooses for the first generator, with students as long as that
    /// search's.
    fn variant_search(&mut self, generator: &GeneratorInput, variant: &Variant) {
        let strategy = self.config.search.strategy;
        let grids = &self.config.search;
        let checkpoints = if grids.checkpoints.is_empty() { &generator.checkpoints } else { &grids.checkpoints };
        let halving = Halving::plan(checkpoints.len(), self.config);
        let Some(search) = variant_search_id(variant, strategy) else { return };
        let template = SettingTemplate { recycle: Some(grids.recycle), times: 1, ..self.variant_template(variant) };
        let step = |grid, method| StepTemplate { search: search.clone(), grid, method, template: template.clone() };
        let mut steps = Vec::new();
        if !variant.stds.is_empty() {
            steps.push(step(Grid::stds(&variant.stds), std_method(strategy, &halving)));
        }
        if variant.filter && !variant.thresholds.is_empty() {
            let method = threshold_method(strategy, &halving, variant.thresholds.len(), variant.labels == Labels::Soft);
            steps.push(step(Grid::thresholds(&variant.thresholds), method));
        }
        let main = SearchId { generator: 0, strategy, variant: None };
        self.steps(generator, steps, Some(&main));
    }

    fn variant_template(&self, variant: &Variant) -> SettingTemplate {
        SettingTemplate {
            filter: variant.filter,
            expand: true,
            recycle: Some(self.config.recycle),
            distill: (variant.labels == Labels::Soft).then_some(variant.distill),
            times: variant.times,
        }
    }

    /// Adds the steps of one search, the first of which starts from what `after` chooses.
    fn steps(&mut self, generator: &GeneratorInput, steps: Vec<StepTemplate>, after: Option<&SearchId>) {
        let mut before = after.map(|search| self.last_step(search));
        for step in steps {
            let id = format!("{}-{}", search_id(&step.search), step.grid.kind());
            let mut inputs = vec![generator.input.clone(), job("teacher"), self.val()];
            inputs.extend(before.iter().map(|before| job(before)));
            let bound = self.step_bound(&step);
            self.push(id.clone(), "recycle", Work::SearchStep(step), inputs, bound);
            before = Some(id);
        }
    }

    /// The id of the last step of a search, which chooses its setting.
    fn last_step(&self, search: &SearchId) -> String {
        let of = |job: &&Job| matches!(&job.work, Work::SearchStep(step) if step.search == *search);
        self.jobs.iter().rev().find(of).map_or_else(|| search_id(search), |job| job.id.clone())
    }

    fn step_bound(&self, step: &StepTemplate) -> CostBound {
        let main = step.search.variant.is_none();
        let (values, repeated) = match &step.grid {
            Grid::Checkpoint(steps) => (steps.len(), false),
            Grid::Std(stds) => (stds.len(), main && has_one(stds)),
            Grid::Threshold(thresholds) => (thresholds.len(), main && thresholds.contains(&0.0)),
        };
        let students = |n: usize, epochs: u32| self.students(n as u64, epochs, &step.template);
        match &step.method {
            Method::Full => students(values - usize::from(repeated), self.config.student.epochs),
            Method::Bisect { epochs } => students(bisected(values), *epochs),
            Method::Screen { rounds, .. } => {
                let classes = self.data.classes.len();
                let samples = values as u64 * screened_per_class(self.per_class, classes) * classes as u64;
                let rounds = rounds.iter().map(|round| students(round.students, round.epochs));
                rounds.sum::<CostBound>() + CostBound { samples, ..CostBound::default() }
            }
        }
    }

    fn rows(&mut self, generators: &[GeneratorInput]) {
        let main = SearchId { generator: 0, strategy: self.config.search.strategy, variant: None };
        let recycle = Some(self.config.recycle);
        let all = SettingTemplate { filter: true, expand: true, recycle, distill: None, times: 1 };
        let row = |name: &str, chosen_by: &SearchId, template: SettingTemplate| RowTemplate {
            name: name.into(),
            chosen_by: vec![chosen_by.clone()],
            template,
            fallback: false,
            turns: false,
        };
        let mut rows: Vec<RowTemplate> = Vec::new();
        for kind in &self.config.rows {
            let techniques = kind.techniques();
            let recycle = recycle.filter(|_| techniques.recycle);
            let template =
                SettingTemplate { filter: techniques.filter, expand: techniques.expand, recycle, ..all.clone() };
            rows.push(row(kind.name(), &main, template));
        }
        rows.push(RowTemplate { fallback: true, ..row(GAFI_ROW, &main, all.clone()) });
        for strategy in self.config.strategies().into_iter().skip(1) {
            let search = SearchId { strategy, ..main.clone() };
            rows.push(RowTemplate { fallback: true, ..row(strategy.row(), &search, all.clone()) });
        }
        for variant in &self.config.variants {
            let search = variant_search_id(variant, main.strategy).unwrap_or(main.clone());
            rows.push(row(&variant.name, &search, self.variant_template(variant)));
        }
        if generators.len() > 1 {
            let chosen_by: Vec<_> =
                (0..generators.len()).map(|generator| SearchId { generator, ..main.clone() }).collect();
            rows.push(RowTemplate { chosen_by: chosen_by.clone(), ..row(MULTI_ROW, &main, all.clone()) });
            if all_take_turns(generators.len(), recycle, self.config.student.epochs) {
                rows.push(RowTemplate { chosen_by, turns: true, ..row(TURNS_ROW, &main, all) });
            }
        }
        for row in rows {
            let mut inputs: Vec<_> = generators[..row.chosen_by.len()].iter().map(|g| g.input.clone()).collect();
            if row.template.filter || row.template.distill.is_some() {
                inputs.push(job("teacher"));
            }
            inputs.push(self.val());
            inputs.extend(row.chosen_by.iter().map(|search| job(&self.last_step(search))));
            let bound = self.students(1, self.config.student.epochs, &row.template);
            self.push(format!("row-{}", row.name), "recycle", Work::Row(row), inputs, bound);
        }
    }

    fn tests(&mut self) {
        let tested = |job: &&Job| matches!(job.work, Work::Teacher(_) | Work::Reference(_) | Work::Row(_));
        let ids: Vec<_> = self.jobs.iter().filter(tested).map(|job| job.id.clone()).collect();
        self.import(Split::Test);
        for of in ids {
            let inputs = vec![job(&of), job(&format!("import-{}", Split::Test))];
            self.push(format!("test-{of}"), "evaluate", Work::Test { of }, inputs, CostBound::default());
        }
    }

    /// One classifier that sees `images` an epoch.
    fn classifier(&self, epochs: u32, images: u64) -> CostBound {
        let epochs = u64::from(epochs);
        let evaluated = epochs * self.data.val;
        CostBound { trainings: 1, epochs, images: epochs * images, evaluated, ..CostBound::default() }
    }

    /// `n` students of so many epochs.
    fn students(&self, n: u64, epochs: u32, template: &SettingTemplate) -> CostBound {
        let set = self.per_class * self.data.classes.len() as u64 * u64::from(template.times);
        let renewed = template.recycle.map_or(0, |renewal| {
            let renewals = u64::from(epochs.saturating_sub(1) / renewal.period.max(1));
            renewals * (renewal.factor * set as f64).ceil() as u64
        });
        let one = self.classifier(epochs, set);
        CostBound {
            trainings: n,
            epochs: n * one.epochs,
            images: n * one.images,
            evaluated: n * one.evaluated,
            samples: n * (set + renewed),
            ..CostBound::default()
        }
    }
}

fn job(id: &str) -> JobInput {
    JobInput::Job(id.into())
}

fn search_id(search: &SearchId) -> String {
    match &search.variant {
        Some(variant) => format!("variant-{variant}"),
        None => format!("search-{}-{}", search.generator + 1, search.strategy.name()),
    }
}

/// The search of a variant; `None` where it has nothing to search.
fn variant_search_id(variant: &Variant, strategy: Strategy) -> Option<SearchId> {
    let searches = !variant.stds.is_empty() || variant.filter && !variant.thresholds.is_empty();
    searches.then(|| SearchId { generator: 0, strategy, variant: Some(variant.name.clone()) })
}

/// Whether so many generators all get a turn while a student trains. A turn lasts for as many images as a set has, so it
/// takes one renewal of the whole set, or several of a part.
pub(crate) fn all_take_turns(generators: usize, renewal: Option<Renewal>, epochs: u32) -> bool {
    let renewed = |r: Renewal| f64::from(epochs.saturating_sub(1) / r.period.max(1)) * r.factor;
    1.0 + renewal.map_or(0.0, renewed) > generators.saturating_sub(1) as f64
}

#[cfg(test)]
mod tests;
