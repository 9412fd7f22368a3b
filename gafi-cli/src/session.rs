//! What a verb needs to run: registry, devices, context, progress.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use candle_core::Device;
use gafi_core::{Context, Outcome, Progress as _};
use gafi_pipeline::Host;
use serde_json::json;

use crate::options::GlobalArgs;
use crate::progress::Bars;
use crate::registry::Registry;
use crate::{stdout, summary};
use gafi_pipeline::Usage;

/// One call of the program.
pub(crate) struct Session {
    /// Stages and networks.
    pub(crate) registry: Registry,
    /// Where networks run.
    pub(crate) device: Device,
    /// Context of the stages.
    pub(crate) cx: Context,
    /// Where pipelines run.
    pub(crate) host: Host,
    /// Where progress goes.
    pub(crate) bars: Arc<Bars>,
    /// One machine-readable record on stdout.
    pub(crate) json: bool,
    /// The program as it was started, if that is a file: the executable of this process may be an interpreter.
    started_as: Option<PathBuf>,
}

impl Session {
    /// Sets up threads, devices and progress.
    ///
    /// # Errors
    /// [`Usage`] for an unavailable device or number of threads, or more devices than jobs.
    pub(crate) fn new(registry: Registry, options: &GlobalArgs, jobs: usize, program: &OsStr) -> Result<Self> {
        if let Some(threads) = options.threads {
            ensure!(threads > 0, Usage("--threads 0: expected at least 1".into()));
            rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("starting the threads")?;
        }
        ensure!(jobs > 0, Usage("--jobs 0: expected at least 1".into()));
        let names = &options.device;
        let devices = names.split(',').map(|name| gafi_nn::device::select(name.trim()));
        let devices = devices.collect::<gafi_core::Result<Vec<_>>>().map_err(|e| Usage(e.to_string()))?;
        let all = devices.len();
        ensure!(all <= jobs, Usage(format!("--device {names}: {all} devices need --jobs {all} or more, found {jobs}")));
        let bars = Arc::new(Bars::new(options.json_log()));
        if options.allow_commands {
            registry.allow_commands();
        }
        let on = |device: Device| {
            let mut cx = Context::new(registry.loaders(&device));
            cx.progress = bars.clone();
            cx.stop = registry.stop();
            cx.force = options.force;
            cx.wait = options.waits();
            (device, cx)
        };
        let mut more: Vec<_> = devices.into_iter().map(on).collect();
        let (device, cx) = more.remove(0);
        let started_as = Some(PathBuf::from(program)).filter(|program| program.is_file());
        let host = Host::new((device.clone(), cx.clone()), more, jobs);
        Ok(Self { registry, device, cx, host, bars, json: options.json, started_as })
    }

    /// The program, to start it again.
    ///
    /// # Errors
    /// When the system does not say which it is.
    pub(crate) fn program(&self) -> Result<PathBuf> {
        self.started_as.clone().map_or_else(|| std::env::current_exe().context("finding this program"), Ok)
    }

    /// Shows a line on stderr.
    pub(crate) fn log(&self, line: &str) {
        self.bars.log(line);
    }

    /// Reports the artifacts that a verb made: lines on stderr, or one record on stdout.
    pub(crate) fn report(&self, outcomes: &[Outcome]) -> Result<()> {
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
        for Outcome { artifact, cached, wall, .. } in outcomes {
            let how = if *cached { "exists, reused" } else { "done" };
            let path = artifact.path().display();
            self.log(&format!("{} {path}: {how} ({:.1} s)", artifact.kind(), wall.as_secs_f64()));
            summary::lines(artifact).iter().for_each(|line| self.log(&format!("  {line}")));
        }
        Ok(())
    }
}
