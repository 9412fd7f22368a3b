//! Progress on stderr: bars with rate and ETA on a terminal, plain lines elsewhere, JSON records with `--log-format json`.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use gafi_core::{Progress, Task, printable, printable_lines};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Time between two plain lines of a task.
const PLAIN_EVERY: Duration = Duration::from_secs(15);

/// Log target of progress records, which are written at any log level.
pub(crate) const TARGET: &str = "progress";

/// Bars when stderr is a terminal, else plain lines or records.
#[derive(Debug)]
pub(crate) struct Bars {
    bars: Option<MultiProgress>,
    records: bool,
}

impl Bars {
    /// Bars if stderr is a terminal and `records` is off.
    pub(crate) fn new(records: bool) -> Self {
        Self { bars: (!records && std::io::stderr().is_terminal()).then(MultiProgress::new), records }
    }
}

impl Progress for Bars {
    #[expect(clippy::print_stderr, reason = "this is where the program prints for its user")]
    fn log(&self, line: &str) {
        let line = printable_lines(line, usize::MAX);
        match &self.bars {
            Some(bars) => {
                let _ = bars.println(line);
            }
            None if self.records => tracing::info!(target: TARGET, "{line}"),
            None => eprintln!("{line}"),
        }
    }

    fn begin(&self, label: &str, total: Option<u64>) -> Box<dyn Task> {
        let label = printable(label);
        match &self.bars {
            Some(bars) => {
                let bar = bars.add(total.map_or_else(ProgressBar::no_length, ProgressBar::new));
                let style = match total {
                    Some(_) => "{prefix:>18} {bar:28} {pos}/{len} {per_sec} eta {eta} {msg}",
                    None => "{prefix:>18} {spinner} {pos} {per_sec} {msg}",
                };
                if let Ok(style) = ProgressStyle::with_template(style) {
                    bar.set_style(style);
                }
                bar.set_prefix(label);
                bar.enable_steady_tick(Duration::from_millis(200));
                Box::new(Bar { bar, begun: Some(Instant::now()) })
            }
            None => Box::new(Plain {
                label,
                records: self.records,
                total,
                done: 0,
                first: None,
                begun: Instant::now(),
                printed: Instant::now(),
                note: String::new(),
            }),
        }
    }
}

struct Bar {
    bar: ProgressBar,
    // `None` after the first steps.
    begun: Option<Instant>,
}

/// Whether steps are counted so soon that an earlier process did them. They are left out of the rate.
fn resumed(begun: Instant) -> bool {
    begun.elapsed() < Duration::from_secs(1)
}

impl Task for Bar {
    fn advance(&mut self, n: u64) {
        self.bar.inc(n);
        if self.begun.take().is_some_and(resumed) {
            // Setting a message makes the bar take its position, from which the rate then counts.
            self.bar.set_message("");
            self.bar.reset_eta();
        }
    }
    fn note(&mut self, text: &str) {
        self.bar.set_message(printable(text));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A rate, or the time of one step if a step takes more than a second.
fn speed(per_s: f64) -> String {
    match per_s {
        rate if rate >= 1.0 => format!(", {rate:.1}/s"),
        rate if rate > 0.0 => format!(", {:.1} s each", 1.0 / rate),
        _ => String::new(),
    }
}

struct Plain {
    label: String,
    records: bool,
    total: Option<u64>,
    done: u64,
    // Steps of an earlier process.
    first: Option<u64>,
    begun: Instant,
    printed: Instant,
    note: String,
}

impl Task for Plain {
    #[expect(clippy::print_stderr, reason = "this is where the program prints for its user")]
    fn advance(&mut self, n: u64) {
        self.done += n;
        let first = *self.first.get_or_insert(if resumed(self.begun) { self.done } else { 0 });
        if self.printed.elapsed() < PLAIN_EVERY {
            return;
        }
        self.printed = Instant::now();
        let rate = self.done.saturating_sub(first) as f64 / self.begun.elapsed().as_secs_f64();
        if self.records {
            tracing::info!(
                target: TARGET, done = self.done, total = self.total, per_s = rate, note = self.note.as_str(), "{}", self.label
            );
            return;
        }
        let of = match self.total {
            Some(total) if rate > 0.0 => {
                format!("/{total}, {:.0} s left", total.saturating_sub(self.done) as f64 / rate)
            }
            Some(total) => format!("/{total}"),
            None => String::new(),
        };
        eprintln!("  {}: {}{of}{} {}", self.label, self.done, speed(rate), self.note);
    }
    fn note(&mut self, text: &str) {
        self.note = printable(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_steps_show_their_duration() {
        assert_eq!([250.0, 1.0, 0.05, 0.0].map(speed), [", 250.0/s", ", 1.0/s", ", 20.0 s each", ""]);
    }
}
