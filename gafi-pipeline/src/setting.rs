//! `Setting`: the samples that a student learns from, and how long it trains.

use gafi_expand::StdRange;
use gafi_nn::Distill;
use gafi_recycle::Renewal;
use serde::{Deserialize, Serialize};

use crate::config::Labels;

/// The samples and the length of one student's training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// The generator's checkpoint, in steps.
    pub checkpoint: u64,
    /// Standard deviation of the latents.
    pub std: StdRange,
    /// The teacher's threshold; `None` for unfiltered samples.
    pub threshold: Option<f64>,
    /// How the set is renewed; `None` for never.
    pub recycle: Option<Renewal>,
    /// How much soft labels count; `None` for hard labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill: Option<Distill>,
    /// Size of the set, as a multiple of the usual one.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u32,
    /// The student's epochs; `None` for all of its configuration.
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
    /// Unfiltered samples of `checkpoint` at std 1, a fixed set, hard labels, full length.
    pub fn plain(checkpoint: u64) -> Self {
        let std = StdRange::default();
        Self { checkpoint, std, threshold: None, recycle: None, distill: None, times: 1, epochs: None }
    }

    /// A description of its samples, for display.
    pub(crate) fn samples(&self) -> String {
        let filter = self.threshold.map_or_else(|| "unfiltered".into(), |t| format!("filter > {t:.2}"));
        format!("checkpoint {}, std {}, {filter}", self.checkpoint, self.std)
    }

    /// How its set is renewed, in words: "never renewed", "renewed every epoch", "50 % renewed every 2 epochs".
    pub fn renewal(&self) -> String {
        match self.recycle {
            None => "never renewed".into(),
            Some(r) if r.factor < 1.0 => {
                format!("{:.0} % renewed every {}", 100.0 * r.factor, counted_epochs(r.period))
            }
            Some(r) => format!("renewed every {}", counted_epochs(r.period)),
        }
    }

    /// The same for a table: "never", "epoch", "2 epochs, 50 %".
    pub fn renewal_period(&self) -> String {
        match self.recycle {
            None => "never".into(),
            Some(r) if r.factor < 1.0 => format!("{}, {:.0} %", counted_epochs(r.period), 100.0 * r.factor),
            Some(r) => counted_epochs(r.period),
        }
    }

    /// The labels that the student learns from.
    pub fn labels(&self) -> Labels {
        if self.distill.is_some() { Labels::Soft } else { Labels::Hard }
    }
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {}", self.samples(), self.renewal())?;
        if self.distill.is_some() {
            write!(f, ", soft labels")?;
        }
        if self.times > 1 {
            write!(f, ", {} times the images", self.times)?;
        }
        match self.epochs {
            None => Ok(()),
            Some(1) => f.write_str(", 1 epoch"),
            Some(epochs) => write!(f, ", {epochs} epochs"),
        }
    }
}

fn counted_epochs(epochs: u32) -> String {
    if epochs == 1 { "epoch".into() } else { format!("{epochs} epochs") }
}

/// A setting under which a class runs out of samples: too few pass the filter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{setting}: {why}")]
pub struct Infeasible {
    /// The setting.
    pub setting: Setting,
    /// Which classes ran out, after how many samples, how the teacher classifies these, and a line of diagnosis or advice.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_renewals_are_told_apart() {
        for (recycle, words, cell) in [
            (None, "never renewed", "never"),
            (Some((1, 1.0)), "renewed every epoch", "epoch"),
            (Some((1, 0.5)), "50 % renewed every epoch", "epoch, 50 %"),
            (Some((10, 0.25)), "25 % renewed every 10 epochs", "10 epochs, 25 %"),
        ] {
            let recycle = recycle.map(|(period, factor)| Renewal { period, factor });
            let setting = Setting { recycle, ..Setting::plain(1) };
            assert_eq!((setting.renewal().as_str(), setting.renewal_period().as_str()), (words, cell));
        }
    }
}
