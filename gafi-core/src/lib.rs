//! The ground that GaFi stands on: artifacts, datasets, stages, random streams and the traits behind which networks stand.
//! It knows no tensor library, so a tool with its own networks can embed it.
//!
//! - [`Artifact`], [`ArtifactWriter`]: folders that are whole or not there; [`Manifest`] says what they are
//! - [`FolderWriter`]: folders for other programs, whole or not there as well
//! - [`Dataset`], [`DatasetWriter`], [`Rows`]: labelled images in shards, streamed
//! - [`Stage`], [`execute`]: from artifacts to an artifact, reused, resumed
//! - [`SampleSource`]: a class-conditional supply of samples that adapters wrap; [`Mixed`]: several as one
//! - [`Generator`], [`Scorer`], [`Learner`]: what is asked of networks; [`ModelLoaders`]: where they come from
//! - [`fit()`]: the epoch loop of every training of a classifier
//! - [`ValScore`], [`TestScore`], [`TrialRecord`]: scores and records
//! - [`Stream`]: numbered random streams, the only source of randomness
//!
//! ```
//! use gafi_core::{Batch, ClassId, Dataset, DatasetInfo, DatasetWriter, ImageSpec, Rows, Split};
//! # use gafi_core::*;
//! # #[derive(Debug)] struct Two;
//! # impl Stage for Two {
//! #     fn info(&self) -> StageInfo {
//! #         StageInfo { name: "two", revision: 1, ports: &[], output: Kind::Dataset }
//! #     }
//! #     fn config(&self) -> serde_json::Value { serde_json::json!({}) }
//! #     fn check(&self, _: &Inputs) -> Result<()> { Ok(()) }
//! fn run(&self, _: &Inputs, out: &mut ArtifactWriter, _: &Context) -> Result<()> {
//!     let info = DatasetInfo::new(ImageSpec::new(1, 2, 2), vec!["dark".into(), "light".into()], Split::Train);
//!     let (mut writer, _) = DatasetWriter::begin(out, info)?;
//!     let images = vec![0, 0, 0, 0, 255, 255, 255, 255];
//!     let batch = Batch { labels: vec![ClassId(0), ClassId(1)], images, ids: vec![0, 0], ..Batch::default() };
//!     writer.push(&batch, serde_json::Value::Null)?;
//!     writer.finish()?;
//!     Ok(())
//! }
//! # }
//! # let dir = tempfile::tempdir().unwrap();
//! let made = execute(&Two, &Inputs::new(), &dir.path().join("two"), &Context::default())?;
//! assert_eq!(Dataset::open(&made.artifact)?.label(1), ClassId(1));
//! # Ok::<(), gafi_core::Error>(())
//! ```
#![deny(missing_docs, unsafe_code)]

mod artifact;
mod control;
mod dataset;
mod dataset_info;
mod dataset_writer;
mod error;
mod files;
mod fit;
mod folder;
mod info;
mod inputs;
mod loaders;
mod manifest;
mod mixed;
mod model;
mod progress;
mod rows;
mod scores;
mod shard;
mod source;
mod spec;
mod specs;
mod stage;
pub mod stream;
mod trial;
mod write_samples;
mod writer;

pub use artifact::Artifact;
pub use control::RunControl;
pub use dataset::{Dataset, check_dataset};
pub use dataset_info::{DatasetInfo, ShardInfo};
pub use dataset_writer::DatasetWriter;
pub use error::{Error, Result};
pub use files::{LOG_FILE, Lock, hash_file, write_atomic};
pub use fit::{EpochData, FixedData, START_PORT, fit, warm_start};
pub use folder::FolderWriter;
pub use info::{CheckpointInfo, ClassifierInfo, GeneratorInfo, WEIGHTS_FILE};
pub use inputs::{Arity, Inputs, Port};
pub use loaders::{Context, ModelLoaders, NewLearner, OpenGenerator, OpenScorer, OpenSource};
pub use manifest::{FORMAT_VERSION, FileEntry, Kind, MANIFEST_FILE, Manifest, Provenance, hash_json};
pub use mixed::Mixed;
pub use model::{EpochReport, Generator, INFERENCE_BATCH, Learner, SampleRequest, Scored, Scorer};
pub use progress::{Progress, Silent, Task};
pub use rows::{MemoryDataset, Rows, Subset};
pub use scores::{
    Evaluation, Protocol, TestScore, TestSet, ValScore, ValSet, argmax, evaluate, evaluate_labels, select_best,
};
pub use source::{Batch, ClassTally, SampleSource, Tally};
pub use spec::{ClassId, ImageSpec, SHARD_ROWS, Split};
pub use specs::{ArchitectureSpec, LearnerSpec, SourceSpec};
pub use stage::{Outcome, Stage, StageInfo, check_inputs, execute, provenance};
pub use stream::{Stream, StreamRng};
pub use trial::{EpochRecord, TRIAL_FILE, TrialRecord};
pub use write_samples::write_samples;
pub use writer::ArtifactWriter;
