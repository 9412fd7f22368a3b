//! Everything that happens before anything is trained or written: the checks, the schedule and, for a dry run, its cost.

use anyhow::{Context as _, Result};
use gafi_core::{Artifact, Split};
use gafi_data::{Import, ImportConfig};

use crate::config::PipelineConfig;
use crate::costs::Costs;
use crate::data::DataSummary;
use crate::host::Host;
use crate::schedule::{Estimate, Job, schedule};

/// A pipeline that passed every check that needs no training.
#[derive(Debug)]
pub(crate) struct Preflight {
    /// The import of the real images.
    pub(crate) import: Import,
    /// The real images.
    pub(crate) data: DataSummary,
    /// The trained generators, opened.
    pub(crate) given: Vec<Artifact>,
    /// The schedule.
    pub(crate) jobs: Vec<Job>,
}

impl Preflight {
    /// Checks `config` and its images, which it downloads if necessary.
    ///
    /// # Errors
    /// The first check that fails.
    pub(crate) fn run(host: &Host, config: &PipelineConfig) -> Result<Self> {
        config.check()?;
        let import = Import::new(&config.data, Split::Train, host.cx()).context("finding the real images failed")?;
        let given = config.open_generators()?;
        let data = DataSummary::of(&import, config).context("import train failed")?;
        config.check_data(&data)?;
        config.check_generators(&given, &data)?;
        let jobs = schedule(config, &data, &given)?;
        Ok(Self { import, data, given, jobs })
    }
}

/// What a dry run finds.
#[derive(Debug)]
pub struct DryRun {
    /// The configuration as it would run.
    pub config: PipelineConfig,
    /// The schedule.
    pub jobs: Vec<Job>,
    /// Its cost.
    pub estimate: Estimate,
    /// The reason, if time and disk could not be estimated.
    pub missing: Option<anyhow::Error>,
}

/// Runs every check that needs no training, and adds up the cost of the schedule. Nothing is downloaded or written: if the real
/// images are not on this machine, the checks that need them are skipped, and so are time and disk space.
///
/// # Errors
/// The first check that fails.
pub fn dry_run(host: &Host, config: &PipelineConfig) -> Result<DryRun> {
    let config = &config.resolved();
    config.check()?;
    let given = config.open_generators()?;
    let offline = ImportConfig { offline: true, ..config.data.clone() };
    let import = Import::new(&offline, Split::Train, host.cx()).map_err(anyhow::Error::from);
    let data = import.and_then(|import| DataSummary::of(&import, config));
    let data = match data {
        Ok(data) => data,
        Err(missing) => {
            let jobs = schedule(config, &DataSummary::presumed(config), &given)?;
            let estimate = Estimate::of(&jobs, config.per_class, None);
            return Ok(DryRun { config: config.clone(), jobs, estimate, missing: Some(missing) });
        }
    };
    config.check_data(&data)?;
    config.check_generators(&given, &data)?;
    let jobs = schedule(config, &data, &given)?;
    let per_class = Some(config.per_class.unwrap_or(data.smallest_class()));
    let (costs, missing) = match Costs::measure(host, config, &data, &given) {
        Ok(costs) => (Some((costs, &data)), None),
        Err(error) => (None, Some(error)),
    };
    let estimate = Estimate::of(&jobs, per_class, costs);
    Ok(DryRun { config: config.clone(), jobs, estimate, missing })
}

#[cfg(test)]
mod tests {
    use gafi_core::{Context, ModelLoaders};
    use serde_json::{Value, json};

    use super::*;
    use crate::{preset, register_sources};

    /// The paths of all numbers in `value`.
    fn numbers(value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Number(_) => found.push(at.into()),
            Value::Object(fields) => fields.iter().for_each(|(key, v)| numbers(v, &format!("{at}/{key}"), found)),
            Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| numbers(v, &format!("{at}/{i}"), found)),
            _ => {}
        }
    }

    /// Sets the number at `path`, replacing any value of another form there.
    fn set(tree: &mut Value, path: &str, value: &Value) {
        let Some((key, rest)) = path.strip_prefix('/').map(|path| path.split_once('/').unwrap_or((path, ""))) else {
            *tree = value.clone();
            return;
        };
        let rest = if rest.is_empty() { String::new() } else { format!("/{rest}") };
        match (tree, key.parse::<usize>()) {
            (Value::Array(items), Ok(index)) => set(&mut items[index], &rest, value),
            (tree, _) => {
                // A length has one unit, and checkpoints are a list or an interval.
                let unit = ["steps", "epochs", "every"].contains(&key) && tree.get("lr").is_none();
                if unit || !tree.is_object() {
                    *tree = json!({});
                }
                set(&mut tree[key], &rest, value);
            }
        }
    }

    /// What a dry run does before it measures costs, and the sums of its estimate.
    fn plan(host: &Host, tree: Value) -> Result<()> {
        let config = serde_json::from_value::<PipelineConfig>(tree)?.resolved();
        let Preflight { data, jobs, .. } = Preflight::run(host, &config)?;
        let costs = Costs { checkpoint_bytes: u64::MAX, ..Costs::default() };
        Estimate::of(&jobs, config.per_class, Some((costs, &data))).to_string();
        let presumed = DataSummary::presumed(&config);
        let jobs = schedule(&config, &presumed, &[])?;
        Estimate::of(&jobs, config.per_class, None).to_string();
        Ok(())
    }

    /// Every number of a configuration is set to extremes, which must be accepted or refused: a panic, an overflow or an unbounded
    /// allocation fails the test.
    #[test]
    fn extreme_numbers_are_accepted_or_refused() {
        let device = gafi_nn::device::select("cpu").unwrap();
        let cx = Context::new(register_sources(ModelLoaders::default()));
        let host = Host::new((device, cx), Vec::new(), 1);
        let mut tree = preset(Some("smoke")).unwrap();
        tree = serde_json::to_value(serde_json::from_value::<PipelineConfig>(tree).unwrap()).unwrap();
        // Numbers that are absent by default, and numbers in other forms of a value.
        let absent = [
            "/per_class",
            "/data/val_per_class",
            "/data/val_fraction",
            "/data/test_fraction",
            "/data/per_class",
            "/data/limit",
            "/data/test_limit",
            "/data/size",
            "/gan/sample_every",
            "/search/filter/max_rounds",
            "/search/filter/per_set",
            "/gan/length/epochs",
            "/gan/checkpoints/every/epochs",
            "/gan/checkpoints/every/steps",
            "/student/ema/decay",
        ];
        let mut paths: Vec<String> = absent.map(String::from).into();
        numbers(&tree, "", &mut paths);
        paths.sort();
        paths.dedup();
        assert!(paths.len() > 60, "{paths:?}");
        let big_gan = json!({"name": "biggan-deep", "ch": 4, "depth": 1, "z": 8, "shared": 8});
        let mut deep = tree.clone();
        deep["gan"]["architecture"] = big_gan;
        deep["data"]["size"] = 32.into();
        let deep_paths = ["ch", "depth", "z", "shared"].map(|key| format!("/gan/architecture/{key}"));
        let cases = paths.iter().map(|path| (&tree, path)).chain(deep_paths.iter().map(|path| (&deep, path)));
        let mut refused = 0;
        for (base, path) in cases {
            for value in [
                json!(0),
                json!(-1),
                json!(i64::MIN),
                json!(1u64 << 28),
                json!(u32::MAX),
                json!(1u64 << 32),
                json!(i64::MAX),
                json!(u64::MAX),
                json!(f64::MAX),
                json!(f64::MIN),
                json!(f64::MIN_POSITIVE),
                json!(-0.0),
            ] {
                let mut tree = base.clone();
                set(&mut tree, path, &value);
                if let Err(error) = plan(&host, tree) {
                    refused += 1;
                    assert!(!format!("{error:#}").is_empty(), "{path} = {value}");
                }
            }
        }
        assert!(refused > 300, "{refused}");
        for (path, value, says) in [
            ("per_class", json!(u64::MAX), "per_class = 18446744073709551615: expected 1 to 16777216"),
            ("student_seeds", json!(u32::MAX), "student_seeds = 4294967295: expected 1 to 1000"),
        ] {
            let mut tree = tree.clone();
            tree[path] = value;
            assert_eq!(plan(&host, tree).unwrap_err().to_string(), says);
        }
    }
}
