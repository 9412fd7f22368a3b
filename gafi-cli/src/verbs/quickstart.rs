//! `quickstart`: the first verb to try. Finds images, runs the pipeline with the preset `quickstart`, prints the table and writes the
//! report.
//!
//! It installs nothing. It writes to `--out`, to the user's data folder, and to the cache of the Hugging Face hub.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use gafi_core::{Error, Split};
use gafi_data::{Import, ImportConfig, NamedSet, fetch_debian};
use gafi_pipeline::RunRecord;

use super::pipeline::{self, PipelineArgs};
use crate::configuration::ConfigArgs;
use crate::session::Session;

/// Try GaFi: train everything on Fashion-MNIST, print the table, write the report
///
/// The images come from this machine, else from the Hugging Face hub, else from Debian's package dataset-fashion-mnist; if none
/// is available, `shapes` replaces them. Nothing is installed: it writes only to --out, to the user's data folder and to the
/// hub's cache.
#[derive(Debug, Args)]
pub(crate) struct QuickstartArgs {
    /// Folder of the run; finished results are reused, an interrupted run resumes
    #[arg(long, short, value_name = "DIR", default_value = "quickstart")]
    out: PathBuf,
    /// Real images [default: fashion-mnist if available, else shapes]
    #[arg(long, value_enum)]
    data: Option<Data>,
    /// Never use the network
    #[arg(long)]
    offline: bool,
    /// Trainings to run at the same time [default: 1]; they share the threads, and results do not change
    #[arg(long, value_name = "N")]
    pub(super) jobs: Option<usize>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// The sets that the preset is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Data {
    /// Photographs of clothes
    FashionMnist,
    /// Drawn by the program, needs no files
    Shapes,
}

impl Data {
    const fn set(self) -> NamedSet {
        match self {
            Self::FashionMnist => NamedSet::FashionMnist,
            Self::Shapes => NamedSet::Shapes,
        }
    }
}

pub(super) fn run(session: &Session, args: &QuickstartArgs) -> Result<()> {
    let data = match args.data.or_else(|| earlier_set(&args.out)) {
        Some(data) => data,
        None => find(session, args.offline)?,
    };
    session.log(&format!("Training on {}. Ctrl-C stops it; the same command resumes.", data.set()));
    pipeline::run(session, &args.pipeline(data))
}

impl QuickstartArgs {
    fn pipeline(&self, data: Data) -> PipelineArgs {
        let mut config = self.config.clone();
        if data == Data::Shapes {
            // Leaves 1,100 of each class to train on beside the preset's 400 validation images; a synthetic set has 1,000.
            config.set.insert(0, "data.shapes.train=15000".into());
        }
        PipelineArgs::of("quickstart", data.set().name(), self.jobs, config, &self.out)
    }
}

/// The set of an earlier run in `out`. A set that becomes available later must not change a run that has started.
fn earlier_set(out: &Path) -> Option<Data> {
    let set = RunRecord::read(out).ok()?.config.data.set?;
    Data::value_variants().iter().copied().find(|data| data.set() == set)
}

/// Fashion-MNIST if it is on this machine or can be downloaded, else `shapes`.
fn find(session: &Session, offline: bool) -> Result<Data> {
    let missing = match NamedSet::FashionMnist.find() {
        Ok(_) => return Ok(Data::FashionMnist),
        Err(missing) => missing,
    };
    if !offline {
        session.log("Fashion-MNIST is not on this machine; trying the Hugging Face hub ...");
        let config = ImportConfig::named(NamedSet::FashionMnist);
        match Import::new(&config, Split::Train, &session.cx) {
            Ok(_) => return Ok(Data::FashionMnist),
            Err(error @ Error::Interrupted) => return Err(error.into()),
            Err(_) => session.log("The hub did not provide it; trying Debian's package ..."),
        }
        match fetch_debian(NamedSet::FashionMnist, &session.cx) {
            Ok(folder) => {
                session.log(&format!("Fashion-MNIST is now in {}", folder.display()));
                return Ok(Data::FashionMnist);
            }
            Err(error @ Error::Interrupted) => return Err(error.into()),
            Err(error) => session.log(&format!("{:#}", anyhow::Error::new(error))),
        }
    }
    session.log(&format!(
        "\nFashion-MNIST is not available, so this run uses the built-in set `shapes`.\n\
         The figures show how GaFi works, not what it gains on real images.\n\
         To use Fashion-MNIST: {}; then choose a new --out.\n",
        missing.help
    ));
    Ok(Data::Shapes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> QuickstartArgs {
        QuickstartArgs { out: "a b".into(), data: None, offline: false, jobs: Some(2), config: ConfigArgs::default() }
    }

    #[test]
    fn shapes_are_drawn_in_the_number_that_the_preset_needs() {
        let mut args = args();
        args.config.set.push("data.shapes.train=9000".into());
        assert_eq!(args.pipeline(Data::FashionMnist).config.set, ["data.shapes.train=9000"]);
        let shapes = args.pipeline(Data::Shapes);
        assert_eq!(shapes.config.set, ["data.shapes.train=15000", "data.shapes.train=9000"], "the last one counts");
        assert_eq!(shapes.jobs, Some(2));
    }
}
