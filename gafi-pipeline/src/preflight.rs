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
    /// Checks `config` and its images, which are downloaded if need be.
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

/// Runs every check that needs no training, and adds up the cost of the schedule. Nothing is downloaded or written: where the
/// real images are not on this machine, the checks that need them are left out, and so are time and disk.
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
