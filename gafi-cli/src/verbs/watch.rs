//! `watch`: a run in a terminal, while it goes on or afterwards. It only reads.

use std::io::{IsTerminal as _, stdout};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::session::Session;
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
        .after_help("Keys: up and down choose the stage whose curves are drawn, q quits.")
}

pub(super) fn run(session: &Session, options: &ArgMatches) -> Result<()> {
    let folder = options.get_one::<PathBuf>("run").context("RUN is missing")?;
    let mut run = Run::default();
    run.refresh(folder)?;
    let title = folder.display().to_string();
    if options.get_flag("once") || !stdout().is_terminal() {
        print(&view::plain(&title, &run, PLAIN)?);
        return Ok(());
    }
    let mut terminal = ratatui::try_init().context("taking the terminal over")?;
    let done = watch(&mut terminal, session, folder, &title, run);
    ratatui::restore();
    done
}

fn watch(terminal: &mut DefaultTerminal, session: &Session, folder: &Path, title: &str, mut run: Run) -> Result<()> {
    let (mut selected, mut looked) = (run.first(), Instant::now());
    while !session.cx.stop.load(Ordering::Relaxed) {
        terminal.draw(|frame| view::draw(frame, title, &run, selected))?;
        if event::poll(Duration::from_millis(200))?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                // A terminal in raw mode sends Ctrl-C as a key.
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                KeyCode::Down | KeyCode::Char('j') => selected += 1,
                KeyCode::Up | KeyCode::Char('k') => selected = selected.saturating_sub(1),
                _ => {}
            }
        }
        if looked.elapsed() >= EVERY {
            run.refresh(folder)?;
            looked = Instant::now();
        }
        selected = selected.min(run.stages().len().saturating_sub(1));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is where the program speaks to its user")]
fn print(text: &str) {
    print!("{text}");
}
