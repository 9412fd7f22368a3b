//! Learning-rate schedules: milestones, as in the paper, and one-cycle, for short training runs.
//!
//! The rate is a function of epoch and step alone, so resuming needs no schedule state.

use serde::{Deserialize, Serialize};

/// The shape of a learning-rate schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ScheduleKind {
    /// Constant, multiplied by 0.1 at each milestone.
    Milestones,
    /// One-cycle (Smith and Topin 2018, arXiv 1708.07120): half a cosine from lr / 25 up to lr, another one
    /// down to lr / 250,000, as in PyTorch's `OneCycleLR`.
    OneCycle,
    /// Linear from 0.2 lr up to lr, then linear down to 0.07 lr (Jordan 2024, arXiv 2404.00498).
    Triangular,
}

/// A learning-rate schedule over a number of epochs.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub kind: ScheduleKind,
    /// Highest learning rate.
    pub lr: f64,
    /// Epochs in all, at least 1.
    pub epochs: u32,
    /// Milestones, each a number of epochs (1 or more) or a share of all epochs (below 1). Used by
    /// [`ScheduleKind::Milestones`].
    pub milestones: Vec<f64>,
    /// Epochs of linear warm-up from near 0. Used by [`ScheduleKind::Milestones`].
    pub warm_up: f64,
    /// Share of the training in which the rate rises, 0 to below 1. Used by [`ScheduleKind::OneCycle`] and
    /// [`ScheduleKind::Triangular`].
    pub rise: f64,
}

/// Factor at a milestone (He et al. 2015, arXiv 1512.03385, section 4.2).
const DROP: f64 = 0.1;
/// One-cycle's highest rate / first rate, and first rate / last rate; PyTorch's defaults.
const CYCLE: (f64, f64) = (25.0, 1e4);
/// First and last rate of the triangle, as shares of the highest.
const TRIANGLE: (f64, f64) = (0.2, 0.07);

impl Schedule {
    /// The learning rate of step `step` in epoch `epoch`, both counted from 0, where an epoch has `steps` steps.
    pub fn lr(&self, epoch: u32, step: usize, steps: usize) -> f64 {
        let steps = steps.max(1) as f64;
        let now = f64::from(epoch) * steps + step as f64;
        let total = f64::from(self.epochs.max(1)) * steps;
        match self.kind {
            ScheduleKind::Milestones => {
                let passed = |m: &&f64| f64::from(epoch) >= if **m < 1.0 { **m * f64::from(self.epochs) } else { **m };
                let drops = self.milestones.iter().filter(passed).count();
                let warm = self.warm_up * steps;
                let rise = if now + 1.0 < warm { (now + 1.0) / warm } else { 1.0 };
                self.lr * rise * DROP.powi(drops as i32)
            }
            ScheduleKind::Triangular => {
                let top = (self.rise * total).floor();
                let line = |from: f64, to: f64, share: f64| self.lr * (from + (to - from) * share);
                if now < top {
                    line(TRIANGLE.0, 1.0, now / top)
                } else {
                    line(1.0, TRIANGLE.1, (now - top) / (total - top).max(1.0))
                }
            }
            ScheduleKind::OneCycle => {
                let low = self.lr / CYCLE.0;
                let last = self.lr / CYCLE.0 / CYCLE.1;
                let top = self.rise * total - 1.0;
                let end = total - 1.0;
                if now <= top && top > 0.0 {
                    cosine(low, self.lr, now / top)
                } else {
                    let top = top.max(0.0);
                    cosine(self.lr, last, if end > top { (now - top) / (end - top) } else { 0.0 })
                }
            }
        }
    }
}

fn cosine(from: f64, to: f64, share: f64) -> f64 {
    to + (from - to) / 2.0 * (1.0 + (std::f64::consts::PI * share.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind, epochs: u32) -> Schedule {
        Schedule { kind, lr: 0.1, epochs, milestones: vec![60.0, 80.0], warm_up: 0.0, rise: 0.3 }
    }

    #[test]
    fn milestones_drop_at_their_epoch() {
        let s = schedule(ScheduleKind::Milestones, 100);
        let at = |epoch| s.lr(epoch, 3, 10);
        for (epoch, lr) in [(0, 0.1), (59, 0.1), (60, 0.01), (79, 0.01), (80, 0.001), (99, 0.001)] {
            assert!((at(epoch) - lr).abs() < 1e-12, "epoch {epoch}: {}", at(epoch));
        }
        let shares = Schedule { milestones: vec![0.6, 0.8], ..schedule(ScheduleKind::Milestones, 10) };
        assert_eq!([5, 6, 7, 8].map(|e| (shares.lr(e, 0, 1) * 1e6).round()), [100e3, 10e3, 10e3, 1e3]);
    }

    #[test]
    fn the_triangle_has_its_corners() {
        let s = Schedule { lr: 2.0, rise: 0.25, ..schedule(ScheduleKind::Triangular, 4) };
        // 4 epochs of 5 steps: the top is at step 5, and step 20 would be the end.
        let at = |step: u32| s.lr(step / 5, step as usize % 5, 5);
        for (step, lr) in [(0, 0.4), (2, 0.4 + 1.6 * 0.4), (5, 2.0), (10, 2.0 - 1.86 / 3.0), (19, 0.14 + 1.86 / 15.0)] {
            assert!((at(step) - lr).abs() < 1e-12, "step {step}: {}", at(step));
        }
        let flat = Schedule { rise: 0.0, ..s };
        assert_eq!(flat.lr(0, 0, 5), 2.0);
    }

    #[test]
    fn warm_up_ends_at_the_full_rate() {
        let s = Schedule { warm_up: 2.0, ..schedule(ScheduleKind::Milestones, 100) };
        assert!((s.lr(0, 0, 5) - 0.01).abs() < 1e-12);
        assert!((s.lr(1, 0, 5) - 0.06).abs() < 1e-12);
        assert_eq!(s.lr(1, 4, 5), 0.1);
    }

    // torch 2.x: o = SGD([p], .1); s = OneCycleLR(o, .1, total_steps=20); print lr before each s.step()
    const TORCH_ONE_CYCLE: [f64; 20] = [
        0.0040000000000000036,
        0.013167184270002533,
        0.037167184270002526,
        0.06683281572999747,
        0.09083281572999748,
        0.1,
        0.09874640062350874,
        0.09504846320134738,
        0.089091617757105,
        0.0811745653949763,
        0.07169430017913009,
        0.06112620219362893,
        0.0500002,
        0.03887419780637107,
        0.028306099820869922,
        0.0188258346050237,
        0.010908782242895003,
        0.004951936798652629,
        0.0012539993764912555,
        4e-07,
    ];

    #[test]
    fn one_cycle_equals_pytorch() {
        let s = schedule(ScheduleKind::OneCycle, 5);
        for (i, expected) in TORCH_ONE_CYCLE.into_iter().enumerate() {
            let lr = s.lr((i / 4) as u32, i % 4, 4);
            assert!((lr - expected).abs() < 1e-12, "step {i}: {lr}, expected {expected}");
        }
    }

    #[test]
    fn one_cycle_of_few_steps_stays_in_range() {
        for (epochs, steps) in [(1, 1), (1, 2), (2, 1), (3, 1)] {
            let s = schedule(ScheduleKind::OneCycle, epochs);
            for epoch in 0..epochs {
                for step in 0..steps {
                    let lr = s.lr(epoch, step, steps);
                    assert!(lr > 0.0 && lr <= 0.1, "{epochs}x{steps}: {lr}");
                }
            }
        }
    }
}
