//! Stage `probe`: how good a source of samples is, told without training anything, so that a search may ask it about many.

use std::num::NonZeroUsize;

use gafi_core::{
    ArtifactWriter, ClassId, ClassTally, Context, Dataset, DatasetInfo, Error, Inputs, Kind, MemoryDataset, Port,
    Result, Rows, SampleSource, SourceSpec, Split, Stage, StageInfo, Stream,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::measures::{Audited, Judged, audit};
use crate::neighbours::knn;
use crate::patches::Patches;
use crate::prdc::share;
use crate::ridge::Ridge;

/// The file of a probe's artifact that holds its [`ProbeRecord`].
pub const PROBE: &str = "probe.json";

const NAME: &str = "probe";
const REVISION: u32 = 4;

/// Where the patches of [`ClosedForm::patches`] come from: the same real images' for every source, so that their records compare.
const PATCHES: &str = "patches";

const PORTS: &[Port] = &[
    Port::many("generators", Kind::Generator),
    Port::optional("samples", Kind::Dataset),
    Port::required("teacher", Kind::Classifier),
    Port::required("real", Kind::Dataset),
];

/// Stage `probe`. In memory are the pixels of as many synthetic and as many real images, and their features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Probe {
    /// Where samples come from: a kind of [`gafi_core::ModelLoaders::with_source`] and its settings.
    pub source: SourceSpec,
    /// Images of each class, synthetic ones and real ones, at least 1. Measures of sets of different sizes cannot be compared.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub per_class: usize,
    /// The k of precision, recall, density and coverage; 0: nothing that takes a search for neighbours is measured.
    pub neighbours: usize,
}

impl Default for Probe {
    fn default() -> Self {
        Self { source: SourceSpec::default(), per_class: 200, neighbours: 5 }
    }
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeRecord {
    /// What the source had to draw for it.
    pub tally: ClassTally,
    /// What the teacher says.
    pub measures: Audited,
    /// What the nearest synthetic image says of a real one; null where neighbours were not asked for.
    pub nearest: Option<NearestAccuracy>,
    /// What classifiers say of the real ones that are solved for, not trained.
    pub closed_form: ClosedForm,
}

/// Share of the real images whose nearest synthetic image is labelled as they are: the accuracy of the simplest classifier that
/// can be made of a synthetic set, one that needs no training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NearestAccuracy {
    /// Nearest in pixels.
    pub pixels: f64,
    /// Nearest in the teacher's features.
    pub features: f64,
}

/// Share of the real images that a [`Ridge`] classifier of the synthetic ones tells rightly.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClosedForm {
    /// By [`Patches`] of the images; null where the real ones are all even.
    pub patches: Option<f64>,
    /// By the teacher's features.
    pub features: f64,
}

impl ProbeRecord {
    /// What may predict a student's accuracy, by name, each so that more should be better. A measure that could not be taken
    /// is left out.
    pub fn proxies(&self) -> Vec<(&'static str, f64)> {
        let overall = &self.measures.overall;
        let drawn = self.tally.drawn.max(1) as f64;
        let mut all = vec![
            ("acceptance", self.tally.accepted as f64 / drawn),
            ("closed_form_features", self.closed_form.features),
        ];
        all.extend(self.nearest.iter().flat_map(|n| [("nearest_pixels", n.pixels), ("nearest_features", n.features)]));
        all.extend(self.closed_form.patches.map(|accuracy| ("closed_form_patches", accuracy)));
        all.extend(overall.confidence.map(|c| ("confidence", c)));
        if let Some(fidelity) = &overall.fidelity {
            all.extend([
                ("precision", fidelity.prdc.precision),
                ("recall", fidelity.prdc.recall),
                ("density", fidelity.prdc.density),
                ("coverage", fidelity.prdc.coverage),
                ("minus_frechet_teacher", -fidelity.frechet_teacher),
            ]);
        }
        let classes: Option<Vec<_>> = self.measures.per_class.iter().map(|class| class.fidelity).collect();
        if let Some(classes) = classes.filter(|classes| !classes.is_empty()) {
            let mean = |of: fn(&crate::Fidelity) -> f64| classes.iter().map(of).sum::<f64>() / classes.len() as f64;
            all.push(("class_coverage", mean(|f| f.prdc.coverage)));
            all.push(("minus_class_frechet_teacher", -mean(|f| f.frechet_teacher)));
        }
        all
    }
}

impl Stage for Probe {
    fn info(&self) -> StageInfo {
        StageInfo { name: NAME, revision: REVISION, ports: PORTS, output: Kind::Trials }
    }

    fn config(&self) -> Value {
        json!(self)
    }

    fn check(&self, inputs: &Inputs) -> Result<()> {
        if self.per_class == 0 {
            return Err(Error::config("per_class", 0, "at least 1"));
        }
        let real = DatasetInfo::of(inputs.require("real")?)?;
        // What is held out chooses by students' scores, or not at all.
        if real.split != Split::Train {
            return Err(inputs.error("real", "a dataset of split train", format!("split {}", real.split)));
        }
        self.source.check()
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let real = Dataset::open(inputs.require("real")?)?;
        let mut source = cx.models.open_source(&self.source, inputs, cx)?;
        let fits = (*source.image(), source.classes()) == (real.info().image, &real.info().classes);
        if !fits {
            let expected = format!("{} images of classes {}", source.image(), source.classes().join(", "));
            let found = format!("{} images of classes {}", real.info().image, real.info().classes.join(", "));
            return Err(inputs.error("real", expected, found));
        }
        let synthetic = self.draw(&mut *source, cx)?;
        let tally = source.tally().total();
        drop(source);

        let mut teacher = cx.models.open_scorer(inputs.require("teacher")?)?;
        let mut judge = |rows: &dyn Rows, chosen: &[usize]| -> Result<(Judged, Vec<u8>)> {
            let mut pixels = Vec::new();
            let judged = Judged::of(rows, chosen, &mut *teacher, |images| pixels.extend_from_slice(images), cx)?;
            Ok((judged, pixels))
        };
        let (judged, pixels) = judge(&synthetic, &(0..synthetic.len()).collect::<Vec<_>>())?;
        let (real_judged, real_pixels) = judge(&real, &first_of_each(&real, self.per_class))?;
        let measures = audit(&judged, &real_judged, real.info().classes.len(), self.neighbours, cx)?;
        cx.checkpoint()?;
        let nearest = (self.neighbours > 0).then(|| -> Result<NearestAccuracy> {
            let told = |nearest: &[u32]| {
                let right = |(&row, &label): (&u32, &ClassId)| judged.labels[row as usize] == label;
                share(nearest.iter().zip(&real_judged.labels).map(right))
            };
            let in_pixels = knn(&real_pixels, &pixels, real.info().image.bytes(), 1, false)?;
            let in_features = knn(&real_judged.features, &judged.features, judged.dim, 1, false)?;
            Ok(NearestAccuracy { pixels: told(&in_pixels.rows), features: told(&in_features.rows) })
        });
        let nearest = nearest.transpose()?;
        cx.checkpoint()?;
        let classes = real.info().classes.len();
        let solve = |features: &[f32], of_real: &[f32]| -> Result<f64> {
            let told = Ridge::fit(features, &judged.labels, classes)?.predict(of_real)?;
            Ok(share(told.iter().zip(&real_judged.labels).map(|(told, label)| told == label)))
        };
        let patches = Patches::pick(real.info().image, &real_pixels, &Stream::new(0).child(PATCHES))?;
        cx.checkpoint()?;
        let by_patches = |p: Patches| solve(&p.features(&pixels)?, &p.features(&real_pixels)?);
        let closed_form = ClosedForm {
            patches: patches.map(by_patches).transpose()?,
            features: solve(&judged.features, &real_judged.features)?,
        };
        let record = ProbeRecord { tally, measures, nearest, closed_form };
        out.set_content(&record.proxies().into_iter().collect::<std::collections::BTreeMap<_, _>>())?;
        out.write_json(PROBE, &record)
    }
}

impl Probe {
    /// `per_class` samples of each class; fewer where the source has no more.
    fn draw(&self, source: &mut dyn SampleSource, cx: &Context) -> Result<MemoryDataset> {
        let (image, classes) = (*source.image(), source.classes().to_vec());
        let mut task = cx.progress.begin("draw", Some((self.per_class * classes.len()) as u64));
        let mut set = MemoryDataset::new(image, classes, Split::Synthetic);
        for class in ClassId::all(set.info().classes.len()) {
            let mut missing = self.per_class;
            while let Some(more) = NonZeroUsize::new(missing) {
                cx.checkpoint()?;
                let Some(batch) = source.pull(class, more)? else { break };
                missing -= batch.len();
                batch.images.chunks_exact(image.bytes()).for_each(|pixels| set.push(pixels, class));
                task.advance(batch.len() as u64);
            }
        }
        Ok(set)
    }
}

/// The first `n` rows of each class, in the order of the set.
pub(crate) fn first_of_each(set: &Dataset, n: usize) -> Vec<usize> {
    let mut left = vec![n; set.info().classes.len()];
    let mut take = |row: &usize| {
        let left = &mut left[set.label(*row).index()];
        let some = *left > 0;
        *left -= usize::from(some);
        some
    };
    (0..set.len()).filter(|row| take(row)).collect()
}
