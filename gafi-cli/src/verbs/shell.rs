//! `completions` and `man`: the command line, as shells and `man` want it told.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;
use clap_mangen::Man;
use gafi_core::write_atomic;

use crate::session::Session;
use crate::stdout;

pub(super) fn completions_command() -> Command {
    Command::new("completions").about("Print the completions of all verbs and options for a shell").arg(
        Arg::new("shell").value_name("SHELL").required(true).value_parser(value_parser!(Shell)).help("Which shell"),
    )
}

pub(super) fn man_command() -> Command {
    Command::new("man").about("Print the manual page, or write those of all verbs into a folder").arg(
        Arg::new("output")
            .long("output")
            .short('o')
            .value_name("DIR")
            .value_parser(value_parser!(PathBuf))
            .help("Write gafi-cli.1, gafi-cli-import.1, ... into this folder"),
    )
}

pub(super) fn completions(session: &Session, options: &ArgMatches) -> Result<()> {
    let shell = *options.get_one::<Shell>("shell").context("SHELL is missing")?;
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut super::command(&session.registry), "gafi-cli", &mut text);
    stdout::text(String::from_utf8_lossy(&text))
}

pub(super) fn man(session: &Session, options: &ArgMatches) -> Result<()> {
    let mut program = super::command(&session.registry);
    program.build();
    let page = |command: Command| {
        let mut text = Vec::new();
        Man::new(command).render(&mut text).map(|()| text)
    };
    let Some(folder) = options.get_one::<PathBuf>("output") else {
        return stdout::text(String::from_utf8_lossy(&page(program)?));
    };
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    // `build` named the verbs' pages: gafi-cli-import.
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
