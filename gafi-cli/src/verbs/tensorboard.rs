//! `tensorboard`: the logs of a run as event files, for those who like to look at them there. Artifacts stay as they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Value, json};

use crate::event_file::EventFile;
use crate::run_folder::{LogReader, Point, StageFolder, stages};
use crate::session::Session;
use crate::stdout;

/// How often a run is looked at.
const EVERY: Duration = Duration::from_secs(2);

pub(super) fn command() -> Command {
    let folder = |name: &'static str| Arg::new(name).required(true).value_parser(value_parser!(PathBuf));
    Command::new("tensorboard")
        .about("Write what a run's logs say as event files for TensorBoard; the run may still be going on")
        .arg(folder("run").value_name("RUN").help("The folder of a pipeline, or of one artifact"))
        .arg(
            folder("output")
                .long("output")
                .short('o')
                .value_name("LOGDIR")
                .help("Where event files go, one folder a stage: tensorboard --logdir LOGDIR"),
        )
        .arg(Arg::new("follow").long("follow").action(ArgAction::SetTrue).help("Go on as the logs grow, until Ctrl-C"))
}

pub(super) fn run(session: &Session, options: &ArgMatches) -> Result<()> {
    let run = options.get_one::<PathBuf>("run").context("RUN is missing")?;
    let output = options.get_one::<PathBuf>("output").context("--output is missing")?;
    let mut converter = Converter { output: output.clone(), stages: BTreeMap::new(), scalars: 0 };
    converter.look(run)?;
    let mut waited = Duration::ZERO;
    while options.get_flag("follow") && !session.cx.stop.load(Ordering::Relaxed) {
        let nap = Duration::from_millis(100);
        std::thread::sleep(nap);
        waited += nap;
        if waited >= EVERY {
            waited = Duration::ZERO;
            converter.look(run)?;
        }
    }
    let (stages, scalars) = (converter.stages.len(), converter.scalars);
    if session.json {
        stdout::line(json!({ "run": run, "logdir": output, "stages": stages, "scalars": scalars }))?;
    } else {
        session.log(&format!("{scalars} numbers of {stages} stages: tensorboard --logdir {}", output.display()));
    }
    Ok(())
}

struct Converter {
    output: PathBuf,
    /// By name, so that a stage stays what it was when it is done and its folder is renamed.
    stages: BTreeMap<String, (LogReader, EventFile)>,
    scalars: usize,
}

impl Converter {
    /// Appends what is new in the run.
    fn look(&mut self, run: &Path) -> Result<()> {
        for stage in stages(run)? {
            let mut fresh = LogReader::default();
            let reader = self.stages.get_mut(&stage.name).map_or(&mut fresh, |(reader, _)| reader);
            let records = reader.more(&stage)?;
            let points: Vec<_> = timed(&records, stage.heard()).collect();
            if points.is_empty() {
                continue;
            }
            if !self.stages.contains_key(&stage.name) {
                let file = self.begin(&stage)?;
                self.stages.insert(stage.name.clone(), (fresh, file));
            }
            let Some((_, file)) = self.stages.get_mut(&stage.name) else { continue };
            for (point, wall) in points {
                for (name, value) in &point.values {
                    file.scalar(&format!("{}/{name}", point.event), point.at, wall, *value)
                        .with_context(|| format!("writing events of {}", stage.name))?;
                    self.scalars += 1;
                }
            }
        }
        Ok(())
    }

    fn begin(&self, stage: &StageFolder) -> Result<EventFile> {
        let folder = self.output.join(&stage.name);
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        // Always the same name: what an earlier call wrote is replaced, not doubled.
        let path = folder.join("events.out.tfevents.0.gafi");
        EventFile::create(&path).with_context(|| format!("creating {}", path.display()))
    }
}

/// The points among `records`, each with the time it was logged at, in seconds since 1970. Logs hold durations alone, so the
/// time of the last is when the log was last written to, and the others lie before it by as much as they took.
fn timed(records: &[Value], heard: Option<SystemTime>) -> impl Iterator<Item = (Point, f64)> {
    let last = heard.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let mut wall = last.unwrap_or_default().as_secs_f64();
    let mut timed = Vec::new();
    let mut later: Option<Point> = None;
    for point in records.iter().rev().filter_map(Point::of) {
        wall -= later.map_or(0.0, |later| match (later.value("wall_s"), later.value("steps_per_s")) {
            (Some(seconds), _) if later.event == "epoch" => seconds,
            (_, Some(rate)) if rate > 0.0 => later.at.saturating_sub(point.at) as f64 / rate,
            _ => 0.0,
        });
        timed.push((point.clone(), wall));
        later = Some(point);
    }
    timed.into_iter().rev()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_back_from_the_last_word() {
        let epoch = |n: u64| json!({"event": "epoch", "epoch": n, "wall_s": 10.0});
        let heard = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let records = [epoch(1), epoch(2), json!({"event": "finished", "wall_s": 20.0})];
        let walls: Vec<_> = timed(&records, Some(heard)).map(|(point, wall)| (point.at, wall)).collect();
        assert_eq!(walls, [(1, 90.0), (2, 100.0)]);
        let step = |n: u64| json!({"event": "step", "step": n, "steps_per_s": 5.0});
        let walls: Vec<_> = timed(&[step(50), step(100)], Some(heard)).map(|(point, wall)| (point.at, wall)).collect();
        assert_eq!(walls, [(50, 90.0), (100, 100.0)]);
    }
}
