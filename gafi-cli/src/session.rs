//! What one call of the program has at hand: device, context, and the options that every verb shares.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use candle_core::Device;
use clap::ArgMatches;
use gafi_core::{Context, Inputs, Outcome, Progress as _, Stage, execute};
use gafi_pipeline::Host;
use serde_json::json;

use crate::progress::Bars;
use crate::registry::Registry;
use crate::{stdout, summary};
use gafi_pipeline::Usage;

/// See the module's header.
pub(crate) struct Session {
    /// Stages and networks.
    pub(crate) registry: Registry,
    /// Where networks run.
    pub(crate) device: Device,
    /// For the stages.
    pub(crate) cx: Context,
    /// Where pipelines run.
    pub(crate) host: Host,
    /// Where progress goes.
    pub(crate) bars: Arc<Bars>,
    /// One machine-readable record on stdout.
    pub(crate) json: bool,
}

impl Session {
    /// Sets the session up from the shared options: threads, device, interrupts.
    ///
    /// # Errors
    /// [`Usage`] for a device or a number of threads that is not to be had, or for more devices than jobs.
    pub(crate) fn new(registry: Registry, options: &ArgMatches) -> Result<Self> {
        if let Some(&threads) = options.get_one::<usize>("threads") {
            if threads == 0 {
                return Err(Usage("--threads 0: expected at least 1".into()).into());
            }
            rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("starting the threads")?;
        }
        let verb = options.subcommand().map(|(_, verb)| verb);
        let jobs = verb.and_then(|v| v.try_get_one::<usize>("jobs").ok().flatten()).copied().unwrap_or(1);
        if jobs == 0 {
            return Err(Usage("--jobs 0: expected at least 1".into()).into());
        }
        let names = options.get_one::<String>("device").map_or("auto", String::as_str);
        let devices = names.split(',').map(|name| gafi_nn::device::select(name.trim()));
        let devices = devices.collect::<gafi_core::Result<Vec<_>>>().map_err(|e| Usage(e.to_string()))?;
        if devices.len() > jobs {
            let all = devices.len();
            return Err(
                Usage(format!("--device {names}: {all} devices are for --jobs {all} or more, found {jobs}")).into()
            );
        }
        let bars = Arc::new(Bars::new(records(options)));
        stop_on_interrupt(&registry.stop())?;
        let on = |device: Device| {
            let mut cx = Context::new(registry.loaders(&device));
            cx.progress = bars.clone();
            cx.stop = registry.stop();
            cx.force = options.get_flag("force");
            (device, cx)
        };
        let mut more: Vec<_> = devices.into_iter().map(on).collect();
        let (device, cx) = more.remove(0);
        let host = Host::new((device.clone(), cx.clone()), more, jobs);
        Ok(Self { registry, device, cx, host, bars, json: options.get_flag("json") })
    }

    /// Shows a line on stderr.
    pub(crate) fn log(&self, line: &str) {
        self.bars.log(line);
    }

    /// Runs a stage and tells what came of it.
    ///
    /// # Errors
    /// What the stage says.
    pub(crate) fn execute(&self, stage: &dyn Stage, inputs: &Inputs, dest: &Path) -> Result<Outcome> {
        Ok(execute(stage, inputs, dest, &self.cx)?)
    }

    /// Prints the one record of a verb that made artifacts.
    pub(crate) fn tell(&self, outcomes: &[Outcome]) -> Result<()> {
        for o in outcomes {
            let (a, how) = (&o.artifact, if o.cached { "was there already" } else { "made" });
            let line = format!("{} {}: {how} ({:.1} s)", a.kind(), a.path().display(), o.wall.as_secs_f64());
            if !self.json {
                self.log(&line);
                summary::lines(a).iter().for_each(|line| self.log(&format!("  {line}")));
            }
        }
        if self.json {
            let record = |o: &Outcome| {
                json!({
                    "artifact": o.artifact.path(), "kind": o.artifact.kind(), "id": o.artifact.id(),
                    "cached": o.cached, "wall_s": o.wall.as_secs_f64(), "content": o.artifact.manifest().content,
                })
            };
            let records: Vec<_> = outcomes.iter().map(record).collect();
            return match &records[..] {
                [one] => stdout::line(one),
                _ => stdout::line(json!({ "artifacts": records })),
            };
        }
        Ok(())
    }
}

/// Whether what is said on stderr is to be JSON.
pub(crate) fn records(options: &ArgMatches) -> bool {
    options.get_one::<String>("log-format").is_some_and(|format| format == "json")
}

/// The first interrupt asks for a stop at the next safe point, the second ends the process; nothing is lost either way.
fn stop_on_interrupt(stop: &Arc<AtomicBool>) -> Result<()> {
    let stop = stop.clone();
    ctrlc::set_handler(move || {
        if stop.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("catching interrupts")
}
