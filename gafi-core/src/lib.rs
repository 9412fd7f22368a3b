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

#[cfg(feature = "artifacts")]
mod artifact;
mod control;
mod cursor;
#[cfg(feature = "artifacts")]
mod dataset;
mod dataset_info;
#[cfg(feature = "artifacts")]
mod dataset_writer;
mod error;
#[cfg(feature = "artifacts")]
mod files;
#[cfg(feature = "artifacts")]
mod fit;
#[cfg(feature = "artifacts")]
mod folder;
mod info;
#[cfg(feature = "artifacts")]
mod inputs;
#[cfg(feature = "artifacts")]
mod loaders;
#[cfg(feature = "artifacts")]
mod manifest;
mod mixed;
mod model;
mod progress;
mod rows;
mod scores;
#[cfg(feature = "artifacts")]
mod shard;
mod source;
mod spec;
mod specs;
#[cfg(feature = "artifacts")]
mod stage;
#[cfg(feature = "streams")]
pub mod stream;
#[cfg(feature = "streams")]
mod subset;
mod trial;
#[cfg(feature = "artifacts")]
mod write_samples;
#[cfg(feature = "artifacts")]
mod writer;

pub use control::RunControl;
pub use cursor::Cursor;
pub use dataset_info::{DatasetInfo, ShardInfo};
pub use error::{Error, Result};
pub use info::{CheckpointInfo, ClassifierInfo, GeneratorInfo, WEIGHTS_FILE};
pub use mixed::Mixed;
pub use model::{EpochReport, Generator, INFERENCE_BATCH, Learner, SAMPLE_BATCH, SampleRequest, Scored, Scorer};
pub use progress::{Progress, Silent, Task};
pub use rows::{MemoryDataset, Rows};
pub use scores::{
    Evaluation, Protocol, TestScore, TestSet, ValScore, ValSet, argmax, evaluate, evaluate_labels, select_best,
};
pub use source::{Batch, ClassTally, SampleSource, Tally};
pub use spec::{ClassId, ImageSpec, SHARD_ROWS, Split};
pub use specs::{ArchitectureSpec, LearnerSpec, SourceSpec};
#[cfg(feature = "streams")]
pub use stream::{Stream, StreamRng};
#[cfg(feature = "streams")]
pub use subset::Subset;
pub use trial::{EpochRecord, TRIAL_FILE, TrialRecord};

#[cfg(feature = "artifacts")]
pub use {
    artifact::Artifact,
    dataset::{Dataset, check_dataset},
    dataset_writer::DatasetWriter,
    files::{LOG_FILE, Lock, hash_file, write_atomic},
    fit::{EpochData, FixedData, START_PORT, fit, warm_start},
    folder::FolderWriter,
    inputs::{Arity, Inputs, Port},
    loaders::{Context, ModelLoaders, NewLearner, OpenGenerator, OpenScorer, OpenSource},
    manifest::{FORMAT_VERSION, FileEntry, Kind, MANIFEST_FILE, Manifest, Provenance, hash_json},
    stage::{Outcome, Stage, StageInfo, check_inputs, execute, provenance},
    write_samples::write_samples,
    writer::ArtifactWriter,
};
