//! One frame of `watch`: stages on the left, curves of one of them on the right; samples, what was chosen and found below.

use ratatui::Frame;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table};

use super::{Run, Watched};

/// A frame with less of either shows no samples: stages and curves need the room.
const ROOM_FOR_SAMPLES: (u16, u16) = (80, 30);

/// Draws the run, with the curves of the stage number `selected` of [`Run::stages`]; with samples, if the terminal has the `colours`
/// for them, and room.
pub(crate) fn draw(frame: &mut Frame<'_>, title: &str, run: &Run, selected: usize, colours: bool) {
    let (below, whole) = (choices(run), frame.area());
    let roomy = whole.width >= ROOM_FOR_SAMPLES.0 && whole.height >= ROOM_FOR_SAMPLES.1;
    let samples = run.samples.as_ref().filter(|_| colours && roomy);
    // A frame takes two lines.
    let samples = samples.and_then(|s| Some((s, s.layout(whole.width - 2, whole.height / 3 - 2)?)));
    // At least half of the height stays for the stages, with samples a third.
    let height = (below.len() as u16 + 2).min(whole.height / if samples.is_some() { 3 } else { 2 });
    let strip = samples.map_or(0, |(_, grid)| grid.lines() + 2);
    let rows = [Constraint::Length(1), Constraint::Min(3), Constraint::Length(strip), Constraint::Length(height)];
    let [head, middle, pictures, bottom] = Layout::vertical(rows).areas(whole);
    if let Some((samples, grid)) = samples {
        let block = Block::bordered().title(samples.name.as_str());
        let inside = block.inner(pictures);
        frame.render_widget(block, pictures);
        samples.draw(frame.buffer_mut(), inside, grid);
    }
    let [left, right] = Layout::horizontal([Constraint::Percentage(60), Constraint::Percentage(40)]).areas(middle);
    let stages = run.stages();
    let done = stages.iter().filter(|stage| stage.folder.done).count();
    let under_way = stages.iter().filter(|stage| stage.under_way()).count();
    let stopped = stages.len() - done - under_way;
    let head_line = format!("{title}: {done} stages done, {under_way} under way, {stopped} left half-way");
    frame.render_widget(Line::from(head_line).style(Modifier::BOLD), head);
    table(frame, left, &stages, selected);
    if let Some(stage) = stages.get(selected) {
        curves(frame, right, stage);
    }
    frame.render_widget(Paragraph::new(below).block(Block::bordered().title("chosen and found")), bottom);
}

fn table(frame: &mut Frame<'_>, area: Rect, stages: &[&Watched], selected: usize) {
    let last = |stage: &Watched, name: &str| stage.series(name).last().copied();
    let rows = stages.iter().enumerate().map(|(i, stage)| {
        let at = stage.at().map(|(event, at)| format!("{event} {at}")).unwrap_or_default();
        let loss = last(stage, "loss").map(|loss| format!("{loss:.3}")).unwrap_or_default();
        let val = stage.best().map(percent).unwrap_or_default();
        let style = if i == selected { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        Row::new([stage.title(), state(stage), at, loss, val]).style(style)
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(17),
        Constraint::Length(11),
        Constraint::Length(7),
        Constraint::Length(7),
    ];
    // The selected row stays in sight.
    let room = usize::from(area.height.saturating_sub(3)).max(1);
    let skipped = (selected + 1).saturating_sub(room);
    let table = Table::new(rows.skip(skipped), widths)
        .header(Row::new(["stage", "state", "at", "loss", "val"]).style(Modifier::BOLD))
        .block(Block::bordered().title("stages"));
    frame.render_widget(table, area);
}

fn state(stage: &Watched) -> String {
    match (stage.folder.done, stage.wall_s) {
        (true, Some(wall)) => format!("done, {wall:.0} s"),
        (true, None) => "done".into(),
        (false, _) => {
            let seconds = stage.heard.and_then(|heard| heard.elapsed().ok()).unwrap_or_default().as_secs();
            match seconds {
                0..120 => format!("heard {seconds} s ago"),
                120..7200 => format!("heard {} min ago", seconds / 60),
                _ => format!("left {} h ago", seconds / 3600),
            }
        }
    }
}

/// A curve for each number of the log, as many as there is room for.
fn curves(frame: &mut Frame<'_>, area: Rect, stage: &Watched) {
    let block = Block::bordered().title(match stage.title() {
        title if title.starts_with(&stage.folder.name) => title,
        title => format!("{}: {title}", stage.folder.name),
    });
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let mut names = stage.names();
    names.truncate(usize::from(inside.height / 3));
    if names.is_empty() {
        return frame.render_widget(Line::from("its log has no curves"), inside);
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

/// The series in as many pieces as there are columns, each the mean of its values or, where there are fewer values, the one that it is
/// part of; as heights from 1 (the lowest value) to 100.
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
    let mut lines: Vec<Line<'static>> = Vec::new();
    for choice in &run.choices {
        let val = choice.val.map(|val| format!(": val {}", percent(val))).unwrap_or_default();
        lines.push(format!("{}: {}{val}", choice.what, choice.setting).into());
    }
    if let Some((stage, val)) = run.best().filter(|_| run.choices.is_empty()) {
        lines.push(format!("best so far: {} ({}): val {}", stage.folder.name, stage.setting, percent(val)).into());
    }
    let results: Vec<_> = run.results.iter().map(|(name, accuracy)| format!("{name} {}", percent(*accuracy))).collect();
    // Five fit a line of a usual terminal.
    lines.extend(results.chunks(5).map(|some| Line::from(format!("test accuracy: {}", some.join(", ")))));
    if lines.is_empty() {
        lines.push("nothing yet".into());
    }
    lines
}

fn percent(share: f64) -> String {
    format!("{:.2}%", 100.0 * share)
}

/// The frame as plain text, for terminals that can do no more, and for tests.
///
/// # Errors
/// None that a buffer in memory has; the type is the terminal's.
pub(crate) fn plain(title: &str, run: &Run, (columns, lines): (u16, u16)) -> anyhow::Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines))?;
    terminal.draw(|frame| draw(frame, title, run, run.selected(None), false))?;
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

    use super::*;

    fn put(dir: &Path, path: &str, text: &str) {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_frame_tells_what_is_done_under_way_chosen_and_found() {
        let dir = tempfile::tempdir().unwrap();
        let config =
            r#"{"made_by": {"config": {"source": {"checkpoint": 40, "std": 1.5, "filter": {"threshold": 0.5}}}}}"#;
        put(dir.path(), "recycle-0123456789ab/manifest.json", config);
        let log = "{\"event\":\"epoch\",\"epoch\":1,\"loss\":1.25,\"val_accuracy\":0.5}\n{\"event\":\"finished\",\"wall_s\":7.2}\n";
        put(dir.path(), "recycle-0123456789ab/log.jsonl", log);
        put(dir.path(), ".train-gan-b.partial/begun.json", "{}");
        let step = |n: u32| format!("{{\"event\":\"step\",\"step\":{n},\"losses\":{{\"d_loss\":{n}.5}}}}\n");
        put(dir.path(), ".train-gan-b.partial/log.jsonl", &(step(50) + &step(100) + "{\"event\":\"st"));

        let mut run = Run::default();
        run.refresh(dir.path()).unwrap();
        let frame = plain("RUN", &run, (120, 30)).unwrap();
        for part in [
            "RUN: 1 stages done, 1 under way, 0 left half-way",
            "train-gan-b",
            "step 100",
            "heard",
            "done, 7 s",
            "50.00%",
            "losses/d_loss 100.5000  (50.5000 to 100.5000)",
            "│checkpoint 40, std 1.5",
            "best so far: recycle-0123456789ab (checkpoint 40, std 1.5, threshold 0.5): val 50.00%",
        ] {
            assert!(frame.contains(part), "no {part:?} in\n{frame}");
        }

        let search = r#"{"steps": [{"name": "expansion", "strategy": "grid", "generator": 0, "chosen": 0,
            "trials": [{"setting": {"checkpoint": 40, "std": 1.5}, "val": 0.25}]}]}"#;
        put(dir.path(), "search.json", search);
        let results = r#"{"real": {"test_accuracy": 0.875}, "rows": [{"name": "gafi", "test_accuracy": 0.75, "artifact": "recycle-0123456789ab"}]}"#;
        put(dir.path(), "results.json", results);
        std::fs::rename(dir.path().join(".train-gan-b.partial"), dir.path().join("train-gan-b")).unwrap();
        put(dir.path(), "train-gan-b/manifest.json", "{}");
        run.refresh(dir.path()).unwrap();
        let frame = plain("RUN", &run, (120, 30)).unwrap();
        for part in [
            "RUN: 2 stages done, 0 under way, 0 left half-way",
            "│gafi, checkpoint 40, std",
            "expansion (grid, generator 1): checkpoint 40, std 1.5: val 25.00%",
            "test accuracy: gafi 75.00%, real images 87.50%",
        ] {
            assert!(frame.contains(part), "no {part:?} in\n{frame}");
        }
        // However small the terminal is.
        for size in [(1, 1), (10, 3), (40, 8)] {
            plain("RUN", &run, size).unwrap();
        }
    }

    #[test]
    fn samples_are_shown_where_there_are_colours_and_room() {
        let dir = super::super::samples::tests::run();
        let mut run = Run::default();
        run.refresh(dir.path()).unwrap();
        let frame = |size: (u16, u16), colours| {
            let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
            terminal.draw(|frame| draw(frame, "RUN", &run, 0, colours)).unwrap();
            let rows = terminal.backend().buffer().content().chunks(size.0.into());
            rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>()).collect::<Vec<_>>()
        };
        // 30 lines: eight within the frame, one for the names, so 14 pixels a side, seven lines.
        let shown = frame((80, 30), true);
        let first = shown.iter().position(|line| line.contains("train-gan-b, samples-00001000.png")).unwrap();
        assert_eq!(shown[first + 1].trim_end_matches([' ', '│']), "│cat            dog");
        let line = "│".to_string() + &"▀".repeat(14) + " " + &"▀".repeat(14) + &" ".repeat(49) + "│";
        assert_eq!(shown[first + 2..first + 9], vec![line; 7]);
        assert!(shown[first + 9].starts_with('└') && shown[first + 10].contains("chosen and found"));
        for (size, colours) in [((80, 30), false), ((79, 30), true), ((80, 29), true)] {
            assert!(!frame(size, colours).concat().contains('▀'), "{size:?}");
        }
    }

    #[test]
    fn curves_fit_their_columns() {
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
