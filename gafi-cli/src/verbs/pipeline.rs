//! `pipeline`: the whole of GaFi on one set of real images.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::{config_args, configured, open, out_arg, print_config};
use gafi_core::Protocol;

use crate::chain::Chain;
use crate::session::Session;
use crate::stdout;
use gafi_pipeline::Usage;
use gafi_pipeline::overrides::{merge, read_toml, resolve};
use gafi_pipeline::{self as pipeline, Change, Costs, Labels, PRESETS, PipelineConfig, Scene};
use gafi_report as report;

pub(super) fn command() -> Command {
    let presets = PRESETS.map(|(name, _)| name);
    config_args(
        Command::new("pipeline")
            .about("Run all of GaFi: teacher, GAN, search over checkpoint, expansion and threshold, final student, report")
            .long_about(
                "Run all of GaFi: teacher, GAN, search over checkpoint, expansion and threshold, final student, and the rows \
                 that show what each technique adds. With a --config that has [[stage]] tables: run these stages instead, \
                 each fed by earlier ones.",
            )
            .arg(
                Arg::new("preset")
                    .long("preset")
                    .value_name("NAME")
                    .help(format!("Start from a preset ({}) instead of the paper's values", presets.join(", "))),
            )
            .arg(
                Arg::new("protocol")
                    .long("protocol")
                    .value_name("NAME")
                    .value_parser(["holdout", "paper"])
                    .help("holdout: a validation split chooses (default); paper: the test split does, as in the paper's program"),
            )
            .arg(
                Arg::new("jobs")
                    .long("jobs")
                    .value_name("N")
                    .value_parser(value_parser!(usize))
                    .help("Trainings side by side, sharing out the threads; 1 when absent. Changes no result"),
            )
            .arg(
                Arg::new("generator")
                    .long("generator")
                    .value_name("DIR")
                    .action(ArgAction::Append)
                    .help("A generator that is there already (see import-generator), in the place of training one; may be repeated"),
            )
            .arg(Arg::new("data").long("data").value_name("SET|PATH").help(
                "Real images: fashion-mnist, mnist, cifar10, cifar100, shapes, or a file or folder that `import` reads",
            )),
    )
    .mut_arg("seed", |seed| {
        seed.help("Seed of all random numbers but the split of the real images, which is data.seed's; as --set seed=N")
    })
    .arg(out_arg())
}

pub(super) fn run(session: &Session, options: &ArgMatches) -> Result<()> {
    if let Some(path) = options.get_one::<PathBuf>("config") {
        let tree = read_toml(path)?;
        if tree.get("stage").is_some() {
            return chain(session, resolve(tree, &path.display().to_string())?, options);
        }
    }
    let mut tree = pipeline::preset(options.get_one::<String>("preset").map(String::as_str))?;
    // How many classes the preset was made for.
    let made_for = resolve::<PipelineConfig>(tree.clone(), "pipeline")?.data.classes().unwrap_or(0);
    if let Some(data) = options.get_one::<String>("data") {
        merge(&mut tree, serde_json::json!({ "data": super::import::source(data)? }));
    }
    if let Some(generators) = options.get_many::<String>("generator") {
        // Where it lies, in whole, so that the run can be looked at from elsewhere.
        let path = |name: &String| -> Result<String> {
            Ok(std::path::absolute(open(std::path::Path::new(name))?.path())?.display().to_string())
        };
        merge(
            &mut tree,
            serde_json::json!({ "trained_generators": generators.map(path).collect::<Result<Vec<_>>>()? }),
        );
    }
    if let Some(protocol) = options.get_one::<String>("protocol") {
        merge(&mut tree, serde_json::json!({ "protocol": protocol }));
    }
    let mut tree = configured(tree, options)?;
    let mut config: PipelineConfig = resolve(tree.clone(), "pipeline")?;
    config.check()?;
    // A preset was made for a set of its own. What is said with --set or --config stands.
    if options.contains_id("preset") && options.contains_id("data") {
        let set: Vec<&String> = options.get_many("set").into_iter().flatten().collect();
        let file = options.get_one::<PathBuf>("config").map(|path| read_toml(path)).transpose()?.unwrap_or_default();
        let in_file = |key: &str| file.pointer(&format!("/{}", key.replace('.', "/"))).is_some_and(|v| !v.is_object());
        let named =
            |key: &str| in_file(key) || set.iter().any(|s| s.split('=').next().is_some_and(|k| k.trim() == key));
        // A table that is set as a whole says what all of its keys are.
        let said = |key: &str| named(key) || key.match_indices('.').any(|(at, _)| named(&key[..at]));
        for Change { key, value, why } in pipeline::fit(&config, made_for, said, &session.cx)? {
            session.log(&format!("{key} = {value}: {why}"));
            merge(&mut tree, key.rsplit('.').fold(value, |value, key| serde_json::json!({ key: value })));
        }
        config = resolve(tree, "pipeline")?;
        config.check()?;
    }
    if options.get_flag("dry-run") {
        return dry_run(session, &config);
    }
    let out = options.get_one::<PathBuf>("out").context("--out is missing")?;
    let results = pipeline::run(&session.host, &config, out)?;
    // The results stand without their page. Without real images on it, because pages get passed on; `report` shows them.
    let choices = report::Options { real: false, ..report::Options::default() };
    if let Err(e) = report::write(std::slice::from_ref(out), &out.join("report.html"), choices, &session.cx) {
        session.log(&format!("no report.html: {e:#}"));
    }
    tell(session, &results, out)
}

/// The resolved configuration, which can be given back with `--config`, and what it will come to.
fn dry_run(session: &Session, config: &PipelineConfig) -> Result<()> {
    config.open_generators()?;
    let mut plan = pipeline::Plan::of(config);
    // The plan stands without a time as well, where the images are not at hand.
    let scene = Scene::of(&config.data, &session.host);
    if let Ok(scene) = &scene {
        config.check_data(&scene.train)?;
    }
    match scene.and_then(|scene| Ok((Costs::measure(&session.host, config, &scene)?, scene))) {
        Ok((costs, scene)) => plan.estimate(config, &scene, costs),
        Err(why) => session.log(&format!("no estimate of the time: {why:#}")),
    }
    if session.json {
        return stdout::line(serde_json::json!({ "config": config, "plan": plan }));
    }
    print_config(&serde_json::to_value(config)?, false)?;
    stdout::text(format_args!("\n{plan}"))
}

/// A file with `[[stage]]` tables is a pipeline of one's own.
fn chain(session: &Session, chain: Chain, options: &ArgMatches) -> Result<()> {
    for other in ["preset", "data", "protocol", "set", "seed"] {
        if options.contains_id(other) {
            return Err(Usage(format!("--{other} goes with the built-in pipeline, not with a file of stages")).into());
        }
    }
    if options.get_flag("dry-run") {
        chain.check(session)?;
        return print_config(&serde_json::to_value(&chain)?, session.json);
    }
    let made = chain.run(session, options.get_one::<PathBuf>("out").context("--out is missing")?)?;
    session.tell(&made)?;
    Ok(())
}

fn tell(session: &Session, results: &pipeline::Results, out: &std::path::Path) -> Result<()> {
    if session.json {
        return stdout::line(serde_json::to_string(results)?);
    }
    let (heading, table, out) = (heading(results), results.table(), out.display());
    stdout::text(format_args!(
        "\n{heading}\n{table}\n{} trainings; this call took {:.0} s. See {out}/report.html.\n{}",
        results.trainings,
        results.wall_s,
        advice(results, &out.to_string())
    ))
}

/// Which row to take samples of, by the scores that may choose.
fn advice(results: &pipeline::Results, out: &str) -> String {
    let Some(best) = results.best(Some(Labels::Hard)) else { return String::new() };
    let chose = match results.protocol {
        Protocol::Holdout => "validation images",
        Protocol::Paper => "these images",
    };
    let told = |row: &pipeline::Row| format!("`{}` ({:.2} %)", row.name, 100.0 * row.val_accuracy);
    let mut text = format!(
        "Best on {chose}: {}. Samples like those of its student, as many as you like: \
         gafi-cli synthesize {out} --per-class N --out DIR\n",
        told(best)
    );
    if let Some(soft) = results.best(None).filter(|row| row.labels == Labels::Soft) {
        text += &format!(
            "Better still, for who learns a teacher's probabilities in the place of labels: {}, with --row {}\n",
            told(soft),
            soft.name
        );
    }
    text
}

fn heading(results: &pipeline::Results) -> String {
    format!(
        "{}: accuracy on {}real test images, n = 1, choices made on {}; the gap is in percentage points{}\n",
        results.dataset,
        results.real.tested.map_or(String::new(), |n| format!("{n} ")),
        match results.protocol {
            Protocol::Holdout => "a validation split",
            Protocol::Paper => "THESE VERY IMAGES (protocol paper)",
        },
        results.noise().map_or(String::new(), |noise| format!(
            ",\nand differences below {noise:.1} may be due to which images these are"
        ))
    )
}
