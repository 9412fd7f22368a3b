//! `watch`: a run in a terminal, while it goes on or afterwards. It only reads.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::session::Session;
use crate::stdout;
use crate::watch::{Run, view};

/// How often the folder is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// The plain frame, columns and lines.
const PLAIN: (u16, u16) = (120, 40);

pub(super) fn command() -> Command {
    Command::new("watch")
        .about("Show a run in the terminal: stages, losses and scores, what was chosen; the run may still be going on")
        .arg(
            Arg::new("run")
                .value_name("RUN")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The folder of a pipeline, or of one artifact"),
        )
        .arg(
            Arg::new("once")
                .long("once")
                .action(ArgAction::SetTrue)
                .help("Print one frame as plain text; so it is where stdout is no terminal"),
        )
        .after_help("Keys: up and down choose the stage whose curves are drawn, q quits. The newest samples are shown in \
                     terminals with 24-bit colour (COLORTERM=truecolor) of 80 columns and 30 lines or more, not with NO_COLOR.")
}

pub(super) fn run(session: &Session, options: &ArgMatches) -> Result<()> {
    let folder = options.get_one::<PathBuf>("run").context("RUN is missing")?;
    let mut run = Run::default();
    run.refresh(folder)?;
    let title = folder.display().to_string();
    if options.get_flag("once") || !io::stdout().is_terminal() {
        return stdout::text(view::plain(&title, &run, PLAIN)?);
    }
    let mut terminal = ratatui::try_init().context("taking the terminal over")?;
    let done = watch(&mut terminal, session, folder, &title, run);
    let (cursor, restored) = (terminal.show_cursor(), ratatui::try_restore());
    if cursor.is_err() && restored.is_err() {
        // The terminal is gone, and nobody there to be told; as it is dropped it would try, and panic.
        std::mem::forget(terminal);
        return Ok(());
    }
    done
}

/// What happens in the terminal, by a thread of its own: where the terminal is gone, crossterm reads its end again and again, and
/// does not return.
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
    let (mut looked, events) = (Instant::now(), events());
    // The stage that was gone to; before that it is whichever has something to show.
    let mut chosen: Option<String> = None;
    let colours = true_colour(|name| std::env::var(name).ok());
    while !session.cx.stop.load(Ordering::Relaxed) {
        let selected = run.selected(chosen.as_deref());
        terminal.draw(|frame| view::draw(frame, title, &run, selected, colours))?;
        let event = match events.recv_timeout(Duration::from_millis(200)) {
            Ok(event) => Some(event?),
            Err(RecvTimeoutError::Timeout) => None,
            // It ends after an error that has been told.
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        if let Some(Event::Key(key)) = event
            && key.kind == KeyEventKind::Press
        {
            let go = |to: usize| {
                let stages = run.stages();
                stages.get(to.min(stages.len().saturating_sub(1))).map(|stage| stage.folder.name.clone())
            };
            match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                // A terminal in raw mode sends Ctrl-C as a key.
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                KeyCode::Down | KeyCode::Char('j') => chosen = go(selected + 1),
                KeyCode::Up | KeyCode::Char('k') => chosen = go(selected.saturating_sub(1)),
                _ => {}
            }
        }
        if looked.elapsed() >= EVERY {
            run.refresh(folder)?;
            looked = Instant::now();
        }
    }
    Ok(())
}

/// Whether the terminal says that it has 24-bit colour, and its user does not object (no-color.org).
fn true_colour(variable: impl Fn(&str) -> Option<String>) -> bool {
    let objects = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    !objects && matches!(variable("COLORTERM").as_deref(), Some("truecolor" | "24bit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_need_colours_that_nobody_objects_to() {
        let with = |colorterm: Option<&str>, no_color: Option<&str>| {
            true_colour(|name| if name == "NO_COLOR" { no_color } else { colorterm }.map(Into::into))
        };
        assert!(with(Some("truecolor"), None) && with(Some("24bit"), Some("")));
        assert!(!with(Some("truecolor"), Some("1")) && !with(None, None) && !with(Some("yes"), None));
    }
}
