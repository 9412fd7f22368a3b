//! The core of GaFi: artifacts, datasets, stages, random streams, and the traits that networks implement. It uses no tensor
//! library, so programs can embed it with networks of their own.
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
//!     writer.finish().map(drop)
//! }
//! # }
//! # let dir = tempfile::tempdir().unwrap();
//! let made = execute(&Two, &Inputs::new(), &dir.path().join("two"), &Context::default())?;
//! assert_eq!(Dataset::open(&made.artifact)?.label(1), ClassId(1));
//! # Ok::<(), gafi_core::Error>(())
//! ```
//!
//! Without features:
//!
//! - [`SampleSource`] is a class-conditional source of samples; [`Mixed`] mixes several, [`Cursor`] resumes them.
//! - [`Generator`], [`Scorer`] and [`Learner`] are the traits that networks implement; [`GeneratorInfo`] and [`ClassifierInfo`] describe
//!   them; [`ArchitectureSpec`], [`LearnerSpec`] and [`SourceSpec`] configure them by name.
//! - [`Rows`] gives random access to labelled images; [`MemoryDataset`] is a set in memory.
//! - [`Exhausted`] says why a class has too few samples; [`Confusion`] tells an untrained generator from permuted labels.
//! - [`ValScore`] and [`TestScore`] are the accuracies of a classifier; only a [`ValScore`] can drive a choice.
//!
//! With the feature `streams`: [`Stream`], numbered random streams, the only source of randomness; [`Subset`];
//! [`pull_wanted`], which pulls the samples that a consumer needs or says which classes have too few.
//!
//! With the feature `artifacts`, on by default:
//!
//! - [`Artifact`] is a folder that is complete or absent; [`ArtifactWriter`] writes one, [`Manifest`] describes it.
//! - [`Dataset`] reads labelled images from shards, and [`DatasetWriter`] writes them; [`save_samples()`] writes the
//!   samples of a source.
//! - [`Stage`] is a step from artifacts to an artifact; [`execute`] runs, reuses or resumes it.
//! - [`ModelLoaders`] holds the networks that a host program registered; [`fit()`] is the training loop of classifiers.
#![deny(missing_docs, unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "artifacts")]
mod artifact;
#[cfg(feature = "artifacts")]
mod atomic;
mod confusion;
mod control;
mod cursor;
#[cfg(feature = "artifacts")]
mod dataset;
mod dataset_info;
#[cfg(feature = "artifacts")]
mod dataset_writer;
mod error;
mod exhausted;
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
mod lock;
#[cfg(feature = "artifacts")]
mod manifest;
mod mixed;
mod model;
#[cfg(feature = "artifacts")]
mod mounts;
#[cfg(feature = "artifacts")]
mod owner;
mod progress;
mod rows;
#[cfg(feature = "artifacts")]
mod save_samples;
mod scores;
#[cfg(feature = "artifacts")]
mod shard;
mod source;
mod spec;
mod specs;
#[cfg(feature = "artifacts")]
mod stage;
#[cfg(feature = "streams")]
mod starved;
#[cfg(feature = "streams")]
pub mod stream;
#[cfg(feature = "streams")]
mod subset;
mod tally;
mod text;
mod trial;
#[cfg(feature = "artifacts")]
mod write_samples;
#[cfg(feature = "artifacts")]
mod writer;

/// The crate whose `Value` some functions take.
#[doc(no_inline)]
pub use serde_json;

pub use confusion::{Confusion, Diagnosis};
pub use control::RunControl;
pub use cursor::Cursor;
pub use dataset_info::{DatasetInfo, ShardInfo};
pub use error::{Error, Result, check_count, check_positive};
pub use exhausted::Exhausted;
pub use info::{CheckpointInfo, ClassifierInfo, GeneratorInfo, WEIGHTS_FILE};
pub use mixed::Mixed;
pub use model::{EpochReport, Generator, INFERENCE_BATCH, Learner, SAMPLE_BATCH, SampleRequest, Scored, Scorer};
pub use progress::{Progress, Silent, Task};
pub use rows::{MemoryDataset, Rows};
pub use scores::{
    Evaluation, Protocol, TestScore, TestSet, ValScore, ValSet, argmax, evaluate, evaluate_labels, select_best,
};
pub use source::{Batch, SampleSource};
pub use spec::{ClassId, ImageSpec, SHARD_BYTES, SHARD_ROWS, Split};
pub use specs::{ArchitectureSpec, LearnerSpec, SourceSpec};
#[cfg(feature = "streams")]
pub use starved::pull_wanted;
#[cfg(feature = "streams")]
pub use stream::{Stream, StreamRng};
#[cfg(feature = "streams")]
pub use subset::Subset;
pub use tally::{ClassTally, Tally};
pub use text::{printable, printable_lines};
pub use trial::{EpochRecord, TRIAL_FILE, TrialRecord};

#[cfg(feature = "artifacts")]
pub use {
    artifact::Artifact,
    atomic::{clear_temporary, write_atomic},
    dataset::{Dataset, check_dataset},
    dataset_writer::DatasetWriter,
    files::{LOG_FILE, hash_file, open_regular, read_regular, read_text},
    fit::{EpochData, FixedData, START_PORT, fit, warm_start},
    folder::{FILES_LIST, FolderWriter},
    inputs::{Arity, Inputs, Port},
    loaders::{Context, ModelLoaders, NewLearner, OpenGenerator, OpenScorer, OpenSource},
    lock::Lock,
    manifest::{FORMAT_VERSION, FileEntry, Kind, MANIFEST_FILE, Manifest, Provenance, hash_json},
    owner::BATCH_JOB_VARIABLES,
    save_samples::save_samples,
    stage::{Outcome, Stage, StageInfo, check_inputs, execute, provenance},
    write_samples::write_samples,
    writer::ArtifactWriter,
};

// Compiles and runs the README's example as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
