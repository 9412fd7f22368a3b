//! The machine that a pipeline runs on: its devices, and how many stages run at the same time.

use candle_core::Device;
use gafi_core::Context;

/// The devices of a pipeline and its number of concurrent stages.
#[derive(Debug, Clone)]
pub struct Host {
    devices: Vec<(Device, Context)>,
    jobs: usize,
}

impl Host {
    /// Runs up to `jobs` stages (at least one) at the same time, taking `first` and the `further` devices in turn. Each context
    /// loads networks on its device.
    pub fn new(first: (Device, Context), further: Vec<(Device, Context)>, jobs: usize) -> Self {
        let devices = std::iter::once(first).chain(further).collect();
        Self { devices, jobs: jobs.max(1) }
    }

    /// The first device.
    pub fn device(&self) -> &Device {
        &self.devices[0].0
    }

    /// The context of the first device.
    pub fn cx(&self) -> &Context {
        &self.devices[0].1
    }

    /// Device and context of worker number `job`.
    pub fn of_job(&self, job: usize) -> (&Device, &Context) {
        let (device, cx) = &self.devices[job % self.devices.len()];
        (device, cx)
    }

    /// Number of devices.
    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    /// Stages that may run at the same time.
    pub fn jobs(&self) -> usize {
        self.jobs
    }

    /// Shows a line to the user.
    pub fn log(&self, line: &str) {
        self.cx().progress.log(line);
    }
}
