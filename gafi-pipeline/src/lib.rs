//! All of GaFi as a library: it trains a teacher and GANs on real images, searches checkpoint, standard deviation of the latents
//! and filter threshold, and trains a table of students that shows what each technique gains.
//!
//! ```
//! use gafi_core::{Context, ModelLoaders};
//! use gafi_pipeline::{Host, PipelineConfig, dry_run, preset, register_sources};
//!
//! let config: PipelineConfig = serde_json::from_value(preset(Some("smoke"))?)?;
//! let device = gafi_nn::device::select("cpu")?;
//! let loaders = gafi_gan::register(gafi_nn::register(ModelLoaders::default(), &device), &device);
//! let host = Host::new((device, Context::new(register_sources(loaders))), Vec::new(), 1);
//! let plan = dry_run(&host, &config)?;
//! println!("{}", plan.estimate); // trainings, time and disk of each part
//! assert!(plan.jobs.iter().any(|job| job.id == "row-gafi"));
//! // let record = gafi_pipeline::run(&host, &config, std::path::Path::new("runs/first"))?;
//! # anyhow::Ok(())
//! ```
//!
//! - [`PipelineConfig`] configures a pipeline; [`preset`] has configurations for known data, [`overrides`] lays files and
//!   assignments over them, and [`adapt_preset`] adapts one to other images.
//! - [`dry_run`] checks a configuration and adds up the cost of its [`schedule`](schedule::schedule); [`run()`] executes it, [`run_job`]
//!   one of its jobs.
//! - [`RunRecord`] is the record of a run, `run.json`; [`prune()`] frees the artifacts that it does not need.
//! - [`Source`] configures a source of samples; [`Collect`] is the stage that writes one to a dataset.
#![deny(missing_docs, unsafe_code)]

mod adapt;
mod alone;
mod check;
mod collect;
mod config;
mod costs;
mod data;
mod host;
mod names;
pub mod overrides;
mod preflight;
mod presets;
mod prune;
pub mod record;
mod repeats;
mod run;
mod run_folder;
mod runner;
mod samples;
pub mod schedule;
mod screen;
mod search;
mod setting;
mod source;
mod test_eval;
mod trial;
mod usage;
mod verify;

pub use adapt::{Change, adapt_mirroring, adapt_preset, adapt_to_generators};
pub use alone::run_job;
pub use check::adapt_comparisons;
pub use collect::Collect;
pub use config::{
    Ablation, Auto, Flip, Labels, PipelineConfig, RealTraining, RowKind, SearchConfig, Strategy, Techniques, Variant,
};
pub use costs::Costs;
pub use data::DataSummary;
pub use host::Host;
pub use names::{REAL_ROW, SOFT_ROW, SUBSET_ROW, SearchId, TEACHER_ROW};
pub use preflight::{DryRun, dry_run};
pub use presets::{PRESETS, preset};
pub use prune::{Pruned, prune};
pub use record::RunRecord;
pub use run::run;
pub use setting::{Infeasible, Setting};
pub use source::{GafiSource, MixedSource, RowsOptions, Source, register_sources};
pub use usage::Usage;
pub use verify::verify_run;
