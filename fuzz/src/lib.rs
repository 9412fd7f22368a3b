//! Fuzz targets: a function from bytes for each kind of file, record, message or configuration that GaFi reads.
//!
//! A target puts its input where a reader expects it, and goes through everything that the reader offers. It fails by a panic, an
//! abort, a hang or an allocation without bounds; an error is a success. `src/main.rs` runs the targets on the stable toolchain,
//! `libfuzzer/` under libFuzzer.
//!
//! Not covered: `watch` following a growing log, whose lines `log` reads too; the first bytes of a report or card that is about to be
//! replaced; files of the system in `/proc`; packages that `dpkg-deb` unpacks.

#![allow(clippy::print_stderr)]

mod artifacts;
mod images;
mod models;
mod mutate;
mod programs;
mod runs;
mod scratch;
mod settings;
mod states;

pub use mutate::mutate;
pub use scratch::print_errors;

/// Something that reads untrusted bytes.
#[derive(Debug)]
pub struct Target {
    /// Its name, and the name of its folder in `corpus`.
    pub name: &'static str,
    /// Reads an input.
    pub run: fn(&[u8]),
    /// Valid inputs to mutate; the same in every process.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// One case in this many, for targets that are slow.
    pub every: u64,
}

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>, every: u64) -> Target {
    Target { name, run, seeds, every }
}

/// Every target.
pub const TARGETS: &[Target] = &[
    target("manifest", artifacts::manifest, artifacts::manifests, 1),
    target("dataset", artifacts::dataset, artifacts::datasets, 1),
    target("files-list", artifacts::files_list, artifacts::files_lists, 1),
    target("lock", artifacts::lock, artifacts::owners, 1),
    target("lease", artifacts::lease, artifacts::owners, 1),
    target("idx-images", images::idx_images, images::idx_image_files, 1),
    target("idx-labels", images::idx_labels, images::idx_label_files, 1),
    target("npz", images::npz, images::npz_files, 1),
    target("parquet", images::parquet, images::parquet_files, 1),
    target("cifar", images::cifar, images::cifar_files, 4),
    target("cifar-names", images::cifar_names, images::cifar_name_files, 4),
    target("cifar-pickle", images::cifar_pickle, images::cifar_pickles, 2),
    target("pickle", images::pickle, images::cifar_pickles, 1),
    target("mat", images::mat, images::mat_files, 1),
    target("archive", images::archive, images::archives, 2),
    target("label-table", images::label_table, images::label_tables, 20),
    target("webdataset", images::webdataset, images::webdataset_files, 2),
    target("webdataset-names", images::webdataset_names, images::webdataset_name_files, 10),
    target("emnist-names", images::emnist_names, images::emnist_name_files, 2),
    target("image", images::image, images::image_files, 1),
    target("image-format", images::any_format, images::all_files, 1),
    target("predictions", images::predictions, images::prediction_files, 1),
    target("state-dict", models::state_dict, models::state_dicts, 20),
    target("generator-weights", models::generator, models::generator_weights, 20),
    target("classifier-weights", models::classifier, models::classifier_weights, 20),
    target("onnx-generator", models::onnx_generator, models::onnx_generators, 50),
    target("onnx-classifier", models::onnx_classifier, models::onnx_classifiers, 50),
    target("configuration", settings::configuration, settings::configurations, 4),
    target("dry-run", settings::dry_run, settings::dry_runs, 200),
    target("stage", settings::stage, settings::stages, 1),
    target("assignments", settings::assignments, settings::assignment_lists, 1),
    target("command", programs::messages, programs::answers, 1),
    target("command-process", programs::process, programs::answers, 200),
    target("command-stage", programs::stage, programs::contents, 200),
    target("run-record", runs::record, runs::records, 4),
    target("run-artifacts", runs::artifact, runs::artifact_files, 10),
    target("timings", runs::timings, runs::timing_files, 4),
    target("log", runs::log, runs::logs, 4),
    target("state-dataset", states::dataset, states::datasets, 20),
    target("state-training", states::training_state, states::trainings, 100),
    target("state-gan", states::gan, states::gans, 100),
    target("state-recycle", states::recycle, states::recycles, 100),
];

/// The target called `name`.
pub fn named(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
