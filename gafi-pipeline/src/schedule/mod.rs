//! The schedule of a pipeline: every job in the order of the run. The runner executes it, and a dry run adds up its cost.

mod bound;
mod estimate;
mod halving;
mod job;
mod reference;

use gafi_core::{Artifact, GeneratorInfo, Split, Stream};
use gafi_gan::GanConfig;
use gafi_nn::ClassifierConfig;
use gafi_recycle::Renewal;

use crate::config::{
    Ablation, GAFI_ROW, Labels, MULTI_ROW, PipelineConfig, REPEATED_ROWS, RowKind, Strategy, TURNS_ROW, Techniques,
    Variant, final_row,
};
use crate::data::{DataSummary, choosing_split, gan_split, imported_splits};
use crate::names::{REAL_ROW, SearchId, TEACHER_ROW, generator_name};
use halving::{Halving, bisected, has_one, kept, value_method};

pub use bound::CostBound;
pub use estimate::{Estimate, GeneratorCost, Part, Seconds};
pub use job::{Grid, Job, JobInput, Method, Round, RowTemplate, SettingTemplate, StepTemplate, Work};
pub(crate) use reference::RealKind;
pub use reference::ReferenceSpec;

/// Maximum number of images that a closed-form classifier learns from: their features are in memory twice, 5 KiB each time.
const CLOSED_FORM_IMAGES: u64 = 20_000;

/// Images of each class that a setting is screened on.
pub(crate) fn screened_per_class(per_class: u64, classes: usize) -> u64 {
    per_class.min(CLOSED_FORM_IMAGES / classes.max(1) as u64).max(1)
}

/// The schedule of a configuration that is resolved ([`PipelineConfig::resolved`]) and checked: `given` are its trained generators,
/// opened.
///
/// # Errors
/// When the manifest of a generator does not list its checkpoints.
pub fn schedule(config: &PipelineConfig, data: &DataSummary, given: &[Artifact]) -> gafi_core::Result<Vec<Job>> {
    let mut schedule = Schedule::new(config, data);
    for split in imported_splits(config) {
        schedule.import(split);
    }
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
    for kind in &config.rows {
        schedule.ablation_search(&generators[0], *kind);
    }
    for variant in &config.variants {
        schedule.variant_search(&generators[0], variant);
    }
    schedule.rows(&generators);
    schedule.repeats();
    schedule.tests();
    Ok(schedule.jobs)
}

/// A generator as an input of later jobs.
struct GeneratorInput {
    input: JobInput,
    /// Its checkpoints, without that of the untrained generator.
    checkpoints: Vec<u64>,
    /// Whether it has a checkpoint from before its first step.
    untrained: bool,
}

impl GeneratorInput {
    fn given(artifact: &Artifact) -> gafi_core::Result<Self> {
        let steps: Vec<u64> = GeneratorInfo::of(artifact)?.steps().collect();
        // The only checkpoint of an imported generator may also be number 0.
        let untrained = steps.len() > 1 && steps.contains(&0);
        let checkpoints = steps.into_iter().filter(|&step| step > 0 || !untrained).collect();
        Ok(Self { input: JobInput::Artifact(artifact.path().into()), checkpoints, untrained })
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
            Split::TrainVal => self.data.gan_rows(),
            Split::Val => self.data.val,
            Split::TestAsVal => self.data.choosing(),
            Split::Screen => self.data.screen.unwrap_or(0),
            // Test images are not counted before they are needed.
            Split::Test | Split::Synthetic => 0,
        };
        let work = Work::Import { split, config: Box::new(self.config.data.clone()) };
        self.push(import_id(split), "import", work, Vec::new(), CostBound { rows, ..CostBound::default() });
    }

    /// Inputs of classifiers that learn from real images. They choose their epoch on the validation split under every protocol.
    fn real(&self) -> Vec<JobInput> {
        [Split::Train, Split::Val].map(|split| job(&import_id(split))).into()
    }

    /// The split used to choose among students.
    fn val(&self) -> JobInput {
        job(&import_id(choosing_split(self.config.protocol)))
    }

    fn teacher(&mut self) {
        let seed = self.seeds.child("teacher").seed();
        let spec = ReferenceSpec::of_all(TEACHER_ROW, &self.config.teacher, seed);
        let bound = self.classifier(self.config.teacher.epochs, self.data.rows(), self.data.val);
        self.push(TEACHER_ROW.into(), "train-classifier", Work::Teacher(spec), self.real(), bound);
    }

    fn generator(&mut self, number: usize) -> GeneratorInput {
        let stream = self.seeds.child("gan");
        let seed = if number == 0 { stream.seed() } else { stream.at(number as u64).seed() };
        let config = GanConfig { seed, ..self.config.gan.clone() };
        let length = config.schedule(self.data.gan_rows());
        let untrained = config.save_untrained;
        let checkpoints: Vec<u64> = length.checkpoints.into_iter().filter(|&step| step > 0).collect();
        let written = (checkpoints.len() + usize::from(untrained)) as u64;
        let bound = CostBound { trainings: 1, steps: length.steps, checkpoints: written, ..CostBound::default() };
        let id = generator_name(number);
        let mut inputs = vec![job(&import_id(gan_split(self.config.protocol)))];
        if config.guidance.is_some() {
            inputs.push(job(TEACHER_ROW));
        }
        let work = Work::Generator { number, config: Box::new(config) };
        self.push(id.clone(), "train-gan", work, inputs, bound);
        GeneratorInput { input: job(&id), checkpoints, untrained }
    }

    fn reference(&mut self, kind: RealKind) {
        let seed = student_seed(&self.seeds, 0);
        let (per_class, data) = (self.per_class, self.data);
        let student = ClassifierConfig { distill: None, ..self.config.student.clone() };
        let spec = match kind {
            RealKind::Teacher => {
                // The teacher's own artifact, which exists and costs nothing.
                let spec =
                    ReferenceSpec::of_all(&kind.name(), &self.config.teacher, self.seeds.child("teacher").seed());
                let bound = CostBound::default();
                return self.push(kind.name(), "train-classifier", Work::Reference(spec), self.real(), bound);
            }
            RealKind::Student { times } => ReferenceSpec::of_rotation(kind.name(), &student, times, per_class, seed),
            RealKind::Soft(distill) => {
                let student = ClassifierConfig { distill: Some(distill), ..student };
                ReferenceSpec::of_rotation(kind.name(), &student, 1, per_class, seed)
            }
            RealKind::Subset => ReferenceSpec::of_subset(&student, per_class, data.smallest_class(), seed),
        };
        let an_epoch = spec.per_class.unwrap_or(0).saturating_mul(data.classes.len() as u64);
        let bound = self.classifier(spec.training.classifier.epochs, an_epoch, data.val);
        let mut inputs = self.real();
        if spec.labels == Labels::Soft {
            inputs.push(job(TEACHER_ROW));
        }
        self.push(kind.name(), "train-classifier", Work::Reference(spec), inputs, bound);
    }

    fn search(&mut self, generators: &[GeneratorInput], generator: usize, strategy: Strategy) {
        let search = SearchId { generator, strategy, row: None };
        let grids = &self.config.search;
        let generator = &generators[generator];
        let checkpoints = self.searched(generator).to_vec();
        let halving = Halving::plan(checkpoints.len(), self.config);
        let template = SettingTemplate { recycle: Some(grids.recycle), ..SettingTemplate::ALL };
        let method = match strategy {
            Strategy::Grid => Method::Full,
            Strategy::Halving => Method::Screen { keep: kept(checkpoints.len()), rounds: halving.rounds.clone() },
        };
        let step = |grid, method| StepTemplate { search: search.clone(), grid, method, template: template.clone() };
        let steps = [
            step(Grid::Checkpoint(checkpoints), method),
            step(Grid::stds(&grids.stds), value_method(strategy, &halving)),
            step(Grid::thresholds(&grids.thresholds), value_method(strategy, &halving)),
        ];
        self.steps(generator, steps.into(), None);
    }

    /// The search of a variant starts from what the main search chooses for the first generator. Its students are as long as the
    /// main search's.
    fn variant_search(&mut self, generator: &GeneratorInput, variant: &Variant) {
        let strategy = self.config.search.strategy;
        let grids = &self.config.search;
        let halving = Halving::plan(self.searched(generator).len(), self.config);
        let Some(search) = variant_search_id(variant, strategy) else { return };
        let template = SettingTemplate { recycle: Some(grids.recycle), times: 1, ..self.variant_template(variant) };
        let method = value_method(strategy, &halving);
        let step =
            |grid| StepTemplate { search: search.clone(), grid, method: method.clone(), template: template.clone() };
        let mut steps = Vec::new();
        if !variant.stds.is_empty() {
            steps.push(step(Grid::stds(&variant.stds)));
        }
        if variant.filter && !variant.thresholds.is_empty() {
            steps.push(step(Grid::thresholds(&variant.thresholds)));
        }
        let main = SearchId { generator: 0, strategy, row: None };
        self.steps(generator, steps, Some(&main));
    }

    /// The search of an ablation row for its own values; `None` if the main search has them. Rows that differ only in renewal share
    /// a search, which is named after the row without renewal.
    fn ablation_search_id(&self, kind: RowKind) -> Option<SearchId> {
        let Techniques { filter, expand, .. } = kind.techniques();
        let strategy = self.config.search.strategy;
        let row = match (filter, expand) {
            (false, false) => return None,
            (true, false) => RowKind::Filter,
            (false, true) => RowKind::Expand,
            // The main search tries the same settings in the same way.
            (true, true) if strategy == Strategy::Halving => return None,
            (true, true) => RowKind::FilterExpand,
        };
        let own = self.config.ablation == Ablation::Own;
        own.then(|| SearchId { generator: 0, strategy: Strategy::Halving, row: Some(row.name().into()) })
    }

    /// The search of an ablation row starts from the checkpoint that the main search chooses. Its students are short under every
    /// strategy.
    fn ablation_search(&mut self, generator: &GeneratorInput, kind: RowKind) {
        let Some(search) = self.ablation_search_id(kind) else { return };
        let of = |job: &Job| matches!(&job.work, Work::SearchStep(step) if step.search == search);
        if self.jobs.iter().any(of) {
            return;
        }
        let grids = &self.config.search;
        let halving = Halving::plan(self.searched(generator).len(), self.config);
        let Techniques { filter, expand, .. } = kind.techniques();
        let template = SettingTemplate { filter, expand, recycle: Some(grids.recycle), ..SettingTemplate::ALL };
        let method = value_method(Strategy::Halving, &halving);
        let step =
            |grid| StepTemplate { search: search.clone(), grid, method: method.clone(), template: template.clone() };
        let mut steps = Vec::new();
        if expand {
            steps.push(step(Grid::stds(&grids.stds)));
        }
        if filter {
            steps.push(step(Grid::thresholds(&grids.thresholds)));
        }
        let main = SearchId { generator: 0, strategy: self.config.search.strategy, row: None };
        self.steps(generator, steps, Some(&main));
    }

    /// The checkpoints to search.
    fn searched<'b>(&'b self, generator: &'b GeneratorInput) -> &'b [u64] {
        let wanted = &self.config.search.checkpoints;
        if wanted.is_empty() { &generator.checkpoints } else { wanted }
    }

    fn variant_template(&self, variant: &Variant) -> SettingTemplate {
        SettingTemplate {
            filter: variant.filter,
            expand: true,
            untrained: variant.untrained,
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
            let mut inputs = vec![generator.input.clone(), job(TEACHER_ROW), self.val()];
            if let Method::Screen { .. } = step.method {
                inputs.push(job(&import_id(Split::Screen)));
            }
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
        let main = step.search.row.is_none();
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
                let filtered = if step.template.filter { samples } else { 0 };
                rounds.sum::<CostBound>() + CostBound { samples, filtered, ..CostBound::default() }
            }
        }
    }

    fn rows(&mut self, generators: &[GeneratorInput]) {
        let main = SearchId { generator: 0, strategy: self.config.search.strategy, row: None };
        let recycle = Some(self.config.recycle);
        let all = SettingTemplate { recycle, ..SettingTemplate::ALL };
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
            let search = self.ablation_search_id(*kind).unwrap_or(main.clone());
            rows.push(row(kind.name(), &search, template));
        }
        rows.push(RowTemplate { fallback: true, ..row(GAFI_ROW, &main, all.clone()) });
        for strategy in self.config.strategies().into_iter().skip(1) {
            let search = SearchId { strategy, ..main.clone() };
            rows.push(RowTemplate { fallback: true, ..row(strategy.row(), &search, all.clone()) });
        }
        let has_untrained = generators[0].untrained;
        for variant in self.config.variants.iter().filter(|variant| has_untrained || !variant.untrained) {
            let search = variant_search_id(variant, main.strategy).unwrap_or(main.clone());
            rows.push(row(&variant.name, &search, self.variant_template(variant)));
        }
        if generators.len() > 1 {
            let chosen_by: Vec<_> =
                (0..generators.len()).map(|generator| SearchId { generator, ..main.clone() }).collect();
            // Every generator's own final student, which the released program also trains before it mixes them.
            for (number, search) in chosen_by.iter().enumerate().skip(1) {
                rows.push(RowTemplate { fallback: true, ..row(&final_row(number), search, all.clone()) });
            }
            rows.push(RowTemplate { chosen_by: chosen_by.clone(), ..row(MULTI_ROW, &main, all.clone()) });
            if all_take_turns(generators.len(), recycle, self.config.student.epochs) {
                rows.push(RowTemplate { chosen_by, turns: true, ..row(TURNS_ROW, &main, all) });
            }
        }
        for row in rows {
            let used = row.chosen_by.iter().map(|search| generators[search.generator].input.clone());
            let mut inputs: Vec<_> = used.collect();
            if row.template.filter || row.template.distill.is_some() {
                inputs.push(job(TEACHER_ROW));
            }
            inputs.push(self.val());
            inputs.extend(row.chosen_by.iter().map(|search| job(&self.last_step(search))));
            let bound = self.students(1, self.config.student.epochs, &row.template);
            self.push(format!("row-{}", row.name), "recycle", Work::Row(row), inputs, bound);
        }
    }

    /// Repeats of some rows. If `real` is the teacher, it is not a student and is trained once.
    fn repeats(&mut self) {
        let row = |job: &Job| match &job.work {
            Work::Reference(spec) if spec.name == REAL_ROW && !self.config.real_is_teacher() => Some(spec.name.clone()),
            Work::Row(row) if REPEATED_ROWS.contains(&row.name.as_str()) => Some(row.name.clone()),
            _ => None,
        };
        let rows: Vec<_> = self.jobs.iter().filter_map(|job| Some((row(job)?, job.clone()))).collect();
        for number in 1..self.config.student_seeds {
            for (of, job) in &rows {
                let id = format!("{}-seed-{}", job.id, number + 1);
                self.jobs.push(Job { id, work: Work::Repeat { of: of.clone(), number }, ..job.clone() });
            }
        }
    }

    fn tests(&mut self) {
        let tested =
            |job: &&Job| matches!(job.work, Work::Teacher(_) | Work::Reference(_) | Work::Row(_) | Work::Repeat { .. });
        let ids: Vec<_> = self.jobs.iter().filter(tested).map(|job| job.id.clone()).collect();
        self.import(Split::Test);
        for of in ids {
            let inputs = vec![job(&of), job(&import_id(Split::Test))];
            self.push(format!("test-{of}"), "evaluate", Work::Test { of }, inputs, CostBound::default());
        }
    }

    /// One classifier that sees `images` per epoch and is then evaluated on `val`.
    fn classifier(&self, epochs: u32, images: u64, val: u64) -> CostBound {
        let epochs = u64::from(epochs);
        let evaluated = epochs.saturating_mul(val);
        CostBound { trainings: 1, epochs, images: epochs.saturating_mul(images), evaluated, ..CostBound::default() }
    }

    /// `n` students of `epochs` each.
    fn students(&self, n: u64, epochs: u32, template: &SettingTemplate) -> CostBound {
        let set = self.per_class.saturating_mul(self.data.classes.len() as u64).saturating_mul(template.times.into());
        let renewed = template.recycle.map_or(0, |renewal| {
            let renewals = u64::from(epochs.saturating_sub(1) / renewal.period.max(1));
            renewals.saturating_mul((renewal.factor * set as f64).ceil() as u64)
        });
        let one = self.classifier(epochs, set, self.data.choosing());
        let samples = n.saturating_mul(set.saturating_add(renewed));
        CostBound {
            trainings: n,
            epochs: n.saturating_mul(one.epochs),
            images: n.saturating_mul(one.images),
            evaluated: n.saturating_mul(one.evaluated),
            samples,
            filtered: if template.filter { samples } else { 0 },
            ..CostBound::default()
        }
    }
}

/// The seed of repeat `number` of a student. All students use number 0, so that they differ only in what is compared.
pub(crate) fn student_seed(seeds: &Stream, number: u32) -> u64 {
    let stream = seeds.child("student");
    if number == 0 { stream.seed() } else { stream.at(number.into()).seed() }
}

fn import_id(split: Split) -> String {
    format!("import-{split}")
}

fn job(id: &str) -> JobInput {
    JobInput::Job(id.into())
}

fn search_id(search: &SearchId) -> String {
    match &search.row {
        Some(row) => format!("search-{row}"),
        None => format!("search-{}-{}", search.generator + 1, search.strategy.name()),
    }
}

/// The search of a variant; `None` if it has nothing to search.
fn variant_search_id(variant: &Variant, strategy: Strategy) -> Option<SearchId> {
    let searches = !variant.stds.is_empty() || variant.filter && !variant.thresholds.is_empty();
    searches.then(|| SearchId { generator: 0, strategy, row: Some(variant.name.clone()) })
}

/// Whether this many generators all get a turn while a student trains. A turn lasts for as many images as a set has, so it
/// takes one renewal of the whole set, or several partial ones.
pub(crate) fn all_take_turns(generators: usize, renewal: Option<Renewal>, epochs: u32) -> bool {
    let renewed = |r: Renewal| f64::from(epochs.saturating_sub(1) / r.period.max(1)) * r.factor;
    1.0 + renewal.map_or(0.0, renewed) > generators.saturating_sub(1) as f64
}

#[cfg(test)]
mod tests;
