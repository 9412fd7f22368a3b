//! The whole of GaFi as a library: the configuration with its presets, the search over checkpoint, latents and threshold, the
//! rows that show what each technique adds, and the record of a run.

mod check;
mod collect;
mod config;
mod data;
mod estimate;
mod finale;
mod fit;
mod host;
pub mod overrides;
mod plan;
pub mod record;
mod report;
mod run;
mod screen;
mod search;
mod setting;
mod source;
mod stats;
mod students;
mod usage;
mod workshop;

pub use collect::Collect;
pub use config::{Labels, PRESETS, PipelineConfig, RowKind, SearchConfig, Strategy, Variant, preset};
pub use data::DataSummary;
pub use estimate::{Costs, Scene};
pub use fit::{Change, fit};
pub use host::Host;
pub use plan::{Part, Plan};
pub use record::RunRecord;
pub use report::{InfeasibleRow, LargerReal, Real, Results, Row, SCHEMA};
pub use run::{CONFIG, run};
pub use screen::Screened;
pub use search::{Search, Step, Tried};
pub use setting::{Infeasible, Setting, epochs};
pub use source::{MixedConfig, RowsConfig, SourceConfig, open_mixed, open_rows, open_source};
pub use stats::{Summary, standard_error};
pub use students::Student;
pub use usage::Usage;
pub use workshop::StageTime;
