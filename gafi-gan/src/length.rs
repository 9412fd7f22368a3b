//! How long a GAN trains, and after which steps it writes a checkpoint.

use gafi_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Largest length, in steps or epochs.
const MAX_LENGTH: u64 = 1_000_000_000;

/// Maximum number of checkpoints of a training run. A longer schedule is listed up to one more than this, and then refused.
pub(crate) const MAX_CHECKPOINTS: usize = 10_000;

/// A length of training, at least 1: `{ steps = 1500 }` or `{ epochs = 500 }` in a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Length {
    /// Generator updates.
    Steps(u64),
    /// Passes over the real images; one pass takes images / batch steps, rounded down, and at least one.
    Epochs(u64),
}

impl Length {
    /// The length in generator updates.
    pub fn in_steps(self, steps_per_epoch: u64) -> u64 {
        match self {
            Self::Steps(steps) => steps,
            Self::Epochs(epochs) => epochs.saturating_mul(steps_per_epoch),
        }
    }

    pub(crate) fn check(self, key: &str) -> Result<()> {
        let (unit, count) = match self {
            Self::Steps(count) => ("steps", count),
            Self::Epochs(count) => ("epochs", count),
        };
        if (1..=MAX_LENGTH).contains(&count) {
            return Ok(());
        }
        Err(Error::config(format!("{key}.{unit}"), count, format!("1 to {MAX_LENGTH}")))
    }
}

/// The steps after which a checkpoint is written. The last step always writes one.
///
/// In a configuration file: a list of steps, `[1000, 1500]`, or an interval,
/// `{ every = { epochs = 10 }, from = { epochs = 150 } }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "checkpoints: expected a list of steps, such as [1000, 1500], or an interval, such as \
                 { every = { steps = 500 } } or { every = { epochs = 10 }, from = { epochs = 150 } }"
)]
pub enum Checkpoints {
    /// After these steps, each from 1 to the last. An empty list leaves only the last step.
    At(Vec<u64>),
    /// After every multiple of an interval.
    Every {
        /// The interval.
        every: Length,
        /// Multiples below this are left out; none when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<Length>,
    },
}

impl Checkpoints {
    /// After every multiple of `interval`, from the first on.
    pub fn every(interval: Length) -> Self {
        Self::Every { every: interval, from: None }
    }

    /// Whether intervals are at least 1 and every listed step lies within a training of `steps`.
    pub(crate) fn check(&self, steps: u64) -> Result<()> {
        match self {
            Self::At(list) => match list.iter().find(|&&step| step == 0 || step > steps) {
                Some(step) => Err(Error::config("checkpoints", step, format!("steps from 1 to {steps}"))),
                None => Ok(()),
            },
            Self::Every { every, from } => {
                every.check("checkpoints.every")?;
                from.map_or(Ok(()), |from| from.check("checkpoints.from"))
            }
        }
    }
}

/// The length of a training run and its checkpoints, in generator updates ("steps").
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GanSchedule {
    /// Steps in all.
    pub steps: u64,
    /// Steps in one pass over the real images.
    pub steps_per_epoch: u64,
    /// The steps after which a checkpoint is written, ascending; the last is `steps`.
    pub checkpoints: Vec<u64>,
}

impl GanSchedule {
    /// The schedule of a training run on `rows` images with `batch` of them per step.
    pub(crate) fn new(length: Length, checkpoints: &Checkpoints, rows: u64, batch: u64) -> Self {
        let steps_per_epoch = (rows / batch.max(1)).max(1);
        let steps = length.in_steps(steps_per_epoch);
        let mut checkpoints = match checkpoints {
            Checkpoints::At(list) => list.clone(),
            Checkpoints::Every { every, from } => {
                let every = every.in_steps(steps_per_epoch).max(1);
                let from = from.map_or(0, |from| from.in_steps(steps_per_epoch));
                let multiples = from.div_ceil(every).max(1)..=steps / every;
                multiples.map(|k| k * every).take(MAX_CHECKPOINTS + 1).collect()
            }
        };
        checkpoints.retain(|&step| step > 0 && step < steps);
        checkpoints.push(steps);
        checkpoints.sort_unstable();
        checkpoints.dedup();
        Self { steps, steps_per_epoch, checkpoints }
    }
}

/// Schemas written by hand, because editors and the configuration reference show plain tables with all their keys best.
#[cfg(feature = "schema")]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

    use super::{Checkpoints, Length};

    impl JsonSchema for Length {
        fn schema_name() -> Cow<'static, str> {
            "Length".into()
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({
                "type": "object",
                "description": "A length of training, in one of two units.",
                "properties": {
                    "steps": {"description": "Generator updates.", "type": "integer", "minimum": 1},
                    "epochs": {
                        "description": "Passes over the real images, of images / batch steps each.",
                        "type": "integer",
                        "minimum": 1,
                    },
                },
                "additionalProperties": false,
                "minProperties": 1,
                "maxProperties": 1,
            })
        }
    }

    impl JsonSchema for Checkpoints {
        fn schema_name() -> Cow<'static, str> {
            "Checkpoints".into()
        }

        fn json_schema(generator: &mut SchemaGenerator) -> Schema {
            let mut part = |description: &str| {
                let mut schema = generator.subschema_for::<Length>();
                schema.insert("description".into(), description.into());
                schema
            };
            let every = part("A checkpoint after every multiple of this, in steps or epochs.");
            let from = part("The first multiple that counts, in steps or epochs.");
            json_schema!({
                "type": ["array", "object"],
                "items": {"type": "integer", "minimum": 1},
                "properties": {"every": every, "from": from},
                "required": ["every"],
                "additionalProperties": false,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoints(length: Length, checkpoints: Checkpoints, rows: u64) -> Vec<u64> {
        GanSchedule::new(length, &checkpoints, rows, 64).checkpoints
    }

    #[test]
    fn the_last_step_is_always_a_checkpoint() {
        let length = Length::Steps(100);
        let every = |steps| Checkpoints::every(Length::Steps(steps));
        assert_eq!(checkpoints(length, every(40), 64), [40, 80, 100]);
        assert_eq!(checkpoints(length, every(50), 64), [50, 100]);
        assert_eq!(checkpoints(length, Checkpoints::At(vec![70, 30, 70]), 64), [30, 70, 100]);
        assert_eq!(checkpoints(length, Checkpoints::At(vec![]), 64), [100]);
    }

    #[test]
    fn length_and_interval_may_have_different_units() {
        // 640 images are 10 steps an epoch.
        let (steps, epochs) = (Length::Steps, Length::Epochs);
        let from = |every, from| Checkpoints::Every { every, from: Some(from) };
        assert_eq!(checkpoints(epochs(5), Checkpoints::every(steps(20)), 640), [20, 40, 50]);
        assert_eq!(checkpoints(steps(45), from(epochs(1), epochs(3)), 640), [30, 40, 45]);
        assert_eq!(checkpoints(epochs(5), from(steps(20), epochs(3)), 640), [40, 50]);
        // Fewer images than a batch: an epoch is one step.
        assert_eq!(checkpoints(epochs(3), Checkpoints::every(epochs(2)), 10), [2, 3]);
    }

    #[test]
    fn both_forms_of_checkpoints_are_read_and_faults_explained() {
        let read = |text: &str| serde_json::from_str::<Checkpoints>(text);
        assert_eq!(read("[20, 40]").unwrap(), Checkpoints::At(vec![20, 40]));
        let every = Length::Steps(500);
        assert_eq!(read(r#"{"every": {"steps": 500}}"#).unwrap(), Checkpoints::every(every));
        let from = Some(Length::Epochs(2));
        let text = r#"{"every": {"steps": 500}, "from": {"epochs": 2}}"#;
        assert_eq!(read(text).unwrap(), Checkpoints::Every { every, from });
        for wrong in ["500", r#"{"evry": {"steps": 500}}"#, r#"{"every": {"stpes": 500}}"#, r#"{"every": 500}"#] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.starts_with("checkpoints: expected a list of steps"), "{wrong}: {error}");
        }
        let error = serde_json::from_str::<Length>(r#"{"stpes": 3}"#).unwrap_err().to_string();
        assert!(error.contains("expected `steps` or `epochs`"), "{error}");
    }
}
