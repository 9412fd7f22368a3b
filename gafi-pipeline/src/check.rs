//! What is refused before anything runs, by `--dry-run` too: no hours of training end in an error that could have been told before
//! them.

use anyhow::Context as _;
use gafi_core::{Artifact, DatasetInfo, Error, GeneratorInfo, Kind, Result, Stream};
use gafi_filter::FilterRule;
use gafi_nn::ClassifierConfig;
use gafi_recycle::Plan;

use crate::config::{Labels, PipelineConfig, RowKind};

/// Most generators of a pipeline.
const MAX_GENERATORS: usize = 8;

/// The checkpoints of a generator, in steps.
///
/// # Errors
/// When its manifest does not tell them.
pub(crate) fn checkpoints(generator: &Artifact) -> Result<Vec<u64>> {
    Ok(generator.content::<GeneratorInfo>()?.steps().collect())
}

impl PipelineConfig {
    /// Checks all that can be told before the real images are seen: ranges, names, grids that are not empty, and the trainings.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn check(&self) -> Result<()> {
        for (key, empty) in
            [("search.stds", self.search.stds.is_empty()), ("search.thresholds", self.search.thresholds.is_empty())]
        {
            if empty {
                return Err(Error::config(key, "[]", "at least one value"));
            }
        }
        if self.per_class == Some(0) {
            return Err(Error::config("per_class", 0, "at least 1"));
        }
        if self.trained_generators.len() > MAX_GENERATORS {
            let found = format!("{} folders", self.trained_generators.len());
            return Err(Error::config("trained_generators", found, format!("at most {}", MAX_GENERATORS)));
        }
        if !(1..=MAX_GENERATORS).contains(&self.generators) {
            return Err(Error::config("generators", self.generators, format!("1 to {}", MAX_GENERATORS)));
        }
        within("teacher", self.teacher.check())?;
        within("student", self.student.check())?;
        if self.trained_generators.is_empty() {
            within("gan", self.gan.check_values())?;
        }
        let mut names: Vec<&str> = RowKind::ALL.iter().map(|row| row.name()).collect();
        names.extend(["gafi", "gafi-grid", "gafi-halving", "gafi-multi", "gafi-multi-turns"]);
        for variant in &self.variants {
            if variant.name.is_empty() || names.contains(&variant.name.as_str()) {
                return Err(Error::config("variants.name", &variant.name, "a name that no other row has"));
            }
            names.push(&variant.name);
            if variant.times == 0 {
                return Err(Error::config("variants.times", 0, "at least 1"));
            }
            let distill = (variant.labels == Labels::Soft).then_some(variant.distill);
            within("variants", ClassifierConfig { distill, ..self.student.clone() }.check())?;
        }
        for std in self.variants.iter().flat_map(|v| &v.stds).chain(&self.search.stds) {
            std.check()?;
        }
        for &threshold in self.variants.iter().flat_map(|v| &v.thresholds).chain(&self.search.thresholds) {
            FilterRule { threshold: threshold.into(), ..self.search.filter.clone() }.check()?;
        }
        for renewal in [self.search.recycle, self.recycle] {
            Plan::new(Some(renewal), 1, self.per_class.unwrap_or(1) as usize, Stream::new(0))?;
        }
        self.data.validate()
    }

    /// Checks the networks against the real images to train on, and the checkpoints to search against those that the GAN will have.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key, or `image`, `classes` or `train` where the images do not fit.
    pub fn check_data(&self, real: &DatasetInfo) -> Result<()> {
        let classes = real.classes.len();
        self.teacher.check_data(&real.image, classes)?;
        self.student.check_data(&real.image, classes)?;
        if self.trained_generators.is_empty() {
            within("gan", self.gan.check(&real.image, classes, real.rows()))?;
            self.check_searched(
                &self.gan.schedule(real.rows()).checkpoints,
                "the GAN's (gan.length, gan.checkpoints)",
            )?;
        }
        Ok(())
    }

    /// Opens the generators that are there already, and checks that they have the checkpoints to search.
    ///
    /// # Errors
    /// When one cannot be opened or is none; [`Error::Config`] for a checkpoint that it does not have.
    pub fn open_generators(&self) -> anyhow::Result<Vec<Artifact>> {
        let open = |path: &std::path::PathBuf| {
            let generator = Artifact::open(path)?;
            (generator.kind() == Kind::Generator).then_some(()).with_context(|| {
                format!("trained_generators: {} is a {}, not a generator", path.display(), generator.kind())
            })?;
            self.check_searched(&checkpoints(&generator)?, &format!("those of {}", path.display()))?;
            Ok(generator)
        };
        self.trained_generators.iter().map(open).collect()
    }

    /// Whether the checkpoints to search are among those of `there`, which are `whose`.
    fn check_searched(&self, there: &[u64], whose: &str) -> Result<()> {
        let wanted = &self.search.checkpoints;
        if wanted.iter().all(|step| there.contains(step)) {
            return Ok(());
        }
        let expected = format!("some of {whose}, {there:?}, or [] for all of them");
        Err(Error::config("search.checkpoints", format!("{wanted:?}"), expected))
    }
}

/// What a network of `table` says of its configuration, under the key that this one has for it.
fn within(table: &str, checked: Result<()>) -> Result<()> {
    checked.map_err(|error| match error {
        // These are the images'.
        Error::Config { key, value, expected } if !["image", "train"].contains(&key.as_str()) => {
            let key = format!("{table}.{}", key.strip_prefix("classifier.").unwrap_or(&key));
            Error::Config { key, value, expected }
        }
        error => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PRESETS, preset};
    use gafi_core::{ImageSpec, Split};

    /// A preset with assignments, as on the command line.
    fn config(name: &str, set: &[&str]) -> PipelineConfig {
        let mut tree = preset(Some(name)).unwrap();
        set.iter().for_each(|set| crate::overrides::set(&mut tree, set).unwrap());
        serde_json::from_value(tree).unwrap()
    }

    fn real(size: usize) -> DatasetInfo {
        let mut info = DatasetInfo::new(ImageSpec::new(1, size, size), vec!["a".into(), "b".into()], Split::Train);
        info.counts = vec![500, 300];
        info
    }

    #[test]
    fn a_preset_searches_whatever_its_gan_keeps() {
        for (name, _) in PRESETS {
            let preset = config(name, &[]);
            // A list here would refuse every other length of the GAN, and every generator from elsewhere.
            assert!(preset.search.checkpoints.is_empty(), "{name}");
            preset.check_data(&real(preset.data.size.unwrap())).unwrap();
        }
        let kept = config("cpu", &[]).gan.schedule(1).checkpoints;
        assert_eq!(kept, [1500, 2000, 2500], "what the results in docs were searched over");
        // The advice of docs/tutorial.md.
        for name in ["cpu", "gafi-plus", "quickstart"] {
            let more = config(name, &["gan.length.steps=6000", "gan.checkpoints=[2000,4000,6000]"]);
            more.check_data(&real(32)).unwrap();
        }
    }

    #[test]
    fn checkpoints_that_will_not_be_there_are_refused() {
        let missing = config("cpu", &["search.checkpoints=[1500, 6000]"]);
        assert_eq!(
            missing.check_data(&real(32)).unwrap_err().to_string(),
            "search.checkpoints = [1500, 6000]: expected some of the GAN's (gan.length, gan.checkpoints), [1500, 2000, 2500], \
             or [] for all of them"
        );
        config("cpu", &["search.checkpoints=[1500, 2500]"]).check_data(&real(32)).unwrap();
    }

    #[test]
    fn what_a_training_would_refuse_is_named_before() {
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
        // A GAN that is not trained may be anything.
        let there = config("smoke", &["gan.batch=1", "trained_generators=[\"somewhere\"]"]);
        there.check().and_then(|()| there.check_data(&real(8))).unwrap();
    }
}
