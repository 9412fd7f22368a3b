//! Foreign programs as child processes: their environment, starting, waiting, timeouts and killing.
//!
//! [`Process`] runs a program to its end, as the stage `command` does. [`LineProcess`] exchanges lines with a program,
//! as generators and scorers do.

mod child;
mod group;
mod lines;

pub(crate) use child::Process;
pub(crate) use lines::{LineProcess, NoLine, next_line};
