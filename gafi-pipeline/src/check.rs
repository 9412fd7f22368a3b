//! Checks of a configuration that need no training, so that its errors appear immediately and not after hours.

use gafi_core::{Artifact, Error, GeneratorInfo, Kind, Result, Split, Stream, check_count};
use gafi_expand::StdRange;
use gafi_filter::FilterRule;
use gafi_nn::ClassifierConfig;
use gafi_recycle::Plan;

use crate::adapt::Change;
use crate::config::{GAFI_ROW, Labels, MULTI_ROW, PipelineConfig, RowKind, Strategy, TURNS_ROW, final_row};
use crate::data::DataSummary;
use crate::names::{REAL_ROW, TEACHER_ROW};
use crate::schedule::{RealKind, all_take_turns};

/// Maximum number of images of each class in a synthetic set.
const MAX_PER_CLASS: u64 = 1 << 24;
/// Maximum number of times that a row is trained.
const MAX_STUDENT_SEEDS: u32 = 1000;
/// Largest set of a variant, as a multiple of the usual one.
const MAX_TIMES: u32 = 1000;
/// Maximum number of generators of a pipeline.
const MAX_GENERATORS: usize = 8;

impl PipelineConfig {
    /// Checks what needs no images: ranges, names, grids and the configurations of all trainings.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn check(&self) -> Result<()> {
        if self.search.stds.is_empty() {
            return Err(Error::config("search.stds", "[]", "at least one value"));
        }
        if self.search.thresholds.is_empty() {
            return Err(Error::config("search.thresholds", "[]", "at least one value"));
        }
        if let Some(per_class) = self.per_class {
            check_count("per_class", per_class, MAX_PER_CLASS)?;
        }
        if self.trained_generators.len() > MAX_GENERATORS {
            let found = format!("{} folders", self.trained_generators.len());
            return Err(Error::config("trained_generators", found, format!("at most {MAX_GENERATORS}")));
        }
        check_count("generators", self.generators, MAX_GENERATORS)?;
        within("teacher", self.teacher.check())?;
        within("student", self.student.check())?;
        if self.trained_generators.is_empty() {
            within("gan", self.gan.check_values())?;
        }
        check_count("student_seeds", self.student_seeds, MAX_STUDENT_SEEDS)?;
        self.check_variants()?;
        self.check_comparisons()?;
        if self.real_is_teacher() && !self.teacher_is_student() {
            let expected = "student, or a teacher that differs from the student only in its length";
            return Err(Error::config("real", "teacher", expected));
        }
        within("search.filter", self.search.filter.check())?;
        for (owner, stds, thresholds) in self.grids() {
            for std in stds {
                renamed(&format!("{owner}.stds"), std.check())?;
            }
            for &threshold in thresholds {
                let rule = FilterRule { threshold, ..self.search.filter.clone() };
                renamed(&format!("{owner}.thresholds"), rule.check())?;
            }
        }
        let per_class = self.per_class.unwrap_or(1) as usize;
        within("search", Plan::new(Some(self.search.recycle), 1, per_class, Stream::new(0)).map(drop))?;
        Plan::new(Some(self.recycle), 1, per_class, Stream::new(0))?;
        self.data.validate()
    }

    /// The values that are searched, with the table that lists them.
    fn grids(&self) -> impl Iterator<Item = (&'static str, &[StdRange], &[f64])> {
        let variants = self.variants.iter().map(|v| ("variants", &v.stds[..], &v.thresholds[..]));
        variants.chain([("search", &self.search.stds[..], &self.search.thresholds[..])])
    }

    fn check_variants(&self) -> Result<()> {
        let mut names: Vec<&str> = RowKind::ALL.iter().map(|row| row.name()).collect();
        for variant in &self.variants {
            let name = variant.name.as_str();
            if name.is_empty() || names.contains(&name) || is_reserved(name) {
                let expected = "a name that differs from those of all other rows and artifacts of a run, and that does not \
                                begin with real- or generator-";
                return Err(Error::config("variants.name", name, expected));
            }
            names.push(name);
            check_count("variants.times", variant.times, MAX_TIMES)?;
            let searched = variant.filter || !variant.stds.is_empty() || !variant.thresholds.is_empty();
            if variant.untrained && searched {
                let expected = "filter = false and no stds or thresholds, because an untrained generator is neither filtered nor searched";
                return Err(Error::config("variants.untrained", "true", expected));
            }
            let distill = (variant.labels == Labels::Soft).then_some(variant.distill);
            within("variants", ClassifierConfig { distill, ..self.student.clone() }.check())?;
        }
        Ok(())
    }

    /// Checks that the declared comparisons are between rows of the run.
    fn check_comparisons(&self) -> Result<()> {
        let rows = self.row_names();
        for pair in &self.comparisons {
            let unknown = pair.iter().find(|name| !rows.contains(name));
            if let Some(name) = unknown.or((pair[0] == pair[1]).then_some(&pair[0])) {
                let expected = format!("pairs of two different rows out of {}", rows.join(", "));
                return Err(Error::config("comparisons", name, expected));
            }
        }
        Ok(())
    }

    /// The names of all rows of the results table, references first.
    pub(crate) fn row_names(&self) -> Vec<String> {
        let mut names = vec![TEACHER_ROW.into()];
        names.extend(self.references().iter().map(RealKind::name));
        names.extend(self.rows.iter().map(|row| row.name().into()));
        names.push(GAFI_ROW.into());
        names.extend(self.strategies().into_iter().skip(1).map(|strategy| strategy.row().into()));
        names.extend(self.variants.iter().map(|variant| variant.name.clone()));
        let generators =
            if self.trained_generators.is_empty() { self.generators } else { self.trained_generators.len() };
        if generators > 1 {
            names.extend((1..generators).map(final_row));
            names.push(MULTI_ROW.into());
            if all_take_turns(generators, Some(self.recycle), self.student.epochs) {
                names.push(TURNS_ROW.into());
            }
        }
        names
    }

    /// Checks what depends on the real images: the networks against their shape, and the checkpoints to search against those
    /// that the GAN will write.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key, or `image`, `classes` or `train` where the images don't fit.
    pub fn check_data(&self, data: &DataSummary) -> Result<()> {
        let classes = data.classes.len();
        self.teacher.check_data(&data.image, classes)?;
        self.student.check_data(&data.image, classes)?;
        if self.trained_generators.is_empty() {
            within("gan", self.gan.check(&data.image, classes, data.gan_rows()))?;
            let checkpoints = self.gan.schedule(data.gan_rows()).checkpoints;
            self.check_searched(&checkpoints, "the GAN (gan.length, gan.checkpoints)")?;
        }
        Ok(())
    }

    /// Opens the trained generators, and checks that they have the checkpoints to search.
    ///
    /// # Errors
    /// When one cannot be opened; [`Error::Config`] when it is not a generator, or lacks a checkpoint.
    pub fn open_generators(&self) -> Result<Vec<Artifact>> {
        let open = |path: &std::path::PathBuf| {
            let generator = Artifact::open(path)?;
            if generator.kind() != Kind::Generator {
                let found = format!("{}, a {}", path.display(), generator.kind());
                return Err(Error::config("trained_generators", found, "a generator"));
            }
            let checkpoints: Vec<u64> = GeneratorInfo::of(&generator)?.steps().collect();
            self.check_searched(&checkpoints, &path.display().to_string())?;
            Ok(generator)
        };
        self.trained_generators.iter().map(open).collect()
    }

    /// Checks that the images of each generator have the shape and classes of the real ones, and that it takes the stds to search.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn check_generators(&self, generators: &[Artifact], data: &DataSummary) -> Result<()> {
        for generator in generators {
            let info = GeneratorInfo::of(generator)?;
            let path = generator.path().display();
            if !info.takes_std() {
                self.check_own_noise(&path.to_string())?;
            }
            let GeneratorInfo { image, classes, .. } = info;
            if image != data.image {
                let expected = format!(
                    "a generator of {} images, as the real ones are with this data.size and data.channels",
                    data.image
                );
                return Err(Error::config("trained_generators", format!("{path}, of {image} images"), expected));
            }
            if classes != data.classes {
                let expected = format!("a generator of the classes of the real images, {}", data.classes.join(", "));
                let found = format!("{path}, of classes {}", classes.join(", "));
                return Err(Error::config("trained_generators", found, expected));
            }
        }
        Ok(())
    }

    /// Checks that no std but 1 is searched, for the generator at `path`, which draws its own noise.
    fn check_own_noise(&self, path: &str) -> Result<()> {
        for (owner, stds, _) in self.grids() {
            if let Some(other) = stds.iter().find(|std| std.bounds() != (1.0, 1.0)) {
                let expected = format!("[1], because the generator {path} draws its own noise and takes no std");
                return Err(Error::config(format!("{owner}.stds"), other, expected));
            }
        }
        Ok(())
    }

    /// Checks that `known` has the checkpoints to search. The untrained generator's, 0, is never searched.
    fn check_searched(&self, known: &[u64], whose: &str) -> Result<()> {
        let known: Vec<u64> = known.iter().copied().filter(|&step| step > 0).collect();
        let wanted = &self.search.checkpoints;
        if wanted.iter().all(|step| known.contains(step)) {
            return Ok(());
        }
        let expected = format!("checkpoints of {whose}: {known:?}, or [] for all of them");
        Err(Error::config("search.checkpoints", format!("{wanted:?}"), expected))
    }
}

/// Whether `name` is one that other artifacts or rows have or may get.
fn is_reserved(name: &str) -> bool {
    let fixed = ["generator", TEACHER_ROW, REAL_ROW, GAFI_ROW, MULTI_ROW, TURNS_ROW];
    let is_split = serde_json::from_value::<Split>(name.into()).is_ok_and(|split| split != Split::Synthetic);
    let strategies = [Strategy::Grid, Strategy::Halving].map(Strategy::row);
    let number = name.strip_prefix("gafi-").is_some_and(|rest| rest.parse::<usize>().is_ok());
    is_split
        || fixed.contains(&name)
        || strategies.contains(&name)
        || number
        || ["real-", "generator-"].iter().any(|prefix| name.starts_with(prefix))
}

/// The change that drops declared comparisons of rows that `config` does not train, such as after a preset's `rows` or `variants`
/// were replaced. Explicitly declared comparisons stay and are checked.
pub fn adapt_comparisons(config: &PipelineConfig, is_explicit: impl Fn(&str) -> bool) -> Vec<Change> {
    let rows = config.resolved().row_names();
    let trained = |pair: &&[String; 2]| pair.iter().all(|name| rows.contains(name));
    let left: Vec<_> = config.comparisons.iter().filter(trained).collect();
    if left.len() == config.comparisons.len() || is_explicit("comparisons") {
        return Vec::new();
    }
    let mut missing: Vec<&str> = Vec::new();
    for name in config.comparisons.iter().flatten().filter(|name| !rows.contains(name)) {
        if !missing.contains(&name.as_str()) {
            missing.push(name);
        }
    }
    let why = format!("there is no row {}", missing.join(", "));
    vec![Change { key: "comparisons", value: serde_json::json!(left), why }]
}

/// Prefixes the key of an error with the table that configures the network. Keys of the images stay as they are.
fn within(table: &str, checked: Result<()>) -> Result<()> {
    checked.map_err(|error| match error {
        Error::Config { key, value, expected } if !["image", "train"].contains(&key.as_str()) => {
            let key = format!("{table}.{}", key.strip_prefix("classifier.").unwrap_or(&key));
            Error::Config { key, value, expected }
        }
        error => error,
    })
}

/// Gives the error of a value in a list the key of the list.
fn renamed(key: &str, checked: Result<()>) -> Result<()> {
    checked.map_err(|error| match error {
        Error::Config { value, expected, .. } => Error::Config { key: key.to_owned(), value, expected },
        error => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tests::summary;
    use crate::{PRESETS, preset};

    /// A preset with assignments, as on the command line.
    fn config(name: &str, set: &[&str]) -> PipelineConfig {
        let mut tree = preset(Some(name)).unwrap();
        set.iter().for_each(|set| crate::overrides::set(&mut tree, set).unwrap());
        serde_json::from_value(tree).unwrap()
    }

    fn real(size: usize) -> DataSummary {
        summary(size, vec![500, 300], 50)
    }

    #[test]
    fn presets_search_every_checkpoint_that_their_gan_writes() {
        for (name, _) in PRESETS {
            let preset = config(name, &[]);
            // A list would refuse every other length of the GAN, and every given generator.
            assert!(preset.search.checkpoints.is_empty(), "{name}");
            preset.check_data(&real(preset.data.size.unwrap())).unwrap();
        }
        let kept = config("cpu", &[]).gan.schedule(1).checkpoints;
        assert_eq!(kept, [6000, 9000, 12_000]);
        // The advice of docs/tutorial.md.
        for name in ["cpu", "gafi-plus", "quickstart"] {
            let more = config(name, &["gan.length.steps=24000", "gan.checkpoints=[12000,18000,24000]"]);
            more.check_data(&real(32)).unwrap();
        }
    }

    #[test]
    fn an_error_names_the_key_that_was_set() {
        for (set, key) in [
            ("search.stds=[-1]", "search.stds"),
            ("search.thresholds=[1.5]", "search.thresholds"),
            ("search.recycle.period=0", "search.recycle.period"),
            ("recycle.factor=2", "recycle.factor"),
        ] {
            let error = config("cpu", &[set]).check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{key} = ")), "{set}: {error}");
        }
    }

    #[test]
    fn comparisons_are_between_rows() {
        let few = config("cpu", &["variants=[]"]);
        let changes = adapt_comparisons(&few, |_| false);
        assert_eq!(changes[0].value, serde_json::json!([["gafi", "baseline"], ["filter+expand", "baseline"]]));
        assert_eq!(changes[0].why, "there is no row soft, real-soft, noise-soft");
        assert_eq!(
            (adapt_comparisons(&few, |_| true), adapt_comparisons(&config("cpu", &[]), |_| false)),
            (vec![], vec![])
        );
        let error = few.resolved().check().unwrap_err().to_string();
        assert!(
            error.starts_with("comparisons = soft: expected pairs of two different rows out of teacher, real, "),
            "{error}"
        );
        let same = config("cpu", &["comparisons=[[\"gafi\", \"gafi\"]]"]).check().unwrap_err().to_string();
        assert!(same.starts_with("comparisons = gafi"), "{same}");
    }

    #[test]
    fn names_of_other_rows_and_artifacts_are_reserved() {
        for name in ["", "train", "real", "real-soft", "gafi-2", "gafi-multi", "generator-2", "filter"] {
            let mut config = config("smoke", &["variants=[]", "comparisons=[]"]);
            config.variants = vec![crate::Variant { name: name.into(), ..Default::default() }];
            assert!(config.check().unwrap_err().to_string().starts_with("variants.name"), "{name}");
        }
    }

    #[test]
    fn unknown_checkpoints_are_refused() {
        let missing = config("cpu", &["search.checkpoints=[1500, 9000]"]);
        assert_eq!(
            missing.check_data(&real(32)).unwrap_err().to_string(),
            "search.checkpoints = [1500, 9000]: expected checkpoints of the GAN (gan.length, gan.checkpoints): [6000, 9000, 12000], \
             or [] for all of them"
        );
        config("cpu", &["search.checkpoints=[6000, 12000]"]).check_data(&real(32)).unwrap();
    }

    #[test]
    fn errors_of_a_training_are_found_before_it() {
        let says = |set: &str| -> String {
            let config = config("smoke", &[set]);
            let error = config.check().and_then(|()| config.check_data(&real(8))).unwrap_err();
            assert!(error.is_usage(), "{error}");
            error.to_string()
        };
        for (set, begins) in [
            ("teacher.epochs=0", "teacher.epochs = 0: "),
            ("student.momentum=1", "student.momentum = 1: "),
            ("student.architecture.depth=21", "student.architecture.depth = 21: "),
            ("gan.batch=1", "gan.batch = 1: "),
            ("gan.length.steps=30", "gan.checkpoints = 40: expected steps from 1 to 30"),
            ("gan.architecture.g=[8, 8]", "gan.architecture.g = [8, 8]: "),
            (
                "variants=[{name = \"soft\", labels = \"soft\", distill = {temperature = 0}}]",
                "variants.distill.temperature = 0: ",
            ),
        ] {
            assert!(says(set).starts_with(begins), "{set}: {}", says(set));
        }
        let unfit = config("smoke", &[]).check_data(&real(2)).unwrap_err().to_string();
        assert!(unfit.starts_with("image = 1x2x2: "), "{unfit}");
        // The GAN is not trained, so its configuration does not matter.
        let there = config("smoke", &["gan.batch=1", "trained_generators=[\"somewhere\"]"]);
        there.check().and_then(|()| there.check_data(&real(8))).unwrap();
    }
}
