//! `tensorboard`: converts the logs of a run to event files. Artifacts are only read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};

use crate::event_file::EventFile;
use crate::run_folder::{LogReader, Point, StageFolder, stages};
use crate::session::Session;
use crate::stdout;

/// Time between two readings of the run.
const EVERY: Duration = Duration::from_secs(2);

/// Convert the logs of a run to event files for TensorBoard; the run may still be in progress
#[derive(Debug, Args)]
pub(crate) struct TensorboardArgs {
    /// Folder of a pipeline run, or of one artifact
    run: PathBuf,
    /// Folder for event files, one subfolder per stage: tensorboard --logdir LOGDIR
    #[arg(long, short, value_name = "LOGDIR")]
    output: PathBuf,
    /// Keep converting as the logs grow, until Ctrl-C
    #[arg(long)]
    follow: bool,
}

pub(super) fn run(session: &Session, args: &TensorboardArgs) -> Result<()> {
    let TensorboardArgs { run, output, .. } = args;
    let mut converter = Converter { output: output.clone(), stages: BTreeMap::new(), scalars: 0 };
    converter.update(run)?;
    let mut updated = Instant::now();
    while args.follow && !session.cx.stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(100));
        if updated.elapsed() >= EVERY {
            converter.update(run)?;
            updated = Instant::now();
        }
    }
    let stages = converter.stages.len();
    let scalars = converter.scalars;
    if session.json {
        return stdout::line(json!({ "run": run, "logdir": output, "stages": stages, "scalars": scalars }));
    }
    session.log(&format!(
        "wrote {scalars} scalars of {stages} stages; view them with: tensorboard --logdir {}",
        output.display()
    ));
    Ok(())
}

struct Converter {
    output: PathBuf,
    /// By the name of the stage, because its folder is renamed when it finishes.
    stages: BTreeMap<String, (LogReader, EventFile)>,
    scalars: usize,
}

impl Converter {
    /// Appends what is new in the run.
    fn update(&mut self, run: &Path) -> Result<()> {
        for stage in stages(run)? {
            let mut fresh = LogReader::default();
            let reader = self.stages.get_mut(&stage.name).map_or(&mut fresh, |(reader, _)| reader);
            let records = reader.more(&stage)?;
            let points: Vec<_> = timed(&records, stage.modified()).collect();
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
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        // A fixed name, so that a second call replaces the file instead of duplicating its points.
        let path = folder.join("events.out.tfevents.0.gafi");
        EventFile::create(&path).with_context(|| format!("creating {}", path.display()))
    }
}

/// The points among `records`, each with the time it was logged at, in seconds since 1970. Logs hold only durations: the last
/// point gets the log's modification time, earlier ones are dated back from it.
fn timed(records: &[Value], modified: Option<SystemTime>) -> impl Iterator<Item = (Point, f64)> {
    let last = modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
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
    fn times_count_back_from_the_last_record() {
        let epoch = |n: u64| json!({"event": "epoch", "epoch": n, "wall_s": 10.0});
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let records = [epoch(1), epoch(2), json!({"event": "finished", "wall_s": 20.0})];
        let walls: Vec<_> = timed(&records, Some(modified)).map(|(point, wall)| (point.at, wall)).collect();
        assert_eq!(walls, [(1, 90.0), (2, 100.0)]);
        let step = |n: u64| json!({"event": "step", "step": n, "steps_per_s": 5.0});
        let walls: Vec<_> =
            timed(&[step(50), step(100)], Some(modified)).map(|(point, wall)| (point.at, wall)).collect();
        assert_eq!(walls, [(50, 90.0), (100, 100.0)]);
    }
}
