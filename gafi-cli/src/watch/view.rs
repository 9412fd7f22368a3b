//! One frame of `watch`: stages on the left, curves of the selected one on the right, choices and results below.

use ratatui::Frame;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table};

use super::{Run, StageView, percent};

/// Draws the run, with the curves of stage number `selected` of [`Run::stages`].
pub(crate) fn draw(frame: &mut Frame<'_>, title: &str, run: &Run, selected: usize) {
    let below = choices(run);
    let whole = frame.area();
    // At least half of the height is for the stages.
    let height = (below.len() as u16 + 2).min(whole.height / 2);
    let rows = [Constraint::Length(1), Constraint::Min(3), Constraint::Length(height)];
    let [head, middle, bottom] = Layout::vertical(rows).areas(whole);
    let [left, right] = Layout::horizontal([Constraint::Percentage(60), Constraint::Percentage(40)]).areas(middle);
    let stages = run.stages();
    let done = stages.iter().filter(|stage| stage.folder.done).count();
    let running = stages.iter().filter(|stage| stage.running()).count();
    let stopped = stages.len() - done - running;
    let head_line = format!("{title}: {done} stages done, {running} running, {stopped} stopped");
    frame.render_widget(Line::from(head_line).style(Modifier::BOLD), head);
    table(frame, left, &stages, selected);
    if let Some(stage) = stages.get(selected) {
        curves(frame, right, stage);
    }
    frame.render_widget(Paragraph::new(below).block(Block::bordered().title("choices and results")), bottom);
}

fn table(frame: &mut Frame<'_>, area: Rect, stages: &[&StageView], selected: usize) {
    let last = |stage: &StageView, name: &str| stage.series(name).last().copied();
    let rows = stages.iter().enumerate().map(|(i, stage)| {
        let at = stage.at().map(|(event, at)| format!("{event} {at}")).unwrap_or_default();
        let loss = last(stage, "loss").map(|loss| format!("{loss:.3}")).unwrap_or_default();
        let val = stage.best().map(percent).unwrap_or_default();
        let style = if i == selected { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        Row::new([stage.title.clone(), state(stage), at, loss, val]).style(style)
    });
    let widths = [Constraint::Fill(1)].into_iter().chain([17, 11, 7, 7].map(Constraint::Length));
    // The selected row stays visible.
    let room = usize::from(area.height.saturating_sub(3)).max(1);
    let skipped = (selected + 1).saturating_sub(room);
    let table = Table::new(rows.skip(skipped), widths)
        .header(Row::new(["stage", "state", "at", "loss", "val"]).style(Modifier::BOLD))
        .block(Block::bordered().title("stages"));
    frame.render_widget(table, area);
}

fn state(stage: &StageView) -> String {
    match (stage.folder.done, stage.wall_s) {
        (true, Some(wall)) => format!("done, {wall:.0} s"),
        (true, None) => "done".into(),
        (false, _) => {
            let seconds = stage.modified.and_then(|time| time.elapsed().ok()).unwrap_or_default().as_secs();
            match seconds {
                0..120 => format!("log {seconds} s old"),
                120..7200 => format!("log {} min old", seconds / 60),
                _ => format!("stopped {} h ago", seconds / 3600),
            }
        }
    }
}

/// A curve for each value of the log, as many as fit.
fn curves(frame: &mut Frame<'_>, area: Rect, stage: &StageView) {
    let block = Block::bordered().title(if stage.title == stage.folder.name {
        stage.title.clone()
    } else {
        format!("{}: {}", stage.folder.name, stage.title)
    });
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let mut names = stage.names();
    names.truncate(usize::from(inside.height / 3));
    if names.is_empty() {
        return frame.render_widget(Line::from("the log has no curves"), inside);
    }
    let areas = Layout::vertical(names.iter().map(|_| Constraint::Fill(1))).split(inside);
    for (name, area) in names.into_iter().zip(areas.iter()) {
        let series = stage.series(name);
        let [title, curve] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(*area);
        let ends = series.iter().copied().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        let now = series.last().copied().unwrap_or_default();
        frame.render_widget(Line::from(format!("{name} {now:.4}  ({:.4} to {:.4})", ends.0, ends.1)), title);
        frame.render_widget(Sparkline::default().data(heights(&series, usize::from(curve.width), ends)), curve);
    }
}

/// The series as one height per column, from 1 (lowest value) to 100. A column shows the mean of its values, or repeats a value
/// if there are more columns than values.
fn heights(series: &[f64], columns: usize, (low, high): (f64, f64)) -> Vec<u64> {
    let scale = |value: f64| if high > low { 1.0 + 99.0 * (value - low) / (high - low) } else { 50.0 };
    let pieces = if series.is_empty() { 0 } else { columns };
    (0..pieces)
        .map(|i| {
            let first = i * series.len() / pieces;
            let piece = &series[first..((i + 1) * series.len() / pieces).max(first + 1)];
            scale(piece.iter().sum::<f64>() / piece.len() as f64).round() as u64
        })
        .collect()
}

fn choices(run: &Run) -> Vec<Line<'static>> {
    let mut lines: Vec<Line<'static>> = run.choices.iter().cloned().map(Line::from).collect();
    if let Some((stage, val)) = run.best().filter(|_| run.choices.is_empty()) {
        lines.push(format!("best so far: {}: val {}", stage.title, percent(val)).into());
    }
    let results: Vec<_> = run.results.iter().map(|(name, accuracy)| format!("{name} {}", percent(*accuracy))).collect();
    // Five fit on a line of 120 columns.
    lines.extend(results.chunks(5).map(|some| Line::from(format!("test accuracy: {}", some.join(", ")))));
    if lines.is_empty() {
        lines.push("no results yet".into());
    }
    lines
}

/// The frame as plain text.
///
/// # Errors
/// Those of a terminal; a buffer in memory has none.
pub(crate) fn plain(title: &str, run: &Run, (columns, lines): (u16, u16)) -> anyhow::Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines))?;
    terminal.draw(|frame| draw(frame, title, run, run.selected(None)))?;
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(usize::from(columns).max(1));
    Ok(rows
        .map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>())
        .map(|row| row.trim_end().to_string() + "\n")
        .collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use gafi_pipeline::PipelineConfig;
    use serde_json::{Value, json};

    use super::*;

    fn put(dir: &Path, path: &str, text: &str) {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The record of a run with one search step, one row and one reference.
    fn record() -> Value {
        let config = PipelineConfig::default();
        let setting = json!({"checkpoint": 40, "std": 1.5, "threshold": null, "recycle": null});
        let student = json!({"path": "recycle-0123456789ab", "id": "a"});
        let test = |score: f64| json!({"score": score, "n": 8, "evaluation": {"path": "evaluate-c", "id": "c"}});
        let trial = json!({"setting": setting, "val": 0.25, "epochs": 1, "artifact": student});
        let reference = json!({
            "name": "real", "times": 1, "labels": "hard", "per_class": 9, "epochs": 1,
            "artifact": {"path": "train-classifier-d", "id": "d"}, "val": 0.5, "test": test(0.875),
        });
        json!({
            "schema": "gafi/run/2", "version": "0", "config_hash": config.hash().unwrap(), "config": config,
            "status": {"state": "running"},
            "dataset": {
                "name": "shapes", "image": {"channels": 1, "height": 8, "width": 8}, "classes": ["a", "b"], "train": [9, 9],
                "val": 4,
            },
            "roles": {
                "references": [reference],
                "generators": [{"artifact": {"path": "train-gan-b", "id": "b"}, "trained": true}],
            },
            "searches": [{
                "generator": 0, "strategy": "grid", "steps": [{"kind": "std", "trials": [trial], "chosen": 0}],
                "trainings": 1, "epochs": 1, "closed_form": 0, "chosen": null, "val": null,
            }],
            "rows": [{
                "name": "gafi", "settings": [setting], "per_class": 9, "artifact": student, "val": 0.5, "test": test(0.75),
                "against": "real", "gap": null,
            }],
            "cost": {"trainings": 1, "epochs": 1},
        })
    }

    #[test]
    fn a_frame_shows_stages_choices_and_results() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "recycle-0123456789ab/manifest.json", "{}");
        let log = "{\"event\":\"epoch\",\"epoch\":1,\"loss\":1.25,\"val_accuracy\":0.5}\n{\"event\":\"finished\",\"wall_s\":7.2}\n";
        put(dir.path(), "recycle-0123456789ab/log.jsonl", log);
        put(dir.path(), ".train-gan-b.partial/begun.json", "{}");
        let step = |n: u32| format!("{{\"event\":\"step\",\"step\":{n},\"losses\":{{\"d_loss\":{n}.5}}}}\n");
        put(dir.path(), ".train-gan-b.partial/log.jsonl", &(step(50) + &step(100) + "{\"event\":\"st"));

        let mut run = Run::default();
        run.refresh(dir.path()).unwrap();
        let frame = plain("RUN", &run, (120, 30)).unwrap();
        for part in [
            "RUN: 1 stages done, 1 running, 0 stopped",
            "train-gan-b",
            "step 100",
            "s old",
            "done, 7 s",
            "50.00%",
            "losses/d_loss 100.5000  (50.5000 to 100.5000)",
            "│recycle-0123456789ab",
            "best so far: recycle-0123456789ab: val 50.00%",
        ] {
            assert!(frame.contains(part), "no {part:?} in\n{frame}");
        }

        put(dir.path(), "run.json", &record().to_string());
        std::fs::rename(dir.path().join(".train-gan-b.partial"), dir.path().join("train-gan-b")).unwrap();
        put(dir.path(), "train-gan-b/manifest.json", "{}");
        run.refresh(dir.path()).unwrap();
        let frame = plain("RUN", &run, (120, 30)).unwrap();
        for part in [
            "RUN: 2 stages done, 0 running, 0 stopped",
            "│gafi: checkpoint 40, std",
            "│generator 1 ",
            "search of generator 1 (grid), std: checkpoint 40, std 1.5, unfiltered, never renewed: val 25.00%",
            "test accuracy: gafi 75.00%, real 87.50%",
        ] {
            assert!(frame.contains(part), "no {part:?} in\n{frame}");
        }
        // Small terminals do not panic.
        for size in [(1, 1), (10, 3), (40, 8)] {
            plain("RUN", &run, size).unwrap();
        }
    }

    #[test]
    fn curves_fill_their_columns() {
        let series: Vec<f64> = (0..100).map(f64::from).collect();
        let heights = heights(&series, 10, (0.0, 99.0));
        assert_eq!((heights.len(), heights.is_sorted()), (10, true));
        assert!(heights[0] < 10 && heights[9] > 90, "{heights:?}");
        assert_eq!(super::heights(&[2.0], 3, (2.0, 2.0)), [50; 3]);
        assert_eq!(
            super::heights(&[0.0, 1.0, 2.0], 7, (0.0, 2.0)),
            [1, 1, 1, 51, 51, 100, 100],
            "all columns are used"
        );
        assert!(super::heights(&[], 10, (0.0, 0.0)).is_empty());
    }
}
