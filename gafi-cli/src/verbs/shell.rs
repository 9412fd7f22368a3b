//! `completions` and `man`: the command line for shells and for `man`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use gafi_core::write_atomic;

use crate::session::Session;
use crate::stdout;

/// Print shell completions
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page, or write the pages of all verbs to a folder
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write gafi-cli.1, gafi-cli-import.1 and so on to this folder
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(super) fn completions(session: &Session, args: &CompletionsArgs) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(&session.registry), "gafi-cli", &mut text);
    stdout::text(String::from_utf8_lossy(&text))
}

pub(super) fn man(session: &Session, args: &ManArgs) -> Result<()> {
    let mut program = super::command(&session.registry);
    program.build();
    let page = |command: Command| {
        let mut text = Vec::new();
        Man::new(command).render(&mut text).map(|()| text)
    };
    let Some(folder) = &args.output else {
        return stdout::text(String::from_utf8_lossy(&page(program)?));
    };
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    // `build` gave the verbs the names of their pages: gafi-cli-import.
    let verbs = program.get_subcommands().filter(|verb| verb.get_name() != "help").cloned();
    let pages: Vec<Command> = verbs.chain([program.clone()]).collect();
    let written = pages.len();
    for command in pages {
        let name = command.get_display_name().unwrap_or(command.get_name()).to_string();
        write_atomic(&folder.join(format!("{name}.1")), &page(command)?)?;
    }
    session.log(&format!("{written} manual pages in {}", folder.display()));
    Ok(())
}
