//! Curves of a run as [`Chart`](crate::chart::Chart)s: search and training.

mod search;
mod training;

pub(crate) use search::search;
pub(crate) use training::training;
