//! `watch`: shows a run in the terminal, during or after it. It only reads.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::session::Session;
use crate::stdout;
use crate::watch::{Run, view};

/// Time between two readings of the folder.
const EVERY: Duration = Duration::from_secs(1);

/// Columns and lines of the plain frame.
const PLAIN: (u16, u16) = (120, 40);

/// Show a run in the terminal: stages, curves, choices and results; the run may still be in progress
#[derive(Debug, Args)]
#[command(after_help = "Keys: up and down select the stage whose curves are shown, q quits.")]
pub(crate) struct WatchArgs {
    /// Folder of a pipeline run, or of one artifact
    run: PathBuf,
    /// Print one frame as plain text (the default when stdout is not a terminal)
    #[arg(long)]
    once: bool,
}

pub(super) fn run(session: &Session, args: &WatchArgs) -> Result<()> {
    let folder = &args.run;
    let mut run = Run::default();
    run.refresh(folder)?;
    let title = folder.display().to_string();
    if args.once || !io::stdout().is_terminal() {
        return stdout::text(view::plain(&title, &run, PLAIN)?);
    }
    let mut terminal = ratatui::try_init().context("setting up the terminal")?;
    let done = watch(&mut terminal, session, folder, &title, run);
    let cursor = terminal.show_cursor();
    let restored = ratatui::try_restore();
    if cursor.is_err() && restored.is_err() {
        // The terminal was closed. Dropping this would try to restore it, and panic.
        std::mem::forget(terminal);
        return Ok(());
    }
    done
}

/// The terminal's events, read on a separate thread: once the terminal is closed, crossterm loops forever.
fn events() -> Receiver<io::Result<Event>> {
    let (send, events) = channel();
    thread::spawn(move || {
        loop {
            let event = event::read();
            let last = event.is_err();
            if send.send(event).is_err() || last {
                return;
            }
        }
    });
    events
}

fn watch(terminal: &mut DefaultTerminal, session: &Session, folder: &Path, title: &str, mut run: Run) -> Result<()> {
    let mut refreshed = Instant::now();
    let events = events();
    // The stage selected by a key; until then the first with curves.
    let mut chosen: Option<String> = None;
    while !session.cx.stop.load(Ordering::Relaxed) {
        let selected = run.selected(chosen.as_deref());
        terminal.draw(|frame| view::draw(frame, title, &run, selected))?;
        let event = match events.recv_timeout(Duration::from_millis(200)) {
            Ok(event) => Some(event?),
            Err(RecvTimeoutError::Timeout) => None,
            // Unreachable: the thread ends only after sending an error, and that returned above.
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        if let Some(Event::Key(key)) = event
            && key.kind == KeyEventKind::Press
        {
            let stage = |to: usize| {
                let stages = run.stages();
                stages.get(to.min(stages.len().saturating_sub(1))).map(|stage| stage.folder.name.clone())
            };
            match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                // A terminal in raw mode sends Ctrl-C as a key.
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                KeyCode::Down | KeyCode::Char('j') => chosen = stage(selected + 1),
                KeyCode::Up | KeyCode::Char('k') => chosen = stage(selected.saturating_sub(1)),
                _ => {}
            }
        }
        if refreshed.elapsed() >= EVERY {
            run.refresh(folder)?;
            refreshed = Instant::now();
        }
    }
    Ok(())
}
