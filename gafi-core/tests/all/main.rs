//! The tests of `gafi-core`, in one program so that it links once.

mod artifact;
mod common;
mod crash;
mod dataset;
mod execute;
mod fit;
mod format_page;
mod hostile;
mod locks;
mod manifest;
mod mixed;
mod scores;
mod streams;
mod verify;
