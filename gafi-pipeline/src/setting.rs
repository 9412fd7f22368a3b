//! What a trial tries: from which samples a student is to learn, and how.

use gafi_expand::StdRange;
use gafi_nn::Distill;
use gafi_recycle::Renewal;
use serde::{Deserialize, Serialize};

use crate::config::Labels;

/// What a trial tries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The generator's checkpoint, in steps.
    pub checkpoint: u64,
    /// Standard deviation of the latents.
    pub std: StdRange,
    /// The teacher's threshold; none: unfiltered.
    pub threshold: Option<f64>,
    /// How the set is renewed; none: never.
    pub recycle: Option<Renewal>,
    /// Soft labels, and how much they count; none: hard ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill: Option<Distill>,
    /// The set, as a multiple of the usual one.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u32,
    /// The student's epochs; none: all of its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
}

fn once() -> u32 {
    1
}

fn is_once(times: &u32) -> bool {
    *times == 1
}

impl Setting {
    /// Samples of `checkpoint` as they come, a set that stays, hard labels, full length.
    pub fn plain(checkpoint: u64) -> Self {
        let std = StdRange::default();
        Self { checkpoint, std, threshold: None, recycle: None, distill: None, times: 1, epochs: None }
    }

    /// Where its samples come from, for people.
    pub(crate) fn samples(&self) -> String {
        let filter = self.threshold.map_or_else(|| "unfiltered".into(), |t| format!("filter > {t:.2}"));
        format!("checkpoint {}, std {}, {filter}", self.checkpoint, self.std)
    }

    /// What the student is told about an image.
    pub fn labels(&self) -> Labels {
        if self.distill.is_some() { Labels::Soft } else { Labels::Hard }
    }
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.samples())?;
        match &self.recycle {
            Some(r) if r.factor < 1.0 => write!(f, ", {:.0} % renewed every {}", 100.0 * r.factor, epochs(r.period))?,
            Some(r) => write!(f, ", renewed every {}", epochs(r.period))?,
            None => write!(f, ", never renewed")?,
        }
        if self.distill.is_some() {
            write!(f, ", soft labels")?;
        }
        if self.times > 1 {
            write!(f, ", {} times the images", self.times)?;
        }
        self.epochs.map_or(Ok(()), |epochs| write!(f, ", {epochs} epochs"))
    }
}

/// A period in words that follow "every".
pub fn epochs(period: u32) -> String {
    match period {
        1 => "epoch".into(),
        period => format!("{period} epochs"),
    }
}

/// A setting under which a class cannot be filled: too few samples pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{setting}: {why}")]
pub struct Infeasible {
    /// What was tried.
    pub setting: Setting,
    /// Which class, and how many samples there were.
    pub why: String,
}

impl Infeasible {
    pub(crate) fn new(setting: Setting, error: &anyhow::Error) -> Self {
        Self { setting, why: error.root_cause().to_string() }
    }
}
