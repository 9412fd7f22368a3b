//! Curves of a run as [`Chart`](crate::chart::Chart)s: the search and the trainings.

mod search;
mod training;

pub(crate) use search::search;
pub(crate) use training::training;
