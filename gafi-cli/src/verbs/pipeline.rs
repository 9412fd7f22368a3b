//! `pipeline`: the whole pipeline on one set of real images, or a file of stages.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

use super::import::source;
use super::init::presets;
use super::{OutArgs, open, print_config};
use gafi_core::Protocol;

use crate::chain::Chain;
use crate::configuration::{ConfigArgs, FlagKeys, nested};
use crate::session::Session;
use crate::stdout;
use gafi_pipeline::Usage;
use gafi_pipeline::overrides::{merge, read_toml, resolve};
use gafi_pipeline::record::{REPORT_PAGE, Row};
use gafi_pipeline::{self as pipeline, Change, DryRun, Labels, PipelineConfig, RunRecord};
use gafi_report::{self as report, Run};

/// Run the whole pipeline: teacher, GAN, search over checkpoint, std and threshold, final students, report
///
/// The results table has a row for each combination of techniques. A --config file with `[[stage]]` tables runs these stages
/// instead; each reads results of earlier ones.
#[derive(Debug, Args)]
pub(crate) struct PipelineArgs {
    #[arg(long, value_name = "NAME", help = format!("Start from a preset ({}) instead of the paper's values", presets()))]
    preset: Option<String>,
    /// Real images: fashion-mnist, mnist, cifar10, cifar100 or shapes; or a file or folder that `import` reads
    #[arg(long, value_name = "SET|PATH")]
    data: Option<String>,
    /// Use this generator (see import-generator) instead of training one; repeatable
    #[arg(long, value_name = "DIR")]
    generator: Vec<PathBuf>,
    /// The split for all choices: holdout uses a validation split, paper the test split, as the released program does
    #[arg(long, value_name = "NAME", value_parser = ["holdout", "paper"])]
    protocol: Option<String>,
    /// Trainings to run at the same time [default: 1]; they share the threads, and results do not change
    #[arg(long, value_name = "N")]
    pub(super) jobs: Option<usize>,
    /// Run only this job and the jobs that it needs, such as teacher, generator, generator-2 or real; not one that depends on scores.
    /// --dry-run --json lists all jobs
    #[arg(long, value_name = "ID", conflicts_with = "dry_run")]
    job: Option<String>,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    #[command(flatten)]
    out: OutArgs,
}

impl PipelineArgs {
    /// A run of `preset` on the set `data` into `out`.
    pub(super) fn of(preset: &str, data: &str, jobs: Option<usize>, config: ConfigArgs, out: &Path) -> Self {
        Self {
            preset: Some(preset.into()),
            data: Some(data.into()),
            generator: Vec::new(),
            protocol: None,
            jobs,
            job: None,
            config,
            out: OutArgs { out: Some(out.into()) },
        }
    }

    fn keys(&self) -> Result<FlagKeys> {
        // Absolute paths, so that the run can be read from another folder.
        let path = |path: &PathBuf| -> Result<PathBuf> { Ok(std::path::absolute(open(path)?.path())?) };
        let generators = self.generator.iter().map(path).collect::<Result<Vec<_>>>()?;
        let flags = FlagKeys::default().set("--protocol", "protocol", self.protocol.as_ref()).set(
            "--generator",
            "trained_generators",
            Some(generators).filter(|list| !list.is_empty()),
        );
        source(flags, "--data", ["data.set", "data.path"], self.data.as_deref())
    }
}

pub(super) fn run(session: &Session, args: &PipelineArgs) -> Result<()> {
    if let Some(path) = &args.config.config {
        let tree = read_toml(path)?;
        if tree.get("stage").is_some() {
            return chain(session, resolve(tree, &path.display().to_string())?, args);
        }
    }
    let preset = pipeline::preset(args.preset.as_deref())?;
    let preset_classes = resolve::<PipelineConfig>(preset.clone(), "pipeline")?.data.classes().unwrap_or(0);
    let configuration = args.config.resolve(preset, args.keys()?)?;
    let mut config: PipelineConfig = resolve(configuration.tree.clone(), "pipeline")?;
    // Adapting never changes a key that was set explicitly.
    let mut tree = configuration.tree.clone();
    let explicit = |key: &str| configuration.is_explicit(key);
    let mut adapt = |changes: Vec<Change>| -> Result<PipelineConfig> {
        for Change { key, value, why } in changes {
            session.log(&if value.is_null() {
                format!("{key} unset: {why}")
            } else {
                format!("{key} = {value}: {why}")
            });
            merge(&mut tree, nested(key, value));
        }
        resolve(tree.clone(), "pipeline")
    };
    config = adapt(pipeline::adapt_to_generators(&config, explicit, &session.cx)?)?;
    config = adapt(pipeline::adapt_comparisons(&config, explicit))?;
    config.check()?;
    // A preset fits the images that it was made for.
    if args.preset.is_some() && args.data.is_some() {
        config = adapt(pipeline::adapt_preset(&config, preset_classes, explicit, &session.cx)?)?;
    }
    config = adapt(pipeline::adapt_mirroring(&config, explicit, &session.cx)?)?;
    if args.config.dry_run {
        return dry_run(session, &config);
    }
    let out = args.out.out.as_ref().context("--out is missing")?;
    if let Some(id) = &args.job {
        let artifact = pipeline::run_job(&session.host, &config, out, id)?;
        return stdout::line(artifact.path().display());
    }
    pipeline::run(&session.host, &config, out)?;
    let run = Run::open(out)?;
    // A failed report does not fail the run. Real images are left out because reports get shared; the verb `report` shows them.
    let options = report::Options { real: false, ..report::Options::default() };
    let page = report::write(std::slice::from_ref(&run), &out.join(REPORT_PAGE), options, &session.cx);
    if let Err(e) = page {
        session.log(&format!("cannot write {REPORT_PAGE}: {e:#}"));
    }
    print_results(session, &run, out)
}

/// Prints the resolved configuration, which `--config` accepts, and the cost of the run.
fn dry_run(session: &Session, config: &PipelineConfig) -> Result<()> {
    let DryRun { config, jobs, estimate, missing } = pipeline::dry_run(&session.host, config)?;
    if let Some(why) = missing {
        session.log(&format!("cannot estimate time and disk space: {why:#}"));
    }
    if session.json {
        return stdout::line(serde_json::json!({ "config": config, "estimate": estimate, "jobs": jobs }));
    }
    print_config(&serde_json::to_value(&config)?, false)?;
    stdout::text(format_args!("\n{estimate}"))
}

/// Runs a file of `[[stage]]` tables.
fn chain(session: &Session, chain: Chain, args: &PipelineArgs) -> Result<()> {
    let given = [
        ("preset", args.preset.is_some()),
        ("data", args.data.is_some()),
        ("generator", !args.generator.is_empty()),
        ("protocol", args.protocol.is_some()),
        ("job", args.job.is_some()),
        ("set", !args.config.set.is_empty()),
        ("seed", args.config.seed.is_some()),
    ];
    if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
        return Err(Usage(format!("--{flag} does not apply to a file of stages")).into());
    }
    if args.config.dry_run {
        chain.check(session)?;
        return print_config(&serde_json::to_value(&chain)?, session.json);
    }
    let made = chain.run(session, args.out.out.as_ref().context("--out is missing")?)?;
    session.report(&made)
}

fn print_results(session: &Session, run: &Run, out: &Path) -> Result<()> {
    let record = run.record();
    if session.json {
        return stdout::line(serde_json::to_string(record)?);
    }
    let table = report::table(std::slice::from_ref(run), report::Format::Markdown, &[])?;
    let out = out.display();
    stdout::text(format_args!("\n{table}\nReport: {out}/{REPORT_PAGE}\n{}", advice(record, &out.to_string())))
}

/// Which row to use, by validation accuracy.
fn advice(record: &RunRecord, out: &str) -> String {
    let Some(best) = record.best(Some(Labels::Hard)) else { return String::new() };
    let chosen_on = match record.config.protocol {
        Protocol::Holdout => "validation images",
        Protocol::Paper => "the test images",
    };
    let score = |row: &Row| format!("`{}` ({:.2} %)", row.name, 100.0 * row.val.accuracy());
    let mut text = format!(
        "Best on {chosen_on}: {}. Its dataset in any size: gafi-cli synthesize {out} --per-class N --out DIR\n",
        score(best)
    );
    if let Some(soft) = record.best(None).filter(|row| row.labels() == Labels::Soft) {
        text += &format!(
            "Higher on {chosen_on}, if your training script can use soft labels: {}; add --row {}\n",
            score(soft),
            soft.name
        );
    }
    text
}
